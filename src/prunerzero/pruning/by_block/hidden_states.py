"""Hidden states between blocks: in memory up to a budget, beyond it in memory-mapped files."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_PINNED = torch.cuda.is_available()
"""Memory that a GPU copies from and to several times faster."""


class HiddenStates:
    """The hidden states of every window at some places between the blocks.

    Place ``i`` is the input of block ``i``. Only the last ``kept`` places written are remembered;
    a later one takes the room of an earlier one. Whatever device they come from, they are kept on
    the CPU, in a file of ``folder`` where ``budget`` has no room for another place. The files are
    removed by ``close``.

    Args:
        windows: how many windows there are.
        shape, dtype: of the hidden states of one window.
        kept: how many places are remembered at a time.
        budget: bytes of memory, shared by all that are given the same one.
        folder: where files are made; must exist.
        name: of the files.
    """

    def __init__(
        self,
        windows: int,
        shape: torch.Size,
        dtype: torch.dtype,
        *,
        kept: int,
        budget: Budget,
        folder: Path,
        name: str,
    ) -> None:
        self._shape, self._dtype = (windows, *shape), dtype
        self._budget, self._folder, self._name = budget, folder, name
        self._rooms: list[Tensor | None] = [None] * kept

    def get(self, place: int, window: int, device: torch.device) -> Tensor:
        """A copy, on the device, of the hidden states of one window."""
        room = self._rooms[place % len(self._rooms)]
        assert room is not None, "nothing was put there"
        return room[window].to(device, copy=True)

    def put(self, place: int, window: int, states: Tensor) -> None:
        """Keep the hidden states of one window."""
        room = self._rooms[place % len(self._rooms)]
        if room is None:
            room = self._rooms[place % len(self._rooms)] = self._make(place % len(self._rooms))
        room[window].copy_(states.detach())

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
        """Let go of memory and files."""
        for index, room in enumerate(self._rooms):
            if room is not None and self._file(index).exists():
                self._file(index).unlink()
            elif room is not None:
                self._budget.give_back(self._size())
            self._rooms[index] = None

    def _size(self) -> int:
        size = prod(self._shape) * self._dtype.itemsize
        return int(2 ** (size - 1).bit_length()) if _PINNED else size  # torch pins powers of two

    def _file(self, index: int) -> Path:
        return self._folder / f"{self._name}-{index}.bin"


class Budget:
    """Bytes of memory that several may share."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Whether that much was left; it is taken then."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """What was taken is free again."""
        self._left += size
