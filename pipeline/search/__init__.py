"""Optuna: studies in its database, ask and tell, samplers and pruners. No other package may import optuna.

`studies` opens, lists and deletes studies; `ask_tell` has one of them, `Search`; `records` are its trials as plain
objects; `samplers` turns the study file's [sampler] and [pruner] into Optuna's; `_optuna` has its private names.
"""
