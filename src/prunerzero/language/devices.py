"""Devices and dtypes by their names, and models run on the device that they are on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError, first_line


def find_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is a GPU if there is one, else the CPU.

    Raises:
        ModelError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # whose message lists all that torch has ever had a name for
        raise ModelError(f"no device is called {name!r}; {_remedy()}") from None
    if device.type == "meta":
        raise ModelError("device 'meta' holds no numbers; pass `device=\"cpu\"` or a GPU.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        why = first_line(error) if device.type == "cuda" else "this torch cannot compute on it"
        raise ModelError(f"device {name!r} cannot be used here: {why}; {_remedy()}") from error
    return device


def _remedy() -> str:
    """What there is to pass on this machine."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["'auto'", "'cpu'"]
    if gpus:
        names += ["'cuda'", "'cuda:0'" if gpus == 1 else f"'cuda:0' to 'cuda:{gpus - 1}'"]
    if torch.backends.mps.is_available():
        names.append("'mps'")
    none = " (torch finds no GPU here)" if len(names) == 2 else ""
    return f"pass `device` {', '.join(names[:-1])} or {names[-1]}{none}."


def find_devices(names: str) -> tuple[torch.device, ...]:
    """The devices of these names, separated by commas. Raises ModelError."""
    return tuple(find_device(name.strip()) for name in names.split(","))


def compute_dtype(name: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in.

    Args:
        name: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float32 on a CPU, which is slow
            at anything narrower, and the checkpoint's dtype on every other device.
        stored: dtype of the checkpoint.
        device: where the model will be.

    Raises:
        ModelError: another name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    dtype = getattr(torch, name, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError(f"dtype {name!r} must be auto, float32, bfloat16 or float16.")
    return dtype  # type: ignore[no-any-return]


def device_of(model: Any) -> torch.device:
    """The device that token ids go to: that of the first weights which are not on "meta"."""
    device: torch.device = next(w.device for w in model.parameters() if not w.is_meta)
    return device


def logits_of(model: Any, windows: Tensor) -> Tensor:
    """The model's logits [count, length, vocabulary] for token ids [count, length]."""
    logits: Tensor = model(input_ids=windows.to(device_of(model)), use_cache=False).logits
    return logits
