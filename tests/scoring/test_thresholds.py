"""The k-th lowest of each row is exact, whatever the values are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero.scoring.thresholds import kth_lowest

pytestmark = pytest.mark.filterwarnings("error")

WIDTHS = [7, 1023, 1536, 4100]


def normal(random, shape):
    return random.standard_normal(shape)


def skewed(random, shape):
    return np.exp(8 * random.standard_normal(shape))


def tied(random, shape):
    return random.integers(-3, 4, shape)


def with_infinities(random, shape):
    values = random.standard_normal(shape)
    values[random.random(shape) < 0.4] = np.inf
    values[random.random(shape) < 0.3] = -np.inf
    return values


def in_order(random, shape):
    return np.sort(random.standard_normal(shape), axis=1)


def huge(random, shape):
    return 3e38 * random.uniform(-1, 1, shape)


KINDS = [normal, skewed, tied, with_infinities, in_order, huge]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.sampled_from(WIDTHS),
    share=st.sampled_from([0, 0.01, 0.3, 0.5, 0.7, 0.99, 1]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_it_is_what_sorting_gives(make, seed, width, share, dtype):
    rows = make(np.random.default_rng(seed), (6, width)).astype(dtype)
    before = rows.copy()
    k = int(share * (width - 1))
    assert np.array_equal(kth_lowest(rows, k), np.sort(rows, axis=1)[:, k : k + 1])
    assert np.array_equal(rows, before)
