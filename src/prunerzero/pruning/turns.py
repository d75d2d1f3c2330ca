"""Models that take turns on a device: one is there, and the others wait in host memory.

A tensor stays the same object. What it is stored in is freed, and allocated anew when its model
comes back, so whoever holds the tensor, or a view of it, finds the same numbers there. Its address
is another one: what holds addresses, such as a CUDA graph, cannot be used on such a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, UntypedStorage

from prunerzero.pruning.carried import to_host


class Companion(Protocol):
    """What belongs to a model and knows by itself how to leave the device and come back."""

    def leave(self) -> None:
        """Free what it has on the device; the model is still there, and dense from then on."""

    def come(self) -> None:
        """Have it on the device again; the model is there already."""


class Turns:
    """One place on a device, for one visitor at a time."""

    def __init__(self) -> None:
        self.here: Visitor | None = None


class Visitor:
    """The tensors of one model, which are on the device while it is the model's turn.

    Their numbers must be the same each time that they leave: they are copied to host memory the
    first time only. What changes in between is the business of the companion.

    Args:
        turns: shared with the other models.
        tensors: what the model has on the device at the time of the call.

    >>> turns, weights = Turns(), [torch.ones(2), torch.zeros(2)]
    >>> one, other = (Visitor(turns, lambda w=w: [w]) for w in weights)
    >>> one.come(), other.come(), one.come()
    (None, None, None)
    >>> weights[0]
    tensor([1., 1.])
    """

    def __init__(self, turns: Turns, tensors: Callable[[], Iterable[Tensor]]) -> None:
        self._turns, self._tensors = turns, tensors
        self._waiting: dict[int, tuple[UntypedStorage, Tensor]] = {}
        self.companion: Companion | None = None

    def come(self) -> None:
        """Have the tensors on the device, and none of another model.

        Raises:
            torch.OutOfMemoryError: they do not fit; none of them is there then.
        """
        if self._turns.here is self:
            return
        if self._turns.here is not None:
            self._turns.here._leave()
        try:
            for storage, host in self._waiting.values():
                allocate(storage, host.numel())
                _bytes(storage).copy_(host, non_blocking=True)
            if self.companion is not None:
                self.companion.come()
            self._turns.here = self
        finally:
            if self._turns.here is not self:
                self._free()

    def _leave(self) -> None:
        self._turns.here = None  # whatever interrupts this, the next turn begins with a copy
        if self.companion is not None:
            self.companion.leave()
        storages = {s._cdata: s for s in (t.untyped_storage() for t in self._tensors())}
        known = self._waiting
        self._waiting = {
            key: known.get(key) or (storage, to_host(_bytes(storage)))
            for key, storage in storages.items()
        }
        self._free()
        # the next model has tensors of other sizes, which would not fit between what is left
        torch.cuda.empty_cache()

    def _free(self) -> None:
        for storage, _ in self._waiting.values():
            free(storage)


def free(storage: UntypedStorage) -> None:
    """Give back the memory behind tensors; they must not be read until it is there again.

    Meant for a GPU: torch does not free what numpy has a view of.
    """
    storage.resize_(0)


def allocate(storage: UntypedStorage, size: int) -> None:
    """Put so many bytes of memory behind tensors again; what is in it is to be written."""
    storage.resize_(size)


def _bytes(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
