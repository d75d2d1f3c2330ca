"""One metric for several models or sparsities: a fitness made of the fitness of each case."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prunerzero.evolution.fitness import Fitness, read
from prunerzero.metrics.expression import Expression


@dataclass(frozen=True)
class Case:
    """One of the things that a metric has to be good for.

    Attributes:
        fitness: measures a metric on it.
        dense: the loss of each of its chunks before anything is pruned.
    """

    fitness: Fitness
    dense: Sequence[float]


class Several:
    """How much worse than unpruned a metric leaves several cases, chunk by chunk: a ``Fitness``.

    The loss of chunk k is the mean over the cases of how far the loss of their chunk k rises, so
    its mean over chunks is the mean over cases of ln(perplexity / dense perplexity), in which every
    case weighs the same. Chunk k is read of every case before chunk k + 1 is read of any: at each
    rung a race has seen as much of one case as of the others, and a candidate that cannot be
    measured on one of them fails.

    The case with the fewest chunks decides how many of each are read.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = cases
        self.chunks = min(case.fitness.chunks for case in cases)
        self.total_chunks = min(case.fitness.total_chunks for case in cases)

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """The mean rise of the loss of a token (nats) in chunks ``start`` to ``stop`` - 1.

        Raises:
            ArithmeticError, ValueError, MemoryError: it cannot be measured on one of the cases.
        """
        stop = self.total_chunks if stop is None else min(stop, self.total_chunks)
        with ExitStack() as open_until_here:
            readings = [
                open_until_here.enter_context(closing(reading))
                for reading in self._readings(expression, start, stop)
            ]
            yield from self._mean_rises(readings, start, stop)

    def _readings(
        self, expression: Expression, start: int, stop: int
    ) -> Iterator[Generator[Any, None, None]]:
        """What reads each case chunk by chunk; a subclass may wait for the losses later."""
        return (read(case.fitness, expression, start, stop) for case in self._cases)

    def _mean_rises(
        self, readings: Sequence[Iterator[Any]], start: int, stop: int
    ) -> Iterator[float]:
        """Those of chunks ``start`` to ``stop`` - 1; a subclass may read in another order.

        Args:
            readings: of each case, in their order, what ``_readings`` gives.
        """
        for chunk, losses in enumerate(zip(*readings, strict=True), start):
            yield self._mean_rise(chunk, losses)

    def _mean_rise(self, chunk: int, losses: Sequence[float]) -> float:
        pairs = zip(losses, self._cases, strict=True)
        return fmean(loss - case.dense[chunk] for loss, case in pairs)
