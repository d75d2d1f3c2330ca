"""The loss of windows of text, in batches as large as memory allows, without all their logits.

The logits of a batch in fp32 take more memory than the model where the vocabulary is large. Where
they are a plain linear map of the last hidden state, as ``plain_head`` makes sure, they are made
and reduced for some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunerzero.language.replayed import Replayed

_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Logits made at a time: 1 MB of fp32 stays in a CPU's cache, 1 GB is nothing to a GPU. A device of
another kind makes as few as a CPU."""

LEAST_TOKENS = 64
"""At a time, however large the vocabulary: all weights of the head are read for each few tokens."""


_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}
"""What logits made in two ways may differ by, as a share of the largest; types of 16 bits: 1e-2."""


class WindowLoss:
    """Mean negative log-likelihood a token (nats) of windows, by one model.

    Its weights may change in place between calls; they must not be moved or replaced.

    >>> from prunerzero.language.models import load_model
    >>> loss = WindowLoss(load_model("bundled").model)
    >>> loss(torch.tensor([[5, 6, 7, 8], [8, 7, 6, 5]])).shape
    torch.Size([2])
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        devices = {parameter.device for parameter in model.parameters()}
        self._device = next(model.parameters()).device
        on_one_gpu = self._device.type == "cuda" and len(devices) == 1
        self._read = Replayed(self._losses) if on_one_gpu else self._losses
        self._head: Any = None
        self._checked = False

    def __call__(self, windows: Tensor) -> Tensor:
        """float64 [count] on the CPU, for token ids [count, length] read as one batch.

        Raises:
            torch.OutOfMemoryError: not even one window at a time fits.
        """
        with torch.inference_mode():
            if not self._checked:
                self._head, self._checked = plain_head(self._model, windows[:1, :8]), True
            try:
                losses = self._read(windows.to(self._device))
                return losses.cpu().mean(1, dtype=torch.float64)  # Apple's GPUs have no float64
            except torch.OutOfMemoryError:
                if len(windows) == 1:
                    raise
        torch.cuda.empty_cache()
        half = (len(windows) + 1) // 2
        return torch.cat([self(part) for part in windows.split(half)])

    def _losses(self, windows: Tensor) -> Tensor:
        """Of each token that is predicted, fp32 [count, length - 1]."""
        targets = windows[:, 1:]
        with one_sequence_a_window():
            losses = [
                cross_entropy(logits.float(), target.to(logits.device), reduction="none")
                for logits, target in self._logits(windows, targets)
            ]
        return torch.cat(losses).reshape(targets.shape)

    def _logits(self, windows: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [some tokens, vocabulary] with the tokens that follow, in order."""
        if self._head is None:
            logits = self._model(input_ids=windows, use_cache=False).logits
            yield from zip((one[:-1] for one in logits), targets, strict=True)
            return
        hidden = self._model.base_model(input_ids=windows, use_cache=False).last_hidden_state
        hidden = hidden[:, :-1].flatten(0, 1)
        logits_at_once = _LOGITS.get(self._device.type, 1 << 18)
        tokens = max(LEAST_TOKENS, logits_at_once // self._head.weight.shape[0])
        for some, target in zip(hidden.split(tokens), targets.flatten().split(tokens), strict=True):
            yield self._head(some), target


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
    """The module that makes logits of the last hidden state, where nothing else is done to them.

    Some models scale or cap their logits: found by computing those of ``window`` [1, length] both
    ways. None where they differ, or where the model has no such parts.
    """
    base = getattr(model, "base_model", model)
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    weight = getattr(head, "weight", None)
    if base is model or head is None or weight is None:
        return None
    window = window.to(next(model.parameters()).device)
    with torch.inference_mode():
        expected = model(input_ids=window, use_cache=False).logits
        hidden = getattr(base(input_ids=window, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape != (*window.shape, weight.shape[-1]):
            return None
        found = head(hidden).to(expected.device)  # blocks may lie on several
        # the one is computed as the other is, so that nothing but rounding may tell them apart
        close = _ROUNDING.get(expected.dtype, 1e-2) * expected.abs().amax().clamp_min(1e-3)
        same = found.shape == expected.shape and (found - expected).abs().amax() <= close
    return head if same else None
