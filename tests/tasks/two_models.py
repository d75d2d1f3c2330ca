"""Two small models of other shapes for one search, and what a search on them tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_model import tiny_gemma, tiny_model, tiny_tokenizer

from prunerzero import Setup


def two_models(folder: Path, workplace: Path) -> Callable[..., list[Setup]]:
    """Write the models; their setups, with whatever else is given."""
    for name, model in (("llama", tiny_model(4)), ("gemma", tiny_gemma())):
        model.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    few = {"max_seq_length": 16, "num_calibration_samples": 16}
    return lambda **more: [
        Setup(model=str(folder / name), **few, **texts, **more) for name in ("llama", "gemma")
    ]


def results(folder: Path) -> Any:
    """All that a search tells, without what depends on the clock, the folder and the devices."""
    best = json.loads((folder / "best.json").read_text())
    history = json.loads((folder / "history.json").read_text())
    for told in (best, *history):
        for clock in ("seconds", "took", "output_dir", "interrupted"):
            told.pop(clock, None)
    for settings in (best["settings"], *best["settings"]["models"]):
        settings.pop("device", None)
    return best, history
