"""How well a model predicts a text: mean negative log-likelihood of a token, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunerzero.exponential import exp
from prunerzero.language.devices import logits_of
from prunerzero.language.divergence import Comparison, Divergence, Reference


@dataclass(frozen=True)
class Perplexity:
    """Perplexity, and how it was measured.

    Attributes:
        value: exp of the mean negative log-likelihood of a token (nats).
        losses: the mean of each window.
        window_length: tokens in a window; the first is given, the others can be predicted.
        tokens: number of tokens predicted in each window.
        divergence: from the reference; None without one.
    """

    value: float
    losses: tuple[float, ...]
    window_length: int
    tokens: tuple[int, ...]
    divergence: Divergence | None = None

    @property
    def windows(self) -> int:
        """Number of windows read."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return mean_loss(self.losses, self.tokens)


def window_losses(model: Any, windows: Tensor) -> Tensor:
    """Mean negative log-likelihood of a token (nats) in each window.

    Args:
        model: a transformers causal language model.
        windows: token ids [count, length], read as one batch.

    Returns:
        float64 [count] on the CPU.
    """
    with torch.inference_mode():
        return _losses(logits_of(model, windows), windows, [windows.shape[1] - 1] * len(windows))


def perplexity(
    model: Any,
    windows: Tensor,
    batch_size: int = 1,
    on_window: Callable[[int], None] = lambda done: None,
    *,
    stride: int | None = None,
    reference: Reference | None = None,
) -> Perplexity:
    """Perplexity over windows.

    Args:
        model: a transformers causal language model.
        windows: token ids [count, length].
        batch_size: windows read at once.
        on_window: called with the number of windows done.
        stride: tokens by which windows slide; each window but the first counts only its last
            ``stride`` tokens, and the others are context. None where windows do not overlap.
        reference: another model's logits on the same windows, to compare with.
    """
    count, length = windows.shape
    tokens = (length - 1, *[min(stride or length, length - 1)] * (count - 1))
    comparison = Comparison(reference, length) if reference else None
    losses: list[float] = []
    for batch in windows.split(batch_size):
        with torch.inference_mode():
            logits = logits_of(model, batch)
            new = tokens[len(losses) : len(losses) + len(batch)]
            losses.extend(_losses(logits, batch, new).tolist())
            if comparison:
                comparison.add(logits)
        on_window(len(losses))
    return Perplexity(
        value=exp(mean_loss(losses, tokens)),
        losses=tuple(losses),
        window_length=length,
        tokens=tokens,
        divergence=comparison.result() if comparison else None,
    )


def mean_loss(losses: Sequence[float], tokens: Sequence[int]) -> float:
    """The mean over all tokens, from the means of windows with this many tokens each."""
    return math.fsum(map(mul, losses, tokens)) / sum(tokens)


def _losses(logits: Tensor, windows: Tensor, new: Sequence[int]) -> Tensor:
    """The mean loss of the last ``new`` tokens of each window, float64 on the CPU."""
    windows = windows.to(logits.device)
    # a window at a time: the fp32 logits of a whole batch may not fit
    losses = [
        cross_entropy(one[-1 - count : -1].float(), ids[-count:])
        for one, ids, count in zip(logits, windows, new, strict=True)
    ]
    return torch.stack(losses).cpu().double()  # Apple's GPUs have no float64
