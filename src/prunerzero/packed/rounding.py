"""Rounding to 4 bits: what a rounded weight leaves, the kept ones behind it make good.

Each row w [in] of a layer is to stay close to what it was, t, in what the layer computes: the
quadratic form (w - t)ᵀ A (w - t) is to be small, where A is the Gram matrix of the layer's inputs,
damped. Inputs are rounded one after another, and the error of each is spread over those that
follow, as far as A says that they can replace it. What is pruned stays zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunerzero.packed.layout import LARGEST_INT4, in_groups, spread, to_odd

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Of a group's largest weight, what the largest integer may stand for: larger ones are cut."""

_BLOCK = 128
"""Inputs that are rounded before their errors are spread beyond them, in one product."""


@torch.no_grad()
def round_to_grid(
    weight: Tensor,
    form: Tensor,
    group: int = 32,
    scale: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor]:
    """Round each row for the least change of the layer's outputs, as far as one pass finds it.

    Args:
        weight: pruned weights [out, in].
        form: A [in, in], symmetric and, but for inputs that are never active, positive definite.
        group: inputs of a row that share a scale.
        scale: dtype that scales are stored in.

    Returns:
        odd integers from -15 to 15, int8 [out, in], 0 just where ``weight`` is; and the scales
        [out, groups]. Where the matrix is not finite or zero, rounded to nearest.

    Source: GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323), on the weights that a mask keeps.
    """
    matrix = _usable(form)
    scales = choose_scales(weight, matrix.diagonal(), group, scale)
    steps = spread(scales, group, weight.shape[1])
    nearest = to_odd(weight, steps)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        return nearest, scales
    inverse = torch.cholesky_inverse(factor)
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if bool(failed):
        return nearest, scales
    numbers = _in_order(weight, steps, upper.float())
    worse = _errors(numbers, steps, weight, matrix) > _errors(nearest, steps, weight, matrix)
    return torch.where(worse[:, None], nearest, numbers), scales


def choose_scales(weight: Tensor, importance: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """The scales [out, groups] of the least error of rounding to nearest, of some that are tried.

    Args:
        weight: pruned weights [out, in].
        importance: [in], of an error of each input.
        group: inputs of a row that share a scale.
        dtype: of the scales.
    """
    parts = in_groups(weight.float(), group)
    counts = in_groups(importance.float()[None], group)
    largest = parts.abs().amax(2)
    best = torch.zeros_like(largest, dtype=dtype)
    least = torch.full_like(largest, torch.inf)
    for share in SHARES:
        scales = (largest * (share / LARGEST_INT4)).to(dtype)
        steps = scales.float()[..., None]
        errors = (to_odd(parts, steps) * steps - parts).square_().mul_(counts).sum(2)
        better = errors < least
        best, least = torch.where(better, scales, best), torch.where(better, errors, least)
    return best


def _usable(form: Tensor) -> Tensor:
    """A in float64, scaled to a mean diagonal of one; that of the identity where there is none."""
    size = form.diagonal().double().mean()
    if not bool(torch.isfinite(form).all()) or not bool(size > 0):
        return torch.eye(len(form), dtype=torch.float64, device=form.device)
    matrix = form.double() / size
    matrix.diagonal()[matrix.diagonal() <= 0] = 1
    return matrix


def _in_order(weight: Tensor, steps: Tensor, upper: Tensor) -> Tensor:
    """Integers of all inputs, rounded one after another.

    Args:
        weight: pruned weights [out, in].
        steps: the scale of each [out, in].
        upper: U with UᵀU = A⁻¹: row i, divided by its diagonal, says how those behind input i make
            an error there good.
    """
    width = weight.shape[1]
    left = weight.float().clone()
    numbers = torch.zeros_like(weight, dtype=torch.int8)
    keep = weight != 0
    for first in range(0, width, _BLOCK):
        last = min(first + _BLOCK, width)
        errors = left.new_zeros(len(left), last - first)
        for place in range(first, last):
            now, step = left[:, place], steps[:, place]
            rounded = to_odd(now, step)
            # a kept weight that the others have brought to 0 needs an integer all the same
            rounded = torch.where(rounded == 0, 1, rounded).mul_(keep[:, place])
            numbers[:, place] = rounded
            error = (now - rounded * step) / upper[place, place]
            left[:, place + 1 : last] -= error[:, None] * upper[place, place + 1 : last]
            errors[:, place - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    return numbers


def _errors(numbers: Tensor, steps: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    """The quadratic form of each row [out], in float64: massive inputs cancel each other."""
    moved = numbers.double() * steps - weight
    return ((moved @ matrix) * moved).sum(1)
