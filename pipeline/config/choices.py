"""The choices that a study file offers, one table entry each: activations, optimizers, losses, metrics and others.

Nothing here imports torch, so a study file is checked in milliseconds: what a name stands for is looked up by
`training`, in ``torch.nn`` and ``torch.optim``, and by `evaluation.scores`, in `evaluation.metrics`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args

from pipeline.config.messages import hint, refused, shown

MARGIN_DB = 0.1  # smaller differences of a metric in dB make no difference

Better = Literal["higher", "lower", "1"]
Number = TypeVar("Number")  # or an array of numbers


@dataclass(frozen=True)
class Metric:
    """One metric of a split of the data.

    ``columns`` are functions of (restored, clean) that return one value per image; with ``needs_judge`` they take the
    judge as well. ``summary`` is the function that makes one number of the columns.
    """

    unit: str
    better: Better
    decimals: int  # in tables
    columns: tuple[str, ...]
    summary: Literal["mean", "difference_of_means", "ratio_of_sums"] = "mean"
    needs_judge: bool = False
    pixel_loss: bool = False  # also a training loss: ranking by it favours the trials trained on it or on one like it

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.better == "higher" else "minimize"

    def shown(self, value: float, unit: bool = True) -> str:
        """A value with the metric's decimals, and its unit if that is dB."""
        return f"{value:.{self.decimals}f}" + (" dB" if unit and self.unit == "dB" else "")


def worth(value: Number, better: Better) -> Number:
    """A value of a metric, or an array of them, on a scale on which higher is better."""
    number: Any = value
    return {"higher": number, "lower": -number, "1": -abs(number - 1)}[better]


# What is scored, in the order of the ``val/…`` columns of an export.
METRICS = {
    "psnr": Metric("dB", "higher", 2, ("psnr",)),
    "ssim": Metric("at most 1", "higher", 4, ("ssim",)),
    "mse": Metric("intensity²", "lower", 5, ("mse",), pixel_loss=True),
    "l1": Metric("intensity", "lower", 4, ("l1",), pixel_loss=True),
    "bce": Metric("nats per pixel", "lower", 4, ("bce",), pixel_loss=True),
    "bce_excess": Metric("nats per pixel", "lower", 4, ("bce", "bce_floor"), "difference_of_means"),
    "sharpness": Metric("ratio", "1", 3, ("restored_gradient", "clean_gradient"), "ratio_of_sums"),
    "class_kept": Metric("share", "higher", 3, ("class_kept",), needs_judge=True),
}
SSIM_WINDOW = 11  # pixels; images with a smaller side cannot be scored
# What a study may rank its trials by: a metric that is a mean over images, so that two models compare image by image.
OBJECTIVES = {name: metric.direction for name, metric in METRICS.items() if metric.summary == "mean"}
# ssim is not among these: it favours only the trials whose loss contains it.
LOSS_OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.pixel_loss)

# By the names in a study file, which are the class names in lower case, the classes in ``torch.nn`` …
ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU"} | {
    name.lower(): name
    for name in (
        *("GELU", "SiLU", "ELU", "CELU", "SELU", "Tanh", "Sigmoid", "Mish", "Softplus", "ReLU6", "RReLU"),
        *("Hardswish", "Hardsigmoid", "Hardtanh", "Hardshrink", "Softshrink", "Tanhshrink", "Softsign"),
        *("LogSigmoid", "PReLU"),
    )
}
# … and in ``torch.optim``. LBFGS is left out because it needs a closure, SparseAdam sparse gradients, Muon matrices.
# torch's ASGD averages after a million steps only, so here it is SGD with a decaying rate. Rprop uses only the sign of
# the gradient, so it needs batches near the whole training set.
OPTIMIZERS = {
    name.lower(): name
    for name in (
        *("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "SGD", "ASGD"),
        *("Adafactor", "Rprop"),
    )
}
LOSSES = ("bce", "mse", "l1", "smooth_l1", "huber", "ssim")
SCHEDULERS = ("constant", "cosine", "one_cycle")
Precision = Literal["float32", "bfloat16"]
PRECISIONS = (*get_args(Precision), "auto")
LAYER_TYPES = ("linear", "conv")
# ``auto`` means bfloat16 where the machine is quick at it, for the layer types for which tests/benchmarks/precision.py
# shows that the validation PSNR is equivalent; all others keep float32.
AUTO_BFLOAT16 = ("linear", "conv")
QUICK_BFLOAT16 = "whose processor has AVX512-BF16 or AMX, or whose GPU has bfloat16"

_ALL_BUT_RPROP = tuple(name for name in OPTIMIZERS if name != "rprop")
# Keys that apply only if another key has one of these values. Otherwise they are neither searched nor recorded, so that
# fixing or narrowing the other key stays an edit of one line.
APPLIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "width": ("layer_type", ("linear",)),
    "channels": ("layer_type", ("conv",)),
    "convs": ("layer_type", ("conv",)),
    "kernel": ("layer_type", ("conv",)),
    "unshuffle": ("layer_type", ("conv",)),
    "negative_slope": ("activation", ("leaky_relu",)),
    "alpha": ("activation", ("elu", "celu")),
    "beta1": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "beta2": ("optimizer", ("adam", "adamw", "nadam", "radam", "adamax")),
    "amsgrad": ("optimizer", ("adam", "adamw")),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "smoothing": ("optimizer", ("rmsprop",)),
    "rho": ("optimizer", ("adadelta",)),
    "weight_decay": ("optimizer", _ALL_BUT_RPROP),
    "lr_scheduler": ("optimizer", _ALL_BUT_RPROP),
    "delta": ("loss", ("smooth_l1", "huber")),  # anywhere in a sum
}

TERM = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?) )?([a-z][a-z0-9_]*)")


@lru_cache(maxsize=256)
def parse_loss(text: str) -> dict[str, float]:
    """Weights by the names of the losses in ``[WEIGHT] LOSS [+ [WEIGHT] LOSS]…``, in that order; a missing weight is 1.

    Raises:
        ValueError: an unknown loss, a loss that occurs twice, a weight not above 0, or another form.
    """
    weights: dict[str, float] = {}
    for term in text.split(" + "):
        found = TERM.fullmatch(term)
        if found is None:
            form = "a loss, or a sum such as 'bce + 0.2 ssim'"
            raise refused(f"must be {form}; {shown(term, 30)} is neither a loss nor a weight and a loss")
        weight, name = float(found[1] or 1), found[2]
        if name not in LOSSES:
            near = hint(name, LOSSES, listing=False)
            raise refused(f"{shown(name, 30)} is not a loss; allowed: {', '.join(LOSSES)}{near}")
        if name in weights:
            raise refused(f"{name} occurs twice in the sum")
        if not 0 < weight <= 1e6:
            raise refused(f"the weight of {name} must be above 0 and at most 1e6")
        weights[name] = weight
    return weights
