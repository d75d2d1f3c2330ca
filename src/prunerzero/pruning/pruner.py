"""A pass over the model: each layer's weights with the lowest scores are set to zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunerzero.metrics import Expression, ScoreError, Sparsity, score_mask
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.statistics import LayerStatistics, Statistics

MAGNITUDE = Expression.parse("W")
"""What a layer is pruned by that no calibration token reached."""


@dataclass(frozen=True)
class LayerSparsity:
    """How much of one layer is zero after pruning.

    Attributes:
        unreached: no calibration token was seen to reach it, as can happen to an expert; it was
            pruned by magnitude instead.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    sparsity: float
    unreached: bool = False


def layer_mask(
    weight: Tensor, statistics: LayerStatistics, expression: Expression, sparsity: Sparsity
) -> Tensor:
    """The mask [out, in] of one layer, True where pruned. Raises ScoreError, SparsityError.

    A layer that no calibration token reached has nothing but zeros for X and G: its weights are
    compared by magnitude, whatever the metric.
    """
    if is_unreached(statistics, expression):
        expression = MAGNITUDE
    return score_mask(expression, sparsity, W=weight, X=statistics.X, G=statistics.G)


def is_unreached(statistics: LayerStatistics, expression: Expression) -> bool:
    """Whether one of the statistics that the metric reads is zero throughout."""
    read = (getattr(statistics, name) for name in expression.terminals & {"X", "G"})
    return any(found is not None and not found.any() for found in read)


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
            share = zeros / layer.weight.numel()
            unreached = is_unreached(statistics[name], expression)
            pruned.append(LayerSparsity(name, tuple(mask.shape), zeros, share, unreached))
    return tuple(pruned)
