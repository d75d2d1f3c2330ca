"""Packed weights in the orders in which the kernels of a GPU read them, to and fro.

The file's order serves one core that walks along the rows. A GPU wants the weights of 32 lanes
beside each other. Two orders do that, and ``docs/format.md`` describes both:

- ``two_four``, where at most two of every four inputs of a row are kept: the operands of the sparse
  tensor cores (``cuda/two_four.cu``). 9 bits a weight, or 5 of int8.
- ``streams``, for any mask: a bit a weight, and for each row a stream of its kept values
  (``cuda/streams.cu``). 16 (or 8) bits a kept value, 1 bit a weight, and about 5 % of padding.

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

BAND, CHUNK = 128, 256
"""Rows that are sorted together, and inputs of a job, in the order ``streams``."""
_STEP = 4
"""Words are read in multiples of this: 16 bytes of every lane are 4 words of the warp."""
_AT_ONCE = 1 << 22
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
    """``streams``: int32, where each job begins, in units of 128 bytes; else None."""
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
    """Jobs (uint8), where each begins (int32, × 128 bytes), and the largest number of words."""
    columns = numbers.shape[1]
    bands = max(_AT_ONCE // (BAND * columns), 1)
    parts, offsets, begin, longest = [], [], 0, 0
    for some in numbers.split(bands * BAND):
        part, starts, most = _arrange_bands(some)
        parts.append(part)
        offsets.append(starts + begin)
        begin += len(part) // 128
        longest = max(longest, most)
    parts.append(torch.zeros((_STEP - 1) * 128, dtype=torch.uint8, device=numbers.device))
    return torch.cat(parts), _to_int32(torch.cat(offsets)), longest


def _arrange_bands(numbers: Tensor) -> tuple[Tensor, Tensor, int]:
    device, size = numbers.device, numbers.element_size()
    per = 4 // size
    rows = 32 * per
    jobs = _padded(numbers, BAND, CHUNK).view(-1, BAND, -(-numbers.shape[1] // CHUNK), CHUNK)
    jobs = jobs.transpose(1, 2)  # bands, chunks, rows, inputs
    order = (jobs != 0).sum(3).argsort(dim=2, descending=True, stable=True)
    # the rows of a lane are neighbours in the order; rows of a job: its lanes' first, then second …
    order = order.view(*order.shape[:2], -1, 32, per).transpose(3, 4).reshape(-1, rows)
    jobs = jobs.reshape(-1, BAND, CHUNK).repeat_interleave(BAND // rows, 0)
    jobs = jobs.gather(1, order[..., None].expand(-1, -1, CHUNK))
    kept = jobs != 0
    taken = kept.cumsum(2, dtype=torch.int16)
    needed = taken[:, :, CHUNK // 4 - 1 :: CHUNK // 4].amax(1)  # jobs × quarters
    words = needed[:, 3].long()
    needed = (needed + (_STEP - 1)) // _STEP * _STEP

    masks = (kept.view(-1, rows, 2, CHUNK // 16, 8) << torch.arange(8, device=device)).sum(4)
    masks = masks.byte().transpose(1, 2).flatten(1)
    beside = torch.zeros(len(jobs), 2 * rows, dtype=torch.uint8, device=device)
    beside[:, :rows] = order.byte()
    beside[:, rows : rows + 8] = needed.contiguous().view(torch.uint8)
    fixed = torch.cat([masks, beside], 1)

    blocks = fixed.shape[1] // 128 + words
    starts = blocks.cumsum(0) - blocks
    weights = torch.zeros(int(blocks.sum()) * 128, dtype=torch.uint8, device=device)
    spread = torch.arange(fixed.shape[1] // 128, device=device)
    weights.view(-1, 128)[starts[:, None] + spread] = fixed.view(len(jobs), -1, 128)
    job, row, column = kept.nonzero(as_tuple=True)
    word = (taken[job, row, column] - 1).long()
    first = (starts * 128 + fixed.shape[1]) // size
    places = first[job] + (word * 32 + row % 32) * per + row // 32
    values = jobs[job, row, column]
    if size == 1:
        weights[places] = _biased(values)
    else:
        weights.view(numbers.dtype)[places] = values
    return weights, starts, int(needed.max())


def restore_streams(
    weights: Tensor, offsets: Tensor, shape: tuple[int, int], storage: torch.dtype
) -> Tensor:
    """What ``arrange_streams`` arranged."""
    rows, columns = shape
    per = 4 // storage.itemsize
    lines, fixed = 32 * per, 32 * per * (CHUNK // 8 + 2)
    bands, chunks = -(-rows // BAND), -(-columns // CHUNK)
    count = max(_AT_ONCE // (lines * CHUNK), 1)
    found = torch.zeros(bands * BAND, chunks, CHUNK, dtype=storage, device=weights.device)
    spread = torch.arange(fixed // 128, device=weights.device)
    bits = torch.arange(8, device=weights.device, dtype=torch.uint8)
    for first in range(0, len(offsets), count):
        starts = offsets[first : first + count].long()
        table = weights.view(-1, 128)[starts[:, None] + spread].flatten(1)
        masks, order = table[:, : lines * CHUNK // 8], table[:, lines * CHUNK // 8 :][:, :lines]
        masks = masks.reshape(-1, 2, lines, CHUNK // 16).transpose(1, 2)
        kept = ((masks[..., None] >> bits) & 1).bool().reshape(len(starts), lines, CHUNK)
        job, row, column = kept.nonzero(as_tuple=True)
        word = kept.cumsum(2, dtype=torch.int16)[job, row, column].long() - 1
        begin = (starts * 128 + fixed) // storage.itemsize
        places = begin[job] + (word * 32 + row % 32) * per + row // 32
        if storage == torch.int8:
            values = _unbiased(weights[places])
        else:
            values = weights.view(storage)[places]
        index = first + job
        band, chunk = index // (BAND // lines) // chunks, index // (BAND // lines) % chunks
        found[band * BAND + order[job, row].long(), chunk, column] = values
    return found.view(bands * BAND, -1)[:rows, :columns].contiguous()


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
