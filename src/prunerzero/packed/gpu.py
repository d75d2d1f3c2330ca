"""Products with packed weights on an NVIDIA GPU: kernels for few inputs, expansion for many.

Weights lie there in an order of their own (``device_order``). Up to 48 input vectors are multiplied
by kernels that read the packed values; for more, and for inputs of other dtypes, a kernel expands
the matrix and torch multiplies. In each process, on each card, the kernels are compared with plain
torch on small matrices before any weight is put into their order; where they cannot be compiled, or
differ, weights stay in the file's order and plain torch expands them.
"""

from __future__ import annotations

import logging
import os
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from prunerzero.packed import nvrtc
from prunerzero.packed.cuts import (
    DENSE_WARPS,
    MOST,
    TABLE,
    Tuning,
    Work,
    flag,
    launch_of,
    room_of,
    tunings,
)
from prunerzero.packed.device_order import (
    JOB_ROWS,
    TILE,
    UNIT,
    DeviceMatrix,
    dense_of,
    has_order,
    numbers_of,
    to_device_order,
)
from prunerzero.packed.layout import VALUE_TYPES, PackedMatrix, ValueType, pack_matrix
from prunerzero.packed.nvrtc import Card, GPUError, Launch, card_of

VARIABLE = "PRUNERZERO_KERNEL"
"""The environment variable that asks for plain torch, where it is ``torch``."""
OLDEST = (8, 0)
"""The first cards with sparse tensor cores: Ampere."""
_INPUTS = {torch.bfloat16: 0, torch.float16: 1}
"""Dtypes of inputs for which there are kernels, as ``Kind`` in ``cuda/common.cuh`` has them."""
_NAMES = tuple(VALUE_TYPES)


def arrange(matrix: PackedMatrix, dtype: torch.dtype) -> DeviceMatrix | None:
    """The matrix in an order of the GPU that it is on; None where it has no kernels for it.

    Args:
        matrix: in the order of the file.
        dtype: of the inputs to come. Others are taken, and may be slower.
    """
    device = matrix.mask.device
    if device.type != "cuda" or not has_order(matrix.kind):
        return None
    if not trusted(device.index, matrix.kind.name, _dtype_of(matrix.kind, dtype)):
        return None
    arranged = to_device_order(matrix)
    torch.cuda.synchronize(device)  # kernels read weights before earlier ones have ended
    return arranged


def _dtype_of(kind: ValueType, wanted: torch.dtype) -> torch.dtype:
    """The dtype of inputs that kernels take with these values, ``wanted`` if there is a choice."""
    if not kind.scaled:
        return kind.dtype
    return wanted if wanted in _INPUTS else torch.bfloat16


# Whether the kernels are to be used


@cache
def trusted(index: int, values: str, dtype: torch.dtype) -> bool:
    """Whether the kernels for these values and inputs give on this card what plain torch gives.

    Where they do not, the reason is told once.
    """
    if os.environ.get(VARIABLE) == "torch" or torch.version.cuda is None:
        return False
    try:
        card = card_of(index)
        if card.capability < OLDEST:
            raise GPUError("they need an NVIDIA card of the Ampere generation or later")
        with torch.cuda.device(index), torch.inference_mode():
            wrong = _differences(card, VALUE_TYPES[values], dtype)
        if wrong:
            raise GPUError(f"they give other results than plain torch ({wrong})")
    except (GPUError, RuntimeError) as error:
        logging.getLogger("prunerzero").warning(
            "packed %s weights are multiplied by plain torch on this GPU, which is slower, because "
            "its kernels cannot be used: %s",
            values,
            error,
        )
        return False
    return True


_COUNTS = (1, 4, *range(8, MOST + 1, 8))
"""Of inputs, so that whatever multiplies some number of them is among what multiplies these."""
_SMALL = 200, 8204
"""Rows and columns of what is multiplied to compare: few, and so many that each warp takes several
turns, and inputs are staged in several parts where they are many. Every other vector of inputs is
not aligned to 16 bytes."""


def _differences(card: Card, kind: ValueType, dtype: torch.dtype) -> str:
    """Which kernels differ from plain torch on small matrices of each order; none: empty."""
    random = torch.Generator().manual_seed(0)
    matrices = {name: _small_matrix(card, kind, name, random) for name in ("2:4", "any")}
    torch.cuda.synchronize()
    cases = [
        (name, matrix, count, tuning)
        for name, matrix in matrices.items()
        for count in _COUNTS
        for tuning in tunings(card, work_of(count, dtype, matrix))
    ]
    nvrtc.compile_all(
        card,
        [_expansion(matrix, dtype)[0].kernel for matrix in matrices.values()]
        + [
            launch_of(card, work_of(count, dtype, matrix), tuning)[0].kernel
            for _, matrix, count, tuning in cases
        ],
    )
    for name, matrix in matrices.items():
        values = numbers_of(matrix).view(kind.dtype)
        if not torch.equal(expand(matrix, dtype).float(), values.float()):
            return f"expanding {name}"
    for name, matrix, count, tuning in cases:
        exact = dense_of(matrix, torch.float32).double()
        inputs = torch.randn(count, matrix.columns, generator=random).to(exact.device, dtype)
        bias = torch.randn(matrix.rows, generator=random).to(exact.device, dtype)
        expected = linear(inputs.double(), exact, bias.double())
        allowed = linear(inputs.double().abs(), exact.abs(), bias.double().abs()) * 2**-18
        allowed += expected.abs() * torch.finfo(dtype).eps
        error = (multiply(inputs, matrix, bias, tuning).double() - expected).abs()
        if not bool((error <= allowed).all()):
            return f"{name}, {count} inputs"
    return ""


def _small_matrix(
    card: Card, kind: ValueType, pattern: str, random: torch.Generator
) -> DeviceMatrix:
    rows, columns = _SMALL
    weight = torch.randn(rows, columns, generator=random)
    if pattern == "2:4":
        order = torch.rand(rows, columns // 4, 4, generator=random).argsort(dim=2)
        weight[(order < 2).flatten(1)] = 0
    else:
        weight[torch.rand(weight.shape, generator=random) < 0.5] = 0
    return to_device_order(pack_matrix(weight.to(f"cuda:{card.index}"), kind))


# The operator

_operators = torch.library.Library("prunerzero", "FRAGMENT")
_operators.define(
    "packed_product_arranged(Tensor inputs, Tensor weights, Tensor? offsets, Tensor? scales, "
    "Tensor? bias, int rows, int type, int longest) -> Tensor"
)


def product(inputs: Tensor, matrix: DeviceMatrix, bias: Tensor | None) -> Tensor:
    """``inputs`` (any number × columns) times the transpose of ``matrix``, plus ``bias``."""
    return torch.ops.prunerzero.packed_product_arranged(  # type: ignore[no-any-return]
        inputs,
        matrix.weights,
        matrix.offsets,
        matrix.scales,
        bias,
        matrix.rows,
        _NAMES.index(matrix.kind.name),
        matrix.longest,
    )


def _operator(
    inputs: Tensor,
    weights: Tensor,
    offsets: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    rows: int,
    type: int,
    longest: int,
) -> Tensor:
    kind = VALUE_TYPES[_NAMES[type]]
    matrix = DeviceMatrix(rows, inputs.shape[1], kind, weights, offsets, longest, scales)
    if inputs.shape[0] <= MOST and _has_kernel(inputs, kind):
        return multiply(inputs, matrix, bias)
    return dense_product(inputs, matrix, bias)


def _fake(
    inputs: Tensor,
    weights: Tensor,
    offsets: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    rows: int,
    type: int,
    longest: int,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows)


_operators.impl("packed_product_arranged", _operator, "CompositeExplicitAutograd")
torch.library.register_fake("prunerzero::packed_product_arranged", _fake)


def _has_kernel(inputs: Tensor, kind: ValueType) -> bool:
    return (
        inputs.is_cuda
        and inputs.dtype in _INPUTS
        and inputs.dtype == _dtype_of(kind, inputs.dtype)
        and trusted(inputs.device.index, kind.name, inputs.dtype)
    )


def dense_product(inputs: Tensor, matrix: DeviceMatrix, bias: Tensor | None) -> Tensor:
    """The product with the matrix expanded: what ``plain_product`` computes of many inputs."""
    kind = matrix.kind
    if inputs.dtype == torch.float64:
        return linear(inputs, dense_of(matrix, torch.float64), bias)
    if kind.scaled:  # bfloat16 holds every int8; float16 does too, but not their products
        dtype = inputs.dtype if inputs.dtype == torch.bfloat16 else torch.float32
    else:
        dtype = inputs.dtype if inputs.dtype == kind.dtype else torch.float32
    weights = expanded(matrix, dtype)
    if matrix.scales is None:
        result = linear(inputs.to(dtype), weights, None if bias is None else bias.to(dtype))
        return result.to(inputs.dtype)
    scaled = linear(inputs.to(dtype), weights) * matrix.scales
    return (scaled if bias is None else scaled + bias).to(inputs.dtype)


def expanded(matrix: DeviceMatrix, dtype: torch.dtype) -> Tensor:
    """The dense matrix without its scales, rows × columns."""
    kind, device = matrix.kind, matrix.weights.device
    own = _dtype_of(kind, dtype)
    if device.type == "cuda" and trusted(device.index, kind.name, own):
        return expand(matrix, own).to(dtype)
    return numbers_of(matrix).view(kind.dtype).to(dtype)


# The kernels


def multiply(
    inputs: Tensor, matrix: DeviceMatrix, bias: Tensor | None, tuning: Tuning | None = None
) -> Tensor:
    """The product by a kernel, of up to ``MOST`` contiguous inputs of a dtype that it takes."""
    batch = inputs.shape[0]
    output = inputs.new_empty(batch, matrix.rows)
    if not batch:
        return output
    card = card_of(inputs.device.index)
    how, last = launch_of(card, work_of(batch, inputs.dtype, matrix), tuning)
    sizes = matrix.rows, matrix.columns
    parts = inputs, matrix.scales, bias, output
    if matrix.offsets is None:
        nvrtc.launch(card, how, matrix.weights, *parts, *sizes, batch, last)
    else:
        nvrtc.launch(card, how, matrix.weights, matrix.offsets, *parts, *sizes, batch, last)
    return output


def expand(matrix: DeviceMatrix, dtype: torch.dtype) -> Tensor:
    """The dense matrix by a kernel, without its scales; ``dtype`` is one that kernels take."""
    dense = torch.empty(matrix.rows, matrix.columns, dtype=dtype, device=matrix.weights.device)
    card = card_of(dense.device.index)
    how, last = _expansion(matrix, dtype)
    sizes = matrix.rows, matrix.columns
    if matrix.offsets is None:
        nvrtc.launch(card, how, matrix.weights, dense, *sizes)
    else:
        nvrtc.launch(card, how, matrix.weights, matrix.offsets, dense, *sizes, last)
    return dense


def _expansion(matrix: DeviceMatrix, dtype: torch.dtype) -> tuple[Launch, int]:
    """The launch that expands it, and the last argument of the kernel where it takes one more."""
    integers = matrix.kind.scaled
    arguments = f"<{_INPUTS[dtype]},{flag(integers)}>"
    if matrix.offsets is None:
        units = -(-matrix.rows // TILE) * -(-matrix.columns // UNIT)
        return Launch(f"two_four_dense{arguments}", -(-units // 4), 128), 0
    room = room_of(integers, matrix.longest)
    blocks = -(-(len(matrix.offsets) - 1) // DENSE_WARPS)
    shared = TABLE + DENSE_WARPS * (room + JOB_ROWS * 80)
    return Launch(f"streams_dense{arguments}", blocks, DENSE_WARPS * 32, shared), room


def work_of(batch: int, dtype: torch.dtype, matrix: DeviceMatrix) -> Work:
    """What decides how the product of so many inputs of ``dtype`` with ``matrix`` is cut."""
    integers, kind = matrix.kind.scaled, _INPUTS[dtype]
    return Work(matrix.rows, matrix.columns, integers, matrix.longest, batch, kind)
