"""The usual way to prune, from its published descriptions, to compare with.

Scores of the whole matrix, operator by operator; a full stable sort and a scatter for a share of
each row; a loop over runs of M columns for N:M (Wanda, Sun et al., ICLR 2024, and the published
Pruner-Zero); one window at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunerzero.metrics import Expression, Sparsity


def mask(
    expression: Expression, sparsity: Sparsity, W: Tensor, X: Tensor | None, G: Tensor | None
) -> Tensor:
    """The mask [out, in] of one layer."""
    return select(expression.score(W=W, X=X, G=G), sparsity)


def select(score: Tensor, sparsity: Sparsity) -> Tensor:
    pruned = torch.zeros_like(score, dtype=torch.bool)
    if sparsity.of is None:
        order = torch.sort(score, dim=-1, stable=True)[1]
        lowest = order[:, : int(score.shape[1] * sparsity.fraction)]
        return pruned.scatter_(1, lowest, True)
    assert sparsity.keep is not None
    for start in range(0, score.shape[1], sparsity.of):
        run = score[:, start : start + sparsity.of]
        lowest = torch.topk(run, sparsity.of - sparsity.keep, dim=1, largest=False)[1]
        pruned.scatter_(1, start + lowest, True)
    return pruned
