"""Time functions side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from benchmarks.commands import no_command


def times(
    functions: Mapping[str, Callable[[], object]],
    device: str,
    *,
    repeats: int = 7,
    warmups: int = 2,
) -> dict[str, float]:
    """Median milliseconds of each function, taken in turn so that all meet the same machine."""
    for function in functions.values():
        for _ in range(warmups):
            function()
    measured: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            measured[name].append(_once(function, device))
    return {name: median(values) for name, values in measured.items()}


def _once(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    no_command("python -m benchmarks --help")
