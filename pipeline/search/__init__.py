"""Optuna: samplers, pruners, ask and tell."""
