"""What is done with a mask: which weights stay may be chosen again, and those that stay refitted.

A metric ranks; its masks set budgets. Two further choices are made of them, each of which may be
left out: ``refine`` chooses again within the budgets, ``update`` refits the weights that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from prunerzero.metrics.sparsity import Sparsity
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.least_squares import Scaled, solve
from prunerzero.pruning.refine import Within, refined

Update = Literal["none", "least-squares"]
Refinement = Literal["none", "admm"]


@dataclass(frozen=True)
class Refit:
    """How masks are used.

    Attributes:
        update: what becomes of the weights that stay.
        refine: whether the weights that stay are chosen again.
    """

    update: Update = "none"
    refine: Refinement = "none"

    def __bool__(self) -> bool:
        """Whether anything is done, for which Gram matrices are needed."""
        return self.update != "none" or self.refine != "none"


@dataclass(frozen=True)
class OutputError:
    """The share of a layer's outputs that pruning changes: ‖X(W - T)ᵀ‖² / ‖XTᵀ‖².

    Attributes:
        mask: with the metric's mask alone.
        refitted: with the weights as they are in the end.
    """

    mask: float
    refitted: float


def sparsity_at(sparsity: Sparsity, step: int, steps: int) -> Sparsity:
    """What step ``step`` (from 1) of so many prunes: shares of a ratio, or of each M of N:M.

    >>> str(sparsity_at(Sparsity.parse("0.6"), 1, 2)), str(sparsity_at(Sparsity.parse("2:4"), 1, 2))
    ('0.3', '3:4')
    """
    if sparsity.of is None:
        return replace(sparsity, ratio=sparsity.fraction * step / steps)
    assert sparsity.keep is not None
    pruned = -(-(sparsity.of - sparsity.keep) * step // steps)
    return replace(sparsity, keep=sparsity.of - pruned)


def budgets_of(sparsity: Sparsity) -> Within:
    """Where a refinement keeps the numbers of masks of that sparsity."""
    return "row" if sparsity.of is None else sparsity.of


@torch.no_grad()
def refit_layer(
    dense: Tensor,
    gram: Tensor,
    mask: Tensor,
    refit: Refit,
    budgets: Within,
    stored: torch.dtype | None = None,
) -> tuple[Tensor, OutputError]:
    """The weights of a layer, and what they change of its outputs.

    Args:
        dense: dense weights [out, in].
        gram: Gram matrix [in, in] of the layer's inputs.
        mask: bool [out, in], True where pruned.
        refit: how the mask is used.
        budgets: where its budgets hold.
        stored: dtype of the checkpoint, to whose values weights are rounded, once; None for that of
            ``dense``.

    Returns:
        weights [out, in] in the dtype of ``dense``.
    """
    alone = dense.masked_fill(mask, 0)
    weights = alone
    if refit and bool(gram.any()):
        problem = Scaled.of(dense, gram)
        values: Tensor | None = None
        if refit.refine == "admm":
            mask, values = refined(problem, mask, budgets)
        if refit.update == "least-squares":
            values = solve(problem, mask) if values is None else values
            found = problem.weights(values, dense.float(), mask)
            weights = found.to(stored or dense.dtype).to(dense.dtype)
        else:
            weights = dense.masked_fill(mask, 0)
    return weights, OutputError(
        output_error(dense, alone, gram), output_error(dense, weights, gram)
    )


def output_error(dense: Tensor, weights: Tensor, gram: Tensor) -> float:
    """‖X(W - T)ᵀ‖² / ‖XTᵀ‖² from the Gram matrix of X; zero where no token came."""
    moved, target = weights.float() - dense.float(), dense.float()
    whole = ((target @ gram) * target).sum()
    return float(((moved @ gram) * moved).sum() / whole) if whole > 0 else 0.0


def memory(layers: Mapping[str, Matrix], refit: Refit) -> int:
    """Bytes that ``refit_model`` takes: Gram matrices of all layers, and the work on the largest.

    The work was measured: as many fp32 tensors of the sizes [in, in] and [out, in].
    """
    squares, weights = (5, 11) if refit.refine == "admm" else (2, 9)
    shapes = [layer.weight.shape for layer in layers.values()]
    work = (squares * width * width + weights * rows * width for rows, width in shapes)
    return 4 * (sum(width * width for _, width in shapes) + max(work, default=0))


def refit_model(
    layers: Mapping[str, Matrix],
    masks: Iterable[tuple[str, Tensor]],
    grams: Mapping[str, Tensor],
    refit: Refit,
    sparsity: Sparsity,
    dense: Mapping[str, Tensor] | None = None,
    stored: Mapping[str, torch.dtype] | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> dict[str, OutputError]:
    """Refit all layers in place, from Gram matrices that are there already.

    Args:
        layers: the matrices by full name.
        masks: name and mask [out, in] of each; a layer is written to when its mask comes.
        grams: Gram matrix of each layer's inputs.
        refit: how the masks are used.
        sparsity: what the masks were made for.
        dense: dense weights [out, in] of each; None where the model holds them.
        stored: the checkpoint's dtype of each, where the model computes in another.
        on_layer: called after each layer.
    """
    errors = {}
    for name, mask in masks:
        weight = layers[name].weight
        target = weight.clone() if dense is None else dense[name]
        found, errors[name] = refit_layer(
            target,
            grams[name],
            mask,
            refit,
            budgets_of(sparsity),
            None if stored is None else stored[name],
        )
        weight.copy_(found)
        on_layer()
    return errors
