"""Stage 2: the models, losses and optimizers of an epoch of training, and its checkpoints.

The loop itself is `pipeline.epoch`. Exports nothing; its modules are imported by name.
"""
