from __future__ import annotations

import pytest

from prunerzero.evolution.racing import Race, rungs
from prunerzero.evolution.records import Candidate, Individual, State
from prunerzero.metrics import Expression

DIFFICULTY = [3.0, 4.0, 2.0, 3.5]


def finished(*noise: float, better: float = 0.0, state: State = "complete") -> Individual:
    losses = tuple(d + n - better for d, n in zip(DIFFICULTY, noise, strict=True))
    return Individual(0, Candidate(Expression("W"), "key", "random"), state, losses, 0.0)


def race_with_noise(places: int = 1) -> Race:
    race = Race(4, first=1, factor=2, margin=2, places=places)
    race.add(finished(0, 0, 0, 0, better=0.1))
    for sign in (1, -1, 1, -1):
        race.add(finished(0.01 * sign, -0.01 * sign, 0.01 * sign, -0.01 * sign))
    return race


@pytest.mark.parametrize(
    ("chunks", "first", "factor", "expected"),
    [
        (16, 1, 3, (1, 3, 9)),
        (8, 1, 2, (1, 2, 4)),
        (4, 2, 2, (2,)),
        (1, 1, 2, ()),
        (5, 1, 1, (1, 2, 3, 4)),
        (8, 1, 1.5, (1, 2, 3, 4, 7)),
    ],
)
def test_rungs_are_geometric_and_below_the_last_chunk(
    chunks: int, first: int, factor: float, expected: tuple[int, ...]
) -> None:
    assert rungs(chunks, first, factor) == expected


def test_nothing_is_raced_out_before_the_noise_is_known() -> None:
    race = Race(4, first=1, factor=2, margin=2, places=1)
    assert not race.is_hopeless([99.0])
    race.add(finished(0, 0, 0, 0))
    assert not race.is_hopeless([99.0])


def test_a_candidate_far_behind_the_best_is_raced_out_at_the_first_rung() -> None:
    assert race_with_noise().is_hopeless([3.2])


def test_a_candidate_within_the_noise_goes_on() -> None:
    assert not race_with_noise().is_hopeless([2.91])


def test_hard_chunks_count_against_nobody_because_differences_are_paired() -> None:
    race = race_with_noise()
    assert not race.is_hopeless([2.9])
    assert not race.is_hopeless([2.9, 3.9])
    assert race.is_hopeless([2.95, 3.95])


def test_nothing_is_raced_out_between_rungs() -> None:
    assert not race_with_noise().is_hopeless([9.0, 9.0, 9.0])


def test_what_was_raced_out_is_no_yardstick() -> None:
    race = race_with_noise()
    best = race.best
    race.add(finished(0, 0, 0, 0, better=2, state="raced_out"))
    assert race.best is best


def test_a_candidate_goes_on_while_it_can_still_come_among_the_places() -> None:
    assert race_with_noise(places=1).is_hopeless([3.0])
    assert not race_with_noise(places=2).is_hopeless([3.0])
    assert race_with_noise(places=2).is_hopeless([3.2])
