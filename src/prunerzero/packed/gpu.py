"""Products with packed weights on an NVIDIA GPU: kernels compiled by NVRTC, launched by the driver.

Both come with torch: NVRTC, and ``cuda-bindings``, NVIDIA's Python interface to it. So nothing is
compiled on the user's machine before it is needed, and then in seconds, without a compiler. A
kernel is trusted once it has given what plain torch gives on small matrices, in each process and
on each device; where it does not, or cannot be compiled, weights stay in the file's order and are
expanded by plain torch.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import first_line
from prunerzero.packed.device_order import (
    BAND,
    CHUNK,
    TILE,
    UNIT,
    DeviceMatrix,
    numbers_of,
    to_device_order,
)
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix
from prunerzero.packed.plain import FEW

SOURCES = Path(__file__).with_name("cuda")
OLDEST = (8, 0)
"""The first cards with sparse tensor cores: Ampere."""
CLUSTERS = (9, 0)
"""The first with clusters of blocks, and with kernels that begin before the last one ends."""
_KINDS = {torch.bfloat16: 0, torch.float16: 1}
"""Of inputs, as ``Kind`` in ``cuda/common.cuh`` numbers them."""


class GPUError(Exception):
    """Why there are no kernels, in words that end a sentence."""


@dataclass(frozen=True)
class Shape:
    """How a product is cut into blocks."""

    name: str
    """Of the kernel, with its template's arguments."""
    grid: int
    cluster: int
    threads: int
    shared: int
    """Bytes of shared memory."""
    segment: int = 0
    """``two_four``: units whose inputs are staged at once."""


# Which kernel, and how it is cut


def two_four_shape(
    matrix: DeviceMatrix, kind: int, batch: int, device: DeviceFacts, tune: Tuning | None = None
) -> Shape:
    integers = matrix.kind.scaled
    tune = tune or two_four_tuning(matrix, batch, device)
    tall, warps, ahead = tune.tall, tune.warps, tune.ahead
    wide = 1 if batch <= 8 else 2
    units = -(-matrix.columns // UNIT)
    cluster = min(tune.cluster, units) if device.clusters else 1
    blocks = -(-matrix.rows // (TILE * tall))
    sums = warps * batch * TILE * tall * 4
    of_unit = 2 * batch * 64
    room = (device.shared - sums) // of_unit
    turn = warps * ahead
    mine = -(-units // cluster)
    segment = mine if mine <= room else max(room // turn, 1) * turn
    segment = -(-segment // turn) * turn
    shared = sums + min(segment, mine) * of_unit
    name = f"two_four<{kind},{_bool(integers)},{tall},{wide},{warps},{ahead}>"
    return Shape(name, blocks * cluster, cluster, warps * 32, shared, segment)


@dataclass(frozen=True)
class Tuning:
    tall: int = 1
    warps: int = 8
    ahead: int = 4
    cluster: int = 1
    side: int = 2


def two_four_tuning(matrix: DeviceMatrix, batch: int, device: DeviceFacts) -> Tuning:
    return Tuning()


def streams_shape(
    matrix: DeviceMatrix, kind: int, batch: int, device: DeviceFacts, tune: Tuning | None = None
) -> Shape:
    integers = matrix.kind.scaled
    tune = tune or Tuning(side=4 if integers else 2, cluster=8)
    lines = 128 if integers else 64
    jobs = BAND // lines
    side = tune.side
    chunks = -(-matrix.columns // CHUNK)
    cluster = min(tune.cluster, -(-chunks // side)) if device.clusters else 1
    longest = (matrix.longest + 3) // 4 * 4

    def bytes_of(side: int) -> int:
        sums = side * batch * BAND * 4
        staged = side * (CHUNK // 32) * batch * 64
        return sums + staged + side * jobs * (lines * 64 + longest * 128)

    wide = 1 if batch <= 8 else 2
    while side > 1 and bytes_of(side) > device.shared:
        side //= 2
    name = f"streams<{kind},{_bool(integers)},{wide},{side}>"
    blocks = -(-matrix.rows // BAND) * cluster
    return Shape(name, blocks, cluster, side * jobs * 32, bytes_of(side))


def _bool(value: bool) -> str:
    return "true" if value else "false"


# The compiler and the driver


@dataclass(frozen=True)
class DeviceFacts:
    index: int
    capability: tuple[int, int]
    shared: int
    """Bytes of shared memory that a block can have."""

    @property
    def clusters(self) -> bool:
        return self.capability >= CLUSTERS


@lru_cache
def facts_of_device(index: int) -> DeviceFacts:
    properties = torch.cuda.get_device_properties(index)
    return DeviceFacts(
        index, (properties.major, properties.minor), properties.shared_memory_per_block_optin
    )


class Kernels:
    """The kernels of one device, each compiled when it is first asked for."""

    def __init__(self, device: DeviceFacts) -> None:
        self.device = device
        self._functions: dict[str, Any] = {}
        self._shared: dict[str, int] = {}

    def function(self, name: str, shared: int) -> Any:
        """The kernel of that name, which may take ``shared`` bytes of shared memory."""
        from cuda.bindings import driver

        if name not in self._functions:
            cubin, lowered = compile_kernel(name, self.device.capability)
            module = _done(driver.cuModuleLoadData(cubin))
            self._functions[name] = _done(driver.cuModuleGetFunction(module, lowered))
        function = self._functions[name]
        if shared > self._shared.get(name, 0):
            _done(
                driver.cuFuncSetAttribute(
                    function,
                    driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared,
                )
            )
            self._shared[name] = shared
        return function

    def launch(self, shape: Shape, arguments: list[tuple[Any, Any]], early: bool = True) -> None:
        """Launch on torch's current stream. ``early``: it may begin before the last has ended."""
        from cuda.bindings import driver

        function = self.function(shape.name, shape.shared)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = shape.grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = shape.threads, 1, 1
        config.sharedMemBytes = shape.shared
        config.hStream = torch.cuda.current_stream(self.device.index).cuda_stream
        attributes = []
        if shape.cluster > 1:
            cluster = driver.CUlaunchAttribute()
            cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            cluster.value.clusterDim.x = shape.cluster
            cluster.value.clusterDim.y = cluster.value.clusterDim.z = 1
            attributes.append(cluster)
        if early and self.device.clusters:
            overlap = driver.CUlaunchAttribute()
            overlap.id = (
                driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            )
            overlap.value.programmaticStreamSerializationAllowed = 1
            attributes.append(overlap)
        config.attrs, config.numAttrs = attributes, len(attributes)
        values, types = zip(*arguments, strict=True)
        _done(driver.cuLaunchKernelEx(config, function, (values, types), 0))


def compile_kernel(name: str, capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """The machine code of a kernel, and the name that it has in it. Raises GPUError."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise GPUError(f"cuda-bindings cannot be imported: {first_line(error)}") from error
    source = "".join(
        (SOURCES / file).read_text() for file in ("common.cuh", f"{name.split('<')[0].removesuffix('_dense')}.cu")
    )
    program = _done(nvrtc.nvrtcCreateProgram(source.encode(), b"packed.cu", 0, [], []))
    _done(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode(), b"--std=c++17"]
    result = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        size = _done(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        _done(nvrtc.nvrtcGetProgramLog(program, log))
        raise GPUError(f"NVRTC does not compile {name}: {log.decode(errors='replace').strip()}")
    lowered = bytes(_done(nvrtc.nvrtcGetLoweredName(program, name.encode())))
    size = _done(nvrtc.nvrtcGetCUBINSize(program))
    cubin = b" " * size
    _done(nvrtc.nvrtcGetCUBIN(program, cubin))
    _done(nvrtc.nvrtcDestroyProgram(program))
    return cubin, lowered


def _done(result: tuple[Any, ...]) -> Any:
    """What a call of NVIDIA's interface returned. Raises GPUError where it failed."""
    status, *values = result
    if int(status) != 0:
        raise GPUError(f"CUDA answered {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


@lru_cache
def kernels_of(index: int) -> Kernels:
    return Kernels(facts_of_device(index))


# Products


def multiply(
    inputs: Tensor,
    matrix: DeviceMatrix,
    bias: Tensor | None,
    tune: Tuning | None = None,
    early: bool = True,
) -> Tensor:
    """``inputs`` (up to ``FEW`` × columns) times the transpose of ``matrix``, plus ``bias``."""
    kernels = kernels_of(inputs.device.index)
    batch = inputs.shape[0]
    output = inputs.new_empty(batch, matrix.rows)
    if batch == 0:
        return output
    kind = _KINDS[inputs.dtype]
    sizes = [matrix.rows, matrix.columns, batch]
    if matrix.offsets is None:
        shape = two_four_shape(matrix, kind, batch, kernels.device, tune)
        tensors = [matrix.weights, inputs, matrix.scales, bias, output]
        sizes.append(shape.segment)
    else:
        shape = streams_shape(matrix, kind, batch, kernels.device, tune)
        tensors = [matrix.weights, matrix.offsets, inputs, matrix.scales, bias, output]
        sizes.append((matrix.longest + 3) // 4 * 4)
    kernels.launch(shape, _pointers(*tensors) + _integers(*sizes), early)
    return output


def expand(matrix: DeviceMatrix, dtype: torch.dtype) -> Tensor:
    """The dense matrix, without scales, in bfloat16 or float16."""
    device = matrix.weights.device
    kernels = kernels_of(device.index)
    dense = torch.empty(matrix.rows, matrix.columns, dtype=dtype, device=device)
    what = f"<{_KINDS[dtype]},{_bool(matrix.kind.scaled)}>"
    if matrix.offsets is None:
        warps = -(-matrix.rows // TILE) * -(-matrix.columns // UNIT)
        shape = Shape(f"two_four_dense{what}", -(-warps // 4), 1, 128, 0)
        tensors = [matrix.weights, dense]
    else:
        lines = 128 if matrix.kind.scaled else 64
        shared = lines * 64 + (matrix.longest + 3) // 4 * 4 * 128
        shape = Shape(f"streams_dense{what}", len(matrix.offsets), 1, 32, shared)
        tensors = [matrix.weights, matrix.offsets, dense]
    kernels.launch(shape, _pointers(*tensors) + _integers(matrix.rows, matrix.columns), False)
    return dense


def _pointers(*tensors: Tensor | None) -> list[tuple[Any, Any]]:
    return [(0 if t is None else t.data_ptr(), ctypes.c_void_p) for t in tensors]


def _integers(*numbers: int) -> list[tuple[Any, Any]]:
    return [(number, ctypes.c_int) for number in numbers]
