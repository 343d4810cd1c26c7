"""A trained model as one safetensors file: the restorer's weights, and the configuration that rebuilds it.

Comes in: a restorer, its trial's configuration and image size; or such a file's bytes and the sha256 they must have.
Goes out: bytes, equal for equal weights; or the restorer. A file is data only: nothing in it is unpickled or evaluated.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from pipeline.config import TrialConfig
from pipeline.config.outcomes import WEIGHTS_FILE
from pipeline.config.trial import Frozen
from pipeline.data.degrade import input_size
from pipeline.errors import CheckpointError, StudyError, first_line
from pipeline.files import safetensors_metadata
from pipeline.training import model as models

Side = Annotated[int, Field(ge=1, le=65536)]


class Description(Frozen):
    """What a weights file says of its network."""

    config: TrialConfig
    image_size: tuple[Side, Side]  # of restored images, (height, width)


def weights_bytes(restorer: models.Restorer, config: TrialConfig, image_size: tuple[int, int]) -> bytes:
    """The weights file of a restorer."""
    return _saved(restorer.state_dict(), config, image_size)


def checkpoint_weights(autoencoder: Mapping[str, Tensor], config: TrialConfig, image_size: tuple[int, int]) -> bytes:
    """The weights file of a restorer with an autoencoder of these weights."""
    return _saved({f"autoencoder.{name}": value for name, value in autoencoder.items()}, config, image_size)


def _saved(tensors: Mapping[str, Tensor], config: TrialConfig, image_size: tuple[int, int]) -> bytes:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    description = Description(config=config, image_size=image_size).model_dump_json()
    return safetensors.torch.save(plain, {"model": description})  # several keys would be written in random order


def load_weights(data: bytes, sha256: str) -> models.Restorer:
    """The restorer of a weights file, on the CPU, in evaluation mode. Nothing is read unless the sha256 matches.

    Raises CheckpointError: other bytes, a configuration that is not allowed, or tensors that are not its network's.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{WEIGHTS_FILE} is damaged: its bytes are not those that were recorded")
    try:
        tensors = safetensors.torch.load(data)
        description = describe(data)
        with torch.device("meta"):  # without memory, so that no configuration can ask for more than the file has
            restorer = _build(description)
    except (SafetensorError, KeyError, ValueError, RuntimeError, StudyError) as error:
        reason = first_line(error)
        if isinstance(error, ValidationError):
            finding = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, finding['loc']))}: {finding['msg']}"
        raise CheckpointError(f"{WEIGHTS_FILE} holds no model of this program: {reason}") from None
    network = {name: (value.shape, value.dtype) for name, value in restorer.state_dict().items()}
    if network != {name: (value.shape, value.dtype) for name, value in tensors.items()}:
        raise CheckpointError(f"{WEIGHTS_FILE}: its tensors are not those of the network that it describes")
    with torch.random.fork_rng(devices=[]):  # its initial weights are replaced, and cost the caller no random number
        restorer = _build(description)  # and not `to_empty`, which imports sympy: 0.6 s
    restorer.load_state_dict(tensors)  # and not `assign`: the network decides the order of axes in memory
    return restorer.eval()


def describe(data: bytes) -> Description:
    """What a verified weights file says of its network."""
    return Description.model_validate_json(safetensors_metadata(data)["model"])


def _build(description: Description) -> models.Restorer:
    config, size = description.config, description.image_size
    return models.Restorer(models.build(config.model, input_size(size, config.degrade), size))
