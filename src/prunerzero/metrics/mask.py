"""Score + sparsity → mask: which weights of one layer are pruned."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from prunerzero.metrics.errors import ScoreError, SparsityError
from prunerzero.metrics.thresholds import kth_lowest

Group = Literal["row", "layer", "model"]
"""Within what scores compete: an output row, a layer, or all prunable layers of the model."""

_WORTH_THREADS = 1 << 16
"""Scores of which the selection takes much longer than handing it to a thread."""


@dataclass(frozen=True)
class Sparsity:
    """How much is pruned, and among which weights.

    >>> Sparsity.parse("0.5"), str(Sparsity.parse("2:4")), Sparsity.parse("2:4").fraction
    (Sparsity(ratio=0.5, keep=None, of=None, group='row'), '2:4', 0.5)

    Attributes:
        ratio: share of weights to prune in each group, in [0, 1); None for N:M.
        keep, of: N and M of an N:M pattern: N of each M consecutive inputs of a row are *kept*.
        group: within what scores compete (ratio only).
    """

    ratio: float | None = None
    keep: int | None = None
    of: int | None = None
    group: Group = "row"

    def __post_init__(self) -> None:
        if self.group not in get_args(Group):
            raise SparsityError(
                f"scores compete within a 'row', a 'layer' or the 'model', not {self.group!r}."
            )
        if (self.ratio is None) == (self.of is None) or (self.keep is None) != (self.of is None):
            raise SparsityError("a sparsity is either a ratio or a pattern N:M.")
        if self.ratio is not None:
            if not 0 <= self.ratio < 1:
                raise SparsityError(f"sparsity {self.ratio} must be at least 0 and below 1.")
        elif self.keep is not None and self.of is not None:
            if not 0 < self.keep < self.of:
                raise SparsityError(
                    f"sparsity {self} must keep at least 1 weight of each {self.of}, but not all; "
                    "write for example 2:4."
                )
            if self.group != "row":
                raise SparsityError(f"sparsity {self} compares weights within runs of a row only.")

    @classmethod
    def parse(cls, text: str | float, group: Group = "row") -> Sparsity:
        """Read ``"0.5"``, ``"50%"`` or ``"2:4"``.

        Raises:
            SparsityError: not readable, a ratio outside [0, 1), or N not in 1 … M - 1.
        """
        text = str(text).strip()
        if pattern := re.fullmatch(r"([0-9]{1,4})\s*:\s*([0-9]{1,4})", text):
            return cls(keep=int(pattern[1]), of=int(pattern[2]), group=group)
        try:
            ratio = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            raise SparsityError(
                f"sparsity {text!r} is neither a share such as 0.5 nor a pattern such as 2:4."
            ) from None
        return cls(ratio=ratio + 0.0, group=group)

    def __str__(self) -> str:
        """``"0.5"`` or ``"2:4"``; with ``parse`` it reads back (the group is apart)."""
        if self.ratio is None:
            return f"{self.keep}:{self.of}"
        return repr(self.ratio).removesuffix(".0")

    @property
    def in_words(self) -> str:
        """``"0.5 per row"``, ``"0.5 of the model"``, ``"2:4"``."""
        within = {"row": " per row", "layer": " per layer", "model": " of the model"}
        return f"{self}{within[self.group] if self.of is None else ''}"

    @property
    def fraction(self) -> float:
        """The share of weights that is pruned, before rounding to whole weights in a row."""
        if self.ratio is not None:
            return self.ratio
        assert self.keep is not None and self.of is not None
        return 1 - self.keep / self.of

    def check(self, width: int, name: str = "the layer") -> None:
        """Raise SparsityError where rows of ``width`` inputs cannot be pruned so."""
        if self.of is not None and width % self.of:
            raise SparsityError(
                f"sparsity {self} needs a number of inputs that is a multiple of {self.of}, "
                f"but {name} has {width}."
            )


def prune_mask(score: Tensor, sparsity: Sparsity) -> Tensor:
    """Which weights to prune: those with the lowest scores.

    Args:
        score: [out, in]. Infinite scores rank as such.
        sparsity: with a ratio, ``int(in * ratio)`` weights of each row are pruned
            (``int(out * in * ratio)`` of the matrix with group "layer", and with "model", which
            takes it for the whole model); with N:M, N of each M consecutive inputs are kept. Equal
            scores are pruned in column order.

    Returns:
        bool [out, in] on the score's device, True where pruned.

    Raises:
        ScoreError: the score is no matrix or holds NaN, which has no rank.
        SparsityError: the number of inputs is no multiple of M.
    """
    return prune_mask_on(torch.get_num_threads(), score, sparsity)


def prune_mask_on(threads: int, score: Tensor, sparsity: Sparsity) -> Tensor:
    """``prune_mask`` that on a CPU selects with so many threads."""
    if score.dim() != 2:
        raise ScoreError(f"a score must be a matrix [out, in], not of shape {list(score.shape)}.")
    score = score.detach()
    if score.device.type == "cpu" and score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()  # numpy, which does the work there, has no bfloat16
    if nans := _count_nan(score):
        raise nan_error(nans, score.numel())
    sparsity.check(score.shape[1])
    if sparsity.keep is not None and sparsity.of is not None:
        return _prune_pattern(score, sparsity.of - sparsity.keep, sparsity.of, threads)
    assert sparsity.ratio is not None
    rows = score if sparsity.group == "row" else score.reshape(1, -1)
    count = int(rows.shape[1] * sparsity.ratio)
    return _prune_lowest(rows, count, threads).reshape(score.shape)


def nan_error(count: int, total: int, where: str = "") -> ScoreError:
    """The refusal of scores that cannot be ranked."""
    return ScoreError(f"{where}{count} of {total} scores are NaN and have no rank.")


def _count_nan(score: Tensor) -> int:
    if score.device.type == "cpu":
        return int(np.count_nonzero(np.isnan(score.numpy())))
    return int(torch.isnan(score).sum())


def _prune_lowest(rows: Tensor, count: int, threads: int) -> Tensor:
    """The ``count`` lowest of each row, ties in column order."""
    if count == 0 or rows.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    if rows.device.type == "cpu":  # numpy selects and compares several times faster than torch
        array = rows.numpy()
        threshold = torch.from_numpy(_kth_lowest(array, count - 1, threads))
        lowest = array <= threshold.numpy()
        total, pruned = int(np.count_nonzero(lowest)), torch.from_numpy(lowest)
    else:
        threshold = rows.kthvalue(count, dim=1, keepdim=True).values
        pruned = rows <= threshold
        total = int(pruned.count_nonzero())
    if total > count * rows.shape[0]:  # scores tie at a threshold
        tied = (pruned.sum(1) > count).nonzero().squeeze(1)
        pruned[tied] = _prune_tied(rows[tied], threshold[tied], count)
    return pruned


def _kth_lowest(rows: Any, k: int, threads: int) -> Any:
    """[rows, 1]; numpy itself uses one core."""

    def select(some: Any) -> Any:
        return kth_lowest(some, k)

    threads = min(threads, len(rows))
    if threads == 1 or rows.size < _WORTH_THREADS:
        return select(rows)
    return np.concatenate([*_pool(threads).map(select, np.array_split(rows, threads))])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "selection")


def _prune_tied(rows: Tensor, threshold: Tensor, count: int) -> Tensor:
    below = rows < threshold
    tied = rows == threshold
    missing = count - below.sum(1, keepdim=True)
    return below | (tied & (tied.cumsum(1) <= missing))


def _prune_pattern(score: Tensor, prune: int, of: int, threads: int) -> Tensor:
    """The ``prune`` lowest of each ``of`` consecutive inputs, ranked pair by pair."""
    if of > 8:  # the pairs are too many
        return _prune_lowest(score.reshape(-1, of), prune, threads).reshape(score.shape)
    pruned: Tensor
    if score.device.type == "cpu":  # numpy transposes and compares several times faster than torch
        inputs = np.ascontiguousarray(score.numpy().reshape(-1, of).T)
        lowest = _lowest_inputs(inputs, np.zeros(inputs.shape, np.int8), prune)
        pruned = torch.from_numpy(np.ascontiguousarray(lowest.T))
    else:
        places = score.reshape(-1, of).t().contiguous()
        pruned = _lowest_inputs(places, torch.zeros_like(places, dtype=torch.int8), prune).t()
    return pruned.reshape(score.shape)


def _lowest_inputs(inputs: Any, rank: Any, prune: int) -> Any:
    """Which of inputs [of, runs] are among the ``prune`` lowest of their run; ``rank`` is zeros."""
    for i, j in combinations(range(len(inputs)), 2):
        first_is_lower = inputs[i] <= inputs[j]
        rank[j] += first_is_lower
        rank[i] += ~first_is_lower
    return rank < prune
