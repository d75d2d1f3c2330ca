"""Reading a checkpoint back: it must hold the weights that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.identity import of_tensor
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.language.streaming import open_streamed
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks, block_names

Measured = Mapping[str, tuple[torch.dtype, str]]
"""Dtype and digest of each parameter, by name, at the time of measuring."""


def digests_of(model: Any) -> Measured:
    """Dtypes and digests for ``check_written``, to be taken before the model is saved."""
    return {name: (p.dtype, of_tensor(p)) for name, p in model.named_parameters()}


def check_written(folder: Path, scratch: Path, measured: Measured, trust_remote_code: bool) -> None:
    """Read a checkpoint as transformers does, and compare it with what was measured.

    Args:
        folder: of the checkpoint.
        scratch: folder for weights that cannot be read from the checkpoint one by one.
        measured: dtypes and digests of the parameters.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        ModelError: a tensor differs; names the first one.
    """
    compare(_parameters(folder, scratch, trust_remote_code), measured, folder)


def compare(read: Iterable[tuple[str, Tensor]], measured: Measured, folder: Path) -> None:
    """Raise ModelError if a tensor that was read differs from the measured one."""
    left = dict(measured)
    for name, tensor in read:
        dtype, digest = left.pop(name, (tensor.dtype, ""))
        if of_tensor(tensor.to(dtype)) != digest:
            raise _different(name, folder)
    if left:
        raise _different(next(iter(left)), folder)


def _different(name: str, folder: Path) -> ModelError:
    return ModelError(
        f"the checkpoint in '{folder}' does not hold the weights that were measured ({name} "
        "differs), so it is not kept: this is a fault of prunerzero, please report it with the "
        "name of the model."
    )


def _parameters(
    folder: Path, scratch: Path, trust_remote_code: bool
) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a checkpoint, one block in memory at a time where possible."""
    source = ModelSource(str(folder), device="cpu", trust_remote_code=trust_remote_code)
    try:
        opened = open_streamed(source, block_names, scratch)
    except ModelError:  # its blocks cannot be read one by one
        loaded = load_model(source)
        yield from loaded.model.named_parameters()
        return
    model = opened.language_model.model
    yield from OffloadedBlocks(model, opened.files, model.dtype, {}).parameters()
