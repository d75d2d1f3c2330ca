"""How well a model predicts a text: mean negative log-likelihood a token, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Perplexity:
    """Perplexity, and how it was measured.

    Attributes:
        value: exp of the mean negative log-likelihood a token (nats), each window read by itself.
        losses: that mean for each window.
        window_length: tokens in a window; the first is given, the others are predicted.
    """

    value: float
    losses: tuple[float, ...]
    window_length: int

    @property
    def windows(self) -> int:
        """Number of windows read."""
        return len(self.losses)


def window_losses(model: Any, windows: Tensor) -> Tensor:
    """Mean negative log-likelihood a token (nats) of each window.

    Args:
        model: a transformers causal language model.
        windows: token ids [count, length], read as one batch.

    Returns:
        float64 [count] on the CPU.
    """
    with torch.inference_mode():
        windows = windows.to(next(model.parameters()).device)
        logits = model(input_ids=windows, use_cache=False).logits
        # a window at a time: the fp32 logits of a whole batch may not fit
        losses = [
            cross_entropy(one[:-1].float(), ids[1:])
            for one, ids in zip(logits, windows, strict=True)
        ]
        return torch.stack(losses).double().cpu()


def perplexity(
    model: Any,
    windows: Tensor,
    batch_size: int = 1,
    on_window: Callable[[int], None] = lambda done: None,
) -> Perplexity:
    """Perplexity over windows [count, length]; ``on_window`` is told how many are done."""
    losses: list[float] = []
    for batch in windows.split(batch_size):
        losses.extend(window_losses(model, batch).tolist())
        on_window(len(losses))
    mean = math.fsum(losses) / len(losses)
    return Perplexity(exp(mean), tuple(losses), windows.shape[1])


def exp(loss: float) -> float:
    """exp, with infinity in place of an overflow."""
    return math.exp(loss) if loss < 700 else math.inf
