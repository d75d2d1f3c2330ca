"""Triton kernel: squares of matrix products, added up over windows without storing the products."""

import triton
import triton.language as tl


@triton.jit
def _add(total, square, row, column, rows, columns, scale):
    """Add a part of a tile; a wide one in halves, which takes fewer registers."""
    HEIGHT: tl.constexpr = square.shape[0]
    WIDTH: tl.constexpr = square.shape[1]
    if WIDTH > 64:
        halves = square.reshape(HEIGHT, 2, WIDTH // 2).permute(0, 2, 1)
        one, other = halves.split()
        _add(total, one, row, column, rows, columns, scale)
        _add(total, other, row, column + WIDTH // 2, rows, columns, scale)
    else:
        r = row + tl.arange(0, HEIGHT)[:, None]
        c = column + tl.arange(0, WIDTH)[None, :]
        place = total + r.to(tl.int64) * columns + c
        inside = (r < rows) & (c < columns)
        before = tl.load(place, mask=inside, other=0.0)
        tl.store(place, before + scale * square, mask=inside)


@triton.jit
def add_squares(
    left, right, total, windows, length, rows, columns, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    HELD: tl.constexpr,
):  # fmt: skip
    """One tile of ``total += scale · Σ_window (left_windowᵀ right_window)²``.

    ``left`` and ``right`` describe [windows · length, rows] and [windows · length, columns], read
    in blocks of [DEPTH, ROWS] and [DEPTH, COLUMNS]; ``total`` is fp32 [rows, columns]. The tile's
    sum stays in registers if HELD, else it is read and written for each window.
    """
    # neighbouring programs share rows or columns, which are then still in the cache
    program = tl.program_id(0)
    across = tl.cdiv(columns, COLUMNS)
    first = program // (GROUP * across) * GROUP
    group = min(tl.cdiv(rows, ROWS) - first, GROUP)
    row = (first + program % (GROUP * across) % group) * ROWS
    column = program % (GROUP * across) // group * COLUMNS

    held = tl.zeros((ROWS, COLUMNS), tl.float32)
    for window in range(windows):
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, length, DEPTH):
            a = left.load([window * length + k, row])
            b = right.load([window * length + k, column])
            product = tl.dot(a.T, b, product)
        if HELD:
            held += product * product
        else:
            _add(total, product * product, row, column, rows, columns, scale)
    if HELD:
        _add(total, held, row, column, rows, columns, scale)
