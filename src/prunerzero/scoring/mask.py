"""Score + sparsity → mask: which weights of one layer are pruned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from prunerzero.metrics.errors import ScoreError, SparsityError
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.cpu import lowest_inputs, prune_rows
from prunerzero.scoring.threads import in_blocks


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
        raise ScoreError("a score must be a torch tensor [out, in].")
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


def lowest(rows: Tensor, counts: Tensor) -> Tensor:
    """Which are the lowest of each row, as many as its count [rows] says: bool as ``rows``.

    Equal values are taken in column order.
    """
    if rows.device.type == "cpu" and len(counts) and bool((counts == counts[0]).all()):
        count, width = int(counts[0]), rows.shape[1]
        if count >= width:
            return torch.ones_like(rows, dtype=torch.bool)
        return prune_mask(rows, Sparsity(ratio=(count + 0.5) / width))
    last = counts[:, None].clamp(min=1) - 1
    threshold = _sorted(rows).gather(1, last)
    found = (rows <= threshold).logical_and_(counts[:, None] > 0)
    if bool((found.sum(1) != counts).any()):  # values tie at a threshold
        found = (rows < threshold).logical_and_(counts[:, None] > 0)
        tied = (rows == threshold) & (counts[:, None] > 0)
        found |= tied & (tied.cumsum(1) <= (counts - found.sum(1))[:, None])
    return found


def _sorted(rows: Tensor) -> Tensor:
    """Each row in ascending order; numpy sorts several times faster than torch on a CPU."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values


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
