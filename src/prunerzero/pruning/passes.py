"""What those who watch a model need to know of the pass that it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager


class Mixed(Exception):  # noqa: N818
    """Windows that were read together cannot be told apart."""


class Pass:
    """One pass at a time, forward and backward, over a batch of windows.

    A pass that fails for want of memory has counted some of what it saw. It is made again in
    parts, which leave out as much.

    Attributes:
        windows: how many are read together.
        separable: whether all that was seen so far tells the windows of a batch apart.
        returning: whether the pass backward is on; a block that runs again then is not counted.
        at_end: told when a pass is over, and whether it has failed.
    """

    def __init__(self) -> None:
        self.windows, self.separable, self.returning = 1, True, False
        self.at_end: list[Callable[[bool], None]] = []
        self._seen: Counter[Hashable] = Counter()
        self._before: Counter[Hashable] = Counter()

    @contextmanager
    def over(self, windows: int, before: Counter[Hashable]) -> Iterator[None]:
        """A new pass over so many windows, of which a failed pass has counted something before."""
        self.windows, self._seen, self._before = windows, Counter(), before
        try:
            yield
        except BaseException:
            self._tell(failed=True)
            raise
        self._tell(failed=False)

    def _tell(self, failed: bool) -> None:
        for listener in self.at_end:
            listener(failed)

    def once(self, what: Hashable, count: Callable[[], object]) -> None:
        """Let it be counted, unless a failed pass has."""
        if self._seen[what] >= self._before[what]:
            count()
        self._seen[what] += 1

    @property
    def counted(self) -> Counter[Hashable]:
        """What this pass and failed ones before it have counted."""
        return self._seen | self._before

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Inside, the pass backward is made."""
        self.returning = True
        try:
            yield
        finally:
            self.returning = False
