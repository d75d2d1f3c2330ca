"""What those who watch a model need to know about the current pass through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager


class WindowsMixedError(Exception):
    """The windows of a batch cannot be separated; read them one by one."""


class CalibrationPass:
    """The current pass, forward and backward, over a batch of windows.

    A pass that runs out of memory has already counted some activations and gradients. It is
    repeated over smaller batches, and ``once`` keeps these from being counted twice.

    Attributes:
        windows: number of windows in the batch.
        separable: whether the windows of a batch could be separated in all that was seen so far.
        in_backward: whether the pass backward runs; activations that are computed again in it are
            not counted.
        at_end: functions to call at the end of each pass; they get whether it failed.
    """

    def __init__(self) -> None:
        self.windows, self.separable, self.in_backward = 1, True, False
        self.at_end: list[Callable[[bool], None]] = []
        self._seen: Counter[Hashable] = Counter()
        self._before: Counter[Hashable] = Counter()

    @contextmanager
    def over(self, windows: int, counted: Counter[Hashable]) -> Iterator[None]:
        """A new pass over ``windows`` windows, of which a failed pass has ``counted`` some."""
        self.windows, self._seen, self._before = windows, Counter(), counted
        failed = True
        try:
            yield
            failed = False
        finally:
            for listener in self.at_end:
                listener(failed)

    def once(self, what: Hashable, count: Callable[[], object]) -> None:
        """Call ``count``, unless a failed pass has counted this."""
        if self._seen[what] >= self._before[what]:
            count()
        self._seen[what] += 1

    @property
    def counted(self) -> Counter[Hashable]:
        """What this pass, and failed ones before it, have counted."""
        return self._seen | self._before

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Inside the ``with``, the pass backward runs."""
        self.in_backward = True
        try:
            yield
        finally:
            self.in_backward = False
