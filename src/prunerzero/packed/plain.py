"""The product with a packed matrix in plain torch: what the compiled kernels are tested against.

Blocks of rows are expanded one after another, so there never is a dense copy of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from prunerzero.packed.layout import (
    ROWS,
    PackedMatrix,
    expand_rows,
    groups_of,
    in_groups,
    scales_of_rows,
)

FEW = 16
"""So many inputs at most are one decoding step, for which kernels of a CPU read the packed values;
those of a GPU take more (``cuts.MOST``)."""
LEVELS = 32512
"""Where inputs become integers, the largest: 127 × 256, a signed byte above a signed byte."""
BLOCK = 4 * 2**20
"""Weights that are expanded at once; but at least the rows of a group."""


Expand = Callable[[PackedMatrix, int, int, torch.dtype], Tensor]
"""What expands groups, as ``expand_rows`` does."""


def plain_product(
    inputs: Tensor, matrix: PackedMatrix, bias: Tensor | None, expand: Expand = expand_rows
) -> Tensor:
    """``inputs`` (a few or many × columns) times the transpose of ``matrix``, plus ``bias``.

    Values of 16 bits are multiplied as they are and summed in float32.

    int8: up to ``FEW`` inputs are rounded to integers, so that the sums are exact and their order
    does not matter; more inputs are multiplied as floats.

    int4: up to ``FEW`` inputs are rounded in the same way, and the sum over inputs that share a
    scale is exact; more inputs are multiplied with the weights as they are unpacked, which are
    rounded to bfloat16 where the inputs are.
    """
    if matrix.scales is not None and matrix.kind.shared_by is not None:
        return _grouped_product(inputs, matrix, matrix.scales, matrix.kind.shared_by, bias, expand)
    if matrix.scales is not None:
        return _scaled_product(inputs, matrix, matrix.scales, bias, expand)
    dtype = inputs.dtype if inputs.dtype == matrix.kind.dtype else torch.float32
    return dense_product(inputs, matrix, bias, dtype, expand)


def dense_product(
    inputs: Tensor,
    matrix: PackedMatrix,
    bias: Tensor | None,
    dtype: torch.dtype,
    expand: Expand = expand_rows,
) -> Tensor:
    """The product with the weights as they are unpacked, computed in ``dtype``."""
    operand = inputs.to(dtype)
    result = inputs.new_empty(inputs.shape[0], matrix.rows)
    for first, last, rows in blocks(matrix):
        weights = expand(matrix, first, last, dtype)
        result[:, rows] = linear(operand, weights, None if bias is None else bias[rows].to(dtype))
    return result


def _scaled_product(
    inputs: Tensor, matrix: PackedMatrix, scales: Tensor, bias: Tensor | None, expand: Expand
) -> Tensor:
    if inputs.shape[0] <= FEW:
        integers, steps = round_inputs(inputs)
        operand, factors = integers.double(), steps.double() * scales.double()
    else:  # bfloat16 holds every int8; float16 does too, but not their products with the inputs
        operand = inputs if inputs.dtype == torch.bfloat16 else inputs.float()
        factors = scales.expand(inputs.shape[0], -1)
    unscaled = replace(matrix, scales=None)
    result = inputs.new_empty(inputs.shape[0], matrix.rows)
    for first, last, rows in blocks(matrix):
        sums = linear(operand, expand(unscaled, first, last, operand.dtype))
        scaled = sums.to(factors.dtype) * factors[:, rows]
        if bias is not None:
            scaled += bias[rows].to(factors.dtype)
        result[:, rows] = scaled.float()
    return result


def _grouped_product(
    inputs: Tensor,
    matrix: PackedMatrix,
    scales: Tensor,
    size: int,
    bias: Tensor | None,
    expand: Expand,
) -> Tensor:
    few = inputs.shape[0] <= FEW
    if few:
        integers, steps = round_inputs(inputs)
        operand = in_groups(integers.double(), size).transpose(0, 1)
    else:
        operand = inputs if inputs.dtype == torch.bfloat16 else inputs.float()
    unscaled = replace(matrix, scales=None)
    result = inputs.new_empty(inputs.shape[0], matrix.rows)
    for first, last, rows in blocks(matrix):
        numbers = in_groups(expand(unscaled, first, last, operand.dtype), size)
        of_rows = scales_of_rows(scales, matrix.kind, first, last)[: len(numbers)]
        if few:  # the sums of each group are exact
            of_groups = torch.bmm(operand, numbers.permute(1, 2, 0))
            sums = (of_groups * of_rows.double().t()[:, None]).sum(0) * steps.double()
        else:
            weights = numbers.mul_(of_rows.to(operand.dtype)[..., None]).flatten(1)
            sums = linear(operand, weights[:, : matrix.columns]).float()
        if bias is not None:
            sums += bias[rows].to(sums.dtype)
        result[:, rows] = sums.float()
    return result


def round_inputs(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of ``inputs`` as integers of up to ``LEVELS``, and what one of them stands for.

    A row with an infinity or a NaN stands for NaN; one so small that float32 holds no normal
    number for the step stands for zeros.
    """
    numbers = inputs.float()
    steps = numbers.abs().amax(dim=1, keepdim=True) / LEVELS
    finite = torch.isfinite(steps)
    usable = finite & (steps >= torch.finfo(torch.float32).tiny)
    integers = torch.where(usable, numbers / steps, 0).round().int()
    return integers, torch.where(usable, steps, torch.where(finite, 0.0, torch.nan))


def blocks(matrix: PackedMatrix) -> list[tuple[int, int, slice]]:
    """The groups and the rows of each block that is expanded at once."""
    groups = groups_of(matrix.rows)
    size = max(BLOCK // (ROWS * matrix.columns), 1)
    return [
        (first, last, slice(first * ROWS, min(last * ROWS, matrix.rows)))
        for first in range(0, groups, size)
        for last in [min(first + size, groups)]
    ]
