"""Which weights of a whole model have the lowest scores, exactly.

Scores of all layers compete, so a threshold has to be found before the first layer can be pruned.
It is found in two counts, of the upper and then of the lower half of the scores' bits, so that
scores need not be kept: a model of any size takes no more memory than its largest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from prunerzero.metrics import Expression
from prunerzero.metrics.mask import nan_error
from prunerzero.pruning.statistics import Statistics

KEPT = 1 << 28
"""Scores that are kept for the second count and for the masks, 1 GB; more are computed anew."""

_HALF = 1 << 16


def lowest_of_all(
    weights: Mapping[str, Tensor],
    statistics: Statistics,
    expression: Expression,
    ratio: float,
) -> Iterator[tuple[str, Tensor]]:
    """The mask [out, in] of each layer, True where pruned, of ``int(ratio * weights)`` in all.

    Args:
        weights: dense, [out, in] of each layer that competes; read again until the last mask was
            given.
        statistics: X and G of each layer.
        expression: the metric.
        ratio: share of the weights of all layers to prune, in [0, 1).

    Equal scores are pruned in the order of layers, and in column order within one.

    Raises:
        ScoreError: the metric gives NaN on a layer; names the layer.
    """

    def keys(name: str) -> Tensor:
        """The scores as int32 in the same order."""
        known = statistics[name]
        score = expression.score(W=weights[name], X=known.X, G=known.G)
        if nans := int(torch.isnan(score).sum()):
            raise nan_error(nans, score.numel(), f"on layer {name}, ")
        bits = score.add_(0.0).view(torch.int32)  # there is one zero
        return bits ^ ((bits >> 31) & 0x7FFF_FFFF)

    total = sum(weight.numel() for weight in weights.values())
    if total <= KEPT:
        keys = cache(keys)
    threshold, ties = _threshold(keys, weights, int(total * ratio))
    for name in weights:
        found = keys(name)
        mask, tied = found < threshold, found == threshold
        if count := int(tied.sum()):
            if count > ties:
                tied &= tied.flatten().cumsum(0).reshape(tied.shape) <= ties
            mask |= tied
            ties -= min(ties, count)
        yield name, mask


def _threshold(
    keys: Callable[[str], Tensor], names: Collection[str], count: int
) -> tuple[int, int]:
    """The key of rank ``count``, and how many of those that equal it are to be pruned."""
    if count == 0:
        return -(1 << 31), 0
    high, below = _bin_of(count, ((keys(name) >> 16) + _HALF // 2 for name in names))
    prefix = high - _HALF // 2

    def lower_half(found: Tensor) -> Tensor:
        return found[(found >> 16) == prefix] & (_HALF - 1)

    low, below_low = _bin_of(count - below, (lower_half(keys(name)) for name in names))
    return prefix * _HALF + low, count - below - below_low


def _bin_of(count: int, parts: Iterable[Tensor]) -> tuple[int, int]:
    """The value of rank ``count`` (from 1) among numbers 0 … 65535, and how many are lower."""
    histogram = torch.zeros(_HALF, dtype=torch.int64)
    for values in parts:
        histogram += torch.bincount(values.flatten(), minlength=_HALF).cpu()
    upto = histogram.cumsum(0)
    place = int(torch.searchsorted(upto, count))
    return place, int(upto[place] - histogram[place])
