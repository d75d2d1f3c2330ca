"""Triton kernels for masks where the scores of all layers of a model compete.

A program takes one row of a layer, some weights at a time. Scores are computed anew by each kernel:
kept, they would take twice the memory of a model in bf16.
"""

import triton
import triton.language as tl

from prunerzero.scoring.kernels import ANY_INTEGER, ANY_POINTER, rank_keys, row_of, scores_of, write

_POINTERS = [*ANY_POINTER, "keys", "limits", "starts", "tally", "bins", "tied", "taken"]


@triton.jit(
    do_not_specialize=[*ANY_INTEGER, "count", "row_step", "column_step"],
    do_not_specialize_on_alignment=_POINTERS,
)
def sample_keys(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, keys, count, row_step, column_step,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the keys of ``count`` inputs of one row in each ``row_step``.

    Which row and which inputs follows a sequence that fills the plane evenly.
    """
    program = tl.program_id(0)
    down = ((program.to(tl.int64) * 3242174889) & 0xFFFFFFFF) >> 16
    along = ((program.to(tl.int64) * 2447445414) & 0xFFFFFFFF) >> 16
    place = program * row_step + ((down * row_step) >> 16).to(tl.int32)
    place = tl.minimum(place, layers * rows - 1)
    layer = place // rows
    row = place % rows
    index = tl.arange(0, BLOCK)
    columns = index * column_step + ((along * column_step) >> 16).to(tl.int32)
    columns = tl.minimum(columns, width - 1)
    scores = scores_of(
        code, length, row_of(W, layer, row, w_stride, W_TYPE, ALIGNED),
        row_of(G, layer, row, g_stride, G_TYPE, ALIGNED), numbers, row_values, column_values,
        layer, row, columns, index < count, layers, rows, width,
    )  # fmt: skip
    tl.store(keys + program * count + index, rank_keys(scores), mask=index < count)


@triton.jit(do_not_specialize=[*ANY_INTEGER, "all_rows"], do_not_specialize_on_alignment=_POINTERS)
def count_keys(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, limits, starts, tally, all_rows, bins,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Count, in each row, keys below and at the limits and NaN; between them, each key.

    Keys at the limits are not counted in bins, where a GPU would add one after the other if many
    are equal.
    """
    place = tl.program_id(0)
    layer = place // rows
    row = place % rows
    weights = row_of(W, layer, row, w_stride, W_TYPE, ALIGNED)
    gradients = row_of(G, layer, row, g_stride, G_TYPE, ALIGNED)
    low = tl.load(limits)
    high = tl.load(limits + 1)
    shift = tl.load(limits + 2)
    counted = tl.zeros([CHUNK], tl.int32)  # four counters of a byte, which no row is too wide for
    for start in range(0, width, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        valid = columns < width
        scores = scores_of(
            code, length, weights, gradients, numbers, row_values, column_values, layer, row,
            columns, valid, layers, rows, width,
        )  # fmt: skip
        keys = rank_keys(scores)
        counted += tl.where(
            valid,
            (keys < low).to(tl.int32)
            + ((keys == low).to(tl.int32) << 8)
            + ((keys == high).to(tl.int32) << 16)
            + ((scores != scores).to(tl.int32) << 24),
            0,
        )
        between = valid & (keys > low) & (keys < high)
        apart = (keys - low).to(tl.uint32, bitcast=True) >> shift
        one = tl.full([CHUNK], 1, tl.int64)
        tl.atomic_add(bins + apart.to(tl.int32), one, mask=between, sem="relaxed")
    target = tally + tl.load(starts + layer) + row
    tl.store(target, tl.sum(counted & 0xFF))
    tl.store(target + all_rows, tl.sum((counted >> 8) & 0xFF))
    tl.store(target + 2 * all_rows, tl.sum((counted >> 16) & 0xFF))
    tl.store(target + 3 * all_rows, tl.sum((counted >> 24) & 0xFF))


@triton.jit(do_not_specialize=[*ANY_INTEGER, "threshold"], do_not_specialize_on_alignment=_POINTERS)
def prune_upto(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, threshold, starts, tied, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the weights without those whose key is at most the threshold; count the equal ones."""
    place = tl.program_id(0)
    layer = place // rows
    row = place % rows
    weights = row_of(W, layer, row, w_stride, W_TYPE, ALIGNED)
    gradients = row_of(G, layer, row, g_stride, G_TYPE, ALIGNED)
    target = row_of(out, layer, row, out_stride, OUT_TYPE, ALIGNED)
    equal = tl.zeros([CHUNK], tl.int32)
    for start in range(0, width, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        valid = columns < width
        scores = scores_of(
            code, length, weights, gradients, numbers, row_values, column_values, layer, row,
            columns, valid, layers, rows, width,
        )  # fmt: skip
        keys = rank_keys(scores)
        equal += (valid & (keys == threshold)).to(tl.int32)
        write(target, weights, columns, valid, keys <= threshold, True)
    tl.store(tied + tl.load(starts + layer) + row, tl.sum(equal))


@triton.jit(do_not_specialize=[*ANY_INTEGER, "threshold"], do_not_specialize_on_alignment=_POINTERS)
def keep_ties(
    code, length, W, G, numbers, row_values, column_values, out, nans, layers, rows, width,
    w_stride, g_stride, out_stride, W_TYPE: tl.constexpr, G_TYPE: tl.constexpr,
    OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, threshold, starts, tied, taken,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Write rows anew of whose keys equal to the threshold only the first ``taken`` are pruned."""
    place = tl.program_id(0)
    layer = place // rows
    row = place % rows
    here = tl.load(starts + layer) + row
    most = tl.load(taken + here)
    if most < tl.load(tied + here):
        weights = row_of(W, layer, row, w_stride, W_TYPE, ALIGNED)
        gradients = row_of(G, layer, row, g_stride, G_TYPE, ALIGNED)
        target = row_of(out, layer, row, out_stride, OUT_TYPE, ALIGNED)
        seen = 0
        for start in range(0, width, CHUNK):
            columns = start + tl.arange(0, CHUNK)
            valid = columns < width
            scores = scores_of(
                code, length, weights, gradients, numbers, row_values, column_values, layer, row,
                columns, valid, layers, rows, width,
            )  # fmt: skip
            keys = rank_keys(scores)
            equal = (valid & (keys == threshold)).to(tl.int32)
            first = seen + tl.cumsum(equal) <= most
            pruned = (keys < threshold) | ((equal > 0) & first)
            write(target, weights, columns, valid, pruned, True)
            seen += tl.sum(equal)
