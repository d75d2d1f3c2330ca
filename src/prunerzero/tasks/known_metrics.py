"""The named metrics beside a search: measured once by whichever worker, and read no further than
they can still win."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean, stdev

from prunerzero.evolution import Jobs
from prunerzero.evolution.fitness import Fitness, read_all
from prunerzero.exponential import exp
from prunerzero.metrics import CATALOG, Expression, known_metrics

SAFELY_BEHIND = 4.0
"""Standard errors of the paired difference by which a metric is behind that cannot win any more."""


class KnownMetrics:
    """The catalog, and what a search was given, measured on the chunks that a race reads.

    The known power laws are too many to be measured beside every search. They have their names all
    the same: one that a search comes upon is called by it.

    Args:
        fitness: measures a metric.
        jobs: shares the work with the other workers.
        terminals: what ``fitness`` has statistics for; metrics that read others are left out.
        given: formulas of the others, by name; one that is in the catalog counts once.

    Attributes:
        measured: the metrics that are measured, by name.
        named: all that have a name, the power laws included.
    """

    def __init__(
        self,
        fitness: Fitness,
        jobs: Jobs,
        terminals: Collection[str],
        given: Mapping[str, str] = {},
    ) -> None:
        self._fitness = fitness
        self._jobs = jobs
        known = {n: m.expression for n, m in known_metrics().items()}
        readable = {n: e for n, e in known.items() if e.terminals <= {*terminals}}
        catalog = {n: e for n, e in readable.items() if n in CATALOG}
        others = {n: Expression.parse(formula) for n, formula in given.items()}
        self.measured: dict[str, Expression] = catalog | {
            n: e for n, e in others.items() if n not in catalog
        }
        self.named: dict[str, Expression] = {**readable, **self.measured}

    def measure(self) -> None:
        """Read the race's chunks with each metric that no other worker is at."""
        for name in self.measured:
            self._jobs.once(self._job(name), self._work(name))

    def wait(self) -> None:
        """Return when every metric is measured, by this worker where the others do not."""
        self._jobs.all_of({self._job(name): self._work(name) for name in self.measured})

    @property
    def losses(self) -> dict[str, list[float]]:
        """The losses of the race's chunks, of each metric that could be measured so far."""
        measured = {name: self._jobs.result(self._job(name)) for name in self.measured}
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
        return partial(read_all, self._fitness, self.measured[name], 0, self._fitness.chunks)

    def _job(self, name: str) -> str:
        """What the study calls it: what was given by its formula, which each worker may have by
        another name."""
        return f"known {name if name in CATALOG else self.measured[name]}"


def _is_behind(losses: Sequence[float], rival: Sequence[float]) -> bool:
    """Whether the rival is better by more than what further text could make up for."""
    differences = [a - b for a, b in zip(losses, rival, strict=True)]
    if len(differences) < 2:
        return False
    noise = stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) > SAFELY_BEHIND * noise
