"""The product with a packed matrix, by the best means of this machine.

Two operators of torch do the work. Each begins as plain torch; a compiled library, loaded when the
CPU first needs one, brings kernels that take their place there:

- ``prunerzero::packed_product``: a few inputs, for decoding. Kernels read the packed values.
- ``prunerzero::packed_expand``: rows as a dense block, for prompts, which torch then multiplies.

The environment variable ``PRUNERZERO_KERNEL`` names the path to use instead of the best one.
Matrices in the order of a GPU are multiplied there, by what ``gpu`` has.
"""

from __future__ import annotations

import ctypes
import logging
import os
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import InputError, first_line
from prunerzero.packed import gpu
from prunerzero.packed.build import BuildError, library
from prunerzero.packed.device_order import DeviceMatrix, dense_of
from prunerzero.packed.layout import ROWS, VALUE_TYPES, PackedMatrix, expand_rows, pack_matrix
from prunerzero.packed.plain import FEW, blocks, dense_product, plain_product

VARIABLE = "PRUNERZERO_KERNEL"
PATHS = ("amx", "avx512-bf16", "avx512", "avx2", "neon", "portable")
"""Ways of computing that the library may have, the fastest first; ``torch`` does without it."""

_INPUT_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_NAMES = tuple(VALUE_TYPES)  # in the order of ``ValueType`` in native/packed.h
_CODES = {name: code for code, name in enumerate(_NAMES)}

_operators = torch.library.Library("prunerzero", "DEF")
_operators.define(
    "packed_product(Tensor inputs, Tensor mask, Tensor values, Tensor starts, Tensor? scales, "
    "Tensor? bias, int rows, int type) -> Tensor"
)
_operators.define(
    "packed_expand(Tensor(a!) block, Tensor mask, Tensor values, Tensor starts, "
    "int rows, int type, int first, int last) -> ()"
)


def product(
    inputs: Tensor, matrix: PackedMatrix | DeviceMatrix, bias: Tensor | None = None
) -> Tensor:
    """``inputs`` (…, columns) times the transpose of ``matrix``, plus ``bias``.

    What ``torch.nn.functional.linear`` is for a dense weight. ``inputs`` are bfloat16, float16,
    float32 or, for which there are no kernels, float64, and the result is of the same dtype.
    Gradients flow to ``inputs`` and ``bias``.
    """
    if inputs.dtype not in _INPUT_TYPES or inputs.shape[-1] != matrix.columns:
        raise ValueError(
            f"a packed matrix of {matrix.columns} inputs takes bfloat16, float16, float32 or "
            f"float64 of that width, not {inputs.dtype} of width {inputs.shape[-1]}"
        )
    flat = inputs.reshape(-1, matrix.columns).contiguous()
    if bias is not None:
        bias = bias.to(flat.dtype).contiguous()
    learned = flat.requires_grad or (bias is not None and bias.requires_grad)
    multiply = _Differentiable.apply if learned and torch.is_grad_enabled() else _product
    result: Tensor = multiply(flat, matrix, bias)
    return result.view(*inputs.shape[:-1], matrix.rows)


def path() -> str:
    """The name of what computes ``product`` on this machine's CPU."""
    loaded = _load()
    return "torch" if isinstance(loaded, str) else str(loaded.prunerzero_path().decode())


def why_torch() -> str | None:
    """Why the CPU has plain torch alone, in a sentence; None where compiled kernels are used."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def paths() -> tuple[str, ...]:
    """What this machine can be told to use, the fastest first."""
    loaded = _load()
    if isinstance(loaded, str):
        return ("torch",)
    return tuple(name for name in PATHS if loaded.prunerzero_runs(name.encode())) + ("torch",)


def use(name: str) -> None:
    """Use this one of ``paths()`` from now on, for tests and benchmarks, but for ``torch``.

    Raises InputError where this machine does not run it.
    """
    global _tiles
    loaded = _load()
    if isinstance(loaded, str) or not loaded.prunerzero_use(name.encode()):
        raise InputError(f"this machine does not run the path {name!r} of the packed kernels.")
    _tiles = name == "amx"


# The product, of a few inputs and of many


def _product(inputs: Tensor, matrix: PackedMatrix | DeviceMatrix, bias: Tensor | None) -> Tensor:
    if isinstance(matrix, DeviceMatrix):
        return gpu.product(inputs, matrix, bias)
    if inputs.dtype == torch.float64:
        return dense_product(inputs, matrix, bias, torch.float64)
    if _loaded is None and not torch.compiler.is_compiling():
        _load()
    tiles = _tiles and (
        matrix.kind.name == "int8" or matrix.kind.dtype == inputs.dtype == torch.bfloat16
    )
    if inputs.shape[0] > FEW and not tiles:
        return plain_product(inputs, matrix, bias, _expand)
    return _operator(inputs, matrix, bias)


def _operator(inputs: Tensor, matrix: PackedMatrix, bias: Tensor | None) -> Tensor:
    return torch.ops.prunerzero.packed_product(  # type: ignore[no-any-return]
        inputs,
        matrix.mask,
        matrix.values,
        matrix.starts,
        matrix.scales,
        bias,
        matrix.rows,
        _CODES[matrix.kind.name],
    )


def _expand(matrix: PackedMatrix, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """What ``expand_rows`` gives of a matrix without scales."""
    kind = matrix.kind
    rows = min(last * ROWS, matrix.rows) - first * ROWS
    block = torch.empty(
        rows,
        matrix.columns,
        dtype=torch.bfloat16 if kind.scaled else kind.dtype,  # it holds every integer of 8 bits
        device=matrix.mask.device,
    )
    torch.ops.prunerzero.packed_expand(
        block,
        matrix.mask,
        matrix.values,
        matrix.starts,
        matrix.rows,
        _CODES[kind.name],
        first,
        last,
    )
    return block.to(dtype)


class _Differentiable(torch.autograd.Function):
    """The product where gradients flow: the packed weights themselves have none."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, matrix: PackedMatrix | DeviceMatrix, bias: Tensor | None
    ) -> Tensor:
        ctx.matrix = matrix
        return _product(inputs, matrix, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        of_inputs, _, of_bias = ctx.needs_input_grad
        return (
            _product_back(gradient, ctx.matrix) if of_inputs else None,
            None,
            gradient.sum(0) if of_bias else None,
        )


def _product_back(gradient: Tensor, matrix: PackedMatrix | DeviceMatrix) -> Tensor:
    if isinstance(matrix, DeviceMatrix):
        return gradient @ dense_of(matrix, gradient.dtype)
    result = gradient.new_zeros(gradient.shape[0], matrix.columns)
    for first, last, rows in blocks(matrix):
        result += gradient[:, rows] @ expand_rows(matrix, first, last, gradient.dtype)
    return result


# The operators in plain torch


def _plain_operator(
    inputs: Tensor,
    mask: Tensor,
    values: Tensor,
    starts: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    rows: int,
    type: int,
) -> Tensor:
    if inputs.device.type == "cpu" and not isinstance(_load(), str):  # a kernel is there now
        return torch.ops.prunerzero.packed_product(  # type: ignore[no-any-return]
            inputs, mask, values, starts, scales, bias, rows, type
        )
    kind = VALUE_TYPES[_NAMES[type]]
    matrix = PackedMatrix(rows, inputs.shape[1], kind, mask, values, starts, scales)
    return plain_product(inputs, matrix, bias)


def _plain_expand(
    block: Tensor,
    mask: Tensor,
    values: Tensor,
    starts: Tensor,
    rows: int,
    type: int,
    first: int,
    last: int,
) -> None:
    if block.device.type == "cpu" and not isinstance(_load(), str):
        torch.ops.prunerzero.packed_expand(block, mask, values, starts, rows, type, first, last)
        return
    kind = VALUE_TYPES[_NAMES[type]]
    matrix = PackedMatrix(rows, block.shape[1], kind, mask, values, starts)
    block.copy_(expand_rows(matrix, first, last, block.dtype))


_operators.impl("packed_product", _plain_operator, "CompositeExplicitAutograd")
_operators.impl("packed_expand", _plain_expand, "CompositeExplicitAutograd")


def _fake_product(
    inputs: Tensor,
    mask: Tensor,
    values: Tensor,
    starts: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    rows: int,
    type: int,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows)


def _fake_expand(*_: object) -> None:
    """Write nothing."""


torch.library.register_fake("prunerzero::packed_product", _fake_product)
torch.library.register_fake("prunerzero::packed_expand", _fake_expand)


# The library

_lock = RLock()
_loaded: ctypes.CDLL | str | None = None
"""The library, or why there is none, once it has been looked for."""
_tiles = False
"""Whether kernels take any number of inputs, of some types of values, being faster than torch."""


def _load() -> ctypes.CDLL | str:
    global _loaded
    with _lock:
        if _loaded is None:
            wanted = os.environ.get(VARIABLE) or None
            found = _find(wanted)
            if not isinstance(found, str):
                with torch.device("cpu"):  # a model may be made on the meta device meanwhile
                    _check()
            elif wanted is None:
                logging.getLogger("prunerzero").warning("%s", found)
            _loaded = found  # after the check: a library that fails it is refused each time
        return _loaded


def _find(wanted: str | None) -> ctypes.CDLL | str:
    global _tiles
    if wanted is not None and wanted not in (*PATHS, "torch"):
        raise InputError(
            f"{VARIABLE} is {wanted!r}, which is no path; name one of {', '.join(PATHS)} or torch."
        )
    if wanted == "torch":
        return f"{VARIABLE} asks for plain torch"
    try:
        with library() as place:
            found = ctypes.CDLL(str(place))
    except (BuildError, OSError) as error:
        if wanted is not None:
            raise InputError(
                f"{VARIABLE} asks for {wanted}, but there are no compiled kernels: "
                f"{first_line(error)}."
            ) from error
        return (
            "packed weights are multiplied by plain torch, which is slower, because there are no "
            f"compiled kernels: {first_line(error)}"
        )
    found.prunerzero_path.restype = ctypes.c_char_p
    found.prunerzero_runs.restype = found.prunerzero_use.restype = ctypes.c_bool
    if wanted is not None and not found.prunerzero_use(wanted.encode()):
        raise InputError(f"{VARIABLE} asks for {wanted}, which this processor does not run.")
    _tiles = found.prunerzero_path() == b"amx"
    return found


def _check() -> None:
    """Raise RuntimeError where the library just opened computes other products than plain torch."""
    weight = torch.arange(20 * 37).view(20, 37).mul(7).remainder(11).sub(5).float()
    inputs = torch.arange(2 * 37).view(2, 37).remainder(13).sub(6).bfloat16()
    for kind in map(VALUE_TYPES.__getitem__, _NAMES):
        matrix = pack_matrix(weight, kind)
        if not torch.equal(_operator(inputs, matrix, None), plain_product(inputs, matrix, None)):
            raise RuntimeError(
                f"the compiled kernels compute other products of {kind.name} than plain torch; "
                f"set {VARIABLE}=torch to do without them, and report this"
            )
