"""How far a model's predictions are from those of another: what perplexity does not show.

The logits of the reference are kept at evenly spaced tokens, in bounded memory. Each pruned model
is then compared with them in the pass that measures its perplexity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.language.corpora import evenly_spaced
from prunerzero.language.devices import logits_of

MEMORY = 512 * 2**20
"""Bytes of logits that are kept at most."""

_CHUNK = 256
"""Tokens whose distributions are compared at once, in fp32."""


@dataclass(frozen=True)
class Divergence:
    """How far a model's predictions are from a reference's, over the same tokens.

    Attributes:
        kl: mean Kullback-Leibler divergence from the reference's next-token distribution to the
            model's, in nats per token; 0 for equal models.
        agreement: share of tokens after which both models predict the same token as the likeliest.
        tokens: number of tokens compared.
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
    """The model's logits on windows [count, length], to compare other models with.

    Args:
        model: a transformers causal language model.
        windows: token ids [count, length].
        batch_size: windows read at once.
        memory: bytes of logits to keep at most; where they are more, evenly spaced tokens are kept.
        on_window: called with the number of windows done.
    """
    predictions = windows.shape[0] * (windows.shape[1] - 1)
    positions: Tensor | None = None
    kept = []
    for start in range(0, len(windows), batch_size):
        with torch.inference_mode():
            batch = windows[start : start + batch_size]
            logits = logits_of(model, batch)
            if positions is None:
                fits = max(1, memory // (logits.shape[-1] * logits.element_size()))
                positions = evenly_spaced(fits, predictions)
            rows, columns = _within(positions, windows.shape[1] - 1, start, len(batch))[1:]
            kept.append(logits[rows.to(logits.device), columns.to(logits.device)].clone())
        on_window(start + len(batch))
    assert positions is not None
    return Reference(positions, torch.cat(kept))


class Comparison:
    """Adds up the divergence of a model from a reference, batch by batch, in window order."""

    def __init__(self, reference: Reference, length: int) -> None:
        self._reference = reference
        self._predictions = length - 1
        self._window = 0
        self._kl = self._agreeing = 0.0

    def add(self, logits: Tensor) -> None:
        """Add the logits [windows, length, vocabulary] of the next windows.

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
        """The divergence over all windows added."""
        tokens = len(self._reference.positions)
        # rounding can bring equal models below 0
        return Divergence(max(0.0, self._kl / tokens), self._agreeing / tokens, tokens)


def _within(
    positions: Tensor, predictions: int, first: int, count: int
) -> tuple[slice, Tensor, Tensor]:
    """The positions inside ``count`` windows from the ``first``.

    Returns:
        Their slice of ``positions``, and for each its window (counted from ``first``) and its token
        in that window.
    """
    ends = torch.tensor([first, first + count]) * predictions
    start, stop = torch.searchsorted(positions, ends).tolist()
    inside = positions[start:stop]
    return slice(start, stop), inside // predictions - first, inside % predictions
