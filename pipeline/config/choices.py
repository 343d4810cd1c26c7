"""The choices that a study file offers, one table entry each.

Names on the left are what users write; class names on the right are looked up in ``torch.nn`` or ``torch.optim`` by
the modules that build them. Nothing here imports torch, so a study file is checked in milliseconds.
"""

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

# Left out of torch's optimizers: LBFGS needs a closure, SparseAdam sparse gradients, and Muon takes matrices only.
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
    "asgd": "ASGD",  # torch averages after a million steps only, so here it is SGD with a decaying rate
    "adafactor": "Adafactor",
    "rprop": "Rprop",  # uses only the gradient's sign, so it needs batches near the whole training set
}

# One of them, or a weighted sum such as "bce + 0.2 ssim": see `loss_terms`.
LOSSES = ("bce", "mse", "l1", "smooth_l1", "huber", "ssim")
SCHEDULERS = ("constant", "cosine", "one_cycle")
PRECISIONS = ("float32", "bfloat16", "auto")
LAYER_TYPES = ("linear", "conv")

# What a study may rank its trials by: a metric that is a mean over images, so that two models compare image by image.
OBJECTIVES = {name: metric.direction for name, metric in METRICS.items() if metric.summary == "mean"}
# ssim is not among these: it favours only the trials whose loss contains it.
LOSS_OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.pixel_loss)

ALL_BUT_RPROP = tuple(name for name in OPTIMIZERS if name != "rprop")

# Keys that apply only if another key has one of these values. Otherwise they are neither searched nor recorded, so that
# fixing or narrowing the other key stays an edit of one line.
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
