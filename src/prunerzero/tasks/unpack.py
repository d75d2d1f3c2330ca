"""Give the ordinary checkpoint back that a packed model was made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from safetensors import safe_open
from torch import Tensor

from prunerzero.arguments import path
from prunerzero.errors import ModelError
from prunerzero.files import check_apart, new_folder, write_text
from prunerzero.language.download import copy_others
from prunerzero.options import takes
from prunerzero.packed.files import Facts, check_stored, facts_of, is_packed
from prunerzero.packed.layout import matrix_of, unpack_matrix
from prunerzero.report.model_card import PACKED_TAG, UNPACKED_CARD
from prunerzero.tasks.checkpoint import Checkpoint, as_transformers_writes
from prunerzero.tasks.keywords import FilesKeywords
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import FilesOptions
from prunerzero.tasks.output import check_output
from prunerzero.tasks.pack_plan import Done
from prunerzero.tasks.setup import Setup
from prunerzero.tensor_file import Form, Header, write_tensors


@dataclass(frozen=True)
class UnpackResult:
    """What was unpacked.

    Attributes:
        output_dir: the ordinary checkpoint.
        model: the packed one.
        matrices: how many were packed.
        rounded: how many of them had been rounded, so that they are not what was packed.
        packed_bytes, bytes: of all weights files, before and after.
    """

    output_dir: str
    model: str
    matrices: int
    rounded: int
    packed_bytes: int
    bytes: int


@takes(FilesOptions)
def unpack(
    model: str | Path,
    output_dir: str | Path,
    observer: Observer | None = None,
    options: FilesOptions = FilesOptions(),
    **keywords: Unpack[FilesKeywords],
) -> UnpackResult:
    """Write the ordinary checkpoint of a packed model, one matrix in memory at a time.

    Where values are stored in the dtype of the checkpoint, every tensor is what it was, bit for
    bit, and so is every other file.

    Args:
        model: folder or hub id of a packed model.
        output_dir: must be absent or empty.
        observer: told of progress.
        options: each field is a keyword too.

    Raises:
        InputError: nothing was written.
    """
    observer = observer or Observer()
    output_dir = path("output_dir", output_dir)
    source = options.source(model)
    check_output(output_dir, Setup(model=source.model))
    checkpoint = Checkpoint.of(source)
    if not is_packed(checkpoint.config):
        raise ModelError(f"{source.model!r} is not packed, but an ordinary model already.")
    check_apart(output_dir, checkpoint.folder)
    facts = _by_file(checkpoint)
    check_stored(facts, {name: form for name, _, form in checkpoint.tensors()})
    headers = {file: _header(checkpoint, file, facts) for file in checkpoint.headers}
    checkpoint.check_room(output_dir, headers)
    with new_folder(output_dir) as folder:
        copy_others(checkpoint.folder, folder)
        _restore_card(folder)
        total = sum(header.bytes for header in headers.values())
        with observer.count("unpacking", total >> 20, "MiB") as advance:
            done = Done(advance)
            for file, header in headers.items():
                tensors = _tensors(checkpoint, file, facts, done)
                write_tensors(folder / checkpoint.written_as(file), header, tensors)
        checkpoint.write_index(folder, headers)
        config = {key: value for key, value in checkpoint.config.items() if key not in _OURS}
        write_text(folder / "config.json", as_transformers_writes(config))
    return UnpackResult(
        output_dir=str(output_dir),
        model=source.model,
        matrices=len(facts),
        rounded=sum(one.values != one.dtype for one in facts.values()),
        packed_bytes=checkpoint.bytes,
        bytes=total,
    )


def _restore_card(folder: Path) -> None:
    """Put the card of the model that was packed in the place of ours."""
    card, unpacked = folder / "README.md", folder / UNPACKED_CARD
    if unpacked.is_file():
        os.replace(unpacked, card)
    elif card.is_file() and PACKED_TAG in card.read_text(encoding="utf-8", errors="replace"):
        card.unlink()


_OURS = ("quantization_config", "transformers_weights")
"""What a packing adds to a config."""


def _by_file(checkpoint: Checkpoint) -> dict[str, Facts]:
    """The packed matrices by the beginning of their tensors' names."""
    facts = facts_of(checkpoint.config["quantization_config"])
    return {one.stored_as or name: one for name, one in facts.items()}


def _base(name: str, facts: Mapping[str, Facts]) -> str | None:
    """The packed matrix that a tensor is a part of; None where it is an ordinary one."""
    base, _, part = name.rpartition(".")
    return base if base in facts and part in facts[base].parts else None


def _header(checkpoint: Checkpoint, file: Path, facts: Mapping[str, Facts]) -> Header:
    """A file holds the dense matrices whose empty ``weight`` was in it, and what was dense."""
    forms: dict[str, Form] = {}
    for name, form in checkpoint.headers[file].forms.items():
        if (base := _base(name, facts)) is None:
            forms[name] = form
        elif name == f"{base}.weight":
            forms[name] = facts[base].dense
    return Header(forms, checkpoint.headers[file].metadata)


def _tensors(
    checkpoint: Checkpoint, file: Path, facts: Mapping[str, Facts], done: Done
) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        opened: dict[Path, Any] = {
            one: stack.enter_context(safe_open(one, framework="pt")) for one in checkpoint.headers
        }

        def read(name: str) -> Tensor:
            tensor: Tensor = opened[checkpoint.owners[name]].get_tensor(name)
            return tensor

        for name in checkpoint.headers[file].forms:
            base = _base(name, facts)
            if base is None:
                tensor = opened[file].get_tensor(name)
            elif name == f"{base}.weight":
                tensor = _unpacked(base, facts[base], read)
            else:
                continue
            yield name, tensor
            done.more(tensor.numel() * tensor.element_size())


def _unpacked(base: str, facts: Facts, read: Any) -> Tensor:
    parts = {part: read(f"{base}.{part}") for part in facts.parts}
    try:
        matrix = matrix_of(
            facts.rows,
            facts.columns,
            facts.kind,
            parts["mask"],
            parts["values"],
            parts.get("scales"),
        )
    except ModelError as error:
        raise ModelError(f"the packed matrix {base} cannot be used: {error}.") from None
    dense = unpack_matrix(matrix, facts.dense.dtype)
    return dense.t() if facts.transposed else dense
