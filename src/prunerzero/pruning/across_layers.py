"""Masks where the scores of all layers of a model compete with each other.

The threshold must be known before the first layer is pruned. Two histograms give it, of the upper
and then of the lower half of the scores' bits. So scores need not be kept, and a model of any size
takes little more memory than its largest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from prunerzero.scoring.mask import nan_error

KEPT = 1 << 28
"""Up to this number (1 GB), scores are kept from one step to the next; more are computed anew."""

TOGETHER = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Scores of several layers that are processed together: 1 MB, which fits in a CPU's cache; 256 MB,
so that a CPU seldom waits for a GPU."""

_HALF = 1 << 16

Scorer = Callable[[Sequence[str], Sequence[Tensor]], None]
"""Takes names of layers and a tensor [out, in] in fp32 for each; writes the scores to them."""


def lowest_of_all(
    weights: Mapping[str, Tensor], write_scores: Scorer, ratio: float
) -> Iterator[tuple[str, Tensor]]:
    """The mask [out, in] of each layer, True where pruned, of ``int(ratio * weights)`` in all.

    Args:
        weights: [out, in] of each layer.
        write_scores: computes the scores; may be called until the last mask is yielded.
        ratio: share of the weights of all layers to prune, in [0, 1).

    Equal scores are pruned in the order of layers, and in column order within one.

    Raises:
        ScoreError: a score is NaN; names the layer.
    """

    def keys(part: tuple[str, ...]) -> Tensor:
        """The scores of some layers, concatenated, as int32 that compare as the scores do."""
        size = sum(weights[name].numel() for name in part)
        scores = torch.empty(size, device=weights[part[0]].device)
        of_layers = split(scores, part)
        write_scores(part, of_layers)
        if scores.isnan().any():
            for name, score in zip(part, of_layers, strict=True):
                if nans := int(score.isnan().sum()):
                    raise nan_error(nans, score.numel(), f"on layer {name}, ")
        bits = scores.add_(0.0).view(torch.int32)  # -0.0 becomes 0.0
        return bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFF_FFFF))

    def split(flat: Tensor, part: tuple[str, ...]) -> list[Tensor]:
        shapes = [weights[name].shape for name in part]
        of_layers = flat.split([shape.numel() for shape in shapes])
        return [one.view(shape) for one, shape in zip(of_layers, shapes, strict=True)]

    parts = _parts(weights)
    total = sum(weight.numel() for weight in weights.values())
    if total <= KEPT:
        keys = cache(keys)
    threshold, ties = _threshold(keys, parts, int(total * ratio))
    for part in parts:
        scores = keys(part)
        mask = scores <= threshold
        tied = (scores == threshold).nonzero().squeeze(1)
        mask[tied[ties:]] = False
        ties -= min(ties, len(tied))
        yield from zip(part, split(mask, part), strict=True)


def _parts(weights: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """The layers in order, in parts that are on one device and have at most ``TOGETHER`` scores."""
    parts: list[list[str]] = []
    room, device = 0, None
    for name, weight in weights.items():
        if weight.device != device or weight.numel() > room:
            parts.append([])
            room, device = TOGETHER.get(weight.device.type, 0), weight.device
        parts[-1].append(name)
        room -= weight.numel()
    return [tuple(part) for part in parts]


def _threshold(
    keys: Callable[[tuple[str, ...]], Tensor], parts: Sequence[tuple[str, ...]], count: int
) -> tuple[int, int]:
    """The key of rank ``count``, and how many of the keys equal to it are pruned."""
    if count == 0:
        return -(1 << 31), 0
    high, below = _bin_of(count, ((keys(part) >> 16).add_(_HALF // 2) for part in parts))
    prefix = high - _HALF // 2

    def lower_half(scores: Tensor) -> Tensor:
        return scores[(scores >> 16) == prefix] & (_HALF - 1)

    low, below_low = _bin_of(count - below, (lower_half(keys(part)) for part in parts))
    return prefix * _HALF + low, count - below - below_low


def _bin_of(count: int, parts: Iterator[Tensor]) -> tuple[int, int]:
    """The number of rank ``count`` (from 1) among numbers 0 … 65535, and how many are lower."""
    histogram = torch.zeros(_HALF, dtype=torch.int64)
    for values in parts:
        histogram += torch.bincount(values, minlength=_HALF).cpu()
    upto = histogram.cumsum(0)
    place = int(torch.searchsorted(upto, count))
    return place, int(upto[place] - histogram[place])
