"""The result of a search is the best of all that it knows; on a tiny model, by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from prunerzero.evolution import Population, SearchSettings
from prunerzero.evolution.records import Candidate, Individual, State
from prunerzero.metrics import CATALOG, Expression, Sparsity
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.refit import Refinement
from prunerzero.tasks.best_of_all import none_evolved
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.search_cases import search_in
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace


@pytest.fixture(scope="module")
def work(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    few = {f"num_{part}_samples": 48 for part in texts}
    return Workspace(Setup(model=str(workplace / "model"), max_seq_length=16, **texts, **few))


@pytest.fixture(autouse=True)
def cache(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))


def perplexity(
    work: Workspace, expression: Expression, sparsity: Sparsity, part: str = "validation"
) -> float:
    with work.pruned_for_now():
        prune_model(work.layers, work.calibration.statistics("XGD"), expression, sparsity)
        return work.measure(part, "brute force").value


def check(work: Workspace, sparsity: Sparsity, folder: Path, **settings: Any) -> Any:
    """Search; the result has to be at least as good as every finalist and every known metric.

    A search with published operators measures no D, and so none of the known metrics that read it.
    """
    asked = SearchSettings(**settings)
    found, _ = search_in(work, sparsity, folder, asked)
    readable = {n: m for n, m in CATALOG.items() if m.expression.terminals <= {*asked.terminals}}
    reading_d = {"obs", "fisher-obs"} if asked.operators == "published" else set()
    assert readable.keys() == CATALOG.keys() - reading_d
    known = {n: perplexity(work, m.expression, sparsity) for n, m in readable.items()}
    result = perplexity(work, Expression.from_json(found.tree), sparsity)
    best = min(known, key=known.__getitem__)
    shown = {found.origin: Expression.from_json(found.tree)}
    if found.origin == "evolved":
        shown[best] = CATALOG[best].expression
    assert found.best_known == best
    for part in ("validation", "test"):
        assert found.perplexity[part] == {
            "dense": pytest.approx(work.dense(part)),
            **{n: pytest.approx(perplexity(work, e, sparsity, part)) for n, e in shown.items()},
        }
    assert found.judged_on == "whole" and found.judged[found.name] == pytest.approx(result)
    if found.origin == "known":
        assert result == known[best] == known[found.name]
        for finalist in found.finalists:
            evolved = perplexity(work, Expression.parse(finalist["metric"]), sparsity)
            assert evolved >= result, finalist
    else:
        assert found.name == "evolved" and result < known[best]
        on_test = perplexity(work, CATALOG[best].expression, sparsity, "test")
        lost = on_test <= found.perplexity["test"]["evolved"]
        assert lost == any("does not carry over" in warning for warning in found.warnings)
    assert str(found.metric) == str(Expression.from_json(found.tree))
    return found


@examples(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10_000),
    pattern=st.sampled_from(["0.3", "0.5", "2:4"]),
    operators=st.sampled_from(["published", "extended"]),
)
def test_no_known_metric_and_no_finalist_beats_the_result(
    work: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    pattern: str,
    operators: str,
) -> None:
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = {"seed": seed, "evaluations": 6, "strategy": "random", "operators": operators}
    check(work, Sparsity.parse(pattern), folder, **settings)


def test_a_hopeless_evolution_gives_the_known_metric_and_says_so(
    work: Workspace, tmp_path: Path
) -> None:
    """Two random trees against the catalog: some seed among the first finds nothing better."""
    for seed in range(5):
        options: dict[str, Any] = {"seed": seed, "evaluations": 2, "strategy": "random"}
        found = check(work, Sparsity.parse("0.5"), tmp_path / str(seed), **options)
        if found.origin == "known":
            break
    assert found.name in CATALOG and found.metric == str(CATALOG[found.name].expression)
    assert found.answer.startswith("No evolved metric beats the known ones, so the result is")
    assert found.known_on_validation[found.name] == found.perplexity["validation"]["known"]


def test_where_all_evaluations_went_to_known_metrics_more_are_asked_for(
    work: Workspace, tmp_path: Path
) -> None:
    settings = SearchSettings(evaluations=3, seed_metrics="catalog")
    found, _ = search_in(work, Sparsity.parse("0.5"), tmp_path / "run", settings)
    assert found.answer.startswith(
        "No metric was evolved, as all evaluations (3) went to known metrics (allow more of them), "
        f"so the result is {found.name}, the best of those"
    )


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({}, "No metric was evolved yet"),
        (
            {"raced_out": 2, "failed": 1},
            "No evolved metric was read to the end of the race, as the known ones were (tried: 3, "
            "raced out: 2, failed: 1)",
        ),
    ],
)
def test_where_no_evolved_metric_was_read_to_the_end_the_reason_is_told(
    states: dict[State, int], told: str
) -> None:
    population = Population()
    for number, state in enumerate(s for s, count in states.items() for _ in range(count)):
        candidate = Candidate(Expression.parse("W * X"), str(number), "crossover")
        population.add(Individual(number, candidate, state, (), 1.0))
    assert none_evolved(population).startswith(told)


@pytest.mark.parametrize("refine", ["none", "admm"])
def test_an_interrupted_search_tells_the_refit_of_its_figures_and_no_other(
    work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refine: Refinement
) -> None:
    def interrupt(progress: Any) -> None:
        if progress.evaluations >= 3:
            raise KeyboardInterrupt

    refit = RefitOptions(update="least-squares", refine=refine)
    settings = SearchSettings(evaluations=8, strategy="random")
    monkeypatch.setattr(work.observer, "search", interrupt)
    found, _ = search_in(work, Sparsity.parse("0.5"), tmp_path / "run", settings, refit)
    assert found.interrupted and found.judged_on == "race"
    assert found.refit == found.refit_of_candidates
    assert (found.refit == refit.in_words) == (refine == "admm")
    assert set(found.perplexity["validation"]) == set(found.perplexity["test"]) == {"dense"}
    figure = found.judged[found.name]
    assert f"perplexity {figure:.2f} on the validation text that a race reads" in found.answer
    if found.origin == "known":
        assert figure == found.known[found.name] == min(found.known.values())
    else:
        assert figure == min(point["perplexity"] for point in found.pareto)


@pytest.mark.parametrize("after", [0, 3])
def test_an_interrupted_search_gives_no_less_than_it_knew_then(
    work: Workspace, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    def interrupt(progress: Any) -> None:
        nonlocal told
        told += 1
        if told > after:
            raise KeyboardInterrupt

    sparsity = Sparsity.parse("0.5")
    settings = SearchSettings(evaluations=8, strategy="random")
    monkeypatch.setattr(work.observer, "search", interrupt)
    found, _ = search_in(work, sparsity, tmp_path / "run", settings)
    assert found.interrupted
    best = min(found.known.values())
    if found.origin == "evolved":
        assert min(point["perplexity"] for point in found.pareto) < best
    else:
        assert found.known[found.name] == best
    monkeypatch.undo()
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    whole, _ = search_in(work, sparsity, tmp_path / "run", settings)
    monkeypatch.setattr(work.observer, "search", interrupt)
    longer = SearchSettings(evaluations=20, strategy="random")
    told = 99
    again, _ = search_in(work, sparsity, tmp_path / "run", longer)
    assert again.interrupted and not whole.interrupted
    if whole.origin == "known" and whole.evaluations == again.evaluations:
        assert (again.origin, again.name) == ("known", whole.name)
