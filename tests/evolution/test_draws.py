"""Workers that choose their draws from different views never go beyond a budget."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution.draws import Draws


@given(st.sets(st.integers(0, 30)))
def test_what_was_added_is_in_it_and_the_lowest_others_are_free(measured):
    draws = Draws()
    for draw in measured:
        draws.add(draw)
    assert [draw for draw in range(40) if draw in draws] == sorted(measured)
    free = [draw for draw in range(40) if draw not in measured]
    assert draws.free([], 5, None) == free[:5]
    assert draws.free(free[:2], 5, None) == free[2:7]


@given(st.sets(st.integers(0, 30)), st.integers(0, 40), st.integers(1, 4), st.randoms())
def test_a_budget_holds_for_workers_that_have_not_heard_of_each_other(
    measured: set[int], limit: int, workers: int, rng: Random
):
    """Each chooses by what was begun when it last looked, which may be any time ago."""
    draws = Draws()
    for draw in measured:
        draws.add(draw)
    begun: list[int] = []
    for _ in range(60):
        heard_of = begun[: rng.randint(0, len(begun))]
        if free := draws.free(heard_of, 8 * workers, limit):
            chosen = rng.choice(free)
            if chosen not in begun:  # else its beginning is refused
                begun.append(chosen)
    assert len(measured) + len(begun) <= max(limit, len(measured))
    if limit >= len(measured):
        left = draws.free(begun, 100, limit)
        assert len(measured) + len(begun) + len(left) == limit
