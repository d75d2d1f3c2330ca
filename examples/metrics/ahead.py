"""What ``run --ahead`` evolves for: a metric ahead of every known one on each of its models.

The mean over models, which a search minimizes, may rise on one of them. Here the loss of a chunk is
a smooth maximum over the cases of how far it is above that of the known metric that is best on that
case: ln(mean(exp(β · excess))) / β. It is below 0 where a metric is ahead on each.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

from benchmarks.commands import no_command
from prunerzero import evolution
from prunerzero.evolution.fitness import read_all
from prunerzero.metrics import Expression
from prunerzero.metrics.catalog import find_metric

STEEPNESS = 50.0
"""β: of two cases that differ by 0.02 nats the worse counts nearly three times as much."""


class Ahead(evolution.Several):
    """A ``Fitness``: how far a metric is behind the best known one, where it is furthest behind.

    Args:
        cases: as for ``Several``.
        known: formulas to be ahead of; they are measured first.
        log: gets a line for each metric: its formula, the first chunk, of every chunk that was read
            the excess in each case, and how many chunks a race reads.
    """

    def __init__(
        self, cases: Sequence[evolution.Case], known: Sequence[Expression], log: Path
    ) -> None:
        super().__init__(cases)
        self._log = log
        self._excess: list[list[float]] = []
        best: list[list[float]] = [[math.inf] * self.total_chunks for _ in cases]
        for metric in known:
            for place, case in enumerate(cases):
                losses = read_all(case.fitness, metric, 0, self.total_chunks)
                if losses and sum(losses) < sum(best[place]):
                    best[place] = losses
        self._best = best

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """As of ``Several``, of the smooth maximum."""
        self._excess = []
        try:
            yield from super().losses(expression, start, stop)
        finally:
            line = {"metric": str(expression), "start": start, "excess": self._excess}
            line["race"] = self.chunks
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _mean_rise(self, chunk: int, losses: Sequence[float]) -> float:
        excess = [loss - best[chunk] for loss, best in zip(losses, self._best, strict=True)]
        self._excess.append(excess)
        highest = max(excess)
        rest = fmean(math.exp(STEEPNESS * (one - highest)) for one in excess)
        return highest + math.log(rest) / STEEPNESS


@contextmanager
def judged_by_lead(known: Sequence[str], log: Path) -> Iterator[None]:
    """Searches that begin in this context judge their candidates so.

    Args:
        known: the metrics to be ahead of, by name or formula.
        log: what was measured, for ``ranking``.
    """
    formulas = [find_metric(name).expression for name in known]

    def ahead(cases: Sequence[evolution.Case]) -> Ahead:
        return Ahead(cases, formulas, log)

    with patch.object(evolution, "Several", ahead):
        yield


def ranking(log: Path) -> list[dict[str, Any]]:
    """The metrics that were read to the end of the race, that which is ahead by most first.

    Args:
        log: that a search wrote.

    Returns:
        For each its formula, and its excess in each case (nats a token, below 0 where it is ahead).
    """
    read: dict[str, dict[int, list[float]]] = defaultdict(dict)
    race = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        race = one["race"]
        read[one["metric"]].update(enumerate(one["excess"], one["start"]))
    found = [
        {
            "metric": metric,
            "excess": [round(fmean(case), 5) for case in zip(*excess.values(), strict=True)],
        }
        for metric, excess in read.items()
        if len(excess) >= race
    ]
    return sorted(found, key=lambda one: max(one["excess"]))


if __name__ == "__main__":
    no_command("python -m examples.metrics.run --ahead --help")
