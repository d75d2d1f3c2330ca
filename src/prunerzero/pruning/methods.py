"""Published methods that choose and change the weights of a layer together.

A metric ranks weights, and those that stay keep their values. These methods do more: they go by the
Gram matrix H = XᵀX of what the layer reads, and change the weights that stay so that its outputs
change least. They stand beside metrics to show what that is worth. As published, each prunes every
layer by the same share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.metrics import Sparsity
from prunerzero.pruning.least_squares import Scaled
from prunerzero.pruning.refine import refined
from prunerzero.scoring.mask import prune_mask

Solution = Callable[[Tensor, Tensor, Sparsity], Tensor]
"""Dense weights [out, in], Gram matrix [in, in], sparsity → weights [out, in]."""


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: as users name it.
        solve: what it makes of a layer.
        source: who published it, and where.
    """

    name: str
    solve: Solution
    source: str


@torch.no_grad()
def sparsegpt(
    weight: Tensor, gram: Tensor, sparsity: Sparsity, *, damping: float = 0.01, block: int = 128
) -> Tensor:
    """Prune the inputs from left to right; those on the right make good what goes.

    When a weight is set to zero, the weights to its right in its row change by what Optimal Brain
    Surgeon gives for it where all weights on its left are fixed. The Cholesky factor of H⁻¹ holds
    all that is needed for this, for all rows at once.

    >>> inputs = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.1]])  # two inputs almost equal
    >>> weight = torch.tensor([[0.5, 1.0]])
    >>> sparsegpt(weight, inputs.T @ inputs, Sparsity.parse("0.5"), damping=1e-6)
    tensor([[0.0000, 1.4990]])

    Args:
        weight: dense weights [out, in].
        gram: Gram matrix XᵀX [in, in] of the layer's inputs, on the same device.
        sparsity: with a ratio, that share is pruned of each ``block`` columns, over all rows,
            rounded down; with N:M, N of each M consecutive inputs are kept.
        damping: share of the mean of H's diagonal that is added to all of it.
        block: columns whose mask is chosen at once; for N:M, the next multiple of M below it.

    Returns:
        weights [out, in] in the dtype of ``weight``. Those of inputs that are never active are
        zero, so that more of them can be zero than the sparsity asks for.

    Raises:
        InputError: shapes that do not fit, or a Gram matrix that is not finite.
        SparsityError: the number of inputs is no multiple of M.

    Source: SparseGPT (Frantar & Alistarh, ICML 2023, arXiv 2301.00774), algorithm 1.
    """
    width = weight.shape[-1]
    sparsity.check(width)
    dead, factor = _factor(weight, gram, damping)
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    factor = factor.to(kind)
    values = weight.to(kind).masked_fill(dead, 0)
    if sparsity.of is not None:
        block = max(sparsity.of, block // sparsity.of * sparsity.of)
    for first in range(0, width, block):
        last = min(first + block, width)
        batch, inner = values[:, first:last], factor[first:last, first:last]
        moved = _sweep(batch, inner, sparsity)  # writes to ``values``
        values[:, last:] -= moved @ factor[first:last, last:]
    return values.to(weight.dtype)


def _factor(weight: Tensor, gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Which inputs [in] are never active, and the upper Cholesky factor [in, in] of H⁻¹."""
    width = weight.shape[-1]
    if weight.dim() != 2 or gram.shape != (width, width):
        raise InputError(
            f"weights {list(weight.shape)} need a Gram matrix [{width}, {width}] of their inputs, "
            f"not {list(gram.shape)}."
        )
    if not bool(gram.isfinite().all()):
        raise InputError("a Gram matrix holds values that are not finite.")
    H = gram.double()
    H = (H + H.T).div_(2)  # sums on a GPU differ in the last bits
    dead = H.diagonal() <= 0
    mean = torch.where(dead.all(), 1.0, H.diagonal().mean())
    H.diagonal()[dead] = mean
    H.diagonal().add_(damping * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    return dead, torch.linalg.cholesky(inverse, upper=True)


def _sweep(batch: Tensor, factor: Tensor, sparsity: Sparsity) -> Tensor:
    """Prune columns [out, columns] in place, one after the other.

    Returns:
        what each column lost [out, columns], divided by its entry on the factor's diagonal.
    """
    own = factor.diagonal()
    within = sparsity.of or batch.shape[1]
    share = sparsity if sparsity.of else Sparsity(ratio=sparsity.fraction, group="layer")
    moved = torch.zeros_like(batch)
    mask = torch.empty(0)
    for column in range(batch.shape[1]):
        if column % within == 0:  # with the weights as they have become
            ahead = slice(column, column + within)
            mask = prune_mask((batch[:, ahead] / own[ahead]).square(), share)
        lost = torch.where(mask[:, column % within], batch[:, column], 0.0)
        moved[:, column] = lost / own[column]
        batch[:, column:] -= moved[:, column, None] * factor[column, column:]
        batch[:, column].masked_fill_(mask[:, column % within], 0)
    return moved


@torch.no_grad()
def alps(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> Tensor:
    """Choose the weights that stay and their values together, by ADMM, then least squares.

    Args:
        weight: dense weights [out, in].
        gram: Gram matrix XᵀX [in, in] of the layer's inputs, on the same device.
        sparsity: with a ratio, that share is pruned of the whole layer, rounded down; with N:M, N
            of each M consecutive inputs are kept.

    Returns:
        weights [out, in] in the dtype of ``weight``, zero where pruned.

    Raises:
        InputError: shapes that do not fit, or a Gram matrix that is not finite.
        SparsityError: the number of inputs is no multiple of M.

    Source: ALPS (Meng et al., NeurIPS 2024, arXiv 2406.07831). It begins with the largest weights,
    scaled by the norms of their inputs; and the Gram matrix is damped as in all of this package, by
    a share of each entry on its diagonal.
    """
    sparsity.check(weight.shape[-1])
    problem = Scaled.of(weight, gram)
    whole = sparsity if sparsity.of else Sparsity(ratio=sparsity.fraction, group="layer")
    mask = prune_mask(problem.target.abs(), whole)
    mask, values = refined(problem, mask, sparsity.of or "layer")
    return problem.weights(values, weight, mask)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("sparsegpt", sparsegpt, "SparseGPT (Frantar & Alistarh, ICML 2023, 2301.00774)"),
        Method("alps", alps, "ALPS (Meng et al., NeurIPS 2024, 2406.07831)"),
    )
}
"""The methods by name."""


def find_method(name: str) -> Method:
    """The method of that name, in capitals or not.

    Raises:
        InputError: there is none.
    """
    found = METHODS.get(name.strip().lower())
    if found is None:
        raise InputError(f"no method is called {name!r}; those known are {', '.join(METHODS)}.")
    return found
