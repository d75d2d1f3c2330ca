"""The course of a tuning: which metric is pruned with next, and how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from prunerzero import evolution
from prunerzero.exponential import exp
from prunerzero.language.corpora import Part
from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity, simplify
from prunerzero.metrics.catalog import power_law
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.best_of_all import EVOLVED
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.search import search_in
from prunerzero.tasks.tune_result import CurvePoint, Limit, TestDecision
from prunerzero.tasks.tuning.bench import Bench
from prunerzero.tasks.tuning.limit import allowed_on
from prunerzero.tasks.tuning.sparsity_search import STEPS, highest_within

Step = Literal["choice", "bracket", "evolved", "outline"]

GROUPS: tuple[Group, ...] = get_args(Group)
"""What there is to choose from: within what scores compete."""

ROUNDS = ((4, 16), (16, 3))
"""On so many windows candidates are told apart, and so many of them are kept: few windows tell
metrics apart, but do not know a perplexity. Who is left is measured on all."""

BRACKET_WINDOWS = 16
"""Enough to find where metrics are told apart."""

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FIRST = 60
"""The step tried first: 30 %."""

_FIRST_METRIC = {"row": "power-law", "layer": "power-law", "model": "fisher"}
"""A known metric that is never far from the best within such a group, as measured on two models."""

_REFIT_WINDOWS = 60
"""A refit takes about as long as reading so many windows, on a CPU and on a GPU."""

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


@dataclass(frozen=True)
class OnText:
    """One text: the perplexities of the dense and the pruned model, and the second's rise."""

    dense: float
    pruned: float
    rise: float


def candidates() -> list[Metric]:
    """The metrics to choose from before any is evolved: the catalog and a grid of power laws."""
    grid = (power_law(a, b) for a in _EXPONENTS for b in _EXPONENTS)
    distinct: dict[Expression, Metric] = {}
    for metric in (*CATALOG.values(), *grid):
        distinct.setdefault(simplify(metric.expression, "model"), metric)
    return list(distinct.values())


def _named(text: str, group: Group) -> Metric:
    """The result of a search, under its known name where it is a known metric."""
    expression = Expression.parse(text)
    simple = simplify(expression, group)
    same = (m for m in candidates() if simplify(m.expression, group) == simple)
    return next(same, Metric(EVOLVED, expression, "evolved for this model and text"))


def _step_of(metric: Metric) -> Step:
    return "evolved" if metric.name == EVOLVED else "bracket"


def at_step(step: int, group: Group) -> Sparsity:
    """The sparsity of a step."""
    return Sparsity(ratio=step / STEPS, group=group)


class Course:
    """Chooses a metric and within what scores compete, brackets the sparsity, evolves a metric
    there, and goes on with the best of it and all known ones.

    Every measurement is kept by the bench, so that the same course after an interruption passes
    over what was measured before.

    Attributes:
        curve: what was measured on the validation part, each once.
        evaluations: metrics that the evolution measured.
        dense: perplexity of the unpruned model on the validation part.
        allowed: the rise allowed there, on each text, or the drop of the task's score.
    """

    def __init__(
        self, bench: Bench, limit: Limit, ways: Sequence[RefitOptions] = (RefitOptions(),)
    ) -> None:
        """``ways`` are those to use masks that may be taken; the bench prunes with masks alone."""
        self._masks_alone = bench
        self.bench = bench
        self.limit = limit
        self._ways = ways
        self.curve: list[CurvePoint] = []
        self.evaluations = 0
        self.dense = exp(bench.dense("validation").loss)
        self.allowed = limit.value
        if limit.max_perplexity is not None:
            self.allowed = self._allowed_on("validation")

    def about_seconds(
        self, pattern: Sparsity | None, groups: int, search: evolution.SearchSettings | None
    ) -> float:
        """How long a course takes, judged by how long the dense model was read."""
        whole = self.bench.dense("validation")
        n, a_window = len(whole.losses), whole.seconds / len(whole.losses)
        windows = 5 * n  # what is told of the metric in the end
        windows += len(self._ways) * (n + _REFIT_WINDOWS)
        windows += n if pattern is not None else 3 * BRACKET_WINDOWS * groups + 8 * n
        choices = [groups if pattern is None else 1]
        if search is not None and pattern is None:  # once more, beside the evolved metric
            choices.append(1)
        for of_groups in choices:
            left = len(candidates()) * of_groups
            for read, kept in (*ROUNDS, (n, 1)):  # pruning takes about as long as a window
                windows, left = windows + left * (min(read, n) + 1), kept
        seconds = a_window * windows
        if search is not None and search.seconds is not None:
            seconds += search.seconds
        elif search is not None:  # a race reads about half of its windows
            seconds += a_window * (search.evaluations or 0) * min(n, BRACKET_WINDOWS) / 2
        return seconds

    def run(
        self,
        pattern: Sparsity | None,
        groups: Sequence[Group],
        search: evolution.SearchSettings | None,
        folder: Path,
    ) -> Answer:
        """Answer for a pattern, or find the highest sparsity within one of the groups."""
        if pattern is not None:
            return self._try(pattern, search, folder)
        first = self._first_step(groups)
        metric, sparsity = self._choose([at_step(max(first, 1), group) for group in groups])
        group = sparsity.group
        step = self._highest(metric, group, "bracket", first)
        if self._take_way(metric, at_step(max(step, 1), group)):
            step = self._highest_refitted(metric, group, step)
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
        self, pattern: Sparsity, search: evolution.SearchSettings | None, folder: Path
    ) -> Answer:
        known, _ = self._choose([pattern])
        self._take_way(known, pattern)
        metric = self._evolve(known, pattern, search, folder)
        reached = bool(self.measure(metric, pattern, "bracket").within)
        if self.limit.kind == "task":
            return Answer(metric, pattern, reached, None)
        perplexity, held = self._on_test(metric, pattern)
        texts = self._on_texts("test", metric, pattern)
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
            self.bench = self._masks_alone.refitted(way)
            self.measure(metric, sparsity, "bracket")
            found[way] = self._on_texts("validation", metric, sparsity)
        masks_alone, *_ = found
        plain = None if masks_alone.refit else found[masks_alone]

        def loses(texts: Mapping[str, OnText]) -> bool:
            return plain is not None and any(
                text.pruned > plain[name].pruned for name, text in texts.items()
            )

        left = [way for way in found if not loses(found[way])]
        best = min(left, key=lambda way: sum(math.log(t.pruned) for t in found[way].values()))
        self.bench = self._masks_alone.refitted(best)
        return best != RefitOptions()

    def _highest_refitted(self, metric: Metric, group: Group, step: int) -> int:
        """The highest step within the limit in the way taken; masks alone keep it up to ``step``.

        A way that was asked for, or several steps, may keep less than masks alone do.
        """
        if step and not self.measure(metric, at_step(step, group), "bracket").within:
            return self._highest(metric, group, "bracket", step - 1, high=step)
        return self._highest(metric, group, "bracket", step + 1, low=step)

    def outline(self, metric: Metric, found: Sparsity) -> None:
        """Measure the curve around what was found: what less or more would cost."""
        for tenth in range(1, 10):
            if tenth / 10 < found.fraction + _ABOVE:
                self.measure(metric, replace(found, ratio=tenth / 10), "outline")

    # The validation part

    def measure(
        self, metric: Metric, sparsity: Sparsity, step: Step, windows: int | None = None
    ) -> CurvePoint:
        """The point of the curve, measured unless it is there already."""
        shown = step != "choice"  # which counts metrics
        bench = self.bench if shown else self._masks_alone  # which tell metrics apart at less cost
        pruned = bench.pruned(metric, sparsity, "validation", windows, shown=shown)
        texts = self._on_texts("validation", metric, sparsity, windows, bench)
        within: bool | None = self._decisive(texts) <= self.allowed
        score: float | None = None
        if self.limit.min_score is not None:  # too dear to answer for what decides nothing
            if step in ("bracket", "evolved"):
                score = self.bench.score(metric, sparsity, self.limit).value
            within = None if score is None else score >= self.limit.min_score
        point = CurvePoint(
            sparsity=sparsity.fraction,
            pattern=str(sparsity),
            group=sparsity.group,
            metric=metric.name,
            formula=str(metric.expression),
            perplexity=exp(pruned.loss),
            rise=max(text.rise for text in texts.values()),
            within=within,
            windows=len(pruned.losses),
            score=score,
            step=step,
            perplexities={name: text.pruned for name, text in texts.items() if len(texts) > 1},
            rises={name: text.rise for name, text in texts.items() if len(texts) > 1},
            refit=bench.refit.in_words,
        )
        if all(replace(known, step=step) != point for known in self.curve):
            self.curve.append(point)
        return point

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
            point = self.measure(metric, at_step(at, group), step, windows)
            if self.limit.min_score is None or point.score is None:
                texts = self._on_texts("validation", metric, at_step(at, group), windows)
                return self._decisive(texts)
            return self.limit.min_score + self.limit.value - point.score

        return highest_within(loss, self.allowed, first=first, low=low, high=high)

    def _choose(self, sparsities: Sequence[Sparsity]) -> tuple[Metric, Sparsity]:
        """The candidate that keeps most, in one of the groups that these sparsities are of."""
        left = [(metric, sparsity) for sparsity in sparsities for metric in candidates()]
        for windows, kept in (*ROUNDS, (None, 1)):
            found: dict[tuple[Metric, Sparsity], float] = {}
            on = f"on {windows} windows" if windows else "on all windows"
            what = f"choosing a metric at {sparsities[0]}, {on}"
            with self.bench.work.observer.count(what, len(left), "metrics") as advance:
                for done, candidate in enumerate(left, start=1):
                    found[candidate] = self.measure(*candidate, "choice", windows).perplexity
                    advance(done)
            left = sorted(left, key=found.__getitem__)[:kept]
        return left[0]

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
        work = self.bench.work
        work.observer.stage(f"evolving a metric at {sparsity.in_words}")
        name = f"search-{sparsity.in_words}".replace(":", "-").replace(" ", "-")
        found, _ = search_in(work, sparsity, folder / name, search, test=False)
        if found.interrupted:
            raise KeyboardInterrupt
        self.evaluations = found.evaluations
        best = known
        challengers = [self._choose([sparsity])[0], _named(found.metric, sparsity.group)]
        for metric in challengers:
            new = self.measure(metric, sparsity, _step_of(metric))
            old = self.measure(best, sparsity, _step_of(best))
            if new.perplexity < old.perplexity and (new.within or not old.within):
                best = metric
        return best

    # The test part

    def _judge(self, metric: Metric, group: Group, step: int) -> Answer:
        """Check on the test part, and step back if the limit is missed there."""
        if self.limit.kind == "task":
            return Answer(metric, at_step(step, group), True, None)
        allowed = self._allowed_on("test")
        tried: list[tuple[float, float]] = []
        on_texts: list[dict[str, float]] = []

        def rise(at: int) -> float:
            sparsity = at_step(at, group)
            perplexity, _ = self._on_test(metric, sparsity)
            tried.append((at / STEPS, perplexity))
            texts = self._on_texts("test", metric, sparsity)
            if len(texts) > 1:
                on_texts.append({name: text.pruned for name, text in texts.items()})
                return self._decisive(texts)
            return perplexity / exp(self.bench.dense("test").loss) - 1

        def decided(*, held: bool, stepped_back: bool) -> TestDecision:
            return TestDecision(held, stepped_back, tuple(tried), tuple(on_texts))

        if rise(step) <= allowed:
            decision = decided(held=True, stepped_back=False)
            return Answer(metric, at_step(step, group), True, decision)
        self.bench.work.observer.stage("the limit is missed on the test text: stepping back")

        def rise_on_both(at: int) -> float:
            point = self.measure(metric, at_step(at, group), "bracket")
            return rise(at) if point.within else math.inf

        lower = 0
        if allowed > 0:
            lower = highest_within(rise_on_both, allowed, first=step - 1, high=step)
        decision = decided(held=False, stepped_back=lower > 0)
        return Answer(metric, at_step(max(lower, 1), group), lower > 0, decision)

    def _on_test(self, metric: Metric, sparsity: Sparsity) -> tuple[float, bool]:
        """Perplexity on the test part, and whether the limit is kept on each of its texts."""
        perplexity = exp(self.bench.pruned(metric, sparsity, "test").loss)
        kept = [
            (allowed := allowed_on(self.limit, text.dense)) is not None and text.pruned <= allowed
            for text in self._on_texts("test", metric, sparsity).values()
        ]
        return perplexity, all(kept)

    # Text by text

    def _on_texts(
        self,
        part: Part,
        metric: Metric,
        sparsity: Sparsity,
        windows: int | None = None,
        bench: Bench | None = None,
    ) -> dict[str, OnText]:
        """Dense against pruned on each text of a part, by the text's name."""
        bench = bench or self.bench
        texts, places = self.bench.work.texts(part), self.bench.work.places(part)
        found = {}
        for text, place in zip(texts, places, strict=True):
            dense = bench.dense(place, windows).loss
            pruned = bench.pruned(metric, sparsity, place, windows, shown=False).loss
            found[text.name] = OnText(exp(dense), exp(pruned), exp(pruned - dense) - 1)
        return found

    def _allowed_on(self, part: Part) -> float:
        """The rise that the limit allows on a part, to compare with what ``_decisive`` gives."""
        dense = max(exp(self.bench.dense(place).loss) for place in self.bench.work.places(part))
        return (allowed_on(self.limit, dense) or 0.0) / dense - 1

    def _decisive(self, texts: Mapping[str, OnText]) -> float:
        """The rise that is within ``_allowed_on`` where each text keeps the limit.

        The highest of theirs; where the limit is a perplexity, the rise from the highest dense
        perplexity to the highest pruned one.
        """
        if self.limit.kind == "perplexity" and len(texts) > 1:
            highest = max(text.dense for text in texts.values())
            return max(text.pruned for text in texts.values()) / highest - 1
        return max(text.rise for text in texts.values())
