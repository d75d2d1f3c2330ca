"""Cases that are read by turns: the losses and errors of cases that are read together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_fitness import HALF, SMALL, ToyFitness

from prunerzero.evolution import ByTurns, Case, SearchSettings, SearchStudy, Several, search
from prunerzero.metrics import Expression

W = Expression.parse("W")
TOTAL, RACE = 20, 12
RUNGS = (1, 2, 4, 8, 12)


class Tape:
    """A fitness with these losses, some of which are errors, that notes what is read of it."""

    def __init__(self, place: int, losses: Sequence[Any], seen: list[str]) -> None:
        self.chunks, self.total_chunks = RACE, len(losses)
        self._place, self._losses, self._seen = place, losses, seen

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for chunk in range(start, self.total_chunks if stop is None else stop):
            self._seen.append(f"{'abcd'[self._place]}{chunk}")
            if isinstance(self._losses[chunk], str):
                raise ValueError(f"{self._losses[chunk]} in {self._place}, chunk {chunk}")
            yield self._losses[chunk]


def outcome(fitness: Several, start: int, stop: int) -> tuple[list[float], str]:
    """The losses, and the error after them."""
    losses = []
    try:
        for loss in fitness.losses(W, start, stop):
            losses.append(loss)
    except (ArithmeticError, ValueError) as error:
        return losses, repr(error)
    return losses, ""


loss = st.one_of(
    st.floats(0.1, 20), st.floats(0.1, 20), st.sampled_from([math.nan, math.inf, "failed"])
)


@given(
    rows=st.lists(st.lists(loss, min_size=TOTAL, max_size=TOTAL), min_size=1, max_size=4),
    ranges=st.lists(st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)), max_size=4),
)
def test_the_losses_and_the_first_error_are_those_of_cases_that_are_read_together(rows, ranges):
    several, by_turns = (
        kind([Case(Tape(i, row, []), [i / 7] * TOTAL) for i, row in enumerate(rows)])
        for kind in (Several, ByTurns)
    )
    assert (by_turns.chunks, by_turns.total_chunks) == (several.chunks, several.total_chunks)
    for start, stop in [(0, RACE), (RACE, TOTAL), *map(sorted, ranges), (0, TOTAL)]:
        if start < stop:
            assert outcome(by_turns, start, stop) == outcome(several, start, stop)


@pytest.mark.parametrize("stops", RUNGS)
def test_a_race_that_stops_at_a_rung_has_read_what_it_reads_of_cases_together(stops):
    together, by_turns = [], []
    for kind, seen in ((Several, together), (ByTurns, by_turns)):
        fitness = kind([Case(Tape(i, [1.0] * TOTAL, seen), [0.0] * TOTAL) for i in range(3)])
        reading = fitness.losses(W, 0, RACE)
        assert list(islice(reading, stops)) == [1.0] * stops
        reading.close()
    assert sorted(by_turns) == sorted(together) and len(together) == 3 * stops


def test_what_was_read_last_is_read_first_after_a_rung_and_by_the_next_candidate():
    seen: list[str] = []
    fitness = ByTurns([Case(Tape(i, [1.0] * 4, seen), [0.0] * 4) for i in range(2)])
    list(fitness.losses(W, 0, 4))
    assert seen == ["a0", "b0", "b1", "a1", "a2", "a3", "b2", "b3"]
    seen.clear()
    list(islice(fitness.losses(W, 0, 4), 1))
    assert seen == ["b0", "a0"]


def run(kind: type[Several], toys: list[Any], evaluations: int, storage: Path | None = None) -> Any:
    fitness = kind([Case(toy, toy.difficulty) for toy in toys])
    with SearchStudy.open(storage or optuna.storages.InMemoryStorage()) as study:
        return search(
            fitness,
            study=study,
            settings=SearchSettings(evaluations=evaluations, **SMALL),
            probes=toys[0].probes,
            sparsity=HALF,
            also=[(toy.probes, HALF) for toy in toys[1:]],
        )


class Fussy(ToyFitness):
    """Gives NaN in the fourth chunk for what reads G."""

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for chunk, loss in enumerate(super().losses(expression, start, stop), start):
            yield math.nan if chunk == 3 and "G" in expression.terminals else loss


def told(result: Any) -> list[tuple[Any, ...]]:
    return [(e.expression, e.state, e.loss, e.chunks_read) for e in result.evaluations]


def test_a_search_takes_the_same_decisions(tmp_path):
    """Also where it is resumed in the other way."""

    def toys() -> list[ToyFitness]:
        return [ToyFitness(), Fussy("W * X"), ToyFitness("W * G")]

    first, second = toys(), toys()
    together, by_turns = run(Several, first, 60), run(ByTurns, second, 60)
    assert told(by_turns) == told(together)
    assert {e.state for e in together.evaluations} == {"complete", "failed", "raced_out"}
    assert by_turns.finalists == together.finalists
    run(Several, toys(), 25, tmp_path / "journal.log")
    assert told(run(ByTurns, toys(), 60, tmp_path / "journal.log")) == told(together)
