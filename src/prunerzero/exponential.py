"""Perplexity from a loss, for rooms that do not know each other."""

import math


def exp(loss: float) -> float:
    """exp, with infinity in place of an overflow."""
    return math.exp(loss) if loss < 700 else math.inf
