"""Refinement: which weights stay is chosen again, with what the others can make good in mind.

A metric ranks each weight as if it were removed alone. Here as many weights as its mask keeps are
chosen for the least error of the layer's outputs, together. The alternating direction method of
multipliers (ADMM) goes between two problems that are easy: the least error of all weights, which
may not go far from a sparse matrix; and the closest sparse matrix, which keeps the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning.gram import DAMPING
from prunerzero.pruning.least_squares import Scaled, checked, solve
from prunerzero.scoring.mask import lowest

Within = Literal["row", "layer"] | int
"""Where budgets hold: in each row, in the layer, or in each so many consecutive inputs of a row."""

Solver = Callable[[Scaled, Tensor, Tensor | None], Tensor]
"""What refits a problem with a mask from scaled weights on: ``solve``, or ``settle``."""

_FIRST_PENALTY = 0.1
_STEPS_PER_PENALTY = 3
_MOST_STEPS = 60
"""More gain nothing: on SmolLM2-135M at 50 %, perplexity is 28.23 after 60 steps and after 300."""

_ROUGH = 0.01
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""The penalty's factor where at least that share of the kept weights has changed."""


def refine(
    weight: Tensor,
    gram: Tensor,
    mask: Tensor,
    within: Within = "row",
    *,
    damping: float = DAMPING,
) -> Tensor:
    """Choose again which weights stay, as many as a mask keeps.

    Rows keep their numbers by default, also those of a mask whose weights competed in the layer or
    the model: the metric knows which outputs the model's loss depends on, and the Gram matrix does
    not (SmolLM2-135M, half of the model: perplexity 28.2, and 30.9 where rows share the layer's).

    Args:
        weight: dense weights [out, in].
        gram: Gram matrix XᵀX [in, in] of the layer's inputs, on the same device.
        mask: bool [out, in], True where pruned: where the choice begins.
        within: where the mask's numbers are kept: in each ``"row"``, in the whole ``"layer"``, or,
            for a pattern N:M, in each M consecutive inputs of a row.
        damping: share of each diagonal entry of the Gram matrix that is added to it.

    Returns:
        bool [out, in], True where pruned, with as many of each budget as ``mask``. Refitted by
        ``least_squares``, it has no larger error than ``mask`` has.

    Raises:
        InputError: shapes that do not fit, what is not finite, or no Gram matrix.

    Source: ALPS (Meng et al., NeurIPS 2024, arXiv 2406.07831): ADMM on weights scaled by the norms
    of their inputs, and its schedule for the penalty.
    """
    problem = checked(weight, gram, mask, damping)
    if within not in ("row", "layer") and (isinstance(within, bool) or not isinstance(within, int)):
        raise InputError(
            f"within must be 'row', 'layer', or the M of a pattern N:M such as 4, not {within!r}."
        )
    if isinstance(within, int) and (within < 1 or weight.shape[1] % within):
        raise InputError(f"{weight.shape[1]} inputs are no multiple of within={within}.")
    return refined(problem, mask, within)[0]


@torch.no_grad()
def refined(
    problem: Scaled, mask: Tensor, within: Within, refit: Solver = solve
) -> tuple[Tensor, Tensor]:
    """The mask, chosen again, and the scaled weights [out, in] that a refit gives what it keeps.

    Where budgets are those of rows or of parts of them, a row keeps its mask unless the new one has
    a smaller error; where rows share a budget, all of them do.
    """
    found, start = _admm(problem, mask, within)
    values = refit(problem, found, start)
    errors = problem.errors(values)
    before = solve(problem, mask, tolerance=_ROUGH)  # enough to see most rows become better
    worse = errors * (1 + _ROUGH) > problem.errors(before)
    if within == "layer":
        worse = (errors.sum() * (1 + _ROUGH) > problem.errors(before).sum()).expand(len(mask))
    if not bool(worse.any()):
        return found, values
    rows = problem.rows(worse)
    before = refit(rows, mask[worse], before[worse])
    still = rows.errors(before) < errors[worse]
    if within == "layer":
        still = (rows.errors(before).sum() < errors.sum()).expand(len(before))
    places = worse.nonzero().squeeze(1)[still]
    found[places], values[places] = mask[places], before[still]
    return found, values


def _admm(problem: Scaled, mask: Tensor, within: Within) -> tuple[Tensor, Tensor]:
    """A mask, and the sparse scaled weights where the method ends."""
    sparse = problem.target.masked_fill(mask, 0)
    wanted = problem.target @ problem.matrix
    dual = torch.zeros_like(sparse)
    budgets = _Budgets(mask, within)
    penalty, inverse = _FIRST_PENALTY, _inverse(problem.matrix, _FIRST_PENALTY)
    kept = max(1, int((~mask).sum()))
    before = mask
    for step in range(1, _MOST_STEPS + 1):
        free = (wanted - dual).add_(sparse, alpha=penalty) @ inverse
        sparse = free.add(dual, alpha=1 / penalty)
        mask = budgets.lowest(sparse.abs())
        sparse = sparse.masked_fill_(mask, 0)
        dual.add_(free.sub_(sparse), alpha=penalty)
        if step % _STEPS_PER_PENALTY:
            continue
        changed = int((mask != before).sum()) / 2
        if changed == 0:
            break
        before = mask
        penalty *= next(factor for share, factor in _GROWTH if changed >= share * kept)
        inverse = _inverse(problem.matrix, penalty)
    return mask, sparse


def _inverse(matrix: Tensor, penalty: float) -> Tensor:
    """(A + penalty · I)⁻¹."""
    shifted = matrix.clone()
    shifted.diagonal().add_(penalty)
    return torch.cholesky_inverse(torch.linalg.cholesky(shifted))


class _Budgets:
    """How many weights of each row, layer or run of inputs a mask prunes."""

    def __init__(self, mask: Tensor, within: Within) -> None:
        sizes = {"row": mask.shape[1], "layer": mask.numel()}
        self._size = max(1, within if isinstance(within, int) else sizes[within])
        self._counts, self._shape = mask.reshape(-1, self._size).sum(1), mask.shape

    def lowest(self, values: Tensor) -> Tensor:
        """The mask of the lowest values, as many as there were; equal ones in their order."""
        return lowest(values.reshape(-1, self._size), self._counts).reshape(self._shape)
