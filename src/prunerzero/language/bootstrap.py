"""Confidence intervals of perplexities, by bootstrap over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

LEAST_WINDOWS = 8
"""Fewer windows give no interval: their resamples hardly differ, so the interval would come out too
narrow (that of one window has no width)."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """Perplexities of two models on the same text, over resampled windows.

    Attributes:
        dense, pruned: 95 % intervals of the perplexities.
        rise: 95 % interval of pruned / dense − 1. Both models are resampled alike, window by
            window, so what makes a window hard for both cancels out.
        ratios: pruned / dense, one value a resample.
        perplexities: of the pruned model, one value a resample.
    """

    dense: Interval
    pruned: Interval
    rise: Interval
    ratios: NDArray[np.float64]
    perplexities: NDArray[np.float64]


def paired_bootstrap(dense: Sequence[float], pruned: Sequence[float], seed: int = 0) -> Resampled:
    """Resample windows with replacement, 2,000 times, and take percentiles 2.5 and 97.5.

    Args:
        dense, pruned: mean loss (nats) of each window, in the same order; all windows have the same
            number of tokens.
        seed: of the resampling.

    Source: Efron, Bootstrap methods: another look at the jackknife (1979); percentile intervals.
    """
    losses = np.array([dense, pruned])
    count = losses.shape[1]
    chosen = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = losses[:, chosen].mean(axis=2)
    with np.errstate(over="ignore"):
        perplexities = np.exp(means)
        ratios = np.exp(means[1] - means[0])
    return Resampled(
        dense=_interval(perplexities[0]),
        pruned=_interval(perplexities[1]),
        rise=_interval(ratios - 1),
        ratios=ratios,
        perplexities=perplexities[1],
    )


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
