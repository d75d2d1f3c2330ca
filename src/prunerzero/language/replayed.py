"""A function of token ids, replayed from a CUDA graph where that is the same and faster.

A small model's forward pass takes as long as launching its kernels does. A CUDA graph launches them
all at once. It reads and writes the same addresses each time it is replayed, so weights may be
changed in place between calls, but must not be moved.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_CALLS_BEFORE = 8
"""Calls of one shape before it is recorded: recording takes as long as several calls."""


class Replayed:
    """Calls a function of token ids [batch, length] on a GPU.

    The function must launch the same kernels for all ids. A model that looks at values, such as a
    router that counts the tokens of an expert, cannot be recorded and is called as usual.

    Args:
        function: returns a tensor on the device of the ids.
        worth: keep a recording only if its replay takes at most this share of the function's time:
            a recording holds memory. Infinity keeps every recording, whatever else the device does
            meanwhile.

    >>> mean = Replayed(lambda windows: windows.double().mean(dim=1))
    >>> mean(torch.tensor([[1, 2, 3]]))
    tensor([2.], dtype=torch.float64)
    """

    def __init__(self, function: Callable[[Tensor], Tensor], worth: float = 0.8) -> None:
        self._function, self._worth = function, worth
        self._calls: Counter[torch.Size] = Counter()
        self._replays: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._pool: Any = None  # memory shared by the graphs, of which one runs at a time
        self._refused = False

    def __call__(self, windows: Tensor) -> Tensor:
        replay = self._replays.get(windows.shape)
        if replay is not None:
            return replay(windows)
        self._calls[windows.shape] += 1
        if not self._refused and self._calls[windows.shape] == _CALLS_BEFORE:
            self._record(windows)
        return self._function(windows)

    def _record(self, windows: Tensor) -> None:
        """Keep a graph for windows of this shape if it returns the same as the function, sooner."""
        with torch.cuda.device(windows.device):
            stream = torch.cuda.current_stream()
            try:
                with _no_waiting():  # a recording that fails leaves torch's random numbers unusable
                    self._function(windows)
                replay = self._recorded(windows.roll(1, 1))  # the check below then sees other ids
                taken, expected = _timed(self._function, windows)
                taken_replayed, replayed = _timed(replay, windows)
            except RuntimeError:  # it cannot be recorded, or does not fit beside the model
                torch.cuda.set_stream(stream)  # a recording that fails leaves it changed
                self._refused = True
                torch.cuda.empty_cache()
                return
        if torch.equal(replayed, expected) and taken_replayed <= self._worth * taken:
            self._replays[windows.shape] = replay

    def _recorded(self, windows: Tensor) -> Callable[[Tensor], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._function(windows)
        self._pool = graph.pool()

        def replay(other: Tensor) -> Tensor:
            windows.copy_(other)
            graph.replay()
            return result.clone()

        replay(windows)  # the first replay loads the graph onto the device
        return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Inside, waiting for a value from the GPU, which cannot be recorded, raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # torch warns that it misses some waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _timed(function: Callable[[Tensor], Tensor], windows: Tensor) -> tuple[float, Tensor]:
    """Milliseconds that one call takes, and its result."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = function(windows)
    end.record()
    end.synchronize()
    return start.elapsed_time(end), result
