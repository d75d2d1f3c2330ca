"""CUDA C++ compiled and launched without a compiler on the machine.

NVRTC compiles it, the driver launches it. Both are reached through ``cuda-bindings``, NVIDIA's own
Python interface, which torch for CUDA brings with NVRTC; but for the launch itself, as that takes
longer there. A kernel takes a quarter of a second or half of one to compile, once in a process.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunerzero.errors import first_line

SOURCES = Path(__file__).with_name("cuda")
OVERLAPPING = (9, 0)
"""The first cards with clusters of blocks, and kernels that begin before the last one ends."""


class GPUError(Exception):
    """Why a kernel cannot be had or launched, in words that end a sentence."""


@dataclass(frozen=True)
class Launch:
    """Which kernel, and how its work is cut."""

    kernel: str
    """With the arguments of its template: ``two_four<0,false,1,1,8,4>``."""
    blocks: int
    threads: int
    """Of a block."""
    shared: int = 0
    """Bytes of shared memory of a block."""
    cluster: int = 1
    """Blocks that share results."""
    overlaps: bool = False
    """Whether it may begin before the kernel before it has ended: it says itself when to wait."""


@dataclass(frozen=True)
class Card:
    """What a launch needs to know of a GPU."""

    index: int
    capability: tuple[int, int]
    shared: int
    """Bytes of shared memory that a block can have."""
    processors: int
    """Streaming multiprocessors."""

    @property
    def overlaps(self) -> bool:
        return self.capability >= OVERLAPPING


@cache
def card_of(index: int) -> Card:
    torch.cuda.init()  # before it, the driver answers nothing
    about = torch.cuda.get_device_properties(index)
    shared = _shared_memory(index)
    return Card(index, (about.major, about.minor), shared, about.multi_processor_count)


def _shared_memory(index: int) -> int:
    driver = _interface().driver
    most = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_done(driver.cuDeviceGetAttribute(most, _done(driver.cuDeviceGet(index)))))


def launch(card: Card, how: Launch, *arguments: Tensor | int | None) -> None:
    """Launch a kernel on torch's current stream of ``card``.

    Args:
        arguments: of the kernel in order: tensors become pointers, None the null pointer, and
            numbers are ``int``.

    Raises:
        GPUError: it cannot be compiled, or the card refuses it.
    """
    ready = _ready(card, how, len(arguments))
    values = [
        0 if each is None else each.data_ptr() if isinstance(each, Tensor) else each
        for each in arguments
    ]
    with _launching, _context(card):
        ready.config.hStream = torch.cuda.current_stream(card.index).cuda_stream
        ready.slots[:] = values
        _check(_driver().cuLaunchKernelEx(ready.place, ready.function, ready.parameters, None))


_launching = Lock()
"""Held from where arguments are put into their slots, which threads share, until the launch."""


class _Ready(NamedTuple):
    """A kernel, how it is launched but for the stream, and where its arguments are put."""

    config: Any
    place: int
    """Where ``config`` lies in memory."""
    function: int
    slots: Any
    """8 bytes for each argument, of which an ``int`` of the kernel takes the first 4."""
    parameters: Any
    """Where each slot lies in memory."""


@cache
def _ready(card: Card, how: Launch, count: int) -> _Ready:
    function = _function(card, how.kernel)
    config = _interface().driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = how.blocks, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = how.threads, 1, 1
    config.sharedMemBytes = how.shared
    config.attrs = _attributes(how.cluster, how.overlaps and card.overlaps)
    config.numAttrs = len(config.attrs)
    slots = (ctypes.c_uint64 * count)()
    first = ctypes.addressof(slots)
    parameters = (ctypes.c_void_p * count)(*(first + 8 * place for place in range(count)))
    return _Ready(config, config.getPtr(), int(function), slots, parameters)


@cache
def _driver() -> Any:
    """The driver without ``cuda-bindings``, which takes 9 µs to launch a kernel instead of 3."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        library.cuLaunchKernelEx.argtypes = (ctypes.c_void_p,) * 4
        for change in (library.cuCtxPushCurrent_v2, library.cuCtxPopCurrent_v2):
            change.argtypes = (ctypes.c_void_p,)
    except (OSError, AttributeError) as error:
        raise GPUError(f"the driver of CUDA cannot be used: {first_line(error)}") from error
    return library


@contextmanager
def _context(card: Card) -> Iterator[None]:
    """Within it the thread has the context that torch has on ``card``.

    Before, it may have had that of another card, or none, as a thread that is new to CUDA.
    """
    _check(_driver().cuCtxPushCurrent_v2(_primary_context(card.index)))
    try:
        yield
    finally:
        _driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _check(status: int) -> None:
    """Raise GPUError where a call of ``_driver()`` failed."""
    if status != 0:
        raise GPUError(f"CUresult {_interface().driver.CUresult(status).name}")


@cache
def _primary_context(index: int) -> int:
    driver = _interface().driver
    return int(_done(driver.cuDevicePrimaryCtxRetain(_done(driver.cuDeviceGet(index)))))


def compile_kernel(kernel: str, capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """The machine code of a kernel, and the name that it has there. Raises GPUError."""
    nvrtc = _interface().nvrtc
    name = kernel.encode()
    file = kernel.partition("<")[0].removesuffix("_dense")
    source = "".join((SOURCES / part).read_text() for part in ("common.cuh", f"{file}.cu"))
    options = [b"--gpu-architecture=sm_%d%d" % capability, b"--std=c++17"]
    try:
        program = _done(nvrtc.nvrtcCreateProgram(source.encode(), f"{file}.cu".encode(), 0, [], []))
    except RuntimeError as error:  # it finds no NVRTC
        raise GPUError(first_line(error)) from error
    try:
        _done(nvrtc.nvrtcAddNameExpression(program, name))
        if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
            log = bytearray(_done(nvrtc.nvrtcGetProgramLogSize(program)))
            _done(nvrtc.nvrtcGetProgramLog(program, log))
            raise GPUError(f"NVRTC does not compile {kernel}: {_first_error(bytes(log))}")
        lowered = bytes(_done(nvrtc.nvrtcGetLoweredName(program, name)))
        code = bytearray(_done(nvrtc.nvrtcGetCUBINSize(program)))
        _done(nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(code), lowered


def _first_error(log: bytes) -> str:
    lines = log.rstrip(b"\0").decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), " ".join(lines))


@cache
def _interface() -> Any:
    try:
        import cuda.bindings.driver
        import cuda.bindings.nvrtc
    except ImportError as error:
        raise GPUError(
            f"cuda-bindings, which torch for CUDA brings, cannot be imported: {first_line(error)}"
        ) from error
    return cuda.bindings


_functions: dict[tuple[int, str], Any] = {}
"""What was compiled, by card and kernel."""
_compiling = Lock()
"""Held while it changes, so that each kernel is compiled and loaded once."""


def compile_all(card: Card, kernels: Iterable[str]) -> None:
    """Compile these kernels for ``card``, several at a time; each is launched sooner afterwards.

    Raises:
        GPUError: one of them cannot be compiled, or the card refuses it.
    """
    _interface()  # imported before there are threads
    with _compiling, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        missing = [one for one in dict.fromkeys(kernels) if (card.index, one) not in _functions]
        compiled = pool.map(lambda kernel: compile_kernel(kernel, card.capability), missing)
        for kernel, (code, name) in zip(missing, compiled, strict=True):
            _functions[card.index, kernel] = _loaded(card, code, name)


def _loaded(card: Card, code: bytes, name: bytes) -> Any:
    """The kernel on ``card``, which may have all the shared memory that a block can have there."""
    driver = _interface().driver
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    with _context(card):
        module = _done(driver.cuModuleLoadData(code))
        function = _done(driver.cuModuleGetFunction(module, name))
        _done(driver.cuFuncSetAttribute(function, most, _shared_memory(card.index)))
    return function


def _function(card: Card, kernel: str) -> Any:
    if (card.index, kernel) not in _functions:
        compile_all(card, [kernel])
    return _functions[card.index, kernel]


@cache
def _attributes(cluster: int, overlaps: bool) -> list[Any]:
    driver = _interface().driver
    kinds, found = driver.CUlaunchAttributeID, []
    if cluster > 1:
        size = driver.CUlaunchAttribute()
        size.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size.value.clusterDim.x = cluster
        size.value.clusterDim.y = size.value.clusterDim.z = 1
        found.append(size)
    if overlaps:
        early = driver.CUlaunchAttribute()
        early.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        found.append(early)
    return found


def _done(result: tuple[Any, ...]) -> Any:
    """What a call returned. Raises GPUError where it failed."""
    status, *values = result
    if int(status) != 0:
        raise GPUError(f"{type(status).__name__} {status.name}")
    return values[0] if len(values) == 1 else tuple(values)
