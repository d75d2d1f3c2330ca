"""Triton kernels that score weights with a metric's program and select in the same pass.

A row's scores stay on the chip from the first operator to the mask. Arithmetic is that of eager
torch to the bit: division and square root rounded correctly, no contraction to fused
multiply-adds, libdevice's exp, log and tanh with denormals kept. That is what ``OPTIONS``,
given to every launch, and the functions chosen here are for.

One launch takes any number of layers of one shape: ``W``, ``G`` and ``out`` are tables of
addresses. The tables of values hold, for each entry, one number a layer, or one for each of its
rows or columns.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from prunerzero.scoring.program import CODES, UNARY

OPTIONS = {"enable_fp_fusion": False, "enable_reflect_ftz": False}

# one compiled kernel for every metric, number of layers and height of a layer
ANY_INTEGER = ["length", "layers", "rows"]
ANY_POINTER = ["code", "numbers", "row_values", "column_values", "W", "G", "out", "nans"]

_HIGHEST = tl.constexpr(0x7FFFFFFF)

# the codes of ``program``, which are in the order of these names; a branch tests half of them
_W, _CONSTANT, _ROW = (tl.constexpr(CODES[name]) for name in ("W", "constant", "row"))
_SQR, _NEG, _LOG, _SQRT = (tl.constexpr(CODES[name]) for name in ("sqr", "neg", "log", "sqrt"))
_ADD, _MUL, _EDIV, _MAX = (tl.constexpr(CODES[name]) for name in ("add", "mul", "ediv", "max"))
_FIRST_UNARY, _SWAP = tl.constexpr(CODES[UNARY[0]]), tl.constexpr(CODES["swap"])


@triton.jit
def row_of(table, layer, row, stride, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where the row of the layer begins."""
    start = tl.load(table + layer).to(tl.pointer_type(TYPE), bitcast=True)
    if ALIGNED:
        start = tl.multiple_of(start, 16)
    return start + row.to(tl.int64) * stride


@triton.jit
def _push(
    op, operand, W, G, numbers, row_values, column_values, layer, row, columns, valid,
    layers, rows, width,
):  # fmt: skip
    if op < _CONSTANT:
        if op == _W:
            value = tl.abs(tl.load(W + columns, mask=valid, other=0).to(tl.float32))
        else:  # G
            value = tl.load(G + columns, mask=valid, other=0).to(tl.float32)
    elif op < _ROW:
        if op == _CONSTANT:
            number = operand.to(tl.float32, bitcast=True)
        else:  # number
            number = tl.load(numbers + operand * layers + layer)
        value = tl.zeros_like(columns).to(tl.float32) + number
    elif op == _ROW:
        number = tl.load(row_values + (operand * layers + layer) * rows + row)
        value = tl.zeros_like(columns).to(tl.float32) + number
    else:  # column
        start = column_values + (operand * layers + layer).to(tl.int64) * width
        value = tl.load(start + columns, mask=valid, other=0)
    return value


@triton.jit
def _unary(op, x):
    if op < _LOG:
        if op == _SQR:
            value = x * x
        elif op == _NEG:
            value = -x
        else:  # abs
            value = tl.abs(x)
    elif op < _SQRT:
        if op == _LOG:
            value = libdevice.log(tl.abs(x) + 0.001)
        else:  # exp
            value = libdevice.exp(tl.where(x > 100.0, 100.0, x))
    elif op == _SQRT:
        value = tl.sqrt_rn(tl.abs(x))
    else:  # tanh
        value = libdevice.tanh(x)
    return value


@triton.jit
def _binary(op, x, y):
    if op < _EDIV:
        if op < _MUL:
            if op == _ADD:
                value = x + y
            else:  # sub
                value = x - y
        elif op == _MUL:
            value = x * y
        else:  # divide
            value = tl.div_rn(x, y)
    elif op < _MAX:
        if op == _EDIV:
            nearest = tl.where(y < 0, -1e-12, 1e-12).to(tl.float32)
            value = tl.div_rn(x, tl.where(tl.abs(y) < 1e-12, nearest, y))
        else:  # epow
            logarithm = libdevice.log(tl.abs(x))
            value = libdevice.exp(tl.where((y == 0) | (logarithm == 0), 0.0, logarithm * y))
    elif op == _MAX:
        value = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    else:  # min
        value = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def scores_of(
    code, length, W, G, numbers, row_values, column_values, layer, row, columns, valid,
    layers, rows, width,
):  # fmt: skip
    # the stack, its top first; each a value of its own: Triton 3.6 does not see that a variable is
    # carried through the loop where all it is ever assigned are values that it began with
    a = tl.zeros_like(columns).to(tl.float32)
    b = tl.zeros_like(columns).to(tl.float32)
    c = tl.zeros_like(columns).to(tl.float32)
    d = tl.zeros_like(columns).to(tl.float32)
    for i in range(length):
        op = tl.load(code + 2 * i)
        operand = tl.load(code + 2 * i + 1)
        if op < _FIRST_UNARY:
            d = c
            c = b
            b = a
            a = _push(
                op, operand, W, G, numbers, row_values, column_values, layer, row, columns, valid,
                layers, rows, width,
            )  # fmt: skip
        elif op < _SWAP:
            a = _unary(op, a)
        elif op == _SWAP:
            top = a
            a = b
            b = top
        else:
            a = _binary(op, b, a)
            b = c
            c = d
    return a


@triton.jit
def rank_keys(scores):
    """Integers ordered as the scores are, equal where they are equal."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def write(out, W, columns, valid, pruned, WEIGHTS: tl.constexpr):
    """The mask, or the weights with zeros where it is true."""
    if WEIGHTS:
        weights = tl.load(W + columns, mask=valid, other=0)
        tl.store(out + columns, tl.where(pruned, 0, weights).to(weights.dtype), mask=valid)
    else:
        tl.store(out + columns, pruned.to(tl.int8), mask=valid)


@triton.jit(do_not_specialize=[*ANY_INTEGER, "count"], do_not_specialize_on_alignment=ANY_POINTER)
def select_rows(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, scratch, count, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr, WEIGHTS: tl.constexpr, WAYS: tl.constexpr,
):  # fmt: skip
    """Prune the ``count`` lowest scores of each row, ties in column order."""
    program = tl.program_id(0)
    keep = scratch + program.to(tl.int64) * BLOCK
    place = program
    while place < layers * rows:
        layer = place // rows
        row = place % rows
        weights = row_of(W, layer, row, w_stride, W_TYPE, ALIGNED)
        gradients = row_of(G, layer, row, g_stride, G_TYPE, ALIGNED)
        bad = 0
        for start in range(0, width, CHUNK):
            part = start + tl.arange(0, CHUNK)
            scores = scores_of(
                code, length, weights, gradients, numbers, row_values, column_values, layer, row,
                part, part < width, layers, rows, width,
            )  # fmt: skip
            bad += tl.sum(((scores != scores) & (part < width)).to(tl.int32))
            tl.store(keep + part, rank_keys(scores), mask=part < width)
        if bad > 0:
            tl.atomic_add(nans + layer, bad)
        tl.debug_barrier()  # every thread's keys are written before any is read
        columns = tl.arange(0, BLOCK)
        valid = columns < width
        keys = tl.load(keep + columns, mask=valid, other=_HIGHEST)
        low = tl.min(keys)
        high = tl.max(tl.where(valid, keys, low))
        # the smallest key such that `count` are no larger; any key between it and the next will do
        while low < high:
            if WAYS == 3:
                third = ((high.to(tl.int64) - low) // 3).to(tl.int32)
                one = low + third
                two = one + third
                # both counts are below 2 ** 16: one sum makes the two
                both = tl.sum((keys <= one).to(tl.int32) + ((keys <= two).to(tl.int32) << 16))
                found_one = both & 0xFFFF
                found_two = (both >> 16) & 0xFFFF
                if found_one >= count:
                    high = one
                    if found_one == count:
                        low = one
                elif found_two >= count:
                    high = two
                    low = one + 1
                    if found_two == count:
                        low = two
                else:
                    low = two + 1
            else:
                middle = (low & high) + ((low ^ high) >> 1)
                found = tl.sum((keys <= middle).to(tl.int32))
                if found == count:
                    low = middle
                    high = middle
                elif found < count:
                    low = middle + 1
                else:
                    high = middle
        pruned = (keys <= low) & valid
        if tl.sum(pruned.to(tl.int32)) != count:
            below = keys < low
            tied = (keys == low) & valid
            missing = count - tl.sum(below.to(tl.int32))
            pruned = below | (tied & (tl.cumsum(tied.to(tl.int32)) <= missing))
        target = row_of(out, layer, row, out_stride, OUT_TYPE, ALIGNED)
        write(target, weights, columns, valid, pruned, WEIGHTS)
        tl.debug_barrier()  # every thread has read its keys before the next row's are written
        place += tl.num_programs(0)


@triton.jit(do_not_specialize=ANY_INTEGER, do_not_specialize_on_alignment=ANY_POINTER)
def each_weight(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, PRUNE: tl.constexpr,
    OF: tl.constexpr, WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Write the scores (OF = 0), or prune the PRUNE lowest of each OF consecutive inputs."""
    place = tl.program_id(0)
    layer = place // rows
    row = place % rows
    columns = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    valid = columns < width
    weights = row_of(W, layer, row, w_stride, W_TYPE, ALIGNED)
    gradients = row_of(G, layer, row, g_stride, G_TYPE, ALIGNED)
    scores = scores_of(
        code, length, weights, gradients, numbers, row_values, column_values, layer, row, columns,
        valid, layers, rows, width,
    )  # fmt: skip
    target = row_of(out, layer, row, out_stride, OUT_TYPE, ALIGNED)
    if OF == 0:
        tl.store(target + columns, scores, mask=valid)
    else:
        bad = tl.sum(((scores != scores) & valid).to(tl.int32))
        if bad > 0:
            tl.atomic_add(nans + layer, bad)
        keys = tl.reshape(rank_keys(scores), [CHUNK // OF, OF])
        index = tl.arange(0, OF)
        ours, theirs = keys[:, :, None], keys[:, None, :]
        earlier = index[None, None, :] < index[None, :, None]
        lower = (theirs < ours) | ((theirs == ours) & earlier)
        rank = tl.sum(lower.to(tl.int32), axis=2)
        pruned = tl.reshape(rank < PRUNE, [CHUNK])
        write(target, weights, columns, valid, pruned, WEIGHTS)
