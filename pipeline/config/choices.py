"""The choices a study file offers, one table entry each.

Names on the left are what users write; class names on the right are looked up in ``torch.nn`` or ``torch.optim`` by
the modules that build them. Nothing here imports torch, so a study file is checked in milliseconds.
"""

import difflib
from collections.abc import Iterable

from pipeline.config.metrics import METRICS

ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "mish": "Mish",
    "softplus": "Softplus",
    "relu6": "ReLU6",
    "rrelu": "RReLU",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "hardtanh": "Hardtanh",
    "hardshrink": "Hardshrink",
    "softshrink": "Softshrink",
    "tanhshrink": "Tanhshrink",
    "softsign": "Softsign",
    "logsigmoid": "LogSigmoid",
    "prelu": "PReLU",
}

# Of torch's own, these are left out: LBFGS needs a closure, SparseAdam sparse gradients, and Muon takes matrices only.
OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "asgd": "ASGD",  # torch begins to average after a million steps, so here it is SGD with a rate that decays
    "adafactor": "Adafactor",
    "rprop": "Rprop",  # goes by the gradient's sign, so wants batches near the whole training set; lr is its first step
}

# Alone or as a sum with weights, "bce + 0.2 ssim": see `losses`.
LOSSES = ("bce", "mse", "l1", "smooth_l1", "huber", "ssim")
SCHEDULERS = ("constant", "cosine", "one_cycle")
PRECISIONS = ("float32", "bfloat16", "auto")
LAYER_TYPES = ("linear", "conv")
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "successive_halving", "hyperband", "none")

# What a study may rank its trials by: a metric that is a mean over images, so that two models compare image by image.
OBJECTIVES = {name: metric.direction for name, metric in METRICS.items() if metric.summary == "mean"}
# ssim is not among these: it favours only the trials whose loss contains it.
LOSS_OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.pixel_loss)

ALL_BUT_RPROP = tuple(name for name in OPTIMIZERS if name != "rprop")

# Keys that mean something only where another key has one of these values. Elsewhere they are neither searched nor
# recorded, so that fixing or narrowing the other key stays an edit of one line.
APPLIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "width": ("layer_type", ("linear",)),
    "channels": ("layer_type", ("conv",)),
    "convs": ("layer_type", ("conv",)),
    "kernel": ("layer_type", ("conv",)),
    "negative_slope": ("activation", ("leaky_relu",)),
    "alpha": ("activation", ("elu", "celu")),
    "beta1": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "beta2": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "amsgrad": ("optimizer", ("adam", "adamw")),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "smoothing": ("optimizer", ("rmsprop",)),
    "rho": ("optimizer", ("adadelta",)),
    "weight_decay": ("optimizer", ALL_BUT_RPROP),
    "lr_scheduler": ("optimizer", ALL_BUT_RPROP),
    "delta": ("loss", ("smooth_l1", "huber")),  # anywhere in a sum
}


def hint(name: str, names: Iterable[str], listing: bool = True) -> str:
    """The end of a message about an unknown name: the nearest one, or else all, where they are to be listed."""
    near = difflib.get_close_matches(name, list(names), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {', '.join(names)}" if listing else ""
