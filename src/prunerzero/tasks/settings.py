"""The settings that a result depends on, as they came out, for results and recipes."""

from __future__ import annotations

import platform
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import prunerzero
from prunerzero.tasks.workspace import Workspace


def describe(work: Workspace) -> dict[str, Any]:
    """All settings as they came out, for results: text names, window length and counts."""
    given = {f.name: getattr(work.setup, f.name) for f in fields(work.setup)}
    texts = work.texts.used()
    return {
        **{name: _plain(value) for name, value in given.items()},
        "revision": getattr(work.language_model.model.config, "_commit_hash", None)
        or work.setup.revision,
        "max_seq_length": work.window_length,
        "dtype": str(work.language_model.model.dtype).removeprefix("torch."),
        "device": str(work.language_model.device),
        "texts": {place: text.name for place, text in texts.items()},
        "windows": {place: len(text.windows) for place, text in texts.items()},
        "fingerprints": {
            "model": work.model_identity,
            **work.texts.fingerprints(),
        },
        "versions": versions(),
    }


def _plain(value: Any) -> Any:
    """A setting with text in place of paths."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import transformers

    return {
        "prunerzero": prunerzero.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
