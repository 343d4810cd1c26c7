"""Stage 2: what an epoch of training needs.

`model` builds the autoencoders, `losses`, `optimizers` and `schedules` what trains them, `checkpoint` stores and
restores their state. The loop itself is `pipeline.epoch`. Exports nothing; its modules are imported by name.
"""
