"""Which device kernels run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, ``device`` is the current one where it is a GPU.

    Triton launches its kernels there, not on the device of their tensors: masks of layers on a
    second GPU come out wrong otherwise.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
