"""Shapes of the tensors that pass between functions; every module names them the same."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Images = Float[Tensor, "batch 1 height width"]  # clean or restored intensities, in [0, 1]
Degraded = Float[Tensor, "batch 1 h w"]  # what the model sees: smaller after a downscale, otherwise the same
Logits = Float[Tensor, "batch 1 height width"]  # restored images before the sigmoid
PerImage = Float[Tensor, " batch"]
Pixels = UInt8[Tensor, "batch 1 height width"]  # images as they are kept in memory, 0 to 255
Labels = Int64[Tensor, " batch"]  # classes, from 0
