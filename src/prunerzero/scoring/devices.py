"""Which device kernels run on, and whether there can be any."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, ``device`` is the current one where it is a GPU.

    Triton launches its kernels there, not on the device of their tensors: masks of layers on a
    second GPU come out wrong otherwise.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def has_triton() -> bool:
    """Whether kernels can be compiled for NVIDIA GPUs here."""
    return torch.version.cuda is not None and find_spec("triton") is not None
