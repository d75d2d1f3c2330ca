"""The highest sparsity is found exactly, in few measurements."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.tasks.tuning.sparsity_search import STEPS, highest_within

RISES = st.lists(st.floats(0, 5), min_size=STEPS + 1, max_size=STEPS + 1).map(sorted)


class Counted:
    def __init__(self, rise):
        self.rise, self.asked = rise, []

    def __call__(self, step: int) -> float:
        assert step not in self.asked, "nothing is measured twice"
        self.asked.append(step)
        return self.rise(step)


@given(RISES, st.floats(0, 5), st.integers(-10, 300), st.integers(0, 50), st.integers(60, STEPS))
def test_it_is_the_last_step_within_the_limit(rises, limit, first, low, high):
    asked = Counted(lambda step: rises[step])
    found = highest_within(asked, limit, first=first, low=low, high=high)
    expected = [step for step in range(low + 1, high) if rises[step] <= limit]
    assert found == (expected[-1] if expected else low)
    assert len(asked.asked) <= 3 * math.ceil(math.log2(high - low)) + 3


@given(st.floats(6, 20), st.floats(-8, -3), st.floats(0.005, 1))
def test_an_exponential_rise_takes_few_measurements(slope, start, limit):
    asked = Counted(lambda step: math.exp(start + slope * step / STEPS))
    found = highest_within(asked, limit, first=60)
    crossing = math.floor((math.log(limit) - start) / slope * STEPS)
    assert abs(found - min(max(crossing, 0), STEPS - 1)) <= 1
    assert len(asked.asked) <= 9


def test_noise_below_zero_does_not_mislead_it():
    asked = Counted(lambda step: -0.01 if step < 40 else math.exp(12 * (step - 100) / STEPS))
    assert highest_within(asked, 0.05, first=30) == 50


def test_nothing_is_measured_where_there_is_nothing_between():
    assert highest_within(Counted(lambda step: 0.0), 1.0, first=5, low=4, high=5) == 4
