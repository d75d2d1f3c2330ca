"""Calibration windows on their way through a whole model, and the gradient of their loss back."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from prunerzero.language.window_loss import LEAST_TOKENS, plain_head
from prunerzero.pruning.blocks import find_blocks
from prunerzero.pruning.passes import Mixed, Pass

_TOKENS = {"cpu": 1, "cuda": 4096}
"""Read together where the device is good for it; larger batches are no faster."""

_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Logits made at a time with their gradient: a CPU's cache holds 1 MB of fp32."""


class Reader:
    """Reads windows in batches, forward and, where wanted, backward from the sum of their losses.

    A window's loss is its mean negative log-likelihood, not the model's own loss, which may hold
    more, such as that of routers.

    Args:
        model: a transformers causal language model, not watched yet.
        windows: ids [count, length].
        reading: told of each pass.
        backward: whether gradients are wanted.
        batch: windows to read together; None for as many as the device is good for.
    """

    def __init__(
        self,
        model: Any,
        windows: Tensor,
        reading: Pass,
        *,
        backward: bool,
        batch: int | None = None,
    ) -> None:
        self._model, self._windows, self._reading = model, windows, reading
        self._backward, self._device = backward, next(model.parameters()).device
        good = _TOKENS.get(self._device.type, 1) // windows.shape[1]
        self._batch = max(1, good) if batch is None else batch
        self._head = plain_head(model, windows[:1, :8])
        self._frugal = False  # blocks keep their inputs alone, and run again in the pass backward

    def read(self, on_window: Callable[[int], None]) -> None:
        """Read all windows.

        Raises:
            torch.OutOfMemoryError: not even one at a time fits.
        """
        done = 0
        while done < len(self._windows):
            # the first one alone tells whether windows of a batch can be told apart
            alone = self._backward and (done == 0 or not self._reading.separable)
            some = self._windows[done : done + (1 if alone else self._batch)]
            self._pass(some.to(self._device), Counter())
            for _ in some:
                done += 1
                on_window(done)

    def _pass(self, ids: Tensor, before: Counter[Hashable]) -> None:
        try:
            with self._reading.over(len(ids), before):
                self._forward_and_back(ids)
            return
        except (torch.OutOfMemoryError, Mixed):
            if len(ids) == 1 and (self._frugal or not self._backward):
                raise
            before = self._reading.counted
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        self._frugal |= len(ids) == 1
        self._batch = (len(ids) + 1) // 2
        while len(ids):  # the batch may become smaller on the way
            part, ids = ids[: self._batch], ids[self._batch :]
            self._pass(part, before)

    def _forward_and_back(self, ids: Tensor) -> None:
        frugal = _frugal_blocks(self._model) if self._frugal else nullcontext()
        with torch.set_grad_enabled(self._backward), frugal:
            if self._backward:
                run_back_from_loss(self._model, self._head, ids, self._reading.backward)
            else:
                part = self._model if self._head is None else self._model.base_model
                part(input_ids=ids, use_cache=False)


def run_back_from_loss(
    model: Any,
    head: Any,
    ids: Tensor,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Pass forward, and backward from the sum of the windows' losses.

    Args:
        model: a transformers causal language model.
        head: what ``plain_head`` found. With it, logits and their gradient are made for some
            tokens at a time.
        ids: windows [count, length].
        around: the pass backward is made inside of what it gives.
    """
    if head is None:
        logits = model(input_ids=ids, use_cache=False).logits
        losses = [_loss(*one) for one in zip(logits, ids, strict=True)]
        with around():
            torch.stack(losses).sum().backward()
        return
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    gradient = torch.zeros_like(hidden)
    for one, of_one, window in zip(hidden.detach(), gradient, ids, strict=True):
        _gradient_of_loss(head, one, window, out=of_one)
    with around():
        hidden.backward(gradient)


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    return cross_entropy(logits[:-1].float(), ids[1:].to(logits.device))


def _gradient_of_loss(head: Any, hidden: Tensor, ids: Tensor, out: Tensor) -> None:
    """Write the gradient of a window's loss by its last hidden states [length, width]."""
    tokens, targets = len(ids) - 1, ids[1:]
    logits_at_once = _LOGITS.get(hidden.device.type, 1 << 18)
    some = max(LEAST_TOKENS, logits_at_once // head.weight.shape[0])
    for start in range(0, tokens, some):
        end = min(start + some, tokens)
        part = hidden[start:end].detach().requires_grad_(True)
        logits = head(part)
        target = targets[start:end].to(logits.device)
        total = cross_entropy(logits.float(), target, reduction="sum")
        out[start:end] = torch.autograd.grad(total / tokens, part)[0]


@contextmanager
def _frugal_blocks(model: nn.Module) -> Iterator[None]:
    """Inside, blocks remember no more than their inputs, and run again for the pass backward."""
    blocks = find_blocks(model)[1]
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
