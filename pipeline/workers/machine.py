"""What this machine offers to a study: its device, a quick precision, and room for workers."""

import os
from typing import Literal

from pipeline.config.choices import Precision
from pipeline.errors import InputError

Device = Literal["cpu", "cuda"]


def device_here(asked: Literal["auto", "cpu", "cuda"]) -> Device:
    """The device that is asked for, with ``auto`` a GPU where there is one. Raises InputError if there is none."""
    import torch  # here, so that workers can be started before torch is imported

    cuda = asked != "cpu" and torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return "cuda" if cuda else "cpu"


def precision_here(device: Device) -> Precision:
    """What ``precision = "auto"`` means on this machine: bfloat16 where the device multiplies it in hardware."""
    import torch

    if device == "cuda":
        quick = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        quick = any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if quick else "float32"


def room_for(device: Device, threads: int) -> int:
    """How many workers of so many threads can work at the same time: one per GPU, or as many as there are cores for."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
