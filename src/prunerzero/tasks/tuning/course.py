"""The course of a tuning: which metric is pruned with next, and how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from prunerzero import evolution
from prunerzero.exponential import exp
from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity, known_metrics
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.best_of_all import EVOLVED
from prunerzero.tasks.operators import operators_under
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.search_cases import search_in
from prunerzero.tasks.search_result import Found
from prunerzero.tasks.tune_result import Limit, TestDecision
from prunerzero.tasks.tuning.curve import Curve, OnText, Step
from prunerzero.tasks.tuning.judge import Judge
from prunerzero.tasks.tuning.sparsity_search import STEPS, highest_within
from prunerzero.tasks.tuning.workbench import Workbench

GROUPS: tuple[Group, ...] = get_args(Group)
"""What there is to choose from: within what scores compete."""

ROUNDS = ((4, 16), (16, 3))
"""On so many windows candidates are told apart, and so many of them are kept: few windows tell
metrics apart, but do not know a perplexity. Who is left is measured on all."""

BRACKET_WINDOWS = 16
"""Enough to find where metrics are told apart."""

_FIRST = 60
"""The step tried first: 30 %."""

_FIRST_METRIC = {"row": "power-law", "layer": "power-law", "model": "fisher"}
"""A known metric that is never far from the best within such a group, as measured on two models."""

_ABOVE = 0.2
"""So far above the sparsity found the curve is drawn."""


@dataclass(frozen=True)
class Answer:
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


def _step_of(metric: Metric) -> Step:
    return "evolved" if metric.name == EVOLVED else "bracket"


def at_step(step: int, group: Group) -> Sparsity:
    """The sparsity of a step."""
    return Sparsity(ratio=step / STEPS, group=group)


def judged_after(way: RefitOptions) -> RefitOptions:
    """What is done with masks before an evolved metric is judged: the update, where that is all.

    After ADMM, metrics hardly differ, not even as the update alone tells them apart, and each
    candidate would take seconds: so they are judged by their masks, as without a refit.
    """
    return RefitOptions(way.update) if way.refine == "none" else RefitOptions()


def _metric_of(found: Found) -> Metric:
    """The result of a search, by the name that the search calls it."""
    if found.origin == "known":
        return known_metrics()[found.name]
    return Metric(EVOLVED, Expression.parse(found.metric), "evolved for this model and text")


class Course:
    """Chooses a metric and within what scores compete, brackets the sparsity, evolves a metric
    there, and goes on with the best of it and all known ones.

    Every measurement is kept by the bench, so that the same course after an interruption passes
    over what was measured before.

    Attributes:
        curve: what was measured, and in which way masks are used.
        evaluations: metrics that the evolution measured.
    """

    def __init__(
        self, bench: Workbench, limit: Limit, ways: Sequence[RefitOptions] = (RefitOptions(),)
    ) -> None:
        """``ways`` are those to use masks that may be taken; the bench prunes with masks alone."""
        self.curve = Curve(bench, limit)
        self.limit = limit
        self._ways = ways
        self.evaluations = 0

    def run(
        self,
        patterns: Sequence[Sparsity],
        groups: Sequence[Group],
        search: evolution.SearchSettings | None,
        folder: Path,
    ) -> Answer:
        """Answer for the best of these patterns, or, where there are none, find the highest
        sparsity within one of the groups."""
        if patterns:
            return self._try(patterns, search, folder)
        first = self._first_step(groups)
        metric, sparsity = self._choose([at_step(max(first, 1), group) for group in groups])
        group = sparsity.group
        step = self._highest(metric, group, "bracket", first)
        if self._take_way(metric, at_step(max(step, 1), group)):
            step = self._highest_refitted(metric, group, step)
            better = self._best_under_update(metric, at_step(max(step, 1), group))
            if better.expression != metric.expression:
                metric = better
                step = self._highest(metric, group, "bracket", step + 1, low=step)
        if step == 0:
            return Answer(metric, at_step(1, group), False, None)
        better = self._evolve(metric, at_step(step, group), search, folder)
        if better.expression != metric.expression:
            step = self._highest(better, group, _step_of(better), step + 1, low=step)
        return self._judge(better, group, step)

    def _first_step(self, groups: Sequence[Group]) -> int:
        """Where to choose: the highest step that a known metric keeps, on few windows."""
        best = 0
        for group in groups:
            first = best + 1 if best else _FIRST
            metric = CATALOG[_FIRST_METRIC[group]]
            best = self._highest(metric, group, "bracket", first, low=best, windows=BRACKET_WINDOWS)
        return best

    def _try(
        self, patterns: Sequence[Sparsity], search: evolution.SearchSettings | None, folder: Path
    ) -> Answer:
        known, pattern = self._choose(patterns)
        if self._take_way(known, pattern):
            known = self._best_under_update(known, pattern)
        metric = self._evolve(known, pattern, search, folder)
        reached = bool(self.curve.measure(metric, pattern, "bracket").within)
        if self.limit.kind == "task":
            return Answer(metric, pattern, reached, None)
        perplexity, held = self.curve.on_test(metric, pattern)
        texts = self.curve.on_texts("test", metric, pattern)
        each = {name: text.pruned for name, text in texts.items()}
        tried = ((pattern.fraction, perplexity),)
        decision = TestDecision(held, False, tried, (each,) if len(each) > 1 else ())
        return Answer(metric, pattern, reached and held, decision)

    def _take_way(self, metric: Metric, sparsity: Sparsity) -> bool:
        """Go on with the way to use masks that keeps most at that sparsity.

        Masks alone are given up only for a way by which no validation text loses.

        Returns:
            whether it is another than masks alone.
        """
        found: dict[RefitOptions, dict[str, OnText]] = {}
        for way in self._ways:
            self.curve.take(way)
            self.curve.measure(metric, sparsity, "way")
            found[way] = self.curve.on_texts("validation", metric, sparsity)
        masks_alone, *_ = found
        plain = None if masks_alone.refit else found[masks_alone]

        def loses(texts: Mapping[str, OnText]) -> bool:
            return plain is not None and any(
                text.pruned > plain[name].pruned for name, text in texts.items()
            )

        left = [way for way in found if not loses(found[way])]
        best = min(left, key=lambda way: sum(math.log(t.pruned) for t in found[way].values()))
        self.curve.take(best)
        return best != RefitOptions()

    def _highest_refitted(self, metric: Metric, group: Group, step: int) -> int:
        """The highest step within the limit in the way taken; masks alone keep it up to ``step``.

        A way that was asked for, or several steps, may keep less than masks alone do.
        """
        if step and not self.curve.measure(metric, at_step(step, group), "bracket").within:
            return self._highest(metric, group, "bracket", step - 1, high=step)
        return self._highest(metric, group, "bracket", step + 1, low=step)

    def outline(self, metric: Metric, found: Sparsity) -> None:
        """Measure the curve around what was found: what less or more would cost."""
        for tenth in range(1, 10):
            if tenth / 10 < found.fraction + _ABOVE:
                self.curve.measure(metric, replace(found, ratio=tenth / 10), "outline")

    # The validation part

    def _highest(
        self,
        metric: Metric,
        group: Group,
        step: Step,
        first: int,
        *,
        low: int = 0,
        high: int = STEPS,
        windows: int | None = None,
    ) -> int:
        def loss(at: int) -> float:
            point = self.curve.measure(metric, at_step(at, group), step, windows)
            if self.limit.min_score is None or point.score is None:
                texts = self.curve.on_texts("validation", metric, at_step(at, group), windows)
                return self.curve.decisive(texts)
            return self.limit.min_score + self.limit.value - point.score

        return highest_within(loss, self.curve.allowed, first=first, low=low, high=high)

    def _choose(self, sparsities: Sequence[Sparsity]) -> tuple[Metric, Sparsity]:
        """The candidate that keeps most, in one of the groups that these sparsities are of.

        Where the update is all that is done with masks, the candidates are told apart under it, and
        by their masks everywhere else.
        """
        judged = judged_after(self.curve.bench.refit)
        masks_alone = self.curve.masks_alone
        judges = {s: Judge(masks_alone, s, judged) for s in sparsities if judged.refit}
        bench = self.curve.bench if judges else masks_alone
        left = [
            (metric, sparsity) for sparsity in sparsities for metric in known_metrics().values()
        ]
        for windows, kept in (*ROUNDS, (None, 1)):
            found: dict[tuple[Metric, Sparsity], float] = {}
            on = f"on {windows} windows" if windows else "on all windows"
            what = f"choosing a metric at {sparsities[0]}, {on}"
            with self.curve.bench.work.observer.count(what, len(left), "metrics") as advance:
                for done, (metric, sparsity) in enumerate(left, start=1):
                    if judges and windows is not None:
                        found[metric, sparsity] = judges[sparsity].loss(metric, windows)
                    else:
                        point = self.curve.measure(metric, sparsity, "choice", windows, bench)
                        found[metric, sparsity] = point.perplexity
                    advance(done)
            left = sorted(left, key=found.__getitem__)[:kept]
        return left[0]

    def _best_under_update(self, metric: Metric, sparsity: Sparsity) -> Metric:
        """This metric, which was chosen by its masks, or the known one that is best under the
        update, where that is all that is done with masks: ranks swap under it."""
        if not judged_after(self.curve.bench.refit).refit:
            return metric
        return self._better(metric, self._choose([sparsity])[0], sparsity)

    def _better(self, metric: Metric, challenger: Metric, sparsity: Sparsity) -> Metric:
        """Whichever keeps more on the whole validation text, unless the limit is lost by it."""
        new = self.curve.measure(challenger, sparsity, _step_of(challenger))
        old = self.curve.measure(metric, sparsity, _step_of(metric))
        is_better = new.perplexity < old.perplexity and (new.within or not old.within)
        return challenger if is_better else metric

    def _evolve(
        self,
        known: Metric,
        sparsity: Sparsity,
        search: evolution.SearchSettings | None,
        folder: Path,
    ) -> Metric:
        """The metric that keeps most at that sparsity: this, another known one or an evolved one.

        All are compared on the whole validation text.
        """
        if search is None:
            return known
        work = self.curve.bench.work
        work.observer.stage(f"evolving a metric at {sparsity.in_words}")
        refit = judged_after(self.curve.bench.refit)
        name = f"search-{sparsity.in_words}".replace(":", "-").replace(" ", "-")
        if refit.in_words:
            name += f"-{refit.in_words}"
        search = replace(search, operators=operators_under(refit.update))
        found, _ = search_in(work, sparsity, folder / name, search, refit, test=False)
        if found.interrupted:
            raise KeyboardInterrupt
        self.evaluations = found.evaluations
        best = self._better(known, self._choose([sparsity])[0], sparsity)
        return self._better(best, _metric_of(found), sparsity)

    # The test part

    def _judge(self, metric: Metric, group: Group, step: int) -> Answer:
        """Check on the test part, and step back if the limit is missed there."""
        if self.limit.kind == "task":
            return Answer(metric, at_step(step, group), True, None)
        allowed = self.curve.allowed_rise("test")
        tried: list[tuple[float, float]] = []
        on_texts: list[dict[str, float]] = []

        def rise(at: int) -> float:
            sparsity = at_step(at, group)
            perplexity, _ = self.curve.on_test(metric, sparsity)
            tried.append((at / STEPS, perplexity))
            texts = self.curve.on_texts("test", metric, sparsity)
            if len(texts) > 1:
                on_texts.append({name: text.pruned for name, text in texts.items()})
                return self.curve.decisive(texts)
            return perplexity / exp(self.curve.bench.dense("test").loss) - 1

        def decided(*, held: bool, stepped_back: bool) -> TestDecision:
            return TestDecision(held, stepped_back, tuple(tried), tuple(on_texts))

        if rise(step) <= allowed:
            decision = decided(held=True, stepped_back=False)
            return Answer(metric, at_step(step, group), True, decision)
        self.curve.bench.work.observer.stage("the limit is missed on the test text: stepping back")

        def rise_on_both(at: int) -> float:
            point = self.curve.measure(metric, at_step(at, group), "bracket")
            return rise(at) if point.within else math.inf

        lower = 0
        if allowed > 0:
            lower = highest_within(rise_on_both, allowed, first=step - 1, high=step)
        decision = decided(held=False, stepped_back=lower > 0)
        return Answer(metric, at_step(max(lower, 1), group), lower > 0, decision)
