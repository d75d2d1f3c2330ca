"""Rivals: what else could be done with the first model, made and measured, not assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from prunerzero.files import writing
from prunerzero.language.loading import read_model
from prunerzero.language.models import LanguageModel
from prunerzero.language.quiet import quiet_transformers
from prunerzero.language.source import ModelSource
from prunerzero.tasks.benching.gguf_files import QUANTISED, quantise, write_gguf
from prunerzero.tasks.benching.subject import Runtime, Subject
from prunerzero.tasks.benching.weight_only import (
    Int4Linear,
    Int8Linear,
    lies_on_int4,
    replaced,
)

_TORCH: dict[str, tuple[Runtime, Callable[[torch.nn.Linear], torch.nn.Module]]] = {
    "int8": ("torch int8", Int8Linear),
    "int4": ("torch int4", Int4Linear),
}
"""What torch's rivals are called, and what they have for linear layers."""
RIVALS = ("dense", *_TORCH, "llama.cpp")

_LOST_BEFORE = (
    "The first model's weights lie on a grid of four bits already, as after an earlier "
    "quantisation: int4 loses next to nothing of them, and would lose more of the original."
)


def make_rivals(
    rivals: Sequence[str],
    first: Subject,
    folder: Path,
    threads: int,
) -> list[Subject]:
    """Make rivals of a model: its dense self in bfloat16, and what becomes of that.

    Args:
        rivals: which of ``RIVALS``.
        first: the model.
        folder: where their files are written, which are large.
        threads: for llama.cpp's quantising.

    Raises:
        ModelError: one cannot be made of this model.
        OutputError: the folder has no room.
    """
    with writing(folder, "free some room where temporary files go, or set TMPDIR"):
        return list(_rivals(rivals, first, folder, threads))


def _rivals(
    rivals: Sequence[str],
    first: Subject,
    folder: Path,
    threads: int,
) -> Iterator[Subject]:
    source = first.source
    if set(rivals) != {"llama.cpp"} or first.file is None:
        read = read_model(source, lambda _config, _stored: {"dtype": torch.bfloat16})
        yield from _of_torch(rivals, source, read, folder)
        if "llama.cpp" in rivals and first.file is None:
            write_gguf(first.name, read.model, folder / "dense.gguf")
    if "llama.cpp" in rivals:
        dense = first.file or folder / "dense.gguf"
        for kind in QUANTISED:
            file = folder / f"{kind}.gguf"
            quantise(first.name, dense, file, kind, threads)
            yield Subject(f"llama.cpp {kind}", source, "llama.cpp", file, is_rival=True)


def _of_torch(
    rivals: Sequence[str],
    source: ModelSource,
    read: LanguageModel,
    folder: Path,
) -> Iterator[Subject]:
    if "dense" in rivals:
        place = folder / "dense"
        with quiet_transformers():
            read.model.save_pretrained(place)
        read.tokenizer.save_pretrained(place)
        yield Subject("dense bfloat16", ModelSource(model=str(place)), is_rival=True)
    for name in (name for name in _TORCH if name in rivals):
        runtime, make = _TORCH[name]
        file = folder / f"{name}.pt"
        notes = [_LOST_BEFORE] if name == "int4" and lies_on_int4(read.model) else []
        with replaced(read.model, make) as left:
            if left:
                notes.append(
                    f"{len(left)} linear layers stay in bfloat16, since torch's product does not "
                    f"take their shape, such as {left[0]}."
                )
            torch.save(read.model, file)
        yield Subject(runtime, source, runtime, file, is_rival=True, notes=tuple(notes))
