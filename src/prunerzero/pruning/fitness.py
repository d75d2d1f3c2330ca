"""What evolution needs of pruning: expression → losses of the pruned model, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from prunerzero.language.window_loss import WindowLoss
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.gram import Grams
from prunerzero.pruning.pruned_weights import PrunedWeights
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import Statistics
from prunerzero.pruning.turns import Visitor

_BATCH_TOKENS = {"cpu": 1024, "cuda": 1 << 15}
"""Tokens in a batch: fewer leave a GPU idle between kernels, more do not fit in a CPU's cache."""


class PrunedLoss:
    """The loss of a model on a text after pruning with a metric.

    The model is pruned in place and restored. Chunks are equal numbers of windows in a shuffled
    order, the same for every metric, so that the first chunks already represent the whole text.
    Windows that do not fill the last chunk are left out.

    Chunks are read in batches of one, one, two, four, eight …, up to what keeps the device busy. So
    a metric that is raced out at the first chunk costs that chunk only, and the losses of a chunk
    are the same wherever reading starts.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by full name.
        statistics: X, G and D of each, as far as the metric reads them.
        sparsity: the share or pattern of weights to prune.
        windows: token ids [count, length] of the text.
        windows_per_chunk: windows in a chunk.
        race_chunks: number of chunks that a race reads at most.
        refit: what is done with masks before the loss is read.
        grams: Gram matrix of each layer's inputs, which a refit needs.
        turns: of how many texts the windows are, which take turns; they do so in the shuffled
            order too.
        visitor: of the model, where it takes turns on the device with others: it comes when it is
            pruned or read.

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
        turns: int = 1,
        refit: Refit = Refit(),
        grams: Grams | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        order = _shuffled(len(windows), turns)
        self.total_chunks = max(1, len(windows) // windows_per_chunk)
        self.chunks = min(race_chunks, self.total_chunks)
        self._order = order[: self.total_chunks * windows_per_chunk]
        self._windows = windows[self._order]
        tokens = windows_per_chunk * windows.shape[1]
        device = next(model.parameters()).device
        if device.type == "cuda":  # which takes them from there while the CPU goes on
            self._windows = self._windows.pin_memory()
        most = max(1, _BATCH_TOKENS.get(device.type, 1) // tokens)
        self._most = 1 << (most.bit_length() - 1)  # a power of two, as each batch is
        self._visitor = visitor
        self._loss = WindowLoss(model, stays=visitor is None)
        self._weights = PrunedWeights(layers, statistics, sparsity, refit, grams, visitor)

    def at(self, sparsity: Sparsity) -> PrunedLoss:
        """The same at another sparsity. They share the model, and may be read by turns."""
        other = copy(self)
        other._weights = self._weights.at(sparsity)
        return other

    def in_chunks(self, losses: Sequence[float]) -> list[float]:
        """The mean of each chunk, from the losses of all windows as they were given."""
        of_windows = torch.tensor(losses, dtype=torch.float64)[self._order]
        return of_windows.reshape(self.total_chunks, -1).mean(1).tolist()

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """Mean negative log-likelihood a token (nats) of chunks ``start`` … ``stop`` - 1.

        Raises:
            ScoreError: the metric gives NaN on a layer; names the layer.
            ValueError: the device's memory does not suffice for the refit or one chunk.
        """
        with closing(self.begun(expression, start, stop)) as begun:
            for loss in begun:
                yield loss()

    def begun(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Generator[Callable[[], float], None, None]:
        """The same as functions, each of which waits for a chunk that a GPU has begun to read.

        The CPU waits for a GPU while scores are compared, and not for refits in a few steps.

        Raises:
            ScoreError, ValueError: as ``losses``, when a chunk is to be begun.
        """
        stop = self.total_chunks if stop is None else min(stop, self.total_chunks)
        try:
            self._come()
            self._weights.prune(expression)
            while start < stop:
                first, last = self._batch_of(start)
                self._come()
                self._weights.resume()
                yield from self._read(first, last)[start - first : stop - first]
                start = last
        except torch.OutOfMemoryError as error:
            raise ValueError(f"the device's memory does not suffice: {error}") from error
        finally:
            self._weights.restore()

    def _come(self) -> None:
        if self._visitor is not None:
            self._visitor.come()

    def _batch_of(self, chunk: int) -> tuple[int, int]:
        """The chunks in the batch of this one, as a half-open range."""
        size = min(1 << max(0, chunk.bit_length() - 1), self._most)
        first = chunk - chunk % size
        if chunk < self.chunks:  # a race reads nothing beyond its end
            return first, min(first + size, self.chunks)
        return max(first, self.chunks), min(first + size, self.total_chunks)

    def _read(self, first: int, last: int) -> list[Callable[[], float]]:
        """Begin to read a batch; what waits for each of its chunks."""
        per_chunk = len(self._windows) // self.total_chunks
        losses = self._loss.begin(self._windows[first * per_chunk : last * per_chunk])

        @cache
        def means() -> list[float]:
            return losses().reshape(last - first, per_chunk).mean(1).tolist()

        def mean(chunk: int) -> float:
            return means()[chunk]

        return [partial(mean, chunk) for chunk in range(last - first)]


def _shuffled(count: int, turns: int) -> Tensor:
    """The indices below ``count`` in a random order, each in the place of one of its own text.

    >>> _shuffled(5, 2) % 2
    tensor([0, 1, 0, 1, 0])
    """
    order = torch.empty(count, dtype=torch.long)
    for text in range(turns):
        own = torch.arange(text, count, turns)
        order[own] = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(text))]
    return order
