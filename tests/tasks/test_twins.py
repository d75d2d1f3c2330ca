"""What is called evolved is evolved: a known metric in another form goes by its own name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunerzero.evolution import Finalist, Jobs, Population, SearchResult, SearchSettings
from prunerzero.evolution.records import Candidate, Individual
from prunerzero.metrics import CATALOG, Expression, Sparsity, canonical, known_metrics
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import probes_of
from prunerzero.scoring.ranking import synthetic_probe
from prunerzero.tasks.best_of_all import Choice, Known, choose, choose_now
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.report import report
from prunerzero.tasks.search_cases import search_in
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.shared_study import SharedPerplexities
from prunerzero.tasks.twins import Twins
from prunerzero.tasks.workspace import Workspace

HALF = Sparsity.parse("0.5")
AS_WANDA, AS_FISHER, OTHER = "X * sqr(W)", "sqrt(G * W)", "W * log(X)"
LAW, AS_LAW = "power-law(0,0.75)", "sqr(W) * sqrt(G * G * G)"


@pytest.fixture
def work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    few = {f"num_{part}_samples": 32 for part in texts}
    yield Workspace(Setup(model=str(workplace / "model"), max_seq_length=16, **texts, **few))


class Shared:
    """Perplexities that are known beforehand; ``alike`` are pairs that prune the same weights."""

    def __init__(self, on_whole: Mapping[str, float], alike: Mapping[str, str] = {}) -> None:
        self.on_whole = on_whole
        self.alike = alike
        self.asked: list[str] = []

    def pruned(self, place: str, metrics: Mapping[str, Expression]) -> dict[str, float]:
        self.asked += map(str, metrics.values())
        return {name: self.on_whole[str(e)] for name, e in metrics.items()}

    def measured(self, place: str, what: Any) -> float | None:
        return self.on_whole.get(str(what)) if str(what) in self.asked else None

    def prune_alike(self, one: Expression, other: Expression) -> bool:
        known = self.alike.get(str(one))
        return known is not None and CATALOG[known].expression == other


def written(name: str) -> str:
    return str(CATALOG[name].expression)


def a_search(losses: Mapping[str, float], **more: Any) -> tuple[SearchResult, Population]:
    """What a search gives that evolved these metrics, the first of which is its result."""
    population = Population()
    finalists = []
    for number, (formula, value) in enumerate(losses.items()):
        expression, loss = Expression.parse(formula), math.log(value)
        candidate = Candidate(expression, formula, "crossover")
        population.add(Individual(number, candidate, "complete", (loss, loss), 1.0))
        finalists.append(Finalist(number, formula, expression.size, loss))
    first = next(iter(losses))
    return SearchResult(
        expression=first,
        loss=math.log(losses[first]),
        perplexity=losses[first],
        chunks=2,
        evaluations=tuple(i.record(2) for i in population.individuals),
        finalists=tuple(sorted(finalists, key=lambda f: f.loss)),
        duplicates_skipped=0,
        raced_out=0,
        failed=0,
        seconds=1.0,
        interrupted=False,
        resumed_from=0,
        **more,
    ), population


def chosen(
    losses: Mapping[str, float], shared: Shared, after: str = "", decide: Any = choose
) -> Choice:
    names = ["wanda", "fisher"]
    in_race = {"wanda": 30.0, "fisher": 31.0}
    named = {name: known_metrics()[name].expression for name in [*names, LAW]}
    measured = SimpleNamespace(
        wait=lambda: None,
        contenders=lambda others: names,
        perplexities=in_race,
        measured={name: named[name] for name in names},
        named=named,
    )
    known = Known(measured, Twins(named, [([synthetic_probe()], HALF)]), after)  # type: ignore[arg-type]
    best = decide(*a_search(losses), known, shared)
    assert best is not None
    return best


def test_what_ranks_as_a_known_metric_is_called_by_its_name() -> None:
    on_whole = {written("wanda"): 30.0, written("fisher"): 31.0, OTHER: 32.0}
    shared = Shared(on_whole)
    best = chosen({AS_WANDA: 29.0, OTHER: 32.0}, shared)
    assert (best.origin, best.name) == ("known", "wanda")
    assert f"{AS_WANDA}, which was evolved, prunes as it does" in best.answer
    assert AS_WANDA not in shared.asked, "its text is read once, under the known name"
    now = chosen({AS_WANDA: 29.0, OTHER: 32.0}, shared, decide=choose_now)
    assert (now.origin, now.name) == ("known", "wanda")


def test_behind_a_known_one_in_another_form_comes_the_next_that_was_evolved() -> None:
    on_whole = {written("wanda"): 30.0, written("fisher"): 31.0, OTHER: 29.9}
    best = chosen({AS_WANDA: 29.0, OTHER: 29.9}, Shared(on_whole))
    assert (best.origin, str(best.expression)) == ("evolved", OTHER)
    assert "known one, has 30.00" in best.answer and AS_WANDA not in best.answer


def test_what_prunes_the_same_weights_is_called_by_the_known_name_though_it_ranks_otherwise() -> (
    None
):
    """Its perplexity may come out lower by a rounding."""
    on_whole = {written("wanda"): 30.0, written("fisher"): 31.0, OTHER: 30.0 - 1e-9}
    assert chosen({OTHER: 29.0}, Shared(on_whole)).origin == "evolved"
    best = chosen({OTHER: 29.0}, Shared(on_whole, alike={OTHER: "wanda"}))
    assert (best.origin, best.name) == ("known", "wanda")
    assert f"{OTHER}, which was evolved, prunes as it does" in best.answer


def test_finalists_are_compared_with_known_ones_after_the_same_refit() -> None:
    """Few steps of a refit may leave a loss far above the exact one: the first finalist tells."""
    second = "W * sqrt(X) * log(G)"
    on_whole = {written("wanda"): 30.0, written("fisher"): 31.0, OTHER: 30.5, second: 29.5}
    best = chosen({OTHER: 40.0, second: 39.0}, Shared(on_whole), after="least-squares in 8 steps")
    assert (best.origin, str(best.expression)) == ("evolved", second)


def test_interrupted_what_the_search_read_is_not_compared_with_an_exact_refit() -> None:
    shared = Shared({written("wanda"): 27.0, written("fisher"): 31.0})
    shared.pruned("validation", {"wanda": CATALOG["wanda"].expression})
    best = chosen({OTHER: 28.0}, shared, after="least-squares in 8 steps", decide=choose_now)
    assert (best.origin, str(best.expression)) == ("evolved", OTHER)
    assert "after least-squares in 8 steps, where wanda" in best.answer
    assert "has 30.00" in best.answer, "as the race read it"


def test_a_power_law_that_is_known_is_called_by_its_name_though_no_search_measures_it_first() -> (
    None
):
    law = str(known_metrics()[LAW].expression)
    on_whole = {written("wanda"): 30.0, written("fisher"): 31.0, law: 29.0, OTHER: 29.5}
    best = chosen({AS_LAW: 29.0, OTHER: 29.5}, Shared(on_whole))
    assert (best.origin, best.name, str(best.expression)) == ("known", LAW, law)
    assert best.known[LAW] == 29.0
    assert f"{AS_LAW}, which was evolved, prunes as it does" in best.answer
    itself = chosen({law: 29.0, OTHER: 29.5}, Shared(on_whole))
    assert itself.name == LAW and "which was evolved" not in itself.answer
    on_whole |= {law: 30.1, OTHER: 29.9}
    behind = chosen({AS_LAW: 30.0, OTHER: 30.1}, Shared(on_whole))
    assert (behind.origin, str(behind.expression)) == ("evolved", OTHER)
    now = chosen({AS_LAW: 29.0, OTHER: 29.5}, Shared(on_whole), decide=choose_now)
    assert (now.origin, now.name) == ("known", LAW)


@pytest.mark.parametrize("group", ["row", "model"])
def test_metrics_prune_alike_where_every_weight_that_is_pruned_is_the_same(
    work: Workspace, group: Any
) -> None:
    class Done:
        def all_of(self, jobs: Any) -> Any:
            return {job: do() for job, do in jobs.items()}

    sparsity = Sparsity(ratio=0.5, group=group)
    jobs: Jobs = Done()  # type: ignore[assignment]
    shared = SharedPerplexities(work, jobs, sparsity, RefitOptions())

    def zeros(expression: Expression) -> list[Any]:
        with work.pruned_for_now():
            prune_model(work.layers, work.calibration.statistics("XG"), expression, sparsity)
            return [(layer.weight == 0).clone() for layer in work.layers.values()]

    formulas = [written("wanda"), written("fisher"), AS_WANDA, AS_FISHER, OTHER]
    for one in map(Expression.parse, formulas):
        for other in map(Expression.parse, formulas):
            same = all((a == b).all() for a, b in zip(zeros(one), zeros(other), strict=True))
            assert shared.prune_alike(one, other) == same


def test_twins_are_found_on_the_layers_of_a_model(work: Workspace) -> None:
    probes = probes_of(work.layers, work.calibration.statistics("XG"))
    known = {name: CATALOG[name].expression for name in ("wanda", "fisher")}
    twins = Twins(known, [(probes, HALF)])
    assert [twins.of(Expression.parse(f)) for f in (AS_WANDA, AS_FISHER, OTHER)] == [
        "wanda",
        "fisher",
        None,
    ]
    assert twins.of(Expression.parse("5")) is None


def test_a_search_that_begins_with_the_known_metrics_calls_none_of_them_evolved(
    work: Workspace, tmp_path: Path
) -> None:
    settings = SearchSettings(evaluations=10, seed_metrics="catalog")
    found, result = search_in(work, HALF, tmp_path / "run", settings)
    known = {str(canonical(metric.expression, "row")) for metric in CATALOG.values()}
    assert known & {e.expression for e in result.evaluations}
    assert not known & {finalist["metric"] for finalist in found.finalists}
    assert found.origin == "known" or found.metric not in known


def test_a_search_of_power_laws_calls_the_known_ones_as_tune_does(
    work: Workspace, tmp_path: Path
) -> None:
    settings = SearchSettings(evaluations=35, strategy="powerlaw")
    found, _ = search_in(work, HALF, tmp_path / "run", settings)
    known = {name: metric.expression for name, metric in known_metrics().items()}
    twins = Twins(known, [(probes_of(work.layers, work.calibration.statistics("XG")), HALF)])
    assert {f["metric"]: f["same_as"] for f in found.finalists} == {
        f["metric"]: twins.of(Expression.parse(f["metric"])) for f in found.finalists
    }
    assert any(str(f["same_as"]).startswith("power-law(") for f in found.finalists)
    if found.origin == "known":
        assert Expression.from_json(found.tree) == known[found.name]
    else:
        assert twins.of(Expression.from_json(found.tree)) is None
    assert report(tmp_path / "run").path.is_file()
