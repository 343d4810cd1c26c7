"""Stage 3: metrics, baselines, the judge and panels of pictures."""
