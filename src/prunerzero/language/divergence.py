"""How far a model has moved from another: what its perplexity hides.

The other model's logits are remembered at evenly spaced tokens, so that any number of pruned models
is compared with it in the passes that measure their perplexity anyhow, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError

MEMORY = 512 * 2**20
"""Bytes of logits that are remembered at most."""

_CHUNK = 256
"""Tokens whose distributions are compared at once, in fp32."""


@dataclass(frozen=True)
class Divergence:
    """Of a model from a reference, over the same tokens.

    Attributes:
        kl: mean Kullback-Leibler divergence from the reference's next-token distribution to the
            model's, in nats per token; 0 for equal models.
        agreement: share of tokens for which both find the same next token the likeliest.
        tokens: how many were compared.
    """

    kl: float
    agreement: float
    tokens: int


@dataclass(frozen=True, eq=False)
class Reference:
    """A model's logits at some tokens of some windows.

    Attributes:
        positions: indices [tokens] into the predictions [windows · (length − 1)], ascending.
        logits: [tokens, vocabulary], in the model's dtype, on its device.
    """

    positions: Tensor
    logits: Tensor


def remember(
    model: Any,
    windows: Tensor,
    batch_size: int = 1,
    *,
    memory: int = MEMORY,
    on_window: Callable[[int], None] = lambda done: None,
) -> Reference:
    """The model's logits on windows [count, length], at as many tokens as fit the memory."""
    device = next(model.parameters()).device
    predictions = windows.shape[0] * (windows.shape[1] - 1)
    positions: Tensor | None = None
    kept = []
    for start in range(0, len(windows), batch_size):
        with torch.inference_mode():
            batch = windows[start : start + batch_size].to(device)
            logits = model(input_ids=batch, use_cache=False).logits
            if positions is None:
                fits = max(1, memory // (logits.shape[-1] * logits.element_size()))
                count = min(predictions, fits)
                positions = torch.arange(count) * predictions // count
            rows, columns = _within(positions, windows.shape[1] - 1, start, len(batch))[1:]
            kept.append(logits[rows.to(device), columns.to(device)].clone())
        on_window(start + len(batch))
    assert positions is not None
    return Reference(positions, torch.cat(kept))


class Comparison:
    """Adds up the divergence of a model from a reference, batch by batch, in the windows' order."""

    def __init__(self, reference: Reference, length: int) -> None:
        self._reference = reference
        self._predictions = length - 1
        self._window = 0
        self._kl = self._agreeing = 0.0

    def add(self, logits: Tensor) -> None:
        """Take in the logits [windows, length, vocabulary] of the next windows.

        Raises:
            ModelError: the vocabularies differ.
        """
        chosen, rows, columns = _within(
            self._reference.positions, self._predictions, self._window, len(logits)
        )
        self._window += len(logits)
        device = logits.device
        rows, columns = rows.to(device), columns.to(device)
        if self._reference.logits.shape[-1] != logits.shape[-1]:
            raise ModelError("models of different vocabularies cannot be compared.")
        for at in range(0, len(rows), _CHUNK):
            part = slice(at, at + _CHUNK)
            theirs = self._reference.logits[chosen][part].to(device).float().log_softmax(-1)
            ours = logits[rows[part], columns[part]].float().log_softmax(-1)
            of_each = (theirs.exp() * (theirs - ours)).sum(-1).cpu()  # Apple's GPUs have no float64
            self._kl += float(of_each.sum(dtype=torch.float64))
            self._agreeing += float((theirs.argmax(-1) == ours.argmax(-1)).sum())

    def result(self) -> Divergence:
        """Of all that was taken in."""
        tokens = len(self._reference.positions)
        # rounding can bring equal models below 0
        return Divergence(max(0.0, self._kl / tokens), self._agreeing / tokens, tokens)


def _within(
    positions: Tensor, predictions: int, first: int, count: int
) -> tuple[slice, Tensor, Tensor]:
    """Which positions lie in ``count`` windows from the ``first``, and where: window, token."""
    ends = torch.tensor([first, first + count]) * predictions
    start, stop = torch.searchsorted(positions, ends).tolist()
    inside = positions[start:stop]
    return slice(start, stop), inside // predictions - first, inside % predictions
