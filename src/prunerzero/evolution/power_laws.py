"""The baseline to beat: a grid of power laws W · X^a · G^b, then steps around the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prunerzero.evolution.population import Population
from prunerzero.evolution.records import Candidate
from prunerzero.metrics.catalog import power_law
from prunerzero.metrics.errors import ScoreError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.simplify import canonical
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.ranking import Probe, rank_on

Point = tuple[float, float]
"""The exponents of X and G."""

GRID = [(a / 4, b / 4) for a in range(5) for b in range(7)]
"""a from 0 to 1, b from 0 to 1.5."""

FIRST_STEP, LAST_STEP = 1 / 8, 1 / 256


class PowerLaws:
    """Proposes power laws that were never measured, the grid first."""

    def __init__(
        self, population: Population, samples: Sequence[tuple[Sequence[Probe], Sparsity]]
    ) -> None:
        self.population = population
        self.samples = samples
        self._candidates: dict[Point, Candidate | None] = {}

    def propose(self, draw: int) -> Candidate | None:
        """The next candidate, for any draw; None when the smallest step finds nothing better."""
        return next(
            (
                c
                for point in self._points()
                if (c := self._candidate(point)) and not self.population.knows_any(c)
            ),
            None,
        )

    def _points(self) -> Iterator[Point]:
        """The grid, then the eight neighbours of the best point, with ever smaller steps."""
        yield from GRID
        step = FIRST_STEP
        while step >= LAST_STEP:
            best = self._best()
            if best is None:
                return
            yield from neighbours(best, step)
            if self._best() == best:
                step /= 2

    def _best(self) -> Point | None:
        points = {c.ranking: point for point, c in self._candidates.items() if c is not None}
        finished = [
            i
            for i in self.population.living
            if i.state == "complete" and i.candidate.ranking in points
        ]
        best = min(finished, key=lambda i: i.mean, default=None)
        return points[best.candidate.ranking] if best else None

    def _candidate(self, point: Point) -> Candidate | None:
        """The candidate of a point; None where its scores cannot be ranked."""
        if point not in self._candidates:
            group = self.samples[0][1].group
            expression: Expression = canonical(power_law(*point).expression, group)
            try:
                ranking = rank_on(expression, self.samples).key
                self._candidates[point] = Candidate(expression, ranking, "power law")
            except ScoreError:
                self._candidates[point] = None
        return self._candidates[point]


def neighbours(point: Point, step: float) -> list[Point]:
    """The points one step away along an axis or both; exponents stay non-negative."""
    a, b = point
    around = [(a + i * step, b + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    return [p for p in around if min(p) >= 0]
