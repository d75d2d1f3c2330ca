"""The course of a tuning: which metric is pruned with next, and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prunerzero import evolution
from prunerzero.language.perplexity import exp
from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity
from prunerzero.metrics.catalog import power_law
from prunerzero.tasks.search import search_in
from prunerzero.tasks.tune_result import CurvePoint, Limit, TestDecision
from prunerzero.tasks.tuning.bench import Bench
from prunerzero.tasks.tuning.limit import allowed_on
from prunerzero.tasks.tuning.sparsity_search import STEPS, highest_within

Step = Literal["choice", "bracket", "evolved", "outline"]

EVOLVED = "evolved"
"""The name of a metric that was evolved here."""

CHOICE_WINDOWS = 16
"""Enough to tell metrics apart on the same windows, too few to know a perplexity."""

FINALISTS = 3
"""Of those told apart, so many are measured on all windows."""

_EXPONENTS_X, _EXPONENTS_G = (0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 1.0)
_FIRST = 60
"""The step tried first: 30 %."""

_ABOVE = 0.2
"""So far above the sparsity found the curve is drawn."""


@dataclass(frozen=True)
class Found:
    """Where a course ended.

    Attributes:
        metric, sparsity: the best; where the limit cannot be kept, the least that was tried.
        reached: whether the limit is kept.
        decision: what the test part was used for.
    """

    metric: Metric
    sparsity: Sparsity
    reached: bool
    decision: TestDecision | None


def candidates() -> list[Metric]:
    """The metrics to choose from before any is evolved: the catalog and a grid of power laws."""
    grid = (power_law(a, b) for a in _EXPONENTS_X for b in _EXPONENTS_G)
    distinct: dict[Expression, Metric] = {}
    for metric in (*CATALOG.values(), *grid):
        distinct.setdefault(metric.expression.simplify(), metric)
    return list(distinct.values())


def _named(evolved: Expression) -> Metric:
    """An evolved metric, under its known name where evolution came upon a known one."""
    same = (m for m in candidates() if m.expression.simplify() == evolved.simplify())
    return next(same, Metric(EVOLVED, evolved, "evolved for this model and text"))


def at_step(step: int) -> Sparsity:
    """The sparsity of a step."""
    return Sparsity(ratio=step / STEPS)


class Course:
    """Chooses a metric, brackets the sparsity, evolves a metric there, and goes on with the better.

    Every measurement is kept by the bench, so that the same course after an interruption passes
    over what was measured before.

    Attributes:
        curve: what was measured on the validation part, each once.
        evaluations: metrics that the evolution measured.
        dense: perplexity of the unpruned model on the validation part.
        allowed: the rise allowed there, or the drop of the task's score.
    """

    def __init__(self, bench: Bench, limit: Limit) -> None:
        self.bench = bench
        self.limit = limit
        self.curve: list[CurvePoint] = []
        self.evaluations = 0
        self.dense = exp(bench.dense("validation").loss)
        self.allowed = limit.value
        if limit.max_perplexity is not None:
            self.allowed = limit.max_perplexity / self.dense - 1

    def run(
        self, pattern: Sparsity | None, search: evolution.SearchSettings | None, folder: Path
    ) -> Found:
        """Answer for a pattern, or find the highest sparsity."""
        if pattern is not None:
            return self._try(pattern, search, folder)
        first = self._highest(CATALOG["power-law"], "bracket", _FIRST, windows=CHOICE_WINDOWS)
        metric = self._choose(at_step(max(first, 1)))
        step = self._highest(metric, "bracket", first)
        if step == 0:
            return Found(metric, at_step(1), False, None)
        better = self._evolve(metric, at_step(step), search, folder)
        if better is not metric:
            step = self._highest(better, "evolved", step + 1, low=step)
        return self._judge(better, step)

    def _try(
        self, pattern: Sparsity, search: evolution.SearchSettings | None, folder: Path
    ) -> Found:
        metric = self._evolve(self._choose(pattern), pattern, search, folder)
        reached = bool(self.measure(metric, pattern, "bracket").within)
        if self.limit.kind == "task":
            return Found(metric, pattern, reached, None)
        perplexity, held = self._on_test(metric, pattern)
        decision = TestDecision(held, False, ((pattern.fraction, perplexity),))
        return Found(metric, pattern, reached and held, decision)

    def outline(self, metric: Metric, found: Sparsity) -> None:
        """Measure the curve around what was found: what less or more would cost."""
        for tenth in range(1, 10):
            if tenth / 10 < found.fraction + _ABOVE:
                self.measure(metric, Sparsity(ratio=tenth / 10), "outline")

    # The validation part

    def measure(
        self, metric: Metric, sparsity: Sparsity, step: Step, windows: int | None = None
    ) -> CurvePoint:
        """The point of the curve, measured unless it is there already."""
        dense = self.bench.dense("validation", windows)
        pruned = self.bench.pruned(metric, sparsity, "validation", windows)
        rise = exp(pruned.loss - dense.loss) - 1
        within: bool | None = rise <= self.allowed
        score: float | None = None
        if self.limit.min_score is not None:  # too dear to answer for what decides nothing
            if step in ("bracket", "evolved"):
                score = self.bench.score(metric, sparsity, self.limit).value
            within = None if score is None else score >= self.limit.min_score
        point = CurvePoint(
            sparsity=sparsity.fraction,
            pattern=str(sparsity),
            metric=metric.name,
            formula=str(metric.expression),
            perplexity=exp(pruned.loss),
            rise=rise,
            within=within,
            windows=len(pruned.losses),
            score=score,
            step=step,
        )
        if all(replace(known, step=step) != point for known in self.curve):
            self.curve.append(point)
        return point

    def _highest(
        self, metric: Metric, step: Step, first: int, *, low: int = 0, windows: int | None = None
    ) -> int:
        def loss(at: int) -> float:
            point = self.measure(metric, at_step(at), step, windows)
            if self.limit.min_score is None or point.score is None:
                return point.rise
            return self.limit.min_score + self.limit.value - point.score

        return highest_within(loss, self.allowed, first=first, low=low)

    def _choose(self, sparsity: Sparsity) -> Metric:
        """The candidate that keeps most: told apart on few windows, the best of them on all."""
        self.bench.work.observer.stage(f"choosing a metric at {sparsity}")
        few = sorted(
            candidates(),
            key=lambda m: self.measure(m, sparsity, "choice", CHOICE_WINDOWS).perplexity,
        )
        return min(few[:FINALISTS], key=lambda m: self.measure(m, sparsity, "choice").perplexity)

    def _evolve(
        self,
        known: Metric,
        sparsity: Sparsity,
        search: evolution.SearchSettings | None,
        folder: Path,
    ) -> Metric:
        """A metric evolved at that sparsity, where it keeps more than the known one."""
        if search is None:
            return known
        work = self.bench.work
        work.observer.stage(f"evolving a metric at {sparsity}")
        name = f"search-{sparsity}".replace(":", "-")
        found, _ = search_in(work, sparsity, folder / name, search, with_known=False, test=False)
        if found.interrupted:
            raise KeyboardInterrupt
        self.evaluations = found.evaluations
        evolved = _named(Expression.parse(found.metric))
        point = self.measure(evolved, sparsity, "evolved")
        better = point.perplexity < self.measure(known, sparsity, "bracket").perplexity
        return evolved if better and point.within is not False else known

    # The test part

    def _judge(self, metric: Metric, step: int) -> Found:
        """Check on the test part, and step back if the limit is missed there."""
        if self.limit.kind == "task":
            return Found(metric, at_step(step), True, None)
        dense = exp(self.bench.dense("test").loss)
        allowed = (allowed_on(self.limit, dense) or 0.0) / dense - 1
        tried: list[tuple[float, float]] = []

        def rise(at: int) -> float:
            perplexity, _ = self._on_test(metric, at_step(at))
            tried.append((at_step(at).fraction, perplexity))
            return perplexity / dense - 1

        if rise(step) <= allowed:
            return Found(metric, at_step(step), True, TestDecision(True, False, tuple(tried)))
        self.bench.work.observer.stage("the limit is missed on the test text: stepping back")

        def rise_on_both(at: int) -> float:
            point = self.measure(metric, at_step(at), "bracket")
            return rise(at) if point.within else math.inf

        lower = 0
        if allowed > 0:
            lower = highest_within(rise_on_both, allowed, first=step - 1, high=step)
        decision = TestDecision(False, lower > 0, tuple(tried))
        return Found(metric, at_step(max(lower, 1)), lower > 0, decision)

    def _on_test(self, metric: Metric, sparsity: Sparsity) -> tuple[float, bool]:
        """Perplexity on the test part, and whether the limit is kept there."""
        perplexity = exp(self.bench.pruned(metric, sparsity, "test").loss)
        allowed = allowed_on(self.limit, exp(self.bench.dense("test").loss))
        return perplexity, allowed is not None and perplexity <= allowed
