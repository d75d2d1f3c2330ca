"""Triton kernel: a step of conjugate gradients for many rows, after its matrix product."""

import triton
import triton.language as tl


@triton.jit
def conjugate_step(
    values, residual, direction, moved, kept, left, width, TINY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One row of each fp32 [rows, width]; ``kept`` holds bytes, ``left`` [rows] squared residuals.

    All but ``moved`` and ``kept`` are overwritten.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = row * width + column
    along = tl.load(direction + place, mask=inside, other=0.0)
    change = tl.load(moved + place, mask=inside, other=0.0)
    change = tl.where(tl.load(kept + place, mask=inside, other=0) != 0, change, 0.0)
    before = tl.load(left + row)
    length = before / tl.maximum(tl.sum(along * change), TINY)
    value = tl.load(values + place, mask=inside, other=0.0)
    tl.store(values + place, value + length * along, mask=inside)
    rest = tl.load(residual + place, mask=inside, other=0.0) - length * change
    tl.store(residual + place, rest, mask=inside)
    now = tl.sum(rest * rest)
    tl.store(left + row, now)
    along = along * (now / tl.maximum(before, TINY)) + rest
    tl.store(direction + place, along, mask=inside)
