"""A key of a rank is found by counting, whatever the sample says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.scoring import narrowing
from prunerzero.scoring.narrowing import Found, key_of_rank

LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1
ANY_KEYS = st.lists(
    st.integers(LOWEST, HIGHEST) | st.integers(-3, 3) | st.sampled_from([LOWEST, HIGHEST]),
    max_size=40,
)


class Counting:
    """Counts keys as a device does, and how often it was asked."""

    def __init__(self, keys: Tensor, without_rank: int = 0) -> None:
        self.keys, self.without_rank, self.passes = keys, without_rank, 0

    def __call__(self, limits: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += 1
        low, high, shift = limits.tolist()
        assert low <= high and 0 <= shift < 32
        keys = self.keys.long()
        between = keys[(keys > low) & (keys < high)] - low >> shift
        sums = [(keys < low).sum(), (keys == low).sum(), (keys == high).sum(), self.without_rank]
        return torch.tensor(sums), torch.bincount(between, minlength=narrowing.BINS)


def tensor(keys: list[int]) -> Tensor:
    return torch.tensor(keys, dtype=torch.int32)


@given(ANY_KEYS.filter(len), ANY_KEYS, st.booleans(), st.sampled_from([2, 8, 1 << 10]), st.data())
def test_any_sample_leads_to_the_key_that_sorting_gives(keys, sample, related, bins, data):
    if related:
        sample = data.draw(st.lists(st.sampled_from(keys), max_size=40))
    rank = data.draw(st.integers(1, len(keys)))
    expected = sorted(keys)[rank - 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrowing, "BINS", bins)
        found = key_of_rank(rank, len(keys), tensor(sample), Counting(tensor(keys)))
    below = sum(key < expected for key in keys)
    assert found == Found(expected, below, keys.count(expected))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("ties", [False, True])
def test_a_random_sample_takes_one_pass(share, ties):
    scores = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0)).abs() + 1
    if ties:
        scores = (scores * 2).round()
    keys = scores.view(torch.int32)
    counting = Counting(keys)
    rank = int(len(keys) * share)
    found = key_of_rank(rank, len(keys), keys[::2], counting)
    assert found is not None and found.key == int(keys.sort().values[rank - 1])
    assert counting.passes == 1


def test_keys_that_are_all_equal_are_not_counted_one_by_one():
    keys = torch.full((1000,), 7, dtype=torch.int32)

    def count(limits: Tensor) -> tuple[Tensor, Tensor]:
        sums, bins = Counting(keys)(limits)
        assert not bins.any()
        return sums, bins

    assert key_of_rank(500, 1000, keys, count) == Found(7, 0, 1000)


def test_a_score_without_rank_ends_the_search():
    keys = torch.arange(10, dtype=torch.int32)
    assert key_of_rank(5, 10, keys, Counting(keys, without_rank=1)) is None
