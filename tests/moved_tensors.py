"""A device that is not there: what leaves it is poisoned, and what comes back has other memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import UntypedStorage

from prunerzero.pruning import pruned_weights, turns


class Moves:
    """Counts what leaves and comes, and checks that all leaves with the numbers it always had.

    Attributes:
        away: what is poisoned, by where it is kept.
        left: how many storages have left.
        fails_at: the move at which ``error`` is raised, counted from now on; None for never.
    """

    def __init__(self) -> None:
        self.away: dict[int, UntypedStorage] = {}
        self.left = 0
        self.fails_at: int | None = None
        self.error: type[BaseException] = KeyboardInterrupt
        self._numbers: dict[int, tuple[UntypedStorage, torch.Tensor]] = {}

    def free(self, storage: UntypedStorage) -> None:
        self._count()
        if storage._cdata in self.away:
            return
        content = turns._bytes(storage)
        first = self._numbers.setdefault(storage._cdata, (storage, content.clone()))[1]
        assert torch.equal(content, first), "what leaves has changed"
        content.fill_(0xFF)  # NaN in every type
        self.away[storage._cdata] = storage
        self.left += 1

    def allocate(self, storage: UntypedStorage, size: int) -> None:
        self._count()
        assert storage.nbytes() == size
        if storage.resizable():
            storage.resize_(0)
            storage.resize_(size)
        turns._bytes(storage).fill_(0xFF)
        self.away.pop(storage._cdata, None)

    def forget(self) -> None:
        """Begin anew with other models."""
        self.__init__()  # type: ignore[misc]

    def _count(self) -> None:
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                self.fails_at = None
                raise self.error


@contextmanager
def poisoned_moves() -> Iterator[Moves]:
    """Within it nothing is freed, but poisoned."""
    moves = Moves()
    with pytest.MonkeyPatch.context() as patch:
        for module in (turns, pruned_weights):
            patch.setattr(module, "free", moves.free)
            patch.setattr(module, "allocate", moves.allocate)
        yield moves
