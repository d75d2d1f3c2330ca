"""Packed weights in the orders in which the kernels of a GPU read them, to and fro.

The file's order serves one core that walks along the rows. A GPU wants the weights of 32 lanes
beside each other. Two orders do that, and ``docs/format.md`` describes both:

- ``two_four``, where at most two of every four inputs of a row are kept: the operands of the sparse
  tensor cores (``cuda/two_four.cu``). 9 bits a weight, or 5 of int8.
- ``streams``, for any mask: a bit a weight, and for each row a stream of its kept values
  (``cuda/streams.cu``). 16 (or 8) bits a kept value, 1 bit a weight, and a little padding.

Everything here is plain torch and works on any device, so that the orders are tested without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunerzero.packed.layout import (
    PackedMatrix,
    ValueType,
    expand_rows,
    groups_of,
    pack_numbers,
)

BIAS = 128
"""Integers are stored with this added, as unsigned bytes."""

TILE, UNIT = 16, 64
"""Rows and inputs of a unit of the order ``two_four``."""

JOB_ROWS, JOB_INPUTS = 32, 128
"""Of a job of the order ``streams``."""
_STEPS = JOB_INPUTS // 64
"""Steps of 32 inputs in half of a job."""
_UNIT = 64
"""Bytes: jobs begin at multiples of them."""
_AT_ONCE = 1 << 23
"""Weights that are arranged at once: tables of theirs take some 30 bytes a weight."""


@dataclass(frozen=True)
class DeviceMatrix:
    """A packed matrix in one of the orders of a GPU."""

    rows: int
    columns: int
    kind: ValueType
    weights: Tensor
    """uint8: units (``two_four``) or jobs (``streams``), one after another."""
    offsets: Tensor | None
    """``streams``: int32, where each job begins and the last one ends, in units of 64 bytes; else
    None."""
    longest: int
    """``streams``: the largest number of words of a job."""
    scales: Tensor | None

    @property
    def order(self) -> str:
        return "two_four" if self.offsets is None else "streams"

    @property
    def bytes(self) -> int:
        parts = (self.weights, self.offsets, self.scales)
        return sum(part.nbytes for part in parts if part is not None)


def has_order(kind: ValueType) -> bool:
    """Whether there is an order for these values; there is none for those of 4 bits."""
    return not kind.halves


def to_device_order(matrix: PackedMatrix) -> DeviceMatrix:
    """The same weights in the order that suits them, on the device that they are on."""
    kind, scales = matrix.kind, matrix.scales
    dense = expand_rows(replace(matrix, scales=None), 0, groups_of(matrix.rows), kind.dtype)
    numbers = dense.view(kind.storage)
    shape = matrix.rows, matrix.columns
    if is_two_four(numbers):
        return DeviceMatrix(*shape, kind, arrange_two_four(numbers), None, 0, scales)
    weights, offsets, longest = arrange_streams(numbers)
    return DeviceMatrix(*shape, kind, weights, offsets, longest, scales)


def from_device_order(matrix: DeviceMatrix) -> PackedMatrix:
    """The same weights in the order of the file, bit for bit."""
    return pack_numbers(numbers_of(matrix), matrix.scales, matrix.kind)


def numbers_of(matrix: DeviceMatrix) -> Tensor:
    """The integers, rows × columns, that stand for the weights."""
    shape, storage = (matrix.rows, matrix.columns), matrix.kind.storage
    if matrix.offsets is None:
        return restore_two_four(matrix.weights, shape, storage)
    return restore_streams(matrix.weights, matrix.offsets, shape, storage)


def dense_of(matrix: DeviceMatrix, dtype: torch.dtype) -> Tensor:
    """The weights, rows × columns; those of 16 bits in their own ``dtype`` bit for bit."""
    values = numbers_of(matrix).view(matrix.kind.dtype)
    if matrix.scales is None:
        return values.to(dtype)
    return (values.float() * matrix.scales[:, None]).to(dtype)


# Two of four


def is_two_four(numbers: Tensor) -> bool:
    """Whether at most two of each four inputs of every row are kept."""
    kept = torch.nn.functional.pad(numbers != 0, (0, -numbers.shape[1] % 4))
    return bool((kept.view(len(numbers), -1, 4).sum(2) <= 2).all())


def arrange_two_four(numbers: Tensor) -> Tensor:
    """uint8, unit after unit, of numbers of which at most two of every four are kept."""
    of_four = _padded(numbers, TILE, UNIT).unflatten(1, (-1, 4))
    pattern = ((of_four != 0) << torch.arange(4, device=numbers.device)).sum(2)
    first, second = _places(numbers.device)[:, pattern]
    values = of_four.gather(2, torch.stack([first, second], 2))
    # rows: tile, half, g; fours of inputs: unit, half s, second q, t
    tiles, units = len(of_four) // TILE, of_four.shape[1] * 4 // UNIT
    values = values.view(tiles, 2, 8, units, 2, 2, 4, 2)
    places = (first | second << 2).view(tiles, 2, 8, units, 2, 2, 4)
    shifts = 16 * torch.arange(2).view(2, 1, 1, 1, 1, 1) + 4 * torch.arange(4)
    words = (places << shifts.to(numbers.device)).sum((1, 6)).permute(0, 2, 1, 3, 4)
    words = _to_int32(words).contiguous().view(torch.uint8).reshape(tiles, units, -1)
    if numbers.dtype == torch.int8:
        lanes = _biased(values).permute(0, 3, 2, 6, 4, 5, 1, 7)
    else:
        lanes = values.permute(0, 3, 4, 2, 6, 5, 1, 7)
    lanes = lanes.contiguous().view(torch.uint8).reshape(tiles, units, -1)
    return torch.cat([lanes, words], 2).flatten()


def restore_two_four(weights: Tensor, shape: tuple[int, int], storage: torch.dtype) -> Tensor:
    """What ``arrange_two_four`` arranged."""
    rows, columns = shape
    tiles, units = -(-rows // TILE), -(-columns // UNIT)
    record = weights.view(tiles, units, -1)
    lanes, words = record[..., :-128].contiguous(), record[..., -128:].contiguous()
    if storage == torch.int8:
        values = _unbiased(lanes.view(tiles, units, 8, 4, 2, 2, 2, 2)).permute(
            0, 6, 2, 1, 4, 5, 3, 7
        )
    else:
        values = lanes.view(storage).view(tiles, units, 2, 8, 4, 2, 2, 2)
        values = values.permute(0, 6, 3, 1, 2, 5, 4, 7)
    shifts = 16 * torch.arange(2).view(2, 1) + 4 * torch.arange(4)
    of_words = words.view(torch.int32).view(tiles, units, 8, 2, 2, 1, 1)
    places = (of_words >> shifts.to(weights.device)) & 15  # tile, unit, g, s, q, half, t
    places = places.permute(0, 5, 2, 1, 3, 4, 6).long()
    of_four = torch.zeros(*places.shape, 4, dtype=storage, device=weights.device)
    of_four.scatter_(7, torch.stack([places & 3, places >> 2], 7), values)
    return of_four.reshape(tiles * TILE, units * UNIT)[:rows, :columns].contiguous()


def _places(device: torch.device) -> Tensor:
    """The two places, in order, for each pattern of kept weights of four, 2 × 16."""
    table = []
    for pattern in range(16):
        kept = [place for place in range(4) if pattern >> place & 1]
        others = [place for place in (3, 0, 1) if place not in kept]
        table.append(sorted((kept + others)[:2]))
    return torch.tensor(table, device=device).t().contiguous()


# Streams


def arrange_streams(numbers: Tensor) -> tuple[Tensor, Tensor, int]:
    """Jobs (uint8), where each begins and the last ends (int32, × 64 bytes), and the largest number
    of words of a job."""
    columns = numbers.shape[1]
    tiles = max(_AT_ONCE // (JOB_ROWS * columns), 1)
    parts, begin, longest = [], 0, 0
    offsets = [torch.zeros(1, dtype=torch.int64, device=numbers.device)]
    for some in numbers.split(tiles * JOB_ROWS):
        part, ends, most = _arrange_tiles(some)
        parts.append(part)
        offsets.append(ends + begin)
        begin += len(part) // _UNIT
        longest = max(longest, most)
    return torch.cat(parts), _to_int32(torch.cat(offsets)), longest


def _arrange_tiles(numbers: Tensor) -> tuple[Tensor, Tensor, int]:
    device, size = numbers.device, numbers.element_size()
    per = 4 // size  # streams of a lane
    count = 32 * per
    # rows: tile, r of a stream, stream, g; inputs: job, half, step, q, t, of a pair
    ordered = _padded(numbers, JOB_ROWS, JOB_INPUTS)
    chunks = ordered.shape[1] // JOB_INPUTS
    ordered = ordered.view(-1, 4 // per, per, 8, chunks, 2, _STEPS, 4, 4, 2)
    kept = ordered != 0
    # the mask: job, step, lane (g, t), a byte for each row (r, stream), bits (q, of a pair)
    bits = kept.permute(0, 4, 5, 6, 3, 8, 1, 2, 7, 9).reshape(-1, JOB_ROWS * JOB_INPUTS // 8, 8)
    masks = (bits << torch.arange(8, device=device)).sum(2).byte()
    # streams: job, stream of the warp (g, t, stream), half, then in the order in which it is read
    order = 0, 4, 3, 8, 2, 5, 6, 1, 7, 9
    values = ordered.permute(order).reshape(len(masks), count, 2, -1)
    kept = values != 0
    taken = kept.cumsum(3, dtype=torch.int16)
    length = taken[..., -1].long()
    # the longest first half and the shortest second half share a column
    first = length[..., 0].argsort(dim=1, descending=True, stable=True)
    second = length[..., 1].argsort(dim=1, stable=True)
    column = torch.empty_like(first).scatter_(1, second, first)  # of each second half
    above = length[..., 0].gather(1, column)
    words = (above + length[..., 1]).amax(1)

    fixed = masks.shape[1] + count
    ends = (fixed // _UNIT + words * (128 // _UNIT)).cumsum(0)
    starts = ends - (fixed // _UNIT + words * (128 // _UNIT))
    weights = torch.zeros(int(ends[-1]) * _UNIT, dtype=torch.uint8, device=device)
    spread = torch.arange(fixed // _UNIT, device=device)
    header = torch.cat([masks, column.byte()], 1)
    weights.view(-1, _UNIT)[starts[:, None] + spread] = header.view(len(masks), -1, _UNIT)
    places = _word_places(starts, fixed, column, above, size)
    stored = weights if size == 1 else weights.view(numbers.dtype)
    stored[(places[..., None] + (taken.long() - 1) * count)[kept]] = values[kept].view(stored.dtype)
    return weights, ends, int(words.max())


def _word_places(starts: Tensor, fixed: int, column: Tensor, above: Tensor, size: int) -> Tensor:
    """Where the first value of each half of each stream lies, in values: jobs × streams × 2."""
    count = column.shape[1]
    begin = (starts * _UNIT + fixed)[:, None] // size
    first = begin + torch.arange(count, device=starts.device)
    return torch.stack([first, begin + column + above * count], 2)


def restore_streams(
    weights: Tensor, offsets: Tensor, shape: tuple[int, int], storage: torch.dtype
) -> Tensor:
    """What ``arrange_streams`` arranged."""
    rows, columns = shape
    per = 4 // storage.itemsize
    count = 32 * per
    masked = JOB_ROWS * JOB_INPUTS // 8
    tiles, chunks = -(-rows // JOB_ROWS), -(-columns // JOB_INPUTS)
    found = torch.empty(tiles * JOB_ROWS, columns, dtype=storage, device=weights.device)
    spread = torch.arange((masked + count) // _UNIT, device=weights.device)
    bits = torch.arange(8, device=weights.device, dtype=torch.uint8)
    some = max(_AT_ONCE // (JOB_ROWS * columns), 1)
    for tile in range(0, tiles, some):
        last = min(tile + some, tiles)
        starts = offsets[tile * chunks : last * chunks].long()
        table = weights.view(-1, _UNIT)[starts[:, None] + spread].flatten(1)
        kept = ((table[:, :masked, None] >> bits) & 1).bool()
        # job, half, step, g, t, r, stream, q, of a pair → as streams
        kept = kept.view(-1, 2, _STEPS, 8, 4, 4 // per, per, 4, 2)
        kept = kept.permute(0, 3, 4, 6, 1, 2, 5, 7, 8).reshape(len(starts), count, 2, -1)
        taken = kept.cumsum(3, dtype=torch.int16)
        column = table[:, masked:].long()
        above = taken[:, :, 0, -1].long().gather(1, column)
        places = _word_places(starts, masked + count, column, above, storage.itemsize)
        stored = weights.view(storage)
        values = torch.zeros(kept.shape, dtype=storage, device=weights.device)
        values[kept] = stored[(places[..., None] + (taken.long() - 1) * count)[kept]]
        values = values.view(last - tile, chunks, 8, 4, per, 2, _STEPS, 4 // per, 4, 2)
        values = values.permute(0, 7, 4, 2, 1, 5, 6, 8, 3, 9)
        values = values.reshape((last - tile) * JOB_ROWS, chunks * JOB_INPUTS)
        found[tile * JOB_ROWS : last * JOB_ROWS] = values[:, :columns]
    return found[:rows].contiguous()


def _padded(numbers: Tensor, rows: int, columns: int) -> Tensor:
    """Filled up with zeros to multiples of ``rows`` and ``columns``."""
    below, beside = -numbers.shape[0] % rows, -numbers.shape[1] % columns
    return torch.nn.functional.pad(numbers, (0, beside, 0, below))


def _biased(values: Tensor) -> Tensor:
    return (values.short() + BIAS).byte()


def _unbiased(values: Tensor) -> Tensor:
    return (values.short() - BIAS).to(torch.int8)


def _to_int32(numbers: Tensor) -> Tensor:
    """Of unsigned numbers of 32 bits, their bits."""
    return ((numbers + 2**31) % 2**32 - 2**31).int()
