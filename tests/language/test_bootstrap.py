import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.language.bootstrap import paired_bootstrap

LOSSES = st.lists(st.floats(0, 8), min_size=1, max_size=30)


@given(LOSSES, st.floats(-1, 1))
def test_what_every_window_shares_is_certain(losses, shift):
    """The rise alone: how hard windows are differs, but not what pruning does to them."""
    found = paired_bootstrap(losses, [loss + shift for loss in losses])
    assert found.rise == (pytest.approx(np.exp(shift) - 1), pytest.approx(np.exp(shift) - 1))


@given(LOSSES)
def test_intervals_hold_the_estimate_and_are_in_order(losses):
    found = paired_bootstrap(losses, losses[::-1])
    low, high = found.dense
    assert low <= high
    assert low <= np.exp(np.mean(losses)) * (1 + 1e-9)
    assert high >= np.exp(np.mean(losses)) * (1 - 1e-9) or len(losses) < 5


def test_the_interval_is_that_of_the_normal_distribution_for_many_windows():
    losses = np.random.default_rng(1).normal(3, 0.5, 400)
    low, high = np.log(paired_bootstrap(losses, losses).dense)
    half = 1.96 * losses.std() / 20
    assert low == pytest.approx(losses.mean() - half, abs=half / 10)
    assert high == pytest.approx(losses.mean() + half, abs=half / 10)


def test_equal_seeds_give_equal_intervals():
    a, b = [1.0, 2.0, 4.0], [1.5, 2.0, 4.5]
    assert paired_bootstrap(a, b).rise == paired_bootstrap(a, b).rise
