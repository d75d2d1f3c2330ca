"""Which metric a pattern is answered with, and whether the weights that stay are refitted."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import SimpleNamespace

import pytest

from prunerzero import Sparsity
from prunerzero.evolution import SearchSettings
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions, TuneOptions
from prunerzero.tasks.tune_result import Limit
from prunerzero.tasks.tuning import course
from prunerzero.tasks.tuning.workbench import Measured

PATTERN = Sparsity.parse("2:4")


def a_metric_evolved() -> SimpleNamespace:
    """What a search found that evolved a metric."""
    return SimpleNamespace(
        metric="W * exp(X * G)", origin="evolved", interrupted=False, evaluations=3
    )


class Workbench:
    """The dense model has perplexity 10, every known metric 40, an evolved one what it is given.

    ``refitted`` is text → what a refit makes of these perplexities, by a factor.
    """

    def __init__(self, evolved: float, factors: dict[str, float] | None = None) -> None:
        self.evolved, self.factors = evolved, factors or {"mine.txt": 1.0}
        self.refit = RefitOptions()
        self.work = SimpleNamespace(
            observer=Observer(),
            texts=SimpleNamespace(
                each=lambda part: [SimpleNamespace(name=name) for name in self.factors],
                places=lambda part: [part, *self.factors][-len(self.factors) :],
            ),
        )

    def refitted(self, refit: RefitOptions) -> Workbench:
        other = Workbench(self.evolved, self.factors)
        other.refit = refit
        return other

    def dense(self, part: str, windows: int | None = None) -> Measured:
        return Measured((log(10),), 0.0)

    def pruned(self, metric, sparsity, part: str, windows: int | None = None, **_) -> Measured:
        perplexity = self.evolved if metric.name == course.EVOLVED else 40
        if self.refit.update != "none":
            perplexity *= self.factors.get(part, 1.0)
        return Measured((log(perplexity),), 0.0)


@pytest.fixture(autouse=True)
def judged_under_update(monkeypatch) -> list[str]:
    """Candidates are judged on the bench of the test itself; the names of those that were."""
    names = []

    class Judge:
        def __init__(self, bench, sparsity, refit) -> None:
            self.bench, self.sparsity = bench.refitted(refit), sparsity

        def loss(self, metric, windows: int) -> float:
            names.append(metric.name)
            return self.bench.pruned(metric, self.sparsity, "validation", windows).loss

    monkeypatch.setattr(course, "Judge", Judge)
    return names


@pytest.mark.parametrize("limit", [0.5, 2.5, 5.0])
@pytest.mark.parametrize("evolved", [12.0, 30.0, 39.0, 41.0])
def test_the_better_metric_answers_within_the_limit_or_beyond_it(limit, evolved, monkeypatch):
    found = a_metric_evolved()
    monkeypatch.setattr(course, "search_in", lambda *args, **options: (found, None))
    asked = course.Course(Workbench(evolved), Limit("degradation", limit, 10 * (1 + limit)))
    answer = asked.run([PATTERN], ["row"], SearchSettings(evaluations=3), Path("unused"))
    assert (answer.metric.name == course.EVOLVED) == (evolved < 40)
    assert answer.reached == (min(evolved, 40) / 10 - 1 <= limit)


@pytest.mark.parametrize(
    ("options", "judged"),
    [
        ({"update": "none", "refine": "none"}, RefitOptions()),
        ({"update": "least-squares", "refine": "none"}, RefitOptions("least-squares")),
        ({"update": "least-squares", "refine": "none", "steps": 2}, RefitOptions("least-squares")),
        ({"update": "least-squares", "refine": "admm"}, RefitOptions()),
    ],
)
def test_metrics_are_evolved_under_the_update_where_that_is_all_that_is_done_with_masks(
    options, judged, monkeypatch
):
    asked_for = []

    def search_in(work, sparsity, folder, settings, refit, *, test):
        asked_for.append(refit)
        return a_metric_evolved(), None

    monkeypatch.setattr(course, "search_in", search_in)
    ways = TuneOptions(**options).ways
    asked = course.Course(Workbench(40), Limit("degradation", 5.0, 60), ways)
    asked.run([PATTERN], ["row"], SearchSettings(evaluations=3), Path("unused"))
    assert asked_for == [judged]


@pytest.mark.parametrize(
    ("factors", "taken"),
    [
        ({"a.txt": 0.8, "b.txt": 0.9}, "least-squares"),
        ({"a.txt": 0.5, "b.txt": 1.01}, "none"),
        ({"a.txt": 1.1, "b.txt": 1.1}, "none"),
    ],
)
def test_weights_are_refitted_only_where_no_validation_text_loses_by_it(factors, taken):
    ways = TuneOptions(refine="none").ways
    asked = course.Course(Workbench(40, factors), Limit("degradation", 5.0, 60), ways)
    asked.run([PATTERN], ["row"], None, Path("unused"))
    assert asked.curve.bench.refit.update == taken


def test_a_refit_that_is_asked_for_is_taken_whatever_it_costs():
    ways = TuneOptions(update="least-squares", refine="none").ways
    asked = course.Course(
        Workbench(40, {"a.txt": 1.2, "b.txt": 1.2}), Limit("degradation", 5, 60), ways
    )
    asked.run([PATTERN], ["row"], None, Path("unused"))
    assert asked.curve.bench.refit.update == "least-squares"


class Rising(Workbench):
    """The perplexity rises with the sparsity, and a refit makes it rise faster, or more slowly."""

    def pruned(self, metric, sparsity, part: str, windows: int | None = None, **_) -> Measured:
        slope = self.factors[next(iter(self.factors))] if self.refit.update != "none" else 1.0
        return Measured((log(10 * (1 + slope * sparsity.fraction)),), 0.0)

    def refitted(self, refit: RefitOptions) -> Workbench:
        other = Rising(self.evolved, self.factors)
        other.refit = refit
        return other


@pytest.mark.parametrize("slope", [0.25, 0.9, 1.5, 4.0, 100.0])
@pytest.mark.parametrize("update", ["auto", "least-squares"])
def test_what_is_answered_is_within_the_limit_and_the_most_that_is(slope, update):
    ways = TuneOptions(update=update, refine="none").ways
    asked = course.Course(Rising(40, {"mine.txt": slope}), Limit("degradation", 0.2, 12), ways)
    answer = asked.run([], ["row"], None, Path("unused"))
    taken = slope if asked.curve.bench.refit.update != "none" else 1.0
    assert taken == (min(slope, 1.0) if update == "auto" else slope)
    assert answer.reached == (taken * 0.005 <= 0.2)
    if answer.reached:
        assert taken * answer.sparsity.fraction <= 0.2 < taken * (answer.sparsity.fraction + 0.005)


class Swapping(Workbench):
    """As masks, fisher keeps most; under the update obs does, and fisher least of all.

    ``refitted`` perplexities are those of 2:4; a share of p prunes p / 0.5 of that rise.
    """

    def pruned(self, metric, sparsity, part: str, windows: int | None = None, **_) -> Measured:
        best, worst = ("obs", "fisher") if self.refit.update != "none" else ("fisher", "obs")
        rise = {best: 1.0, worst: 3.0}.get(metric.name, 2.0)
        if self.refit.update != "none":
            rise /= 10
        return Measured((log(10 * (1 + rise * sparsity.fraction / 0.5)),), 0.0)

    def refitted(self, refit: RefitOptions) -> Workbench:
        other = Swapping(self.evolved, self.factors)
        other.refit = refit
        return other


@pytest.mark.parametrize("update", ["auto", "least-squares"])
@pytest.mark.parametrize("search", [None, SearchSettings(evaluations=3)])
def test_under_an_update_the_known_metric_answers_that_is_best_under_it(
    update, search, monkeypatch
):
    found = a_metric_evolved()
    monkeypatch.setattr(course, "search_in", lambda *args, **options: (found, None))
    ways = TuneOptions(update=update, refine="none").ways
    within = Limit("degradation", 0.12, 11.2)  # fisher would miss it, so the answer would be no
    asked = course.Course(Swapping(40), within, ways)
    answer = asked.run([PATTERN], ["row"], search, Path("unused"))
    assert (answer.metric.name, answer.reached) == ("obs", True)
    asked = course.Course(Swapping(40), within, ways)
    answer = asked.run([], ["row"], search, Path("unused"))
    assert (answer.metric.name, answer.reached) == ("obs", True)
    assert answer.sparsity.fraction == 0.6, "as much as obs keeps: fisher keeps 0.2"


@pytest.mark.parametrize(
    "options", [{"update": "none", "refine": "none"}, {"update": "least-squares", "refine": "admm"}]
)
def test_where_the_update_is_not_all_that_is_done_masks_alone_tell_metrics_apart(
    options, judged_under_update
):
    """After ADMM metrics hardly differ, and each would take seconds."""
    asked = course.Course(Swapping(40), Limit("degradation", 9, 100), TuneOptions(**options).ways)
    assert asked.run([PATTERN], ["row"], None, Path("unused")).metric.name == "fisher"
    assert not judged_under_update


class Apart(Workbench):
    """Whatever is pruned, each group keeps what it is given."""

    def __init__(self, perplexities: dict[str, float]) -> None:
        super().__init__(40)
        self.perplexities = perplexities

    def pruned(self, metric, sparsity, part: str, windows: int | None = None, **_) -> Measured:
        return Measured((log(self.perplexities[sparsity.group]),), 0.0)

    def refitted(self, refit: RefitOptions) -> Workbench:
        return self


@pytest.mark.parametrize("best", ["row", "layer", "model"])
def test_of_a_share_that_may_be_within_several_groups_the_best_answers(best):
    groups = ("row", "layer", "model")
    bench = Apart(dict.fromkeys(groups, 30.0) | {best: 12.0})
    asked = course.Course(bench, Limit("degradation", 0.5, 15))
    shares = [Sparsity(ratio=0.5, group=group) for group in groups]
    answer = asked.run(shares, groups, None, Path("unused"))
    assert (answer.reached, answer.sparsity.group) == (True, best)
