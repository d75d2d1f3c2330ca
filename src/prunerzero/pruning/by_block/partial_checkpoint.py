"""A pruned checkpoint while it is written, so that a stopped run can be resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.errors import InputError, OtherRunError, OutputError
from prunerzero.files import check_new, real, refusal, writing
from prunerzero.identity import Identity, difference, of_tensor
from prunerzero.memory import Memory
from prunerzero.metrics import MetricError
from prunerzero.pruning.by_block.shards import ShardWriter, is_whole
from prunerzero.pruning.pruner import LayerSparsity

_MANIFEST = Path(".work") / "manifest.jsonl"

TypedDigest = tuple[str, str]
"""The dtype of a tensor and its digest in that dtype: a checkpoint may store it in another."""

Needed = Literal["nothing", "zeros", "weights"]
"""What finished blocks are set up again from in a later run."""

_BLOCK = "block "
"""How the keys of finished blocks begin."""


def is_begun(output_dir: Path) -> bool:
    """Whether an earlier run can be resumed."""
    return (_partial(output_dir) / _MANIFEST).is_file()


def _partial(output_dir: Path) -> Path:
    place = real(output_dir)
    return place.with_name(f".{place.name}.partial")


class PartialCheckpoint:
    """A folder ``.NAME.partial`` with finished shards, and a manifest for the next run.

    As a context manager it locks the folder against other processes, and at the end removes it
    where it holds nothing to resume from.

    Args:
        output_dir: the name of the folder when it is finished.

    Raises:
        OutputError: the folder cannot be written, or its manifest is damaged.

    Attributes:
        folder: the folder.
        work: a folder in it for files that are not part of the checkpoint.
    """

    def __init__(self, output_dir: Path) -> None:
        check_new(output_dir)
        self._output_dir = output_dir
        self.folder = _partial(output_dir)
        self._manifest = self.folder / _MANIFEST
        self.work = self._manifest.parent
        self._remedy = (
            f"restore it, or name another output folder, or delete '{self.folder}' to begin again"
        )
        self._memory = Memory(self._manifest, self._remedy)
        self._begun = False

    def __enter__(self) -> PartialCheckpoint:
        self._check()
        with writing(self.folder, "name another output folder"):
            self.work.mkdir(parents=True, exist_ok=True)
            self._alone = FileLock(self.work / "lock", fallback_to_soft=False)
            try:
                with suppress(NotImplementedError):  # a file system without locks
                    self._alone.acquire(blocking=False)
            except Timeout:
                raise OutputError(
                    f"another process is writing in '{self.folder}'; wait for it, or name another "
                    "output folder."
                ) from None
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self._alone.release()
        cannot_be_written = isinstance(error, OutputError)  # a full disk, say: it can be mended
        hopeless = isinstance(error, InputError | MetricError) and not cannot_be_written
        if (hopeless and self._begun) or not self._manifest.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, settings: Identity) -> int:
        """Resume the earlier run, or begin; returns the number of finished blocks.

        Raises:
            OtherRunError: the earlier run had other settings.
        """
        if different := difference(self._memory.recall("settings", lambda: settings), settings):
            raise OtherRunError(
                f"'{self.folder}' holds an unfinished run with {different}; give that again, name "
                "another output folder, or delete it."
            )
        self._begun = True
        return len(self._finished())

    def note(self, key: str, make: Callable[[], list[float]]) -> list[float]:
        """The numbers under ``key`` in the manifest, or what ``make`` returns, which is added."""
        return list(map(float, self._memory.recall(key, make)))

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept."""
        return f"{_BLOCK}{index}" in self._memory

    def keep(
        self, index: int, layers: tuple[LayerSparsity, ...], digests: Mapping[str, TypedDigest]
    ) -> None:
        """Note in the manifest that a block is finished, after its shard is written.

        Args:
            index: of the block.
            layers: how much of each of its layers is zero.
            digests: of its tensors as they were pruned, by their full names.
        """
        rows = [asdict(layer) for layer in layers]
        self._memory.keep(f"{_BLOCK}{index}", {"layers": rows, "digests": dict(digests)})

    def layers(self) -> tuple[LayerSparsity, ...]:
        """All layers of finished blocks, in the model's order."""
        return tuple(_layer(row) for block in self._finished() for row in block["layers"])

    def digests(self) -> dict[str, TypedDigest]:
        """Digests of the tensors of finished blocks, by their full names."""
        return {
            name: (str(dtype), str(digest))
            for block in self._finished()
            for name, (dtype, digest) in block["digests"].items()
        }

    def _finished(self) -> list[dict[str, Any]]:
        """The manifest's entries of finished blocks, in the model's order."""
        keys = [key for key in self._memory if key.startswith(_BLOCK)]
        keys.sort(key=lambda key: int(key.removeprefix(_BLOCK)))
        return [self._memory[key] for key in keys]

    def keep_zeros(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Write where these tensors are zero, one bit a weight."""
        bits = {
            name: torch.from_numpy(np.packbits((tensor == 0).numpy()))
            for name, tensor in tensors.items()
            if tensor.dim() > 1
        }
        save_file(bits, self.zeros_file(index))

    def zeros(self, index: int) -> dict[str, Tensor]:
        """What ``keep_zeros`` wrote: flat bools, with up to seven more entries at the end."""
        bits = load_file(self.zeros_file(index))
        return {
            name: torch.from_numpy(np.unpackbits(packed.numpy())).bool()
            for name, packed in bits.items()
        }

    def keep_apart(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors of a block that its shard has in another form, under these names."""
        apart = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(apart, self.apart_file(index))

    def apart(self, index: int) -> dict[str, Tensor]:
        """What ``keep_apart`` wrote."""
        return load_file(self.apart_file(index))

    def finish(self) -> None:
        """Rename the folder. Raises OutputError, and keeps the folder, if the name is taken."""
        place = real(self._output_dir)
        try:
            os.replace(self.folder, place)
        except OSError as error:
            raise OutputError(
                f"'{self._output_dir}' came into being while the work went on, and is left as it "
                f"is ({refusal(error)}); move it away, and the same command finishes from "
                f"'{self.folder}', where all is kept."
            ) from None
        try:
            shutil.rmtree(place / self.work.name)
        finally:  # also where Ctrl-C comes in between
            shutil.rmtree(place / self.work.name, ignore_errors=True)

    def _check(self) -> None:
        """Raise OutputError if the manifest is not one of a pruning by block."""
        try:
            for key in self._memory:
                value = self._memory[key]
                if key == "settings":
                    dict(value)
                elif not key.startswith(_BLOCK):
                    [float(number) for number in value]
            self.layers(), self.digests()
        except (TypeError, KeyError, ValueError, AttributeError):
            raise OutputError(
                f"'{self._manifest}' does not hold what an unfinished pruning leaves; "
                f"{self._remedy}."
            ) from None

    def zeros_file(self, index: int) -> Path:
        """The file that ``keep_zeros`` writes."""
        return self.work / f"zeros-of-block-{index}.safetensors"

    def apart_file(self, index: int) -> Path:
        """The file that ``keep_apart`` writes."""
        return self.work / f"weights-of-block-{index}.safetensors"


def _layer(row: dict[str, Any]) -> LayerSparsity:
    return LayerSparsity(**{**row, "shape": tuple(row["shape"])})


def _holds(written: Tensor | None, tensor: Tensor) -> bool:
    """Whether a tensor of a shard is that tensor, perhaps in another dtype."""
    return (
        written is not None
        and written.shape == tensor.shape
        and torch.equal(written.to(tensor.dtype), tensor)
    )


class FinishedBlocks:
    """The ``Record`` of a pruning by block: shards of a partial checkpoint, and its manifest.

    Args:
        partial: the checkpoint.
        writer: writes its shards; the first holds the tensors outside the blocks.
        needed: what a finished block is set up again from.
    """

    def __init__(self, partial: PartialCheckpoint, writer: ShardWriter, needed: Needed) -> None:
        self._partial, self._writer, self._needed = partial, writer, needed

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept in complete files."""
        if not (self._partial.finished(index) and self._writer.has(index + 1)):
            return False
        if self._needed == "nothing":
            return True
        file = self._partial.zeros_file if self._needed == "zeros" else self._partial.apart_file
        return is_whole(file(index))

    def zeros(self, index: int) -> dict[str, Tensor]:
        """Where a finished block is zero."""
        return self._partial.zeros(index)

    def weights(self, index: int) -> dict[str, Tensor]:
        """The tensors of a finished block."""
        return self._writer.read(index + 1) | self._partial.apart(index)

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        """Keep a pruned block."""
        if self._needed == "zeros":
            self._partial.keep_zeros(index, tensors)
        self._writer.write(index + 1, tensors)
        if self._needed == "weights":
            written = self._writer.read(index + 1)
            apart = {n: t for n, t in tensors.items() if not _holds(written.get(n), t)}
            self._partial.keep_apart(index, apart)
        digests = {
            name: (str(tensor.dtype).removeprefix("torch."), of_tensor(tensor))
            for name, tensor in tensors.items()
        }
        self._partial.keep(index, layers, digests)
