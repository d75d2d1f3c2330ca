"""Hidden states between blocks: in memory up to a budget, beyond it in memory-mapped files."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_PINNED = torch.cuda.is_available()
"""Whether to use pinned memory, which a GPU reads and writes several times faster."""


class HiddenStates:
    """The hidden states of all windows at some places between the blocks.

    Place ``i`` is the input of block ``i``. Only the last ``kept`` places written are kept: a later
    place overwrites an earlier one. They are kept in CPU memory, and in a file where the budget
    does not suffice for all windows of a place. ``close`` removes the files.

    Args:
        windows: number of windows.
        shape, dtype: of the hidden states of one window.
        kept: number of places kept at a time.
        budget: bytes of memory; several objects may share one budget.
        folder: where files are made; must exist.
        name: how the names of the files begin.
    """

    def __init__(
        self,
        windows: int,
        shape: torch.Size,
        dtype: torch.dtype,
        *,
        kept: int,
        budget: MemoryBudget,
        folder: Path,
        name: str,
    ) -> None:
        self._shape, self._dtype = (windows, *shape), dtype
        self._budget, self._folder, self._name = budget, folder, name
        self._slots: list[Tensor | None] = [None] * kept

    def get(self, place: int, window: int, device: torch.device) -> Tensor:
        """A copy, on the device, of the hidden states of one window."""
        slot = self._slots[place % len(self._slots)]
        assert slot is not None, "nothing was put there"
        return slot[window].to(device, copy=True)

    def put(self, place: int, window: int, states: Tensor) -> None:
        """Keep the hidden states of one window."""
        index = place % len(self._slots)
        slot = self._slots[index]
        if slot is None:
            slot = self._slots[index] = self._make(index)
        slot[window].copy_(states.detach())

    def _make(self, index: int) -> Tensor:
        if self._budget.take(self._size()):
            return torch.empty(self._shape, dtype=self._dtype, pin_memory=_PINNED)
        file = self._file(index)
        file.unlink(missing_ok=True)
        if hasattr(os, "posix_fallocate"):  # else writing to a full disk kills the process
            with file.open("wb") as made:
                os.posix_fallocate(made.fileno(), 0, prod(self._shape) * self._dtype.itemsize)
        flat = torch.from_file(str(file), shared=True, size=prod(self._shape), dtype=self._dtype)
        return flat.view(self._shape)

    def close(self) -> None:
        """Free the memory and remove the files."""
        for index, slot in enumerate(self._slots):
            if slot is not None and self._file(index).exists():
                self._file(index).unlink()
            elif slot is not None:
                self._budget.give_back(self._size())
            self._slots[index] = None

    def _size(self) -> int:
        size = prod(self._shape) * self._dtype.itemsize
        # torch rounds pinned memory up to a power of two
        return int(2 ** (size - 1).bit_length()) if _PINNED else size

    def _file(self, index: int) -> Path:
        return self._folder / f"{self._name}-{index}.bin"


class MemoryBudget:
    """Bytes of memory that several ``HiddenStates`` may share."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if they are left; returns whether they were."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """Return ``size`` bytes that were taken."""
        self._left += size
