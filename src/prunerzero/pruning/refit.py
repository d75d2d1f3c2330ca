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
from prunerzero.pruning.gram import size_of
from prunerzero.pruning.least_squares import Scaled, settle
from prunerzero.pruning.refine import Within, refined

Update = Literal["none", "least-squares"]
Refinement = Literal["none", "admm"]


@dataclass(frozen=True)
class Refit:
    """How masks are used.

    Attributes:
        update: what becomes of the weights that stay.
        refine: whether the weights that stay are chosen again.
        solver_steps: candidates of a search are judged after so many steps of conjugate gradients
            (``quick_refit``); None, as for every result, for as many as lower the error
            (``least_squares.settle``). With ``refine`` it is the latter in any case.
    """

    update: Update = "none"
    refine: Refinement = "none"
    solver_steps: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is done, for which Gram matrices are needed."""
        return self.update != "none" or self.refine != "none"

    @property
    def counts_solver_steps(self) -> bool:
        """Whether ``solver_steps`` makes a difference."""
        return self.update != "none" and self.refine == "none"


@dataclass(frozen=True)
class OutputChange:
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
def refit_weights(
    dense: Tensor,
    gram: Tensor,
    mask: Tensor,
    refit: Refit,
    budgets: Within,
    stored: torch.dtype | None = None,
) -> Tensor:
    """The weights of a layer that a mask and a refit make.

    Args:
        dense: dense weights [out, in].
        gram: Gram matrix [in, in] of the layer's inputs, on any device.
        mask: bool [out, in], True where pruned.
        refit: how the mask is used.
        budgets: where its budgets hold.
        stored: dtype of the checkpoint, to whose values weights are rounded, once; None for that of
            ``dense``.

    Returns:
        new weights [out, in] in the dtype of ``dense``.
    """
    gram = gram.to(dense.device)
    if not refit or not bool(gram.any()):
        return dense.masked_fill(mask, 0)
    problem = Scaled.of(dense, gram)
    values: Tensor | None = None
    if refit.refine == "admm":
        mask, values = refined(problem, mask, budgets, settle)
    if refit.update == "none":
        return dense.masked_fill(mask, 0)
    values = settle(problem, mask) if values is None else values
    found = problem.weights(values, dense.float(), mask)
    return found.to(stored or dense.dtype).to(dense.dtype)


def refit_layer(
    dense: Tensor,
    gram: Tensor,
    mask: Tensor,
    refit: Refit,
    budgets: Within,
    stored: torch.dtype | None = None,
) -> tuple[Tensor, OutputChange]:
    """What ``refit_weights`` gives, and what it changes of the layer's outputs."""
    gram = gram.to(dense.device)
    weights = refit_weights(dense, gram, mask, refit, budgets, stored)
    alone = dense.masked_fill(mask, 0)
    return weights, OutputChange(*output_errors(dense, (alone, weights), gram))


@torch.no_grad()
def refit_in_place(
    layer: Matrix,
    gram: Tensor,
    mask: Tensor,
    refit: Refit,
    sparsity: Sparsity,
    dense: Tensor | None = None,
    stored: torch.dtype | None = None,
) -> OutputChange:
    """Refit one layer of a model.

    Args:
        layer: the matrix; its weights are overwritten.
        gram, mask, refit, stored: as for ``refit_weights``.
        sparsity: what the mask was made for.
        dense: weights [out, in] that the outputs are to stay close to; None for the layer's own.
    """
    target = layer.weight if dense is None else dense
    found, error = refit_layer(target, gram, mask, refit, budgets_of(sparsity), stored)
    layer.weight.copy_(found)
    return error


def output_errors(dense: Tensor, made: Iterable[Tensor], gram: Tensor) -> list[float]:
    """‖X(W - T)ᵀ‖² / ‖XTᵀ‖² of each W from the Gram matrix of X; zero where no token came."""
    target = dense.float()
    sizes = [
        float(((rows @ gram) * rows).sum())
        for rows in (target, *(weights.float() - target for weights in made))
    ]
    return [size / sizes[0] if sizes[0] > 0 else 0.0 for size in sizes[1:]]


def memory(layers: Mapping[str, Matrix], refit: Refit) -> int:
    """Bytes that ``refit_model`` takes: Gram matrices of all layers, and ``work_memory``."""
    return sum(map(size_of, layers.values())) + work_memory(layers, refit)


def work_memory(layers: Mapping[str, Matrix], refit: Refit) -> int:
    """Bytes that the work on the largest layer takes.

    It was measured: as many fp32 tensors of the sizes [in, in] and [out, in].
    """
    squares, weights = (5, 11) if refit.refine == "admm" else (2, 9)
    shapes = (layer.weight.shape for layer in layers.values())
    work = (squares * width * width + weights * rows * width for rows, width in shapes)
    return 4 * max(work, default=0)


def refit_model(
    layers: Mapping[str, Matrix],
    masks: Iterable[tuple[str, Tensor]],
    grams: Mapping[str, Tensor],
    refit: Refit,
    sparsity: Sparsity,
    dense: Mapping[str, Tensor] | None = None,
    stored: Mapping[str, torch.dtype] | None = None,
    on_layer: Callable[[int], None] = lambda done: None,
) -> dict[str, OutputChange]:
    """Refit all layers in place, from Gram matrices that are there already.

    Args:
        layers: the matrices by full name.
        masks: name and mask [out, in] of each; a layer is written to when its mask comes.
        grams: Gram matrix of each layer's inputs.
        refit: how the masks are used.
        sparsity: what the masks were made for.
        dense: dense weights [out, in] of each; None where the model holds them.
        stored: the checkpoint's dtype of each, where the model computes in another.
        on_layer: told how many layers are done.
    """
    errors: dict[str, OutputChange] = {}
    for name, mask in masks:
        target = None if dense is None else dense[name]
        dtype = None if stored is None else stored[name]
        errors[name] = refit_in_place(
            layers[name], grams[name], mask, refit, sparsity, target, dtype
        )
        on_layer(len(errors))
    return errors
