"""The k-th lowest value of each row on a CPU, exactly, by the faster of two ways.

numpy's selection is vectorised for some processors, where it takes half a nanosecond a value, and
takes ten on others, or six. There long rows are counted instead: a sample of each row brackets the
value, counts tell how many values lie up to the bracket's ends, further counts narrow it, and only
what is left in it is sorted. The counts prove each bracket: rows that the sample misled, or whose
values tie too often, go to the selection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

_INTEGERS = {np.dtype(np.float32): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.int64)}

_LONG = 1024
"""Values from which on a row is sampled: one in ``_STRIDE``."""

_STRIDE = 16

_DEVIATIONS = 4.0
"""Half the width of the first bracket, in standard deviations of the sample's quantile."""

_ASIDE = 0.2
"""How far from where the value is expected the sample's bracket is cut, as a share of it …"""

_NARROWER = 0.1
"""… and then, interpolated, the narrower one."""

_FEW = 8
"""A bracket with more than one in so many of the row's values is not worth sorting."""


def kth_lowest(rows: Any, k: int, spare: Any = None) -> Any:
    """[rows, values] → [rows, 1]: the value of rank ``k``, from 0. There must be no NaN.

    ``spare``, of the shape and type of ``rows``, may be overwritten.
    """
    if rows.shape[1] < _LONG or _selection_is_fast():
        return by_selection(rows, k, spare)
    with long_loops():
        return by_counting(rows, k)


@contextmanager
def long_loops() -> Iterator[None]:
    """Inside, numpy compares a matrix with a column row by row.

    With its usual buffers it spreads the column over them first, which takes longer.
    """
    before = np.setbufsize(512)
    try:
        yield
    finally:
        np.setbufsize(before)


@cache
def _selection_is_fast() -> bool:
    """Whether numpy's selection suits this processor: tried once, in a few milliseconds."""
    rows = np.random.default_rng(0).standard_normal((16, 4096), np.float32)

    def seconds(way: Callable[[Any, int], Any]) -> float:
        start = time.perf_counter()
        way(rows, 2048)
        return time.perf_counter() - start

    with long_loops():  # in turns and often, as other threads may be at work
        taken = [(seconds(by_selection), seconds(by_counting)) for _ in range(10)]
    return min(selection for selection, _ in taken) < min(counting for _, counting in taken)


def by_selection(rows: Any, k: int, spare: Any = None) -> Any:
    """``kth_lowest`` by numpy's selection, of integers, which takes half the time of floats'."""
    if spare is None:
        spare = np.empty(rows.shape, rows.dtype)
    integer = _INTEGERS.get(rows.dtype)
    if integer is None:
        np.copyto(spare, rows)
        spare.partition(k, axis=1)
        return spare[:, k : k + 1].copy()
    bits, order = rows.view(integer), spare.view(integer)
    if negative := rows.min() < 0:
        _ordered(bits, order)
    else:  # the bits are in the order of the values
        np.copyto(order, bits)
    order.partition(k, axis=1)
    found = order[:, k : k + 1].copy()
    return (_ordered(found, np.empty_like(found)) if negative else found).view(rows.dtype)


def _ordered(bits: Any, out: Any) -> Any:
    """Integers in the order of the values that have these bits, and back again."""
    np.right_shift(bits, 8 * bits.itemsize - 1, out=out)
    out &= np.iinfo(bits.dtype).max
    out ^= bits
    return out


def by_counting(rows: Any, k: int) -> Any:
    """``kth_lowest`` of rows that are long enough for a sample."""
    sample = _bracket(rows, k)
    # of the values, so many are at most low, and high; the one of rank k is above low
    low, high = sample[:, :1], sample[:, -1:]
    upto_low, upto_high = _count(rows <= low), _count(rows <= high)
    missed = (upto_low > k) | (upto_high <= k)
    place = (k - upto_low) / np.maximum(upto_high - upto_low, 1)
    for step in range(4):
        if step < 2:
            guess = _at(sample, place + (_ASIDE if step else -_ASIDE))
        else:
            place = (k - upto_low) / np.maximum(upto_high - upto_low, 1)
            guess = _between(low, high, place + (_NARROWER if step == 3 else -_NARROWER))
        guess = np.fmax(np.fmin(guess, high), low)
        upto_guess = _count(rows <= guess)
        is_low = upto_guess <= k
        low, upto_low = np.where(is_low, guess, low), np.where(is_low, upto_guess, upto_low)
        high, upto_high = np.where(is_low, high, guess), np.where(is_low, upto_high, upto_guess)
    left = upto_high - upto_low
    missed |= left > rows.shape[1] // _FEW
    left[missed] = 0
    is_left = (rows > low) & (rows <= high)
    is_left[missed[:, 0]] = False
    # what fills up the shorter rows is above all that is left in them
    sorted_left = np.full((len(rows), max(1, int(left.max()))), high.max(), rows.dtype)
    filled = np.arange(sorted_left.shape[1]) < left
    sorted_left[filled] = rows.reshape(-1).compress(is_left.reshape(-1))
    sorted_left.sort(axis=1)
    found = np.take_along_axis(sorted_left, np.where(missed, 0, k - upto_low), axis=1)
    if missed.any():
        found[missed] = np.partition(rows[missed[:, 0]], k, axis=1)[:, k]
    return found


def _bracket(rows: Any, k: int) -> Any:
    """Sampled values of each row, in order, between which the one of rank ``k`` most likely is."""
    sample = np.sort(rows[:, ::_STRIDE], axis=1)
    size = sample.shape[1]
    share = (k + 0.5) / rows.shape[1]
    aside = _DEVIATIONS * math.sqrt(size * share * (1 - share)) + 1
    return sample[:, max(0, int(size * share - aside)) : math.ceil(size * share + aside) + 1]


def _at(sample: Any, place: Any) -> Any:
    """The sample's value at that place of the way."""
    last = sample.shape[1] - 1
    return np.take_along_axis(sample, np.clip((last * place).astype(np.int64), 0, last), axis=1)


def _between(low: Any, high: Any, place: Any) -> Any:
    """The value at that place of the way, which is no number where an end is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (low + (high - low) * place).astype(low.dtype)


def _count(mask: Any) -> Any:
    """How many are true in each row, [rows, 1]."""
    return np.bitwise_count(np.packbits(mask, axis=1)).sum(1, dtype=np.int64, keepdims=True)
