"""Sums of squares of matrix products: the squared gradients of windows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunerzero.scoring.devices import current_device, has_triton


class Tile(NamedTuple):
    """How the kernel divides the work.

    Attributes:
        rows, columns: of the result, computed by one program.
        depth: number of terms of a product that are read at a time.
        held: whether the sum over windows stays in registers.
        warps, stages: ``num_warps`` and ``num_stages`` of Triton.
    """

    rows: int
    columns: int
    depth: int
    held: bool
    warps: int
    stages: int


TILE = Tile(256, 128, 64, held=False, warps=8, stages=4)
"""The fastest of those in ``benchmarks/tiles.py`` on an H100."""


def add_squared_products(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add ``scale · (left[w]ᵀ right[w])²`` of each window w to ``total``, in place.

    Args:
        total: fp32 [rows, columns].
        left: [windows, length, rows].
        right: [windows, length, columns], of the same type.
        scale: a factor.
    """
    if _has_kernel(left, right) and _agrees(total.device, left.dtype):
        launch(total, left, right, scale)
    else:
        by_torch(total, left, right, scale)


def by_torch(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """``add_squared_products`` by a matrix product for each window, in one place."""
    product = torch.empty(total.shape, dtype=left.dtype, device=total.device)
    for a, b in zip(left, right, strict=True):
        torch.mm(a.t(), b, out=product)
        total.addcmul_(product, product, value=scale)


def launch(total: Tensor, left: Tensor, right: Tensor, scale: float, tile: Tile = TILE) -> None:
    """``add_squared_products`` by the kernel: ``total`` is contiguous, types have 16 bits."""
    from prunerzero.pruning.square_kernel import add_squares

    windows, length = left.shape[:2]
    if length % tile.depth and windows > 1:  # a tile would reach into the next window
        for a, b in zip(left.split(1), right.split(1), strict=True):
            launch(total, a, b, scale, tile)
        return
    rows, columns = total.shape
    programs = -(-rows // tile.rows) * -(-columns // tile.columns)
    with current_device(total.device):
        add_squares[programs,](
            _described(left, tile.depth, tile.rows),
            _described(right, tile.depth, tile.columns),
            total, windows, length, rows, columns, scale,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, GROUP=8, HELD=tile.held,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def _described(factor: Tensor, depth: int, width: int) -> Any:
    """A descriptor for the GPU's tensor memory unit, which loads whole tiles, padded with zeros."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    flat = factor.reshape(-1, factor.shape[-1]).contiguous()
    return TensorDescriptor.from_tensor(flat, [depth, width])


def _has_kernel(left: Tensor, right: Tensor) -> bool:
    return (
        left.is_cuda
        and left.dtype in (torch.bfloat16, torch.float16)
        and left.dtype == right.dtype
        and left.shape[-1] % 8 == right.shape[-1] % 8 == 0  # as rows are aligned to 16 bytes
        and has_triton()
    )


@lru_cache
def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel gives the result of torch in fp32; tried once on each device."""
    from triton.errors import TritonError

    generator = torch.Generator().manual_seed(0)
    for length in (192, 100):
        left, right = (
            torch.randn(2, length, width, generator=generator).to(device, dtype)
            for width in (264, 520)
        )
        expected = torch.ones(264, 520, device=device)
        result = expected.clone()
        by_torch(expected, left.float(), right.float(), 0.5)
        try:
            launch(result, left, right, 0.5)
        except TritonError:  # a smaller GPU, on which a tile does not fit
            return False
        if not torch.allclose(result, expected, rtol=1e-3, atol=1e-3):
            return False
    return True
