"""What a search can do besides evolving from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_fitness import ToyFitness, run_search

from prunerzero.evolution import SearchSettings
from prunerzero.evolution.power_laws import GRID, neighbours
from prunerzero.evolution.variation import PrimitiveSet
from prunerzero.metrics import CATALOG, canonical
from prunerzero.metrics.catalog import power_law


def test_random_search_proposes_random_trees_only() -> None:
    result = run_search(ToyFitness(), 60, strategy="random")
    assert {e.origin for e in result.evaluations} == {"random"}


def test_the_power_laws_come_as_a_grid_and_then_ever_nearer_to_the_best() -> None:
    toy = ToyFitness("W * X ** 0.3 * G ** 0.9")
    result = run_search(toy, 120, strategy="powerlaw", noise_margin=float("inf"))
    assert {e.origin for e in result.evaluations} == {"power law"}
    grid = min(toy.mean(str(power_law(*point).expression)) for point in GRID)
    assert result.loss is not None and result.loss < grid
    assert result.loss <= toy.mean("W * X ** 0.3 * G ** 0.9") + 0.001


def test_with_the_extended_operators_the_power_laws_read_d_too() -> None:
    toy = ToyFitness("W * X ** 0.2 * D ** 0.7")
    options: dict[str, Any] = {"strategy": "powerlaw", "noise_margin": float("inf")}
    result = run_search(toy, 300, operators="extended", **options)
    published = run_search(toy, 300, operators="published", **options)
    assert any("D" in e.expression for e in result.evaluations)
    assert not any("D" in e.expression for e in published.evaluations)
    assert result.loss is not None and result.loss <= toy.mean("W * X ** 0.2 * D ** 0.7") + 0.001


def test_the_power_laws_end_when_the_finest_step_finds_nothing_better() -> None:
    result = run_search(ToyFitness(), 5000, strategy="powerlaw", noise_margin=float("inf"))
    assert len(GRID) // 2 < len(result.evaluations) < 1000


def test_a_power_laws_search_resumes_as_if_it_had_not_been_cut_short(tmp_path: Path) -> None:
    whole = run_search(ToyFitness(), 60, strategy="powerlaw")
    run_search(ToyFitness(), 41, tmp_path / "journal.log", strategy="powerlaw")
    rest = run_search(ToyFitness(), 60, tmp_path / "journal.log", strategy="powerlaw")
    assert [e.expression for e in rest.evaluations] == [e.expression for e in whole.evaluations]


def test_exponents_stay_non_negative() -> None:
    assert len(neighbours((0.5, 0.5), 0.25)) == 8
    assert sorted(neighbours((0.0, 0.0), 0.25)) == [(0.0, 0.25), (0.25, 0.0), (0.25, 0.25)]
    assert len(neighbours((0.5, 0.5, 0.5), 0.25)) == 26


@pytest.mark.parametrize("operators", ["published", "extended"])
def test_seeded_with_the_catalog_a_search_measures_what_its_operators_can_write(
    operators: str,
) -> None:
    result = run_search(ToyFitness(), 12, operators=operators, seed_metrics="catalog")
    seeds = {e.expression for e in result.evaluations if e.origin == "catalog"}
    names = {"magnitude", "wanda", "gblm", "fisher", "pruner-zero", "power-law"}
    if operators == "extended":
        names = {*CATALOG}
    assert seeds == {str(canonical(CATALOG[name].expression, "row")) for name in names}


def test_what_a_search_begins_with_is_neither_a_finalist_nor_its_result() -> None:
    """Though it be the best: it was known before."""
    few = run_search(ToyFitness("W * sqrt(X)"), 8, seed_metrics="catalog")
    best = min(few.evaluations, key=lambda e: e.loss or 9)
    assert (best.origin, best.state, few.expression) == ("catalog", "complete", None)
    result = run_search(ToyFitness("W * sqrt(X)"), 30, seed_metrics="catalog")
    seeds = {e.expression for e in result.evaluations if e.origin == "catalog"}
    assert result.finalists and not seeds & {f.expression for f in result.finalists}
    assert result.expression not in seeds


def test_a_search_begins_with_what_it_is_given_which_is_not_what_it_evolved() -> None:
    given = ("G * W", "W * sqrt(X)")
    result = run_search(ToyFitness("W * sqrt(X) * G"), 30, begin_with=given)
    assert [e.expression for e in result.evaluations[:2]] == [*given]
    assert [e.origin for e in result.evaluations[:3]] == ["given", "given", "random"]
    assert result.expression not in given
    assert not {*given} & {f.expression for f in result.finalists}


def test_what_is_given_comes_before_the_catalog_and_counts_once() -> None:
    result = run_search(ToyFitness(), 12, begin_with=("G * W",), seed_metrics="catalog")
    assert result.evaluations[0].origin == "given"
    assert [e.expression for e in result.evaluations].count("G * W") == 1


def test_ria_can_be_written_with_the_extended_operators() -> None:
    primitives = PrimitiveSet.of("extended")
    known = {*primitives.terminals, *primitives.unary, *primitives.binary}
    assert {node.name for _, node in CATALOG["ria"].expression.subtrees()} <= known


@pytest.mark.parametrize(
    "wrong", [{"strategy": "annealing"}, {"seed_metrics": "all"}, {"screened": 0}]
)
def test_unknown_strategies_and_seeds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SearchSettings(**wrong)  # type: ignore[arg-type]
