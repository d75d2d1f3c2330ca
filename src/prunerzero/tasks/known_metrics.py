"""The named metrics beside a search: measured once by whichever worker, and read no further than
they can still win."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from statistics import fmean, stdev

from prunerzero.evolution import Jobs
from prunerzero.evolution.fitness import Fitness, read_all
from prunerzero.exponential import exp
from prunerzero.metrics import CATALOG, find_metric

SAFELY_BEHIND = 4.0
"""Standard errors of the paired difference by which a metric is behind that cannot win any more."""


class KnownMetrics:
    """The catalog, and what a search was given, measured on the chunks that a race reads.

    Args:
        fitness: measures a metric.
        jobs: shares the work with the other workers.
        terminals: what ``fitness`` has statistics for; metrics that read others are left out.
        given: formulas of the others, which are their names.

    Attributes:
        names: of the metrics that are measured.
    """

    def __init__(
        self,
        fitness: Fitness,
        jobs: Jobs,
        terminals: Collection[str],
        given: Sequence[str] = (),
    ) -> None:
        self._fitness = fitness
        self._jobs = jobs
        known = [n for n, m in CATALOG.items() if m.expression.terminals <= {*terminals}]
        self.names = [*known, *given]

    def measure(self) -> None:
        """Read the race's chunks with each metric that no other worker is at."""
        for name in self.names:
            self._jobs.once(_job(name), self._work(name))

    def wait(self) -> None:
        """Return when every metric is measured, by this worker where the others do not."""
        self._jobs.all_of({_job(name): self._work(name) for name in self.names})

    @property
    def losses(self) -> dict[str, list[float]]:
        """The losses of the race's chunks, of each metric that could be measured so far."""
        measured = {name: self._jobs.result(_job(name)) for name in self.names}
        return {name: losses for name, losses in measured.items() if losses}

    @property
    def perplexities(self) -> dict[str, float]:
        """The same as perplexities on these chunks."""
        return {name: exp(fmean(losses)) for name, losses in self.losses.items()}

    def contenders(self, others: Iterable[Sequence[float]] = ()) -> list[str]:
        """Those that could still be the best on the whole text, the most promising first.

        Args:
            others: losses of the race's chunks of other metrics that are to be beaten.
        """
        known = self.losses
        rivals = [*known.values(), *others]
        left = [n for n, own in known.items() if not any(_is_behind(own, r) for r in rivals)]
        return sorted(left, key=lambda name: fmean(known[name]))

    def _work(self, name: str) -> partial[list[float]]:
        expression = find_metric(name).expression
        return partial(read_all, self._fitness, expression, 0, self._fitness.chunks)


def _job(name: str) -> str:
    return f"known {name}"


def _is_behind(losses: Sequence[float], rival: Sequence[float]) -> bool:
    """Whether the rival is better by more than what further text could make up for."""
    differences = [a - b for a, b in zip(losses, rival, strict=True)]
    if len(differences) < 2:
        return False
    noise = stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) > SAFELY_BEHIND * noise
