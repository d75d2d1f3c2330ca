"""A pruned checkpoint while it is written: a run that was stopped goes on from what is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.errors import InputError, OutputError
from prunerzero.files import check_new, write_json
from prunerzero.metrics import MetricError
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.pruning.shards import ShardWriter

_MANIFEST = Path(".work") / "manifest.json"


def is_begun(output_dir: Path) -> bool:
    """Whether an earlier run has left something to go on from."""
    return (_partial(output_dir) / _MANIFEST).is_file()


def _partial(output_dir: Path) -> Path:
    return output_dir.with_name(f".{output_dir.name}.partial")


class PartialCheckpoint:
    """A folder ``.NAME.partial`` with finished shards, and what the next run must know in ``work``.

    As a context it removes the folder where nothing in it is worth going on from.

    Args:
        output_dir: what it will be called.

    Attributes:
        folder: the folder.
        work: a folder inside for all that is not part of the checkpoint.
    """

    def __init__(self, output_dir: Path) -> None:
        check_new(output_dir)
        self._output_dir = output_dir
        self.folder = _partial(output_dir)
        self._manifest = self.folder / _MANIFEST
        self.work = self._manifest.parent
        self._state: dict[str, Any] = {"settings": {}, "blocks": {}, "notes": {}}
        self._lock, self._begun = Lock(), False

    def __enter__(self) -> PartialCheckpoint:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        hopeless = isinstance(error, InputError | MetricError) and self._begun
        if hopeless or not self._manifest.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, settings: Mapping[str, Any]) -> int:
        """Take up what is there, else begin; returns how many blocks are finished.

        Raises:
            OutputError: what is there was begun with other settings.
        """
        settings = json.loads(json.dumps(settings, default=str))
        try:
            self._state = json.loads(self._manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._state["settings"] = settings
            self.work.mkdir(parents=True, exist_ok=True)
            self._save()
        for name, value in settings.items():
            if (before := self._state["settings"].get(name)) != value:
                raise OutputError(
                    f"'{self.folder}' holds an unfinished run with {name} {before!r}, not "
                    f"{value!r}; give that again, name another output folder, or delete it."
                )
        self._begun = True
        return len(self._state["blocks"])

    def note(self, key: str, make: Callable[[], float]) -> float:
        """The number noted under ``key``, else what ``make`` returns, which is noted."""
        if key not in self._state["notes"]:
            self._state["notes"][key] = make()
            self._save()
        return float(self._state["notes"][key])

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept."""
        return str(index) in self._state["blocks"]

    def keep(self, index: int, layers: tuple[LayerSparsity, ...]) -> None:
        """Note that a block is finished; call it when its shard is there."""
        with self._lock:
            self._state["blocks"][str(index)] = [asdict(layer) for layer in layers]
            self._save()

    def layers(self) -> tuple[LayerSparsity, ...]:
        """All layers of finished blocks, in the model's order."""
        blocks = sorted(self._state["blocks"].items(), key=lambda item: int(item[0]))
        rows = (row for _, block in blocks for row in block)
        return tuple(LayerSparsity(**{**row, "shape": tuple(row["shape"])}) for row in rows)

    def keep_zeros(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep where these tensors are zero, one bit a number."""
        bits = {
            name: torch.from_numpy(np.packbits((tensor == 0).numpy()))
            for name, tensor in tensors.items()
            if tensor.dim() > 1
        }
        save_file(bits, self._zeros(index))

    def zeros(self, index: int) -> dict[str, Tensor]:
        """What ``keep_zeros`` kept: flat, with up to seven more entries at the end."""
        bits = load_file(self._zeros(index))
        return {
            name: torch.from_numpy(np.unpackbits(packed.numpy())).bool()
            for name, packed in bits.items()
        }

    def finish(self) -> None:
        """Give the folder its name."""
        if self._output_dir.exists():
            self._output_dir.rmdir()
        os.replace(self.folder, self._output_dir)
        shutil.rmtree(self._output_dir / self.work.name)

    def _zeros(self, index: int) -> Path:
        return self.work / f"zeros-of-block-{index}.safetensors"

    def _save(self) -> None:
        write_json(self._manifest, self._state)


class KeptBlocks:
    """The record of a pruning by block: shards of the new checkpoint, and its manifest.

    Args:
        partial: the checkpoint.
        writer: of its shards; the first is for what is outside the blocks.
        with_zeros: whether ``zeros`` will be asked for.
    """

    def __init__(self, partial: PartialCheckpoint, writer: ShardWriter, with_zeros: bool) -> None:
        self._partial, self._writer, self._with_zeros = partial, writer, with_zeros

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept."""
        return self._partial.finished(index)

    def zeros(self, index: int) -> dict[str, Tensor]:
        """Where a finished block is zero."""
        return self._partial.zeros(index)

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        """Keep a pruned block."""
        if self._with_zeros:
            self._partial.keep_zeros(index, tensors)
        self._writer.write(index + 1, tensors)
        self._partial.keep(index, layers)
