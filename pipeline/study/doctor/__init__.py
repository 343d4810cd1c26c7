"""`study doctor`: whether Optuna, MLflow, the checkpoints and the artifacts agree, and how that is repaired.

Optuna's database is the authority: a repair brings the rest to what it says. A run examines its study likewise when it
starts. What one database lost and the other still has is not repaired unasked.
"""
