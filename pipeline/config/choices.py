"""The choices a study file offers, one table entry each.

Names on the left are what users write; class names on the right are looked up in ``torch.nn`` or ``torch.optim`` by
the modules that build them. Nothing here imports torch, so a study file is checked in milliseconds.
"""

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
    "hardswish": "Hardswish",
    "hardtanh": "Hardtanh",
    "softsign": "Softsign",
    "prelu": "PReLU",
}

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
    "asgd": "ASGD",
}

LOSSES = ("bce", "mse", "l1", "smooth_l1")
SCHEDULERS = ("constant", "cosine", "one_cycle")
PRECISIONS = ("float32", "bfloat16", "auto")
LAYER_TYPES = ("linear",)
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "successive_halving", "hyperband", "none")

# What a study may rank its trials by, and whether more is better.
OBJECTIVES = {
    "psnr": "maximize",
    "ssim": "maximize",
    "class_kept": "maximize",
    "bce": "minimize",
    "mse": "minimize",
    "l1": "minimize",
}
# These are also training losses (psnr is not, but bce, mse and l1 favour the trials trained on them).
LOSS_OBJECTIVES = ("bce", "mse", "l1")

# Keys that mean something only where another key has one of these values. Elsewhere they are neither searched nor
# recorded, so that fixing or narrowing the other key stays an edit of one line.
APPLIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "negative_slope": ("activation", ("leaky_relu",)),
    "alpha": ("activation", ("elu", "celu")),
    "beta1": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "beta2": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "delta": ("loss", ("smooth_l1",)),
}
