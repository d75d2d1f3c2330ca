"""Guessing what a metric is worth from what it prunes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunerzero.evolution.records import Candidate, Individual
from prunerzero.evolution.surrogate import FEWEST, MEMORY, Surrogate
from prunerzero.metrics import Expression

generator = np.random.default_rng(0)
IMPORTANT = generator.random(4096) < 0.5


def mask(quality: float) -> NDArray[np.uint8]:
    """A mask that agrees with the planted one on that share of weights."""
    agrees = generator.random(4096) < quality
    return np.packbits(np.where(agrees, IMPORTANT, ~IMPORTANT))


def measured(number: int, loss: float) -> Individual:
    return Individual(number, Candidate(Expression("W"), "", "random"), "complete", (loss,), 0.0)


def trained(count: int = 60) -> Surrogate:
    surrogate = Surrogate()
    for number in range(count):
        quality = 0.5 + 0.4 * number / count
        surrogate.add(measured(number, 5 - quality), mask(quality))
    return surrogate


def test_the_mask_nearest_to_good_ones_is_chosen() -> None:
    surrogate = trained()
    for _ in range(10):
        assert surrogate.choose([mask(0.6), mask(0.5), mask(0.95), mask(0.7)]) == 2


def test_while_too_little_is_known_the_first_is_chosen() -> None:
    assert trained(FEWEST - 1).choose([mask(0.5), mask(0.95)]) == 0


def test_what_nearly_was_measured_is_not_measured_again() -> None:
    surrogate = trained()
    best = mask(0.99)
    surrogate.add(measured(99, 1.0), best)
    nearly = best.copy()
    nearly[0] ^= 1
    assert surrogate.choose([best, nearly, mask(0.5)]) == 2
    assert surrogate.choose([best, nearly]) == 1


def test_memory_keeps_the_best() -> None:
    surrogate = trained(MEMORY)
    for number in range(20):
        surrogate.add(measured(1000 + number, 9.0), mask(0.1))
    assert len(surrogate) == MEMORY
    assert surrogate.choose([mask(0.6), mask(0.95)]) == 1
