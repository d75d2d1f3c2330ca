"""Calibration passes of a whole model: windows forward, and the gradient of their loss back."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from prunerzero.language.window_loss import LEAST_TOKENS, plain_head
from prunerzero.pruning.blocks import Forward, find_blocks, forwards_replaced
from prunerzero.pruning.calibration_pass import CalibrationPass, WindowsMixedError

_TOKENS = {"cpu": 1, "cuda": 4096}
"""Tokens in a batch of windows; larger batches are no faster."""

_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Logits computed at a time with their gradient: 1 MB of fp32 fits in the cache of a CPU."""


class CalibrationRun:
    """Passes over all windows in batches: forward, and backward from the sum of their losses.

    A window's loss is its mean negative log-likelihood. The model's own loss may contain more, such
    as the loss of routers.

    Args:
        model: a transformers causal language model, not yet watched.
        windows: ids [count, length].
        current: the pass, as those who watch the model see it.
        backward: whether to run the pass backward.
        batch: windows in a batch; None for the fastest number on this device.
    """

    def __init__(
        self,
        model: Any,
        windows: Tensor,
        current: CalibrationPass,
        *,
        backward: bool,
        batch: int | None = None,
    ) -> None:
        self._model, self._windows, self._current = model, windows, current
        self._backward, self._device = backward, next(model.parameters()).device
        fastest = _TOKENS.get(self._device.type, 1) // windows.shape[1]
        self._batch = max(1, fastest) if batch is None else batch
        self._head = plain_head(model, windows[:1, :8])
        self._checkpointing = False

    def run(self, on_window: Callable[[int], None]) -> None:
        """Pass over all windows; ``on_window`` gets the number of windows done.

        Raises:
            torch.OutOfMemoryError: not even one window at a time fits.
        """
        done = 0
        while done < len(self._windows):
            # the first window is read alone: it shows whether those of a batch are separable
            alone = self._backward and (done == 0 or not self._current.separable)
            some = self._windows[done : done + (1 if alone else self._batch)]
            self._pass(some.to(self._device), Counter())
            for _ in some:
                done += 1
                on_window(done)

    def _pass(self, ids: Tensor, counted: Counter[Hashable]) -> None:
        """One pass; in several smaller ones, with gradient checkpointing, if memory runs out."""
        try:
            with self._current.over(len(ids), counted):
                self._forward_and_back(ids)
            return
        except (torch.OutOfMemoryError, WindowsMixedError):
            if len(ids) == 1 and (self._checkpointing or not self._backward):
                raise
            counted = self._current.counted
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        self._checkpointing |= len(ids) == 1
        self._batch = (len(ids) + 1) // 2
        while len(ids):  # the batch may become smaller in the loop
            part, ids = ids[: self._batch], ids[self._batch :]
            self._pass(part, counted)

    def _forward_and_back(self, ids: Tensor) -> None:
        frugal = _checkpointed(self._model) if self._checkpointing else nullcontext()
        with torch.set_grad_enabled(self._backward), frugal:
            if self._backward:
                run_back_from_loss(self._model, self._head, ids, self._current.backward)
            else:
                part = self._model if self._head is None else self._model.base_model
                part(input_ids=ids, use_cache=False)


def run_back_from_loss(
    model: Any,
    head: Any,
    ids: Tensor,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Run the model forward, and backward from the sum of the windows' losses.

    Args:
        model: a transformers causal language model.
        head: what ``plain_head`` returned. With a head, logits and their gradient are computed for
            some tokens at a time.
        ids: windows [count, length].
        around: makes the context in which the pass backward runs.
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
    """Write the gradient of a window's loss to ``out``, like ``hidden`` [length, width]."""
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


def _checkpointed(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the ``with``, blocks keep their inputs only, and run again in the pass backward."""

    def replacement(_index: int, forward: Forward) -> Forward:
        return partial(checkpoint, forward, use_reentrant=False)

    return forwards_replaced(find_blocks(model)[1], replacement)
