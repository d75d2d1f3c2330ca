"""A prompt, and a step of decoding with a static cache, as CUDA graphs; and the time of work.

Where Python launches every kernel, that takes longer than many a kernel runs. A graph is recorded
once, and replayed it is the work of the GPU alone. What is recorded must not depend on numbers that
Python holds, so what a graph finds is compared with what the same work finds without one.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError

_CHECKED = 4
"""Steps whose tokens are compared."""
_ROUNDING = 0.1
"""What a prompt's logits may differ by, as a share of their norm: while it is recorded,
transformers may choose another kernel of attention."""


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What the work takes, all that it gave the device to do being done."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """What replays the work as a CUDA graph. Recording does not do the work.

    Args:
        work: that was done before, ``aside``, so that nothing is left to be made ready in it.
        device: the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        work()
    return graph.replay


def prompt_seconds(read: Callable[[], Tensor], device: torch.device) -> float:
    """What it takes to read a prompt as a graph; ``read`` returns the logits after it.

    Raises:
        ModelError: the graph finds other logits.
    """
    expected = aside(read, device)
    found = torch.zeros_like(expected)
    replay = recorded(lambda: found.copy_(read()), device)
    replay()
    if not bool((found - expected).float().norm() <= _ROUNDING * expected.float().norm()):
        raise ModelError("its graph finds other logits than the same work without a graph")
    return seconds(replay, device)


def decode_seconds(model: Any, prompts: Tensor, new_tokens: int) -> float:
    """What it takes to continue prompts [count, length], each step being a replayed graph.

    Raises:
        ModelError: the model cannot be recorded, or its graph finds other tokens.
    """
    device = prompts.device
    steps = Steps(model, prompts, new_tokens)
    checked = min(_CHECKED, new_tokens)
    expected = aside(lambda: steps.tokens_of(steps.step, checked), device)
    steps.begin()
    replay = recorded(steps.step, device)
    if not torch.equal(steps.tokens_of(replay, checked), expected):
        raise ModelError("its graph finds other tokens than the same work without a graph")
    steps.begin()

    def all_of_them() -> None:
        for _ in range(new_tokens):
            replay()

    return seconds(all_of_them, device)


class Steps:
    """Decoding with transformers' static cache, whose tensors stay where they are.

    Args:
        model: of transformers.
        prompts: token ids [count, length], which are read here.
        new_tokens: steps for which the cache has room.

    Raises:
        ModelError: the model has no such cache, or computes places in Python.
    """

    def __init__(self, model: Any, prompts: Tensor, new_tokens: int) -> None:
        takes = inspect.signature(model.forward).parameters
        if "position_ids" not in takes:
            raise ModelError("the model does not take the places of tokens as a tensor")
        self._model = model
        self._length = prompts.shape[1]
        self._cache = static_cache(model.config, self._length + new_tokens)
        few = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        out = model(input_ids=prompts, past_key_values=self._cache, use_cache=True, **few)
        self._first = out.logits[:, -1:].argmax(-1)
        self.tokens = self._first.clone()
        """The tokens [count, 1] that were found last."""
        self._places = torch.full_like(self._first, self._length)

    def step(self) -> None:
        """From the tokens to the likeliest ones that follow."""
        out = self._model(
            input_ids=self.tokens,
            position_ids=self._places,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.tokens.copy_(out.logits[:, -1:].argmax(-1))
        self._places.add_(1)

    def begin(self) -> None:
        """Go back to the end of the prompts."""
        self.tokens.copy_(self._first)
        self._places.fill_(self._length)
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._length)

    def tokens_of(self, step: Callable[[], object], count: int) -> Tensor:
        """The tokens [prompts, count] of so many steps from the end of the prompts."""
        self.begin()
        found = []
        for _ in range(count):
            step()
            found.append(self.tokens.clone())
        return torch.cat(found, 1)


def static_cache(config: Any, length: int) -> Any:
    """A cache with room for ``length`` tokens, of which no number is Python's.

    A layer with a sliding window that is at least as long sees all of them, as any other does.

    Raises:
        ModelError: a layer keeps something else than keys and values, or sees fewer tokens.
    """
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    cache = StaticCache(config=config, max_cache_len=length)
    for number, layer in enumerate(cache.layers):
        if layer.is_sliding and layer.max_cache_len >= length:
            cache.layers[number] = StaticLayer(max_cache_len=length)
        elif type(layer) is not StaticLayer:
            raise ModelError(
                f"its static cache has a {type(layer).__name__}, which counts tokens in Python"
            )
    return cache


def aside(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Do the work on a stream of its own, as must be done before it is recorded."""
    if device.type != "cuda":
        return work()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        found = work()
    torch.cuda.current_stream(device).wait_stream(stream)
    _wait(device)
    return found
