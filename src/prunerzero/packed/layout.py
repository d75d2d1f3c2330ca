"""How one pruned weight matrix is laid out: a bit for each weight, and the kept values in order.

The matrix is cut into groups of 16 rows, and each group into steps of a few inputs: 2 where a
value has 16 bits, 4 where it has 8. A step covers 16 rows × 2 (or 4) inputs, and its bits are one
word of 32 (or 64): bit ``row * inputs + input`` tells whether that weight is kept. So one vector
of 512 bits holds a step, each of its 32-bit lanes belongs to one output, and a product adds the
lanes of one output to themselves: no sum across lanes is needed.

The values follow in the order of the bits, group after group, step after step. Rows and inputs
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
    """Whether each row has a float32 scale that its values are multiplied by."""


VALUE_TYPES = {
    kind.name: kind
    for kind in (
        ValueType("bfloat16", 2, torch.int16, torch.bfloat16, False),
        ValueType("float16", 2, torch.int16, torch.float16, False),
        ValueType("int8", 4, torch.int8, torch.int8, True),
    )
}


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
    """int64, groups + 1: where each group's values begin, and where the last one's end."""
    scales: Tensor | None = None
    """float32, one a row, where ``kind.scaled``."""

    @property
    def kept(self) -> int:
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
    rows, columns = weight.shape
    numbers, scales = stored_numbers(weight, kind)
    groups, steps = groups_of(rows), steps_of(columns, kind)
    padded = numbers.new_zeros(groups * ROWS, steps * kind.inputs)
    padded[:rows, :columns] = numbers
    ordered = padded.view(groups, ROWS, steps, kind.inputs).permute(0, 2, 1, 3).reshape(groups, -1)
    keep = ordered != 0
    powers = 2 ** torch.arange(8, device=weight.device, dtype=torch.uint8)
    mask = (keep.view(groups, -1, 8) * powers).sum(-1, dtype=torch.uint8)
    starts = torch.zeros(groups + 1, dtype=torch.int64, device=weight.device)
    torch.cumsum(keep.sum(1), 0, out=starts[1:])
    values = torch.cat([ordered[keep], numbers.new_zeros(PADDING // kind.storage.itemsize)])
    return PackedMatrix(rows, columns, kind, mask, values, starts, scales)


def stored_numbers(weight: Tensor, kind: ValueType) -> tuple[Tensor, Tensor | None]:
    """The integers, rows × columns, that stand for the weights; those that are not 0 are kept.

    A weight is kept where any of its bits is set (so -0.0 is kept, and unpacking gives every bit
    back). With int8 values each row is divided by ``max|w| / 127``, the scales, and rounded to the
    nearest integer; what rounds to zero is not kept.
    """
    if not kind.scaled:
        return weight.to(kind.dtype).view(kind.storage), None
    scales = weight.abs().amax(dim=1).float() / 127
    divisor = torch.where(scales > 0, scales, 1)
    rounded = (weight.float() / divisor[:, None]).round().clamp(-127, 127)
    return rounded.to(kind.storage), scales


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
    starts = torch.zeros(groups + 1, dtype=torch.int64, device=mask.device)
    torch.cumsum(_bits_set(mask), 0, out=starts[1:])
    needed = int(starts[-1]) + PADDING // kind.storage.itemsize
    if values.dtype != kind.storage or values.shape != (needed,):
        raise ModelError(
            f"the values have {_told(values)} where the mask needs "
            f"{str(kind.storage).removeprefix('torch.')} {needed}: the file is damaged"
        )
    if kind.scaled != (scales is not None):
        raise ModelError(f"{kind.name} values {'need' if kind.scaled else 'have no'} scales")
    if scales is not None and (scales.dtype != torch.float32 or scales.shape != (rows,)):
        raise ModelError(
            f"the scales have {_told(scales)} where float32 {rows} are needed: the file is damaged"
        )
    return PackedMatrix(rows, columns, kind, mask, values, starts, scales)


def expand_rows(matrix: PackedMatrix, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """Rows of groups ``first`` to ``last`` (excluded) as a dense matrix, rows × columns.

    Values of 16 bits in their own ``dtype`` come back bit for bit.
    """
    kind = matrix.kind
    steps = steps_of(matrix.columns, kind)
    keep = _bits(matrix.mask[first:last])
    flat = torch.zeros(keep.shape, dtype=kind.storage, device=keep.device)
    begin, end = (int(matrix.starts[group]) for group in (first, last))
    flat[keep] = matrix.values[begin:end]
    dense = flat.view(last - first, steps, ROWS, kind.inputs).permute(0, 2, 1, 3)
    dense = dense.reshape((last - first) * ROWS, -1)
    dense = dense[: min(last * ROWS, matrix.rows) - first * ROWS, : matrix.columns].contiguous()
    if matrix.scales is None:
        return dense.view(kind.dtype).to(dtype)
    scales = matrix.scales[first * ROWS : last * ROWS, None]
    return (dense.float() * scales).to(dtype)


def unpack_matrix(matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    """The whole matrix, rows × columns."""
    return expand_rows(matrix, 0, groups_of(matrix.rows), dtype)


def _bits(mask: Tensor) -> Tensor:
    """bool, one a weight, in the order of the values."""
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
    shape = " × ".join(str(size) for size in tensor.shape)
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
