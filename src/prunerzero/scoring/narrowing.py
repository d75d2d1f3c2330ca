"""The key of a given rank among more keys than are kept: guessed from a sample, proven by counts.

Keys are integers of 32 bits in the order of what they stand for. A few values of a sample hold the
key between them but for bad luck. One pass over all keys counts how many are below, at and above
these, and how often each key between them occurs. That proves the key, or that it is elsewhere;
then limits further apart are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 1 << 21
"""Counters of the keys between two limits: 16 MB, which stay in a GPU's cache. Limits that hold so
many keys are a quarter of their value apart."""

_DEVIATIONS = 10
"""How far the limits are from the rank in the sample, in standard deviations of a random one."""

_AGAIN = 8
"""Times as far, where the key was not between them."""

_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1

Count = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes (low, high, shift), int32 [3]. Gives int64 [4]: how many keys are below low, are low, are
high, and how many have no rank; and int64 [BINS]: of the keys between low and high, neither
included, how many have each value of (key - low) >> shift."""


@dataclass(frozen=True, slots=True)
class Found:
    """A key, and how many keys are below it and equal to it."""

    key: int
    below: int
    equal: int


def key_of_rank(rank: int, total: int, sample: Tensor, count: Count) -> Found | None:
    """The key that ``rank - 1`` of ``total`` others precede when all are sorted.

    Args:
        rank: from 1 to ``total``.
        total: how many keys there are.
        sample: some of the keys, int32, in any order, with none or any; nothing but the time
            depends on them.
        count: counts all keys; is called once unless the sample is unlike them.

    Returns:
        The key; None where some have no rank.
    """
    ordered = sample.sort().values
    low, high = _LOWEST, _HIGHEST  # the key is known to be in between
    share, size = rank / total, len(ordered)
    place, reach = share * size, 1 + _DEVIATIONS * math.sqrt(size * share * (1 - share))
    while True:
        limits = _limits(ordered, math.floor(place - reach), math.ceil(place + reach), low, high)
        state = _state(rank, limits, *count(limits))
        if state.without_rank:
            return None
        if isinstance(found := state.locate(rank), Found):
            return found
        low, high = max(low, found[0]), min(high, found[1])
        reach = min(reach * _AGAIN, size + 1)


@dataclass(frozen=True, slots=True)
class _State:
    """What a pass counted, and which bin the rank is in if it is between the limits."""

    low: int
    high: int
    shift: int
    below: int
    at_low: int
    at_high: int
    without_rank: int
    between: int
    bin: int
    upto_bin: int
    in_bin: int

    def locate(self, rank: int) -> Found | tuple[int, int]:
        """The key, or the lowest and highest that it can be."""
        if rank <= self.below:
            return _LOWEST, self.low - 1
        upto = self.below + self.at_low
        if rank <= upto:
            return Found(self.low, self.below, self.at_low)
        if rank <= upto + self.between:
            first = self.low + (self.bin << self.shift)
            if self.shift == 0:
                return Found(first, upto + self.upto_bin - self.in_bin, self.in_bin)
            last = first + (1 << self.shift) - 1
            return max(first, self.low + 1), min(last, self.high - 1)
        upto += self.between
        if self.low < self.high and rank <= upto + self.at_high:
            return Found(self.high, upto, self.at_high)
        return self.high + 1, _HIGHEST


def _limits(ordered: Tensor, first: int, last: int, low: int, high: int) -> Tensor:
    """The values of two ranks of the sample, within what is known, and the shift for their bins."""
    ends = torch.tensor([low, high], device=ordered.device)
    if first >= 0:
        ends[0] = ordered[first]
    if last < len(ordered):
        ends[1] = ordered[last]
    ends.clamp_(low, high)
    bits = torch.arange(BINS.bit_length() - 1, 33, device=ordered.device)
    shift = ((ends[1:] - ends[:1]) >> bits > 0).sum()
    return torch.cat((ends, shift[None])).to(torch.int32)


def _state(rank: int, limits: Tensor, sums: Tensor, bins: Tensor) -> _State:
    """Everything in one answer, for which the device is waited for once."""
    upto = bins.cumsum(0)
    wanted = (rank - sums[0:1] - sums[1:2]).clamp_(min=1)
    place = torch.searchsorted(upto, wanted).clamp_(max=len(bins) - 1)
    parts = (limits, sums, upto[-1:], place, upto.gather(0, place), bins.gather(0, place))
    return _State(*torch.cat(parts).tolist())
