"""Pruning a model: in each layer, the weights with the lowest scores are set to zero."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunerzero.metrics import Expression, ScoreError, Sparsity
from prunerzero.pruning.across_layers import Scorer, lowest_of_all
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.gram import Grams
from prunerzero.pruning.refit import OutputChange, Refit, refit_model
from prunerzero.pruning.statistics import LayerStatistics, Statistics, probes_of
from prunerzero.scoring import score_mask
from prunerzero.scoring.ranking import check_ranks
from prunerzero.scoring.selection import write_scores

MAGNITUDE = Expression.parse("W")
"""The metric for layers that no calibration token reached."""


@dataclass(frozen=True)
class LayerSparsity:
    """How much of one layer is zero after pruning.

    Attributes:
        name, shape: of the layer [out, in].
        zeros, sparsity: number and share of weights that are zero.
        unreached: whether no calibration token reached it, as can happen to an expert; it was
            pruned by magnitude then.
        error_of_mask, error: share of the layer's outputs on the calibration text that the mask
            alone changes, and that the refitted weights change; None where nothing was refitted.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    sparsity: float
    unreached: bool = False
    error_of_mask: float | None = None
    error: float | None = None

    @classmethod
    def of(
        cls, name: str, weight: Tensor, unreached: bool, error: OutputChange | None
    ) -> LayerSparsity:
        """What is zero in a layer that is pruned, and what that changes of its outputs."""
        zeros = int((weight == 0).sum())
        return cls(
            name=name,
            shape=tuple(weight.shape),
            zeros=zeros,
            sparsity=zeros / weight.numel(),
            unreached=unreached,
            error_of_mask=None if error is None else error.mask,
            error=None if error is None else error.refitted,
        )


def is_unreached(statistics: LayerStatistics, expression: Expression) -> bool:
    """Whether one of the statistics that the metric reads is zero throughout."""
    return any(is_zero(statistics, name) for name in expression.terminals - {"W"})


def is_zero(statistics: LayerStatistics, name: str) -> bool:
    """Whether X, G or D, as named, is zero throughout."""
    tensor: Tensor | None = getattr(statistics, name)
    return tensor is not None and not tensor.any()


def check_differs(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
) -> None:
    """Raise ScoreError if all scores that are compared in this model are equal.

    That happens where powers of small weights are all zero in the precision of scores. A few layers
    that tokens reached are tried, evenly spaced through the model.
    """
    names = [name for name in layers if not is_unreached(statistics[name], expression)]
    if not names:
        return
    check_ranks(expression, sparsity, probes_of(layers, statistics, names=names))


def masks(
    weights: Mapping[str, Tensor],
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
    unreached: Collection[str],
    scorer: Scorer | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The mask [out, in] of each layer, True where pruned.

    X, G and D of a layer that no calibration token reached are zero. Its weights compete by
    magnitude and within the layer, whatever the metric and the group.

    Args:
        weights: dense weights [out, in] of each layer; each may be pruned as soon as its mask is
            yielded.
        statistics: X, G and D of each layer, where the metric reads them.
        expression: the metric.
        sparsity: the share or pattern to prune, and the group in which scores compete.
        unreached: names of layers that no token reached.
        scorer: writes scores that compete in the whole model; by default ``one_by_one``.

    Raises:
        ScoreError: the metric gives NaN on a layer; names the layer.
        SparsityError: a layer's width does not fit the pattern.
    """
    alone, apart = list(weights), sparsity
    if sparsity.group == "model":
        reached = {name: weights[name] for name in weights if name not in unreached}
        scorer = scorer or one_by_one(weights, statistics, expression)
        yield from lowest_of_all(reached, scorer, sparsity.fraction)
        alone, apart = list(unreached), replace(sparsity, group="layer")
    for name in alone:
        formula = MAGNITUDE if name in unreached else expression
        known = statistics[name]
        try:
            yield name, score_mask(formula, apart, W=weights[name], X=known.X, G=known.G, D=known.D)
        except ScoreError as error:
            raise ScoreError(f"on layer {name}, {error}") from None


def one_by_one(
    weights: Mapping[str, Tensor], statistics: Statistics, expression: Expression
) -> Scorer:
    """A scorer that computes the scores of one layer after the other."""

    def write(names: Sequence[str], out: Sequence[Tensor]) -> None:
        for name, scores in zip(names, out, strict=True):
            known = statistics[name]
            write_scores(scores, expression, W=weights[name], X=known.X, G=known.G, D=known.D)

    return write


def masks_of(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
) -> dict[str, Tensor]:
    """The mask [out, in] of each layer of a model, as ``prune_model`` makes it."""
    return dict(each_mask(layers, statistics, expression, sparsity))


def each_mask(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
) -> Iterator[tuple[str, Tensor]]:
    """The same, one layer after the other."""
    weights = {name: layer.weight for name, layer in layers.items()}
    unreached = [name for name in layers if is_unreached(statistics[name], expression)]
    return masks(weights, statistics, expression, sparsity, unreached)


def prune_model(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
    refit: Refit = Refit(),
    grams: Grams | None = None,
    dense: Mapping[str, Tensor] | None = None,
    stored: Mapping[str, torch.dtype] | None = None,
    on_layer: Callable[[int], None] = lambda done: None,
) -> tuple[LayerSparsity, ...]:
    """Prune the layers in place.

    Args:
        layers: the matrices by full name.
        statistics: what the metric reads of each.
        expression: the metric.
        sparsity: the share or pattern to prune, and the group in which scores compete.
        refit: what is done with the masks.
        grams: Gram matrix of each layer's inputs, which a refit needs.
        dense: weights [out, in] of each that the outputs are to stay close to; None for those that
            are in the model.
        stored: the checkpoint's dtype of each, to which refitted weights are rounded.
        on_layer: told how many layers are refitted.

    Returns:
        how much of each layer is zero.

    Raises:
        ScoreError: the metric gives NaN on a layer; names the layer.
        SparsityError: a layer's width does not fit the pattern.
    """
    weights = {name: layer.weight for name, layer in layers.items()}
    unreached = [name for name in layers if is_unreached(statistics[name], expression)]
    found = masks(weights, statistics, expression, sparsity, unreached)
    errors: dict[str, OutputChange] = {}
    with torch.no_grad():
        if grams is not None:
            errors = refit_model(layers, found, grams, refit, sparsity, dense, stored, on_layer)
        else:
            for name, mask in found:
                weights[name].masked_fill_(mask, 0)
    return outcome(layers, statistics, expression, errors)


def outcome(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    expression: Expression,
    errors: Mapping[str, OutputChange],
) -> tuple[LayerSparsity, ...]:
    """How much of each layer of a pruned model is zero; with errors, what that changes."""
    return tuple(
        LayerSparsity.of(
            name, layer.weight, is_unreached(statistics[name], expression), errors.get(name)
        )
        for name, layer in layers.items()
    )
