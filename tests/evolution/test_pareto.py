"""Small against good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution.pareto import is_as_good, pareto_front, smallest_as_good
from prunerzero.evolution.records import EvaluationRecord, State


def evaluation(number: int, size: int, loss: float, state: State = "complete") -> EvaluationRecord:
    return EvaluationRecord(
        number, "W", state, loss, None, 4, 4, size, "random", (), 0.0, duplicates_skipped=0
    )


points = st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1.0, 1.5, 2.0, 3.0])), min_size=1)


@given(points)
def test_no_other_is_both_as_small_and_better_than_one_on_the_front(
    points: list[tuple[int, float]],
) -> None:
    front = pareto_front(evaluation(n, *point) for n, point in enumerate(points))
    for e in front:
        assert not any(size <= e.size and loss < (e.loss or 0) for size, loss in points)
    assert min(loss for _, loss in points) == front[-1].loss
    assert [e.size for e in front] == sorted({e.size for e in front})


def test_what_was_raced_out_is_on_no_front() -> None:
    assert pareto_front([evaluation(0, 1, 0.1, "pruned"), evaluation(1, 5, 3.0)])[0].size == 5


def test_a_difference_within_the_noise_over_chunks_is_none() -> None:
    best = [1.0, 2.0, 3.0, 4.0]
    assert is_as_good(best, best)
    assert is_as_good([1.2, 1.9, 3.1, 3.9], best)
    assert not is_as_good([1.1, 2.1, 3.1, 4.1], best)


def test_how_hard_a_chunk_is_does_not_count_as_noise() -> None:
    assert not is_as_good([0.1, 50.1, 1000.1], [0.0, 50.0, 1000.0])


def test_of_equally_good_ones_the_smallest_is_chosen_and_none_of_none() -> None:
    losses = {1: [1.0, 2.0, 3.0], 2: [1.1, 1.95, 3.0], 3: [2.0, 3.0, 4.0]}
    assert smallest_as_good(losses, {1: 9, 2: 4, 3: 1}) == 2
    assert smallest_as_good(losses, {1: 4, 2: 4, 3: 1}) == 1
    assert smallest_as_good({}, {}) is None
