"""Score + sparsity → mask: which weights of one layer are pruned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from prunerzero.metrics.cpu import lowest_inputs, prune_rows
from prunerzero.metrics.errors import ScoreError, SparsityError
from prunerzero.metrics.threads import in_blocks

Group = Literal["row", "layer", "model"]
"""Within what scores compete: an output row, a layer, or all prunable layers of the model."""


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
        if not isinstance(self.group, str) or self.group not in get_args(Group):
            given = repr(self.group) if isinstance(self.group, str) else type(self.group).__name__
            raise SparsityError(
                f"scores compete within a 'row', a 'layer' or the 'model', not {given}."
            )
        if (self.ratio is None) == (self.of is None) or (self.keep is None) != (self.of is None):
            raise SparsityError("a sparsity is either a ratio or a pattern N:M.")
        for name in ("ratio", "keep", "of"):
            kinds = (int, float) if name == "ratio" else (int,)
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise SparsityError(f"{name} must be a number, not a {type(value).__name__}.")
        if self.ratio is not None:
            if not 0 <= self.ratio < 1:
                percent = 1 < self.ratio < 100 and self.ratio == int(self.ratio)
                hint = f"; did you mean {self.ratio:g}%?" if percent else "."
                raise SparsityError(f"sparsity {self.ratio} must be at least 0 and below 1{hint}")
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
    if not isinstance(score, Tensor):
        raise ScoreError(f"a score must be a tensor [out, in], not a {type(score).__name__}.")
    if not isinstance(sparsity, Sparsity):
        raise SparsityError("a mask needs a Sparsity, such as Sparsity.parse('2:4').")
    if score.dim() != 2:
        raise ScoreError(f"a score must be a matrix [out, in], not of shape {list(score.shape)}.")
    sparsity.check(score.shape[1])
    score = score.detach()
    if score.device.type == "cpu":
        return _prune_on_cpu(score, sparsity)
    if nans := int(torch.isnan(score).sum()):
        raise nan_error(nans, score.numel())
    return _prune_by_torch(score, sparsity)


def nan_error(count: int, total: int, where: str = "") -> ScoreError:
    """The refusal of scores that cannot be ranked."""
    return ScoreError(f"{where}{count} of {total} scores are NaN and have no rank.")


def _prune_on_cpu(score: Tensor, sparsity: Sparsity) -> Tensor:
    if score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()  # numpy has no bfloat16
    rows = score if sparsity.group == "row" else score.reshape(1, -1)
    values, mask = rows.numpy(), torch.empty(rows.shape, dtype=torch.bool)
    pruned = mask.numpy()
    nans: list[int] = []

    def prune(blocks: Iterator[slice]) -> None:
        for block in blocks:
            nans.append(prune_rows(values[block], sparsity, pruned[block]))

    in_blocks(prune, *rows.shape)
    if any(nans):
        raise nan_error(sum(nans), score.numel())
    return mask.reshape(score.shape)


def _prune_by_torch(score: Tensor, sparsity: Sparsity) -> Tensor:
    if sparsity.keep is not None and sparsity.of is not None:
        return _prune_pattern(score, sparsity.of - sparsity.keep, sparsity.of)
    rows = score if sparsity.group == "row" else score.reshape(1, -1)
    return _prune_lowest(rows, int(rows.shape[1] * sparsity.fraction)).reshape(score.shape)


def _prune_lowest(rows: Tensor, count: int) -> Tensor:
    """The ``count`` lowest of each row, ties in column order."""
    if count == 0 or rows.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    threshold = rows.kthvalue(count, dim=1, keepdim=True).values
    pruned = rows <= threshold
    if int(pruned.count_nonzero()) > count * rows.shape[0]:  # scores tie at a threshold
        tied = (pruned.sum(1) > count).nonzero().squeeze(1)
        pruned[tied] = _prune_tied(rows[tied], threshold[tied], count)
    return pruned


def _prune_tied(rows: Tensor, threshold: Tensor, count: int) -> Tensor:
    below = rows < threshold
    tied = rows == threshold
    missing = count - below.sum(1, keepdim=True)
    return below | (tied & (tied.cumsum(1) <= missing))


def _prune_pattern(score: Tensor, prune: int, of: int) -> Tensor:
    """The ``prune`` lowest of each ``of`` consecutive inputs, ranked pair by pair."""
    if of > 8:  # the pairs are too many
        return _prune_lowest(score.reshape(-1, of), prune).reshape(score.shape)
    inputs = score.reshape(-1, of).t().contiguous()
    pruned: Tensor = lowest_inputs(inputs, torch.zeros_like(inputs, dtype=torch.int8), prune).t()
    return pruned.reshape(score.shape)
