"""Scores → mask on a CPU, by numpy, which selects and compares several times faster than torch."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.thresholds import kth_lowest, long_loops

_WORDS = {2: "<u2", 4: "<u4", 8: "<u8"}
"""What holds a byte for each input of a run, the first in the lowest."""


def prune_rows(score: Any, sparsity: Sparsity, out: Any, spare: Any = None) -> int:
    """Write to ``out`` which scores of some rows are pruned, unless some are NaN.

    Args:
        score: [rows, in] of any float type but float16.
        sparsity: as for ``prune_mask``, scores competing within a row.
        out: bool [rows, in] in row-major order.
        spare: of the shape and type of ``score``, in row-major order; may be overwritten.

    Returns:
        How many scores are NaN.
    """
    if score.size == 0:
        return 0
    if np.isnan(score.min()):
        return int(np.count_nonzero(np.isnan(score)))
    if spare is None:
        spare = np.empty(score.shape, score.dtype)
    if sparsity.of is None:
        _prune_lowest(score, int(score.shape[1] * sparsity.fraction), out, spare)
        return 0
    assert sparsity.keep is not None
    prune, of = sparsity.of - sparsity.keep, sparsity.of
    if of in _WORDS:
        _prune_bytes(score, prune, of, out, spare)
    elif of < 8:
        inputs = np.ascontiguousarray(score.reshape(-1, of).T)
        rank = np.zeros(inputs.shape, np.int8)
        out.reshape(-1, of)[:] = lowest_inputs(inputs, rank, prune).T
    else:  # the pairs are too many
        runs = (array.reshape(-1, of) for array in (score, out, spare))
        _prune_lowest(next(runs), prune, *runs)
    return 0


def _prune_lowest(rows: Any, count: int, out: Any, spare: Any) -> None:
    """The ``count`` lowest of each row, ties in column order."""
    if count == 0:
        out[:] = False
        return
    threshold = kth_lowest(rows, count - 1, spare)
    with long_loops():
        np.less_equal(rows, threshold, out=out)
    if np.count_nonzero(out) > count * len(rows):  # scores tie at a threshold
        tied = np.flatnonzero(out.sum(1) > count)
        rows, threshold = rows[tied], threshold[tied]
        below, equal = rows < threshold, rows == threshold
        missing = count - below.sum(1, keepdims=True)
        out[tied] = below | (equal & (equal.cumsum(1) <= missing))


def _prune_bytes(score: Any, prune: int, of: int, out: Any, spare: Any) -> None:
    """The ``prune`` lowest of each run of ``of`` inputs, whose ranks are the bytes of a word.

    Each score is compared with the one some places on in the whole block; a word's bytes of pairs
    within a run then add to the rank of the later input, and take from that of the earlier one.
    """
    word, size = _WORDS[of], score.size
    flat, memory = score.reshape(-1), spare.reshape(-1).view(np.uint8)
    lower, rank = memory[:size], memory[size : 2 * size].view(word)
    rank[:] = sum((of - 1 - place) << 8 * place for place in range(of))
    for apart in range(1, of):
        np.less_equal(flat[:-apart], flat[apart:], out=lower[:-apart].view(np.bool_))
        pairs = lower.view(word)
        pairs &= sum(1 << 8 * place for place in range(of - apart))
        pairs *= (1 << 8 * apart) - 1
        rank += pairs
    np.less(rank.view(np.uint8), prune, out=out.reshape(-1))


def write_kept(weights: Any, pruned: Any, out: Any, spare: Any = None) -> None:
    """Write weights, taken as integers, with zeros where they are pruned; ``out`` may be theirs.

    A branch for each weight, as torch.where has, would be mispredicted half the time.
    """
    kept = np.subtract(pruned.view(np.int8), 1, out=spare, dtype=weights.dtype)  # all bits or none
    np.bitwise_and(weights, kept, out=out)


def lowest_inputs(inputs: Any, rank: Any, prune: int) -> Any:
    """Which of inputs [of, runs] are among the ``prune`` lowest of their run; ``rank`` is zeros."""
    for i, j in combinations(range(len(inputs)), 2):
        first_is_lower = inputs[i] <= inputs[j]
        rank[j] += first_is_lower
        rank[i] += ~first_is_lower
    return rank < prune
