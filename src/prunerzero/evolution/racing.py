"""Racing: stop reading text for a candidate that cannot win.

It decides from the losses of every chunk that the population keeps, so that nothing is written at a
rung. Successive halving, which compares running means with the share of candidates that reached the
same rung, was measured beside it on synthetic layers: added to it, it found nothing better at equal
cost, and alone it was worse, for it knows neither how far behind a candidate is nor the noise.

How wide the race should be was measured by ``benchmarks/racing.py``: 2 ``places`` and a ``margin``
of 2 race out 4 % of the top 5 % and read 38 % of the chunks in journals of SmolLM2-135M; on the
bundled model, with every candidate read to the end, 12 % and 45 %. The best was never raced out.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from statistics import fmean, median, stdev

from prunerzero.evolution.records import Individual

RECENT = 20
"""Finishers from which the noise of a paired difference is estimated."""

FEWEST = 4
"""Differences needed before anything is raced out."""


def rungs(chunks: int, first: int, factor: float) -> tuple[int, ...]:
    """After how many chunks a candidate is judged: ``first``, then times ``factor``, below all.

    >>> rungs(16, 1, 3)
    (1, 3, 9)
    """
    marks: list[int] = []
    mark = float(first)
    while round(mark) < chunks:
        marks.append(round(mark))
        mark = max(mark * factor, mark + 1)
    return tuple(marks)


class Race:
    """Judges candidates at rungs, against the finishers of which one has to be beaten.

    All candidates read the same chunks in the same order, so that differences of losses are paired:
    how hard a chunk is cancels out. A candidate is raced out at r chunks when its mean difference
    from the ``places``-th best finisher exceeds ``margin`` · s / √r, where s is the median, over
    the last 20 finishers, of the standard deviation over chunks of their difference from it: then
    it is not going to be among the best ``places``.
    """

    def __init__(self, chunks: int, first: int, factor: float, margin: float, places: int) -> None:
        self.rungs = frozenset(rungs(chunks, first, factor))
        self.margin = margin
        self.places = places
        self.best: Individual | None = None
        self._leaders: list[Individual] = []
        self._recent: deque[Individual] = deque(maxlen=RECENT)
        self._noise: float | None = None

    def add(self, individual: Individual) -> None:
        """Take in what finished; only complete races count."""
        if individual.state != "complete":
            return
        if self.best is None or individual.mean < self.best.mean:
            self.best = individual
        insort(self._leaders, individual, key=lambda i: i.mean)
        del self._leaders[self.places :]
        self._recent.append(individual)
        rival = self._leaders[-1].losses
        spreads = [
            stdev(a - b for a, b in zip(other.losses, rival, strict=True))
            for other in self._recent
            if other.losses is not rival and len(rival) > 1
        ]
        if len(spreads) >= FEWEST:
            self._noise = median(spreads)

    def is_hopeless(self, losses: Sequence[float]) -> bool:
        """Whether to read no further chunk after these, the first ones in order."""
        read = len(losses)
        if read not in self.rungs or self._noise is None:
            return False
        behind = fmean(losses) - fmean(self._leaders[-1].losses[:read])
        return behind > self.margin * self._noise / math.sqrt(read)
