"""A pass over the model: each layer's weights with the lowest scores are set to zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunerzero.metrics import Expression, ScoreError, Sparsity, prune_mask
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.statistics import LayerStatistics, Statistics


@dataclass(frozen=True)
class LayerSparsity:
    """How much of one layer is zero after pruning."""

    name: str
    shape: tuple[int, ...]
    zeros: int
    sparsity: float


def layer_mask(
    weight: Tensor, statistics: LayerStatistics, expression: Expression, sparsity: Sparsity
) -> Tensor:
    """The mask [out, in] of one layer, True where pruned. Raises ScoreError, SparsityError."""
    score = expression.score(W=weight, X=statistics.X, G=statistics.G)
    return prune_mask(score, sparsity)


def prune_model(
    layers: Mapping[str, Matrix], statistics: Statistics, expression: Expression, sparsity: Sparsity
) -> tuple[LayerSparsity, ...]:
    """Prune the layers in place, by statistics taken before.

    Raises:
        ScoreError: the metric gives NaN on a layer; names the layer.
        SparsityError: a layer's width does not fit the pattern.
    """
    pruned = []
    with torch.no_grad():
        for name, layer in layers.items():
            try:
                mask = layer_mask(layer.weight, statistics[name], expression, sparsity)
            except ScoreError as error:
                raise ScoreError(f"on layer {name}, {error}") from None
            layer.weight.masked_fill_(mask, 0)
            zeros = int((layer.weight == 0).sum())
            pruned.append(
                LayerSparsity(name, tuple(mask.shape), zeros, zeros / layer.weight.numel())
            )
    return tuple(pruned)
