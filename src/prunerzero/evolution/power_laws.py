"""The baseline to beat: a grid of power laws W · X^a · G^b, then steps around the best of them.

Where metrics may read D too, the laws are W · X^a · G^b · D^c.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product

from prunerzero.evolution.population import Population
from prunerzero.evolution.records import Candidate
from prunerzero.metrics.catalog import power_law
from prunerzero.metrics.errors import ScoreError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.simplify import canonical
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.ranking import Probe, rank_on

Point = tuple[float, ...]
"""The exponents of X and G, and of D where it may be read."""

GRID: list[Point] = [(a / 4, b / 4) for a in range(5) for b in range(7)]
"""a from 0 to 1, b from 0 to 1.5."""

GRID_WITH_D: list[Point] = [
    (a / 4, b / 2, c / 2) for a, b, c in product(range(5), range(3), range(3))
]
"""a, b and c from 0 to 1."""

LAST_STEP = 1 / 256


class PowerLaws:
    """Proposes power laws that were never measured, the grid first.

    Args:
        population: what was measured.
        samples: show which laws rank alike.
        terminals: what a metric may read.
    """

    def __init__(
        self,
        population: Population,
        samples: Sequence[tuple[Sequence[Probe], Sparsity]],
        terminals: Collection[str],
    ) -> None:
        self.population = population
        self.samples = samples
        # half the distance of two points of the grid is the first step
        self._grid, self._first_step = (GRID_WITH_D, 1 / 4) if "D" in terminals else (GRID, 1 / 8)
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
        """The grid, then the neighbours of the best point, with ever smaller steps."""
        yield from self._grid
        step = self._first_step
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
    """The points one step away along an axis or several; exponents stay non-negative."""
    moves = (move for move in product((-1, 0, 1), repeat=len(point)) if any(move))
    around = (tuple(x + m * step for x, m in zip(point, move, strict=True)) for move in moves)
    return [p for p in around if min(p) >= 0]
