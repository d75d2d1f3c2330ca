"""Several cases of which one can be read at a time: a model that is away has to come first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from prunerzero.evolution.fitness import UNMEASURABLE
from prunerzero.evolution.racing import rungs
from prunerzero.evolution.settings import SearchSettings
from prunerzero.evolution.several import Case, Several


class ByTurns(Several):
    """The same losses as ``Several``, and the same errors after them, in another order of reading.

    All chunks up to the next rung of the race are read of one case before any of the next. So a
    model comes once a rung and not once a chunk, and a race that stops at a rung has read no more.
    The case that was read last, whose model is still there, is read first after the rung.

    Args:
        cases: those of one model stand together.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__(cases)
        first, factor = SearchSettings.first_rung, SearchSettings.reduction_factor
        self._rungs = (*rungs(self.chunks, first, factor), self.chunks)
        self._forward = True

    def _mean_rises(
        self, readings: Sequence[Iterator[float]], start: int, stop: int
    ) -> Iterator[float]:
        for end in (*(rung for rung in self._rungs if start < rung < stop), stop):
            yield from self._up_to(end, start, readings)
            start = end

    def _up_to(self, end: int, start: int, readings: Sequence[Iterator[float]]) -> Iterator[float]:
        """The mean rises of chunks ``start`` to ``end`` - 1.

        Where several cases fail, the error is that of the first chunk, and there of the first case.
        """
        found: list[list[float]] = [[] for _ in readings]
        failure: Exception | None = None
        failed = wanted = end
        forward, self._forward = self._forward, not self._forward
        order = range(len(readings)) if forward else reversed(range(len(readings)))
        for place in order:
            try:
                for loss in islice(readings[place], wanted - start):
                    found[place].append(loss)
            except UNMEASURABLE as error:
                failure, failed = error, start + len(found[place])
                # of what comes before it in the list, the chunk that failed here counts too
                wanted = failed if forward else failed + 1
        until_failed = zip(*(own[: failed - start] for own in found), strict=True)
        for chunk, losses in enumerate(until_failed, start):
            yield self._mean_rise(chunk, losses)
        if failure is not None:
            raise failure
