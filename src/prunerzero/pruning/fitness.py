"""The bridge from pruning to evolution: expression → losses of the pruned model, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from prunerzero.language.perplexity import window_losses
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import Statistics


class PrunedLoss:
    """The loss that a model has on a text once it is pruned with a metric.

    The model is pruned in place and restored, so one copy of the prunable weights is kept beside
    it. Chunks are equal numbers of windows in one fixed, shuffled order, so that the first ones
    already speak for the whole text and every metric is judged on the same. Windows that do not
    fill the last chunk are left out.

    Attributes:
        chunks: number of chunks that a race reads.
        total_chunks: number of chunks in the text.
    """

    def __init__(
        self,
        model: Any,
        layers: Mapping[str, Matrix],
        statistics: Statistics,
        sparsity: Sparsity,
        windows: Tensor,
        *,
        windows_per_chunk: int,
        race_chunks: int,
    ) -> None:
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
        self._chunks = windows[order].split(windows_per_chunk)
        if len(windows) % windows_per_chunk and len(self._chunks) > 1:
            self._chunks = self._chunks[:-1]
        self.total_chunks = len(self._chunks)
        self.chunks = min(race_chunks, self.total_chunks)
        self._model, self._layers, self._statistics = model, layers, statistics
        self._sparsity = sparsity
        self._dense = {name: layer.weight.clone() for name, layer in layers.items()}

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """Mean negative log-likelihood a token (nats) of chunks ``start`` … ``stop`` - 1.

        Raises:
            ScoreError: the metric gives NaN on a layer.
        """
        try:
            prune_model(self._layers, self._statistics, expression, self._sparsity)
            for chunk in self._chunks[start:stop]:
                yield float(window_losses(self._model, chunk).mean())
        finally:
            self.restore()

    def restore(self) -> None:
        """Put the dense weights back."""
        with torch.no_grad():
            for name, layer in self._layers.items():
                layer.weight.copy_(self._dense[name])
