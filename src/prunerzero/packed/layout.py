"""How one pruned weight matrix is laid out: a bit for each weight, and the kept values in order.

The matrix is cut into groups of 16 rows, and each group into steps of a few inputs: 2 where a
value has 16 bits, 4 where it has 8 or 4. A step covers 16 rows × 2 (or 4) inputs, and its bits
are one word of 32 (or 64): bit ``row * inputs + input`` tells whether that weight is kept. So one
vector of 512 bits holds a step, each of its 32-bit lanes belongs to one output, and a product adds
the lanes of one output to themselves: no sum across lanes is needed.

The values follow in the order of the bits, group after group, step after step. Two values of 4 bits
share a byte, and each step begins with a byte of its own, so that a kernel finds its place by
counting bits; the scales of a group's rows for the same inputs stand together. Rows and inputs
beyond the matrix are filled with weights that are not kept. This module is the reference: it is
plain torch, it works on any device, and the kernels are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunerzero.errors import ModelError

ROWS = 16
"""Rows of a group: the 32-bit lanes of a vector of 512 bits."""
PADDING = 64
"""Bytes after the last value, so that a kernel may read a whole vector wherever values begin."""


@dataclass(frozen=True)
class ValueType:
    """What the kept values are stored as."""

    name: str
    inputs: int
    """Inputs of a step."""
    storage: torch.dtype
    """An integer type of the same width: converting a model to another dtype leaves it alone."""
    dtype: torch.dtype
    """What the integers mean."""
    scaled: bool
    """Whether values are multiplied by scales."""
    scale: torch.dtype = torch.float32
    shared_by: int | None = None
    """How many inputs of a row share a scale; None where all do."""
    halves: bool = False
    """Whether two values share a byte."""

    @property
    def bits(self) -> int:
        """Of a value."""
        return 4 if self.halves else 8 * self.storage.itemsize

    def scales_of(self, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of the scales: of rows, or of the rows of each group, part after part."""
        if self.shared_by is None:
            return (rows,)
        return groups_of(rows), -(-columns // self.shared_by), ROWS


VALUE_TYPES = {
    kind.name: kind
    for kind in (
        ValueType("bfloat16", 2, torch.int16, torch.bfloat16, False),
        ValueType("float16", 2, torch.int16, torch.float16, False),
        ValueType("int8", 4, torch.int8, torch.int8, True),
        ValueType("int4", 4, torch.uint8, torch.int8, True, torch.bfloat16, 32, True),
    )
}
LARGEST_INT4 = 15
"""Values of 4 bits stand for the odd integers from -15 to 15: none is 0, as the mask has those."""


@dataclass(frozen=True)
class PackedMatrix:
    """A packed weight matrix of ``rows`` × ``columns`` (outputs × inputs)."""

    rows: int
    columns: int
    kind: ValueType
    mask: Tensor
    """uint8, groups × bytes of a group's words, each word with its lowest byte first."""
    values: Tensor
    """``kind.storage``, the kept values and ``PADDING`` bytes of zeros."""
    starts: Tensor
    """int64, groups + 1: where in ``values`` each group's begin, and where the last one's end."""
    scales: Tensor | None = None
    """``kind.scale``, of the shape ``kind.scales_of``, where ``kind.scaled``."""

    @property
    def kept(self) -> int:
        return int(_bits_set(self.mask).sum())

    @property
    def stored(self) -> int:
        """Elements of ``values`` that hold some."""
        return int(self.starts[-1])

    @property
    def bytes(self) -> int:
        """Bytes in the file: what ``starts`` says follows from the mask and is not stored."""
        stored = [self.mask, self.values] + ([] if self.scales is None else [self.scales])
        return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def groups_of(rows: int) -> int:
    return -(-rows // ROWS)


def steps_of(columns: int, kind: ValueType) -> int:
    return -(-columns // kind.inputs)


def pack_matrix(weight: Tensor, kind: ValueType) -> PackedMatrix:
    """Pack ``weight`` (outputs × inputs), each weight as ``stored_numbers`` has it."""
    return pack_numbers(*stored_numbers(weight, kind), kind)


def pack_numbers(numbers: Tensor, scales: Tensor | None, kind: ValueType) -> PackedMatrix:
    """Pack the integers, rows × columns, that stand for weights; those that are 0 are not kept.

    ``scales`` are those of ``stored_numbers``.
    """
    rows, columns = numbers.shape
    groups = groups_of(rows)
    ordered = _ordered(numbers, kind)
    keep = ordered != 0
    bits = keep.cpu().numpy()  # numpy packs bits, and takes what they keep, several times as fast
    mask = torch.from_numpy(np.packbits(bits, axis=1, bitorder="little")).to(numbers.device)
    starts = _starts(mask, kind)
    kept = np.compress(bits.ravel(), ordered.cpu().numpy().ravel())
    values = torch.from_numpy(kept).to(numbers.device)
    if kind.halves:
        nibbles = numbers.new_zeros(2 * int(starts[-1]), dtype=torch.uint8)
        nibbles[_int4_places(keep.view(-1, ROWS * kind.inputs))] = (
            (values + LARGEST_INT4) // 2
        ).byte()
        values = nibbles[::2] | nibbles[1::2] << 4
    values = torch.cat([values, values.new_zeros(PADDING // kind.storage.itemsize)])
    if scales is not None and kind.shared_by is not None:
        scales = torch.nn.functional.pad(scales, (0, 0, 0, groups * ROWS - rows))
        scales = scales.view(groups, ROWS, -1).transpose(1, 2).contiguous()
    return PackedMatrix(rows, columns, kind, mask, values, starts, scales)


def count_stored(numbers: Tensor, kind: ValueType) -> int:
    """Elements of ``values``, without padding, that ``pack_numbers`` would make."""
    if not kind.halves:
        return int(numbers.count_nonzero())
    steps = (_ordered(numbers, kind) != 0).view(-1, ROWS * kind.inputs).sum(1)
    return int(((steps + 1) // 2).sum())


def stored_numbers(weight: Tensor, kind: ValueType) -> tuple[Tensor, Tensor | None]:
    """The integers, rows × columns, that stand for the weights; those that are not 0 are kept.

    A weight is kept where any of its bits is set (so -0.0 is kept, and unpacking gives every bit
    back). With int8 values each row is divided by ``max|w| / 127``, the scales, and rounded to the
    nearest integer; what rounds to zero is not kept. With int4 values each 32 inputs of a row are
    divided by ``max|w| / 15``, the scales, rows × parts, and rounded to the nearest odd integer;
    every weight but 0 is kept.
    """
    if not kind.scaled:
        return weight.to(kind.dtype).view(kind.storage), None
    if kind.shared_by is not None:
        largest = in_groups(weight, kind.shared_by).abs().amax(2).float()
        scales = (largest / LARGEST_INT4).to(kind.scale)
        return to_odd(weight, spread(scales, kind.shared_by, weight.shape[1])), scales
    scales = weight.abs().amax(dim=1).float() / 127
    divisor = torch.where(scales > 0, scales, 1)
    rounded = (weight.float() / divisor[:, None]).round().clamp(-127, 127)
    return rounded.to(kind.storage), scales


def in_groups(matrix: Tensor, size: int) -> Tensor:
    """Rows × groups × ``size`` inputs, the last group filled up with zeros."""
    rows, columns = matrix.shape
    return torch.nn.functional.pad(matrix, (0, -columns % size)).view(rows, -1, size)


def spread(scales: Tensor, size: int, columns: int) -> Tensor:
    """The scale of each weight, float32, rows × columns, of those of groups of inputs."""
    return scales.float().repeat_interleave(size, 1)[:, :columns]


def to_odd(weight: Tensor, scales: Tensor) -> Tensor:
    """The nearest odd integers, int8, from -15 to 15 where a weight is not 0, and 0 where it is."""
    quotient = weight.float() / torch.where(scales > 0, scales, 1)
    odd = (
        ((quotient + LARGEST_INT4) / 2).round_().clamp_(0, LARGEST_INT4).mul_(2).sub_(LARGEST_INT4)
    )
    return torch.where(weight == 0, 0, odd).to(torch.int8)


def _ordered(numbers: Tensor, kind: ValueType) -> Tensor:
    """The numbers of each group in the order of the mask's bits, groups × numbers."""
    rows, columns = numbers.shape
    groups, steps = groups_of(rows), steps_of(columns, kind)
    padded = numbers.new_zeros(groups * ROWS, steps * kind.inputs)
    padded[:rows, :columns] = numbers
    return padded.view(groups, ROWS, steps, kind.inputs).permute(0, 2, 1, 3).reshape(groups, -1)


def _starts(mask: Tensor, kind: ValueType) -> Tensor:
    """Where the values of each group begin, and where the last one's end."""
    if kind.halves:
        steps = _bits_set(mask.reshape(-1, ROWS * kind.inputs // 8))
        counts = ((steps + 1) // 2).view(len(mask), -1).sum(1)
    else:
        counts = _bits_set(mask)
    starts = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts


def _int4_places(keep: Tensor) -> Tensor:
    """Where values of 4 bits lie, counted in halves of bytes, of the kept weights of steps."""
    counts = keep.sum(1)
    taken = (counts + 1) // 2 * 2
    begins = taken.cumsum(0) - taken
    return (begins[:, None] + keep.cumsum(1) - 1)[keep]


def matrix_of(
    rows: int,
    columns: int,
    kind: ValueType,
    mask: Tensor,
    values: Tensor,
    scales: Tensor | None,
) -> PackedMatrix:
    """A packed matrix of tensors read from a file, each size and count checked.

    Raises ModelError where they do not belong together: a kernel reads as far as the mask says.
    """
    groups, steps = groups_of(rows), steps_of(columns, kind)
    width = steps * ROWS * kind.inputs // 8
    if mask.dtype != torch.uint8 or mask.shape != (groups, width):
        raise ModelError(
            f"the mask has {_told(mask)} where a matrix of {rows} × {columns} needs uint8 "
            f"{groups} × {width}: the file is damaged"
        )
    last_step = _bits(mask[:, -ROWS * kind.inputs // 8 :]).view(groups, ROWS, kind.inputs)
    last_group = _bits(mask[-1:]).view(steps, ROWS, kind.inputs)
    beyond = last_step[:, :, columns - (steps - 1) * kind.inputs :].any()
    if beyond or last_group[:, rows - (groups - 1) * ROWS :].any():
        raise ModelError(
            f"the mask keeps weights outside of a matrix of {rows} × {columns}: the file is damaged"
        )
    starts = _starts(mask, kind)
    needed = int(starts[-1]) + PADDING // kind.storage.itemsize
    if values.dtype != kind.storage or values.shape != (needed,):
        raise ModelError(
            f"the values are {_counted(values.dtype, values.numel())} where the mask needs "
            f"{_counted(kind.storage, needed)}: the file is damaged"
        )
    if kind.scaled != (scales is not None):
        raise ModelError(f"{kind.name} values {'need' if kind.scaled else 'have no'} scales")
    shape = kind.scales_of(rows, columns)
    if scales is not None and (scales.dtype != kind.scale or scales.shape != shape):
        raise ModelError(
            f"the scales have {_told(scales)} where {_form(kind.scale, shape)} are needed: the "
            "file is damaged"
        )
    return PackedMatrix(rows, columns, kind, mask, values, starts, scales)


def expand_rows(matrix: PackedMatrix, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """Rows of groups ``first`` to ``last`` (excluded) as a dense matrix, rows × columns.

    Values of 16 bits in their own ``dtype`` come back bit for bit.
    """
    kind = matrix.kind
    steps = steps_of(matrix.columns, kind)
    keep = _bits(matrix.mask[first:last])
    begin, end = (int(matrix.starts[group]) for group in (first, last))
    values = matrix.values[begin:end]
    if kind.halves:
        nibbles = torch.stack([values & 15, values >> 4], 1).flatten()
        values = (
            nibbles[_int4_places(keep.view(-1, ROWS * kind.inputs))].to(torch.int8) * 2
            - LARGEST_INT4
        )
    flat = torch.zeros(keep.shape, dtype=values.dtype, device=keep.device)
    flat.masked_scatter_(keep, values)
    dense = flat.view(last - first, steps, ROWS, kind.inputs).permute(0, 2, 1, 3)
    dense = dense.reshape((last - first) * ROWS, -1)
    dense = dense[: min(last * ROWS, matrix.rows) - first * ROWS, : matrix.columns].contiguous()
    if matrix.scales is None:
        return dense.view(kind.dtype).to(dtype)
    scales = scales_of_rows(matrix.scales, kind, first, last)[: len(dense)]
    if kind.shared_by is None:
        return (dense.float() * scales[:, None]).to(dtype)
    return (dense * spread(scales, kind.shared_by, matrix.columns)).to(dtype)


def scales_of_rows(scales: Tensor, kind: ValueType, first: int, last: int) -> Tensor:
    """Of the rows of groups ``first`` to ``last``, rows × parts where inputs share a scale.

    The last group's may be more than the matrix has rows.
    """
    if kind.shared_by is None:
        return scales[first * ROWS : last * ROWS]
    return scales[first:last].transpose(1, 2).flatten(0, 1)


def unpack_matrix(matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    """The whole matrix, rows × columns."""
    return expand_rows(matrix, 0, groups_of(matrix.rows), dtype)


def _bits(mask: Tensor) -> Tensor:
    """bool, one a weight, in the order of the values."""
    if mask.device.type == "cpu":
        bits = np.unpackbits(mask.numpy(), axis=-1, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool).flatten(1)
    places = torch.arange(8, device=mask.device, dtype=torch.uint8)
    return ((mask[..., None] >> places) & 1).bool().flatten(1)


def _bits_set(mask: Tensor) -> Tensor:
    """How many bits each row has."""
    if mask.device.type == "cpu":  # torch has no count of bits: one pass instead of ten
        words = mask.contiguous().numpy().view(np.uint32)
        return torch.from_numpy(np.bitwise_count(words).sum(1, dtype=np.int64))
    pairs = mask - ((mask >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return ((fours + (fours >> 4)) & 0x0F).sum(1)


def _told(tensor: Tensor) -> str:
    return _form(tensor.dtype, tensor.shape)


def _counted(dtype: torch.dtype, count: int) -> str:
    return f"{count} of {str(dtype).removeprefix('torch.')}"


def _form(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {' × '.join(map(str, shape))}"
