"""One metric for several cases: the fitness of each, as one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_fitness import HALF, SMALL, ToyFitness

from prunerzero.evolution import Case, SearchSettings, SearchStudy, Several, search
from prunerzero.metrics import Expression, Sparsity
from prunerzero.scoring.ranking import Probe, rank, rank_on, synthetic_probe

W = Expression.parse("W")


class Tape:
    """A fitness with these losses, which notes what is read, and when reading begins and ends."""

    def __init__(self, losses: list[float], chunks: int, name: str, seen: list[str]) -> None:
        self._losses, self.chunks, self.total_chunks = losses, chunks, len(losses)
        self._name, self._seen = name, seen

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        try:
            for chunk in range(start, self.total_chunks if stop is None else stop):
                self._seen.append(f"{self._name}{chunk}")
                yield self._losses[chunk]
        finally:
            self._seen.append(f"{self._name} restored")


losses = st.lists(st.floats(0.1, 20), min_size=1, max_size=8)


@st.composite
def cases(draw: st.DrawFn) -> list[tuple[list[float], list[float], int]]:
    """Losses, dense losses and chunks of the race of one to four cases."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        pruned = draw(losses)
        dense = draw(st.lists(st.floats(0.1, 20), min_size=len(pruned), max_size=len(pruned)))
        found.append((pruned, dense, draw(st.integers(1, len(pruned)))))
    return found


@given(cases())
def test_its_mean_is_the_mean_over_cases_of_the_logarithm_of_perplexity_over_dense(given_cases):
    several = Several([Case(Tape(p, c, "", []), d) for p, d, c in given_cases])
    count = min(len(pruned) for pruned, _, _ in given_cases)
    assert several.total_chunks == count
    assert several.chunks == min(chunks for _, _, chunks in given_cases)
    expected = fmean(
        math.log(math.exp(fmean(pruned[:count])) / math.exp(fmean(dense[:count])))
        for pruned, dense, _ in given_cases
    )
    assert fmean(several.losses(W)) == pytest.approx(expected, abs=1e-9)


@given(cases(), st.data())
def test_where_reading_starts_and_stops_changes_no_loss(given_cases, data):
    several = Several([Case(Tape(p, c, "", []), d) for p, d, c in given_cases])
    whole = list(several.losses(W))
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert list(several.losses(W, start, stop)) == whole[start:stop]


def test_a_chunk_is_read_of_every_case_before_the_next_of_any():
    seen: list[str] = []
    tapes = [Tape([1.0, 2.0, 3.0], 3, name, seen) for name in "abc"]
    several = Several([Case(tape, [0.0] * 3) for tape in tapes])
    reading = several.losses(W)
    next(reading)
    assert seen == ["a0", "b0", "c0"]
    next(reading)
    assert seen[3:] == ["a1", "b1", "c1"]
    reading.close()
    assert sorted(seen[6:]) == ["a restored", "b restored", "c restored"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_cannot_be_measured_on_one_case_cannot_be_measured(bad):
    seen: list[str] = []
    tapes = [Tape([1.0, 1.0], 2, "a", seen), Tape([1.0, bad], 2, "b", seen)]
    several = Several([Case(tape, [0.0, 0.0]) for tape in tapes])
    reading = several.losses(W)
    assert next(reading) == 1.0
    with pytest.raises(ArithmeticError):
        next(reading)
    assert sorted(seen[-2:]) == ["a restored", "b restored"]


class Fussy(ToyFitness):
    """Gives NaN for what reads G, as a model with an infinite gradient does."""

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for loss in super().losses(expression, start, stop):
            yield math.nan if "G" in expression.terminals else loss


def run(toys: list[ToyFitness], evaluations: int, storage: Path | None = None):
    several = Several([Case(toy, toy.difficulty) for toy in toys])
    first, *others = toys
    with SearchStudy.open(storage or optuna.storages.InMemoryStorage()) as study:
        return search(
            several,
            study=study,
            settings=SearchSettings(evaluations=evaluations, **SMALL),
            probes=first.probes,
            sparsity=HALF,
            also=[(toy.probes, HALF) for toy in others],
        )


def test_a_metric_that_is_nan_on_one_case_fails_as_a_candidate_and_the_search_goes_on():
    result = run([ToyFitness(), Fussy("W * X")], 60)
    assert result.failed and result.expression is not None
    for e in result.evaluations:
        assert (e.state == "failed") == ("G" in Expression.parse(e.expression).terminals)
    assert "G" not in Expression.parse(result.expression).terminals


def test_a_race_stops_after_the_same_chunks_of_every_case():
    toys = [ToyFitness(), ToyFitness("W * X")]
    result = run(toys, 60)
    assert result.raced_out
    assert toys[0].read == toys[1].read < 60 * toys[0].chunks + 20 * toys[0].total_chunks


def test_what_wins_is_a_compromise_between_the_cases():
    """Each case alone has another best; together the sum of what both lose is least."""
    wanted = ["W * X", "W * G"]
    result = run([ToyFitness(planted) for planted in wanted], 150)
    assert result.expression is not None and result.loss is not None
    toys = [ToyFitness(planted) for planted in wanted]

    def rise(formula: str) -> float:
        return fmean(toy.mean(formula) - fmean(toy.difficulty) for toy in toys)

    assert result.loss == pytest.approx(rise(result.expression))
    assert result.loss < min(map(rise, wanted))


def test_a_resumed_search_goes_on_as_if_it_had_not_stopped(tmp_path):
    toys = [ToyFitness(), ToyFitness("W * X")]
    whole = run(toys, 50)
    run(toys, 30, tmp_path / "journal.log")
    resumed = run(toys, 50, tmp_path / "journal.log")
    assert [e.expression for e in resumed.evaluations] == [e.expression for e in whole.evaluations]


TWO_FOUR = Sparsity.parse("2:4")


def test_metrics_rank_alike_only_where_they_do_in_every_case():
    def same(a: str, b: str, *samples: tuple[list[Probe], Sparsity]) -> bool:
        keys = {rank_on(Expression.parse(text), samples).key for text in (a, b)}
        return len(keys) == 1

    one, other = synthetic_probe(), synthetic_probe(1)
    no_inputs = Probe(one.W, torch.ones_like(one.X), one.G, one.D)
    assert same("W", "W * X", ([no_inputs], HALF))
    assert not same("W", "W * X", ([no_inputs], HALF), ([other], HALF))
    assert same("W * X", "sqr(W * X)", ([no_inputs], HALF), ([other], TWO_FOUR))


def test_with_one_case_a_ranking_is_what_it_always_was():
    expression, probes = Expression.parse("W * sqrt(X)"), [synthetic_probe()]
    alone, ranked = rank(expression, probes, HALF), rank_on(expression, [(probes, HALF)])
    assert ranked.key == alone.key and (ranked.pruned == alone.pruned).all()
