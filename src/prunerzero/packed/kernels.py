"""The product with a packed matrix, by the best means of this machine."""

from __future__ import annotations

import torch
from torch import Tensor

from prunerzero.packed.layout import PackedMatrix
from prunerzero.packed.plain import plain_product


def product(inputs: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """``inputs`` (…, columns) times the transpose of ``matrix``, plus ``bias``.

    What ``torch.nn.functional.linear`` is for a dense weight. ``inputs`` are bfloat16, float16 or
    float32, and the result is of the same dtype.
    """
    known = inputs.dtype in (torch.bfloat16, torch.float16, torch.float32)
    if not known or inputs.shape[-1] != matrix.columns:
        raise ValueError(
            f"a packed matrix of {matrix.columns} inputs takes bfloat16, float16 or float32 of "
            f"that width, not {inputs.dtype} of width {inputs.shape[-1]}"
        )
    flat = inputs.reshape(-1, matrix.columns)
    return plain_product(flat, matrix, bias).reshape(*inputs.shape[:-1], matrix.rows)


def path() -> str:
    """The name of what computes ``product`` on this machine."""
    return "torch"


def why_torch() -> str | None:
    """Why no compiled kernel is used, in a sentence; None where one is."""
    return "the packed format has no compiled kernels yet, so plain torch is used, which is slower"
