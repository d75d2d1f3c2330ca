"""Compiling and launching kernels, with a driver that only notes what it is told."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunerzero.packed import nvrtc
from prunerzero.packed.nvrtc import Card, GPUError, Launch

CARD = Card(0, (9, 0), 232448, 132)
HOW = Launch("kernel<1>", blocks=3, threads=64, shared=100)
CONTEXT, STREAM = 0x1234, 5


class Driver:
    """What was told to it: contexts that were pushed and popped, and launches."""

    def __init__(self) -> None:
        self.contexts: list[int] = []
        self.launched: list[tuple[Any, list[int]]] = []
        self.loaded: list[bytes] = []
        self.status = self.status_of_push = 0

    # those that are called through ctypes

    def cuCtxPushCurrent_v2(self, context: int) -> int:
        if self.status_of_push == 0:
            self.contexts.append(context)
        return self.status_of_push

    def cuCtxPopCurrent_v2(self, _: object) -> int:
        self.contexts.pop()
        return 0

    def cuLaunchKernelEx(self, config: Any, function: int, places: Any, extra: None) -> int:
        assert self.contexts == [CONTEXT] and extra is None
        values = [ctypes.c_uint64.from_address(place).value for place in places]
        self.launched.append((function, values))
        return self.status

    # those of cuda-bindings

    def bindings(self) -> SimpleNamespace:
        def loaded(code: bytes) -> tuple[int, int]:
            assert self.contexts == [CONTEXT]
            self.loaded.append(code)
            return 0, len(self.loaded)

        names = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=1,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=2,
        )
        return SimpleNamespace(
            CUdevice_attribute=names,
            CUfunction_attribute=names,
            CUlaunchAttributeID=names,
            CUlaunchConfig=lambda: SimpleNamespace(getPtr=lambda: 99),
            CUresult=lambda status: SimpleNamespace(name=f"status {status}"),
            cuDeviceGet=lambda index: (0, index),
            cuDeviceGetAttribute=lambda attribute, device: (0, CARD.shared),
            cuDevicePrimaryCtxRetain=lambda device: (0, CONTEXT),
            cuModuleLoadData=loaded,
            cuModuleGetFunction=lambda module, name: (0, module),
            cuFuncSetAttribute=lambda function, attribute, value: (0,),
        )


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver()

    def compiled(kernel: str, capability: tuple[int, int]) -> tuple[bytes, bytes]:
        time.sleep(0.01)
        if "wrong" in kernel:
            raise GPUError(f"NVRTC does not compile {kernel}")
        return kernel.encode(), b"name"

    monkeypatch.setattr(nvrtc, "_interface", lambda: SimpleNamespace(driver=driver.bindings()))
    monkeypatch.setattr(nvrtc, "_driver", lambda: driver)
    monkeypatch.setattr(nvrtc, "compile_kernel", compiled)
    monkeypatch.setattr(nvrtc, "_functions", {})
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=STREAM)
    )
    nvrtc._ready.cache_clear()
    nvrtc._primary_context.cache_clear()
    yield driver
    nvrtc._ready.cache_clear()
    nvrtc._primary_context.cache_clear()


def test_a_kernel_gets_pointers_null_pointers_and_numbers_in_order(driver):
    tensor = torch.zeros(3)
    nvrtc.launch(CARD, HOW, tensor, None, 7, 2**31 - 1)
    assert driver.launched == [(1, [tensor.data_ptr(), 0, 7, 2**31 - 1])]
    assert driver.contexts == []


def test_a_kernel_is_loaded_once(driver):
    for number in range(3):
        nvrtc.launch(CARD, HOW, number)
    assert driver.loaded == [b"kernel<1>"]
    assert [values for _, values in driver.launched] == [[0], [1], [2]]


def test_what_the_card_refuses_is_told_and_the_next_launch_works(driver):
    driver.status = 1
    with pytest.raises(GPUError, match="status 1"):
        nvrtc.launch(CARD, HOW, 7)
    driver.status = 0
    nvrtc.launch(CARD, HOW, 8)
    assert driver.contexts == [] and driver.launched[-1] == (1, [8])


def test_where_there_is_no_context_the_thread_s_own_stays(driver):
    nvrtc.compile_all(CARD, [HOW.kernel])
    driver.status_of_push = 201
    with pytest.raises(GPUError, match="status 201"):
        nvrtc.launch(CARD, HOW, 7)
    assert driver.launched == [] and driver.contexts == []


def test_threads_that_want_the_same_kernels_compile_each_once(driver):
    kernels = [f"kernel<{number}>" for number in range(6)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: nvrtc.compile_all(CARD, kernels), range(4)))
    assert sorted(driver.loaded) == [kernel.encode() for kernel in kernels]


def test_a_kernel_that_is_not_compiled_is_told(driver):
    with pytest.raises(GPUError, match="does not compile wrong<1>"):
        nvrtc.compile_all(CARD, ["kernel<1>", "wrong<1>", "kernel<2>"])
    nvrtc.compile_all(CARD, ["kernel<2>"])
    assert b"kernel<2>" in driver.loaded


def test_a_machine_without_the_driver_of_cuda_says_so(monkeypatch):
    def none(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", none)
    nvrtc._driver.cache_clear()
    with pytest.raises(GPUError, match="the driver of CUDA cannot be used"):
        nvrtc._driver()
