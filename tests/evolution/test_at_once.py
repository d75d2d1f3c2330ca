"""Cases that devices of their own read: the losses and errors of cases that are read in turn."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st
from toy_fitness import HALF, SMALL, ToyFitness

from prunerzero.evolution import AtOnce, Placed, SearchSettings, SearchStudy, Several, search
from prunerzero.metrics import Expression

W = Expression.parse("W")
TOTAL, RACE = 12, 8


class Tape:
    """A fitness with these losses, some of which are errors, that notes what is begun and read."""

    def __init__(self, name: str, losses: Sequence[Any], seen: list[str]) -> None:
        self.chunks, self.total_chunks = RACE, len(losses)
        self._name, self._losses, self._seen = name, losses, seen

    def begun(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[Callable[[], float]]:
        try:
            for chunk in range(start, self.total_chunks if stop is None else stop):
                if isinstance(self._losses[chunk], str):
                    raise ValueError(f"{self._losses[chunk]} of {self._name}, chunk {chunk}")
                self._seen.append(f"begin {self._name}{chunk}")
                yield lambda chunk=chunk: self._read(chunk)
        finally:
            self._seen.append(f"restore {self._name}")

    def _read(self, chunk: int) -> float:
        self._seen.append(f"wait {self._name}{chunk}")
        return self._losses[chunk]

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for loss in self.begun(expression, start, stop):
            yield loss()


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
    st.floats(0.1, 20), st.floats(0.1, 20), st.sampled_from([math.nan, math.inf, "failure"])
)


@given(
    rows=st.lists(
        st.tuples(st.lists(loss, min_size=TOTAL, max_size=TOTAL), st.sampled_from("123")),
        min_size=1,
        max_size=4,
    ),
    ranges=st.lists(st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)), max_size=4),
)
def test_the_losses_and_the_first_error_are_those_of_cases_that_are_read_in_turn(rows, ranges):
    seen: list[str] = []
    cases = [
        Placed(Tape("abcd"[i], row, seen), [i / 7] * TOTAL, device)
        for i, (row, device) in enumerate(rows)
    ]
    several, at_once = Several(cases), AtOnce(cases)
    assert (at_once.chunks, at_once.total_chunks) == (several.chunks, several.total_chunks)
    for start, stop in [(0, RACE), (RACE, TOTAL), *map(sorted, ranges), (0, TOTAL)]:
        if start < stop:
            assert outcome(at_once, start, stop) == outcome(several, start, stop)


def test_a_chunk_is_begun_on_every_device_before_it_is_waited_for_and_the_next_is_not():
    seen: list[str] = []
    tapes = [Tape(name, [1.0] * TOTAL, seen) for name in "abcd"]
    devices = ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    fitness = AtOnce([Placed(t, [0.0] * TOTAL, d) for t, d in zip(tapes, devices, strict=True)])
    reading = fitness.losses(W, 0, RACE)
    assert list(islice(reading, 1)) == [1.0]
    assert seen == [f"begin {c}0" for c in "acbd"] + [f"wait {c}0" for c in "abcd"]
    seen.clear()
    assert list(islice(reading, 1)) == [1.0]
    assert seen == [f"begin {c}1" for c in "acbd"] + [f"wait {c}1" for c in "abcd"]
    seen.clear()
    reading.close()
    assert sorted(seen) == [f"restore {c}" for c in "abcd"]


def test_what_cannot_be_begun_on_one_device_leaves_none_pruned_and_keeps_nothing():
    """An error's frames may hold memory of a device, so they must not wait for the collector."""

    class Held:
        pass

    class Full(Tape):
        def begun(self, *_: Any) -> Iterator[Callable[[], float]]:
            held = Held()
            alive.append(weakref.ref(held))
            raise ValueError("the device's memory does not suffice")
            yield

    seen: list[str] = []
    alive: list[weakref.ref[Held]] = []
    tapes = [Tape("a", [1.0] * TOTAL, seen), *(Full(n, [1.0] * TOTAL, seen) for n in "bc")]
    fitness = AtOnce([Placed(tape, [0.0] * TOTAL, f"cuda:{i}") for i, tape in enumerate(tapes)])
    gc.disable()
    try:
        assert outcome(fitness, 0, RACE)[1].startswith("ValueError")
        assert len(alive) == 2 and all(one() is None for one in alive)
    finally:
        gc.enable()
    assert seen == ["begin a0", "wait a0", "restore a"]


class Toy(ToyFitness):
    """Gives NaN in the fourth chunk for what reads G, if it is fussy."""

    def __init__(self, planted: str, fussy: bool = False) -> None:
        super().__init__(planted)
        self._fussy = fussy

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for chunk, loss in enumerate(super().losses(expression, start, stop), start):
            fails = self._fussy and chunk == 3 and "G" in expression.terminals
            yield math.nan if fails else loss

    def begun(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[Callable[[], float]]:
        for loss in self.losses(expression, start, stop):
            yield lambda loss=loss: loss


def test_a_search_takes_the_same_decisions():
    def run(kind: type[Several]) -> Any:
        toys = [Toy("W * X"), Toy("W * X", fussy=True), Toy("W * G")]
        cases = [Placed(toy, toy.difficulty, f"cuda:{i}") for i, toy in enumerate(toys)]
        with SearchStudy.open(optuna.storages.InMemoryStorage()) as study:
            return search(
                kind(cases),
                study=study,
                settings=SearchSettings(evaluations=60, **SMALL),
                probes=toys[0].probes,
                sparsity=HALF,
                also=[(toy.probes, HALF) for toy in toys[1:]],
            )

    def told(result: Any) -> list[tuple[Any, ...]]:
        return [(e.expression, e.state, e.loss, e.chunks_read) for e in result.evaluations]

    in_turn, at_once = run(Several), run(AtOnce)
    assert told(at_once) == told(in_turn) and at_once.finalists == in_turn.finalists
    assert {e.state for e in in_turn.evaluations} == {"complete", "failed", "raced_out"}
