"""Which model: where it comes from, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from prunerzero.arguments import text
from prunerzero.options import FLAG, STRING, Kind, Options, option

BUNDLED = "bundled"
"""The model that is part of the package; see ``bundled/model/README.md``."""

_PANEL = "Model"


def _named(name: str, value: Any) -> str:
    """A dtype or a device, by its name or as torch has it."""
    if isinstance(value, torch.dtype | torch.device):
        value = str(value).removeprefix("torch.")
    return text(name, value)


NAMED = Kind(_named, str)
"""What is named by its word, or is torch's own: a dtype, a device."""


@dataclass(frozen=True)
class ModelSource(Options):
    """Where a model comes from, and how it is computed."""

    model: str = option(
        BUNDLED, "Hub id ORG/NAME, folder, .gguf file, or 'bundled'.", STRING, panel=_PANEL
    )
    revision: str | None = option(None, "Branch, tag or commit on the hub.", STRING, panel=_PANEL)
    dtype: str = option(
        "auto",
        "Compute in: auto (float32 on a CPU, the checkpoint's on a GPU), float32, bfloat16, "
        "float16.",
        NAMED,
        panel=_PANEL,
    )
    device: str = option(
        "auto",
        "auto (a GPU if there is one), cpu, cuda, cuda:1; several GPUs: cuda:0,cuda:1.",
        NAMED,
        panel=_PANEL,
    )
    trust_remote_code: bool = option(
        False, "Run Python code that the model's repository carries.", FLAG, panel=_PANEL
    )
    allow_pickle: bool = option(
        False, "Read pickled weights (.bin) where there are no safetensors.", FLAG, panel=_PANEL
    )
