"""The loss of windows of text, with the logits of a few tokens in memory at a time.

Where the vocabulary is large, the fp32 logits of a batch take more memory than the model. Where
they are a linear map of the last hidden state and nothing else, which ``plain_head`` checks, they
are computed and reduced for some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunerzero.language.devices import device_of, logits_of
from prunerzero.language.replayed import Replayed

_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Logits computed at a time: 1 MB of fp32, which stays in a CPU's cache, or 1 GB on a CUDA GPU.
Other devices compute as few as a CPU."""

LEAST_TOKENS = 64
"""Tokens at a time at least, whatever the vocabulary: each time reads all weights of the head."""

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}
"""By how much logits computed in two ways may differ, as a share of the largest; 1e-2 for 16-bit
dtypes."""


class WindowLoss:
    """Mean negative log-likelihood of a token (nats) in each window, by one model.

    The model's weights may change in place between calls, but must not be moved or replaced.

    Args:
        model: a transformers causal language model.
        stays: whether the weights are at the same addresses in every call; else the model is never
            recorded, which makes a small one slower.

    >>> from prunerzero.language.loading import load_model
    >>> from prunerzero.language.source import ModelSource
    >>> loss = WindowLoss(load_model(ModelSource("bundled")).model)
    >>> loss(torch.tensor([[5, 6, 7, 8], [8, 7, 6, 5]])).shape
    torch.Size([2])
    """

    def __init__(self, model: Any, stays: bool = True) -> None:
        self._model = model
        devices = {parameter.device for parameter in model.parameters()}
        self._device = device_of(model)
        on_one_gpu = self._device.type == "cuda" and len(devices) == 1
        self._read = Replayed(self._losses) if on_one_gpu and stays else self._losses
        self._head: Any = None
        self._checked = False

    def __call__(self, windows: Tensor) -> Tensor:
        """The losses, float64 [count] on the CPU, of token ids [count, length].

        They are read as one batch, or in halves where that does not fit in memory.

        Raises:
            torch.OutOfMemoryError: a single window does not fit.
        """
        return self.begin(windows)()

    def begin(self, windows: Tensor) -> Callable[[], Tensor]:
        """Have a GPU begin to read; the function given waits for it and returns the losses.

        Several models on GPUs of their own are read at the same time so.

        Raises:
            torch.OutOfMemoryError: as above.
        """
        with torch.inference_mode():
            if not self._checked:
                self._head, self._checked = plain_head(self._model, windows[:1, :8]), True
            try:
                # from pinned memory a GPU takes them when it is done with what it is at
                there = windows.to(self._device, non_blocking=windows.is_pinned())
                return partial(_means, self._read(there))
            except torch.OutOfMemoryError:
                if len(windows) == 1:
                    raise
        torch.cuda.empty_cache()
        half = (len(windows) + 1) // 2
        parts = [self.begin(part) for part in windows.split(half)]
        return lambda: torch.cat([losses() for losses in parts])

    def _losses(self, windows: Tensor) -> Tensor:
        """The loss of each predicted token, fp32 [count, length - 1]."""
        targets = windows[:, 1:]
        with one_sequence_a_window():
            losses = [
                cross_entropy(logits.float(), target.to(logits.device), reduction="none")
                for logits, target in self._logits(windows, targets)
            ]
        return torch.cat(losses).reshape(targets.shape)

    def _logits(self, windows: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [tokens, vocabulary] of a few tokens after another, with the tokens to predict."""
        if self._head is None:
            logits = logits_of(self._model, windows)
            yield from zip((one[:-1] for one in logits), targets, strict=True)
            return
        hidden = self._model.base_model(input_ids=windows, use_cache=False).last_hidden_state
        hidden = hidden[:, :-1].flatten(0, 1)
        logits_at_once = _LOGITS.get(self._device.type, 1 << 18)
        tokens = max(LEAST_TOKENS, logits_at_once // self._head.weight.shape[0])
        for some, target in zip(hidden.split(tokens), targets.flatten().split(tokens), strict=True):
            yield self._head(some), target


def _means(losses: Tensor) -> Tensor:
    """Of each window, in float64, which Apple's GPUs do not have."""
    with torch.inference_mode():
        return losses.cpu().mean(1, dtype=torch.float64)


@contextmanager
def one_sequence_a_window() -> Iterator[None]:
    """Inside, transformers takes each window for a single sequence without looking at positions.

    Recent releases look whether several are packed into one. The CPU waits for that value in each
    pass, which can then not be recorded; and where a pass is recorded all the same, attention gets
    a mask and runs other kernels, with other bits.
    """
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    if (before := getattr(masking_utils, name, None)) is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, before)


def plain_head(model: Any, window: Tensor) -> Any:
    """The module whose output on the last hidden states is the model's logits; None without one.

    Some models scale or cap what this module gives. So the logits of ``window`` [1, length] are
    computed both ways and compared.
    """
    base = getattr(model, "base_model", model)
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    weight = getattr(head, "weight", None)
    if base is model or head is None or weight is None:
        return None
    window = window.to(device_of(model))
    with torch.inference_mode():
        expected = logits_of(model, window)
        hidden = getattr(base(input_ids=window, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape != (*window.shape, weight.shape[-1]):
            return None
        logits = head(hidden).to(expected.device)  # blocks may be on several devices
        # both come from the same numbers, so they may differ by rounding alone
        close = _ROUNDING.get(expected.dtype, 1e-2) * expected.abs().amax().clamp_min(1e-3)
        same = logits.shape == expected.shape and (logits - expected).abs().amax() <= close
    return head if same else None
