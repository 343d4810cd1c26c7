"""Stage 2: the model, losses, optimisers, schedules and checkpoints."""
