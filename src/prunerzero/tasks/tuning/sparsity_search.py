"""The highest sparsity within a limit, by few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

STEPS = 200
"""Sparsities are multiples of 1/200: half a percent."""

_SLOPE = 12.0
"""By how much the logarithm of the rise grows from sparsity 0 to 1, as measured on two models."""


def highest_within(
    rise: Callable[[int], float], limit: float, *, first: int, low: int = 0, high: int = STEPS
) -> int:
    """The highest step found with ``rise(step) <= limit``, the next one being above the limit.

    The logarithm of the rise is nearly linear in the sparsity, so the crossing is interpolated, in
    a bracket that shrinks at each measurement and is halved where interpolation creeps.

    Args:
        rise: measures a step, and is assumed to grow with it.
        limit: the rise allowed, at least 0.
        first: the step to try first.
        low, high: the bracket: ``low`` is taken to be within and ``high`` not to be, unmeasured.

    Returns:
        ``low`` where no step above it is within.
    """
    measured: dict[int, float] = {}
    step, moved_last, in_succession = first, None, 0
    while high - low > 1:
        step = min(max(step, low + 1), high - 1)
        measured[step] = rise(step)
        is_within = measured[step] <= limit
        low, high = (step, high) if is_within else (low, step)
        in_succession = in_succession + 1 if is_within is moved_last else 1
        moved_last = is_within
        step = (low + high) // 2 if in_succession > 2 else _crossing(measured, low, high, limit)
    return low


def _crossing(measured: Mapping[int, float], low: int, high: int, limit: float) -> int:
    """The step below which the logarithm of the rise should meet that of the limit."""
    ends = [(step, _log(measured[step])) for step in (low, high) if step in measured]
    slope = _SLOPE / STEPS
    if len(ends) == 2:
        slope = max(slope / 10, (ends[1][1] - ends[0][1]) / (ends[1][0] - ends[0][0]))
    step, height = ends[0]
    return math.floor(step + (_log(limit) - height) / slope)


def _log(rise: float) -> float:
    return math.log(min(max(rise, 1e-4), 1e6))
