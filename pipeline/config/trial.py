"""One trial's configuration: a value for every key, nothing left to choose.

A ``TrialConfig`` is all that an epoch task needs. It converts to JSON and back without loss, so it can be sent to
workers and stored with the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from pipeline.config.choices import ACTIVATIONS, APPLIES, LAYER_TYPES, OPTIMIZERS, PRECISIONS, SCHEDULERS, parse_loss
from pipeline.errors import ConfigError


class Frozen(BaseModel):
    """A strict model: no unknown key, no text for a number, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class OneOf:
    """Restricts a text field to the names of a table."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


def variants(union: Any, discriminator: str) -> dict[str, type[Frozen]]:
    """The classes of a tagged union, by the names that tell them apart."""
    classes = get_args(get_args(union)[0])
    return {get_args(cls.model_fields[discriminator].annotation)[0]: cls for cls in classes}


def _known_loss(text: str) -> str:
    parse_loss(text)
    return text


Probability = Annotated[float, Field(gt=0, le=1)]


class Gaussian(Frozen):
    """Additive white noise: x + sigma n."""

    kind: Literal["gaussian"]
    sigma: Annotated[float, Field(gt=0, le=10)]
    clip: bool = True


class Speckle(Frozen):
    """Multiplicative noise: x + sigma n x."""

    kind: Literal["speckle"]
    sigma: Annotated[float, Field(gt=0, le=10)]
    clip: bool = True


class SaltPepper(Frozen):
    """A share ``prob`` of the pixels becomes black or white, evenly."""

    kind: Literal["salt_pepper"]
    prob: Probability


class Masking(Frozen):
    """A share ``prob`` of the pixels becomes black."""

    kind: Literal["masking"]
    prob: Probability


class Poisson(Frozen):
    """Photon noise: Poisson(peak x) / peak."""

    kind: Literal["poisson"]
    peak: Annotated[float, Field(gt=0, le=1e6)]
    clip: bool = True


class Downscale(Frozen):
    """Fewer pixels: each side is divided by ``factor``. The model's input is smaller than its output."""

    kind: Literal["downscale"]
    factor: Annotated[int, Field(ge=2, le=64)]
    method: Literal["area", "bicubic"] = "area"


Degrade = Annotated[Gaussian | Speckle | SaltPepper | Masking | Poisson | Downscale, Field(discriminator="kind")]
DEGRADATIONS = variants(Degrade, "kind")


class ModelConfig(Frozen):
    """``[model]``: the shape of the autoencoder."""

    layer_type: Annotated[str, OneOf(LAYER_TYPES)] = "linear"
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    # The width of the innermost linear layer, or the channels of the deepest convolutional level.
    bottleneck: Annotated[int, Field(ge=1, le=4096)] = 64
    width: Literal["auto"] | Annotated[int, Field(ge=1, le=8192)] = "auto"
    channels: Annotated[int, Field(ge=1, le=1024)] = 16
    convs: Annotated[int, Field(ge=1, le=8)] = 1
    kernel: Literal[3, 5, 7] = 3
    unshuffle: Literal[1, 2, 4] = 1
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "relu"
    negative_slope: Annotated[float, Field(ge=0, le=1)] = 0.01
    alpha: Annotated[float, Field(gt=0, le=10)] = 1.0
    batch_norm: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    skip: bool = False


class TrainConfig(Frozen):
    """``[train]``: how the autoencoder is trained."""

    loss: Annotated[str, AfterValidator(_known_loss)] = "bce"
    # Errors are at most 1: with torch's default of 1.0 smooth_l1 and huber would both be half the squared error.
    delta: Annotated[float, Field(gt=0, le=100)] = 0.1
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    amsgrad: bool = False
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    rho: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 128
    lr_scheduler: Annotated[str, OneOf(SCHEDULERS)] = "one_cycle"
    precision: Annotated[str, OneOf(PRECISIONS)] = "auto"


def _resolved(train: TrainConfig) -> TrainConfig:
    if train.precision == "auto":
        raise ValueError('precision is "auto", but a trial has what that means on its machine')
    return train


class TrialConfig(Frozen):
    """Everything that decides a trial's numbers, apart from the data's bytes and the library versions."""

    dataset: str
    degrade: Degrade
    model: ModelConfig = ModelConfig()
    train: Annotated[TrainConfig, AfterValidator(_resolved)] = TrainConfig(precision="float32")
    objective: str = "psnr"
    epochs: Annotated[int, Field(ge=1)] = 10
    threads: Annotated[int, Field(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Annotated[int, Field(ge=0)] = 0
    number: Annotated[int, Field(ge=0)] = 0
    replicate: Annotated[int, Field(ge=0)] = 0

    def params(self) -> dict[str, Any]:
        """The flat parameters that are recorded: the keys that apply to this trial."""
        settings = self.model.model_dump() | self.train.model_dump()
        applied = {key: value for key, value in settings.items() if applies(key, settings)}
        degrade = {f"degrade.{key}": value for key, value in self.degrade.model_dump().items()}
        rest = self.model_dump(include={"dataset", "epochs", "threads", "device", "seed", "replicate"})
        return applied | degrade | rest


def applies(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a key of ``[model]`` or ``[train]`` has an effect with these settings."""
    if key not in APPLIES:
        return True
    parent, values = APPLIES[key]
    chosen = parse_loss(settings[parent]) if parent == "loss" else [settings[parent]]
    return any(value in values for value in chosen)


def grid_size(input_size: tuple[int, int], unshuffle: int) -> tuple[int, int]:
    """The sides of a convolutional autoencoder's grid: one cell per ``unshuffle`` pixels, rounded up."""
    return -(-input_size[0] // unshuffle), -(-input_size[1] // unshuffle)


def check_depth(depth: int, input_size: tuple[int, int], unshuffle: int) -> None:
    """Refuse a convolutional autoencoder that would halve a side of one cell. Raises ConfigError."""
    height, width = grid_size(input_size, unshuffle)
    most = (min(height, width) - 1).bit_length()  # halves are rounded up: 5 -> 3 -> 2 -> 1
    if depth > most:
        behind = f" behind unshuffle = {unshuffle}" if unshuffle > 1 else ""
        raise ConfigError(
            f'[model] depth = {depth}: with layer_type = "conv" inputs of {height} x {width} pixels{behind} '
            f"can be halved {most} times at most"
        )
