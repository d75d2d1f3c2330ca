"""Pruning the same layers with one metric after another, each time from the dense weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunerzero.metrics import Expression, ScoreError, Sparsity
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.gram import Grams
from prunerzero.pruning.pruner import MAGNITUDE, is_zero, masks, one_by_one
from prunerzero.pruning.quick_refit import QuickRefit
from prunerzero.pruning.refit import Refit, budgets_of, refit_weights
from prunerzero.pruning.statistics import LayerStatistics, Statistics
from prunerzero.pruning.turns import Visitor, allocate, free
from prunerzero.scoring.mask import nan_error
from prunerzero.scoring.selection import prune_into, use_gpu_kernels, write_pruned


class PrunedWeights:
    """The weights of some layers, which ``prune`` and ``restore`` overwrite in place.

    One dense copy is kept beside the model, and memory does not grow from metric to metric. On a
    GPU all layers of one shape are pruned by one launch; where all layers compete, by a few.

    ``at`` gives the same layers at another sparsity. These take turns in the one model: what one
    has pruned is kept aside while another one's weights are in it, and ``resume`` brings it back.
    So it is where the whole model leaves the device for another one: that is dense when it is back.

    Args:
        layers: the matrices by full name.
        statistics: X, G and D of each, where a metric reads them.
        sparsity: the share or pattern of weights to prune.
        refit: what is done with masks.
        grams: Gram matrix of each layer's inputs, which a refit needs.
        visitor: of the model, where it takes turns with others; then what is pruned is kept aside
            in host memory.
    """

    def __init__(
        self,
        layers: Mapping[str, Matrix],
        statistics: Statistics,
        sparsity: Sparsity,
        refit: Refit = Refit(),
        grams: Grams | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        self._refit, self._grams = refit, grams
        self._visits = visitor is not None
        self._quick: QuickRefit | None = None
        if grams is not None and refit.counts_solver_steps and refit.solver_steps:
            self._quick = QuickRefit.of(layers, grams, refit.solver_steps)
        self._layers, self._statistics, self._sparsity = layers, statistics, sparsity
        self._dense = {name: layer.weight.contiguous().clone() for name, layer in layers.items()}
        self._unreached = {name: _zero(statistics[name]) for name in layers}
        self._groups = self._grouped()
        self._competition = self._competing()
        self._turn = _Turn()
        self._aside: list[Tensor] = []
        if visitor is not None:
            visitor.companion = self

    def at(self, sparsity: Sparsity) -> PrunedWeights:
        """The same weights, to be pruned to another sparsity; the dense copy is shared."""
        other = copy(self)
        other._sparsity, other._aside = sparsity, []
        return other

    def prune(self, expression: Expression) -> None:
        """Write the weights pruned with a metric, and refitted where that is wanted.

        Layers that no token reached are pruned by magnitude.

        Raises:
            ScoreError: the metric gives NaN on a layer; names the layer.
        """
        self._take_turn()
        self._mask(expression)
        if self._grams is not None and self._quick is not None:
            self._quick.apply(self._layers, self._dense, self._grams)
        elif self._grams is not None:
            for name, layer in self._layers.items():
                weight, budgets = layer.weight, budgets_of(self._sparsity)
                found = refit_weights(
                    self._dense[name], self._grams[name], weight == 0, self._refit, budgets
                )
                weight.copy_(found)

    def _mask(self, expression: Expression) -> None:
        counts: list[tuple[list[str], Tensor]] = []
        left = list(self._layers)
        for names, group in self._groups:
            if group.supports(self._sparsity):
                out = [self._layers[name].weight for name in names]
                nans = torch.zeros(len(names), dtype=torch.int32, device=group.device)
                group.prune(expression, self._sparsity, out, nans)
                counts.append((names, nans))
                done = set(names)
                left = [name for name in left if name not in done]
        unreached = [name for name in left if expression.terminals & self._unreached[name]]
        apart = self._sparsity
        if apart.group == "model":
            if not self._prune_together(expression, unreached):
                self._prune_by_masks(expression, unreached)
                return
            left, apart = unreached, replace(apart, group="layer")
        for name in left:
            try:
                prune_into(
                    self._layers[name].weight,
                    MAGNITUDE if name in unreached else expression,
                    apart,
                    W=self._dense[name],
                    X=self._statistics[name].X,
                    G=self._statistics[name].G,
                    D=self._statistics[name].D,
                )
            except ScoreError as error:
                raise ScoreError(f"on layer {name}, {error}") from None
        for group_names, nans in counts:  # read only now, so that the GPU need not wait
            self._check(group_names, nans.tolist())

    def _check(self, names: Sequence[str], nans: Sequence[int]) -> None:
        for name, count in zip(names, nans, strict=True):
            if count:
                raise nan_error(count, self._dense[name].numel(), f"on layer {name}, ")

    def _prune_together(self, expression: Expression, unreached: list[str]) -> bool:
        """Have GPU kernels prune all layers that were reached; False where they cannot."""
        names, competition = self._competition
        reached = [name for name in self._layers if name not in unreached]
        count = int(sum(self._dense[name].numel() for name in names) * self._sparsity.fraction)
        if competition is None or reached != names or count == 0:
            return False
        if not competition.supports(expression):
            return False
        out = [[self._layers[name].weight for name in of_group] for of_group, _ in self._groups]
        self._check(names, competition.prune(expression, count, out))
        return True

    def _prune_by_masks(self, expression: Expression, unreached: list[str]) -> None:

        def write_scores(names: Sequence[str], out: Sequence[Tensor]) -> None:
            left = dict(zip(names, out, strict=True))
            for of_group, group in self._groups:
                if chosen := [name for name in of_group if name in left]:
                    scores = [left.pop(name) for name in chosen]
                    group.write_scores(expression, scores, of_group.index(chosen[0]))
            others(list(left), list(left.values()))

        others = one_by_one(self._dense, self._statistics, expression)
        named_masks = masks(
            self._dense, self._statistics, expression, self._sparsity, unreached, write_scores
        )
        with torch.no_grad():
            for name, mask in named_masks:
                write_pruned(self._layers[name].weight, self._dense[name], mask)

    def resume(self) -> None:
        """Have what ``prune`` wrote in the model again, where another one took its turn since."""
        if self._turn.holder is not self:
            self._take_turn()
            _copy(self._aside, self._weights)

    def restore(self) -> None:
        """Write the dense weights back where pruned ones are in the model, and not another's."""
        if self._turn.holder is self:
            _copy(list(self._dense.values()), self._weights)
            self._turn.holder = None

    def leave(self) -> None:
        """Keep aside what is pruned, and free the dense copy: the model leaves its device."""
        if (holder := self._turn.holder) is not None:
            holder._put_aside()
            holder.restore()
        for dense in self._dense.values():
            free(dense.untyped_storage())

    def come(self) -> None:
        """Have the dense copy again, from the model, which is back."""
        for dense in self._dense.values():
            allocate(dense.untyped_storage(), dense.nbytes)
        _copy(self._weights, list(self._dense.values()))

    @property
    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self._layers.values()]

    def _take_turn(self) -> None:
        """Keep aside what another one has in the model."""
        holder, self._turn.holder = self._turn.holder, self
        if holder not in (self, None):
            holder._put_aside()

    def _put_aside(self) -> None:
        self._aside = self._aside or [self._like(weight) for weight in self._weights]
        _copy(self._weights, self._aside)

    def _like(self, weight: Tensor) -> Tensor:
        if self._visits:
            return torch.empty_like(weight, device="cpu", pin_memory=weight.is_cuda)
        return torch.empty_like(weight)

    def _grouped(self) -> list[tuple[list[str], Any]]:
        """Layers that GPU kernels can prune together: of one shape, type and device."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, layer in self._layers.items():
            dense, known = self._dense[name], self._statistics[name]
            weight = layer.weight
            if not use_gpu_kernels(dense) or self._unreached[name] or weight.stride(1) != 1:
                continue
            if known.G is not None and (known.G.dtype != torch.float32 or known.G.stride(1) != 1):
                continue
            key = (
                dense.shape, dense.dtype, dense.device, weight.stride(0),
                known.X is None, None if known.G is None else known.G.stride(0), known.D is None,
            )  # fmt: skip
            groups.setdefault(key, []).append(name)
        return [(names, self._group(names)) for names in groups.values()]

    def _group(self, names: list[str]) -> Any:
        from prunerzero.scoring.gpu import Layers

        dense = [self._dense[name] for name in names]
        known = [self._statistics[name] for name in names]
        device = dense[0].device
        X = [k.X.to(device, torch.float32) for k in known if k.X is not None]
        G = [k.G.to(device) for k in known if k.G is not None]
        D = [k.D.to(device, torch.float32) for k in known if k.D is not None]
        return Layers(
            dense, torch.stack(X) if X else None, G or None, torch.stack(D) if D else None
        )

    def _competing(self) -> tuple[list[str], Any]:
        """The layers in groups, in order, and what prunes them where all compete, if anything."""
        grouped = {name for of_group, _ in self._groups for name in of_group}
        names = [name for name in self._layers if name in grouped]
        if len({group.device for _, group in self._groups}) != 1:
            return names, None
        from prunerzero.scoring.competing import Competition

        order = {name: i for i, name in enumerate(names)}
        places = [[order[name] for name in of_group] for of_group, _ in self._groups]
        return names, Competition([group for _, group in self._groups], places)


@dataclass
class _Turn:
    """Whose pruned weights are in a model; None while they are the dense ones."""

    holder: PrunedWeights | None = None


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    torch._foreach_copy_(target, source)  # one launch for all where they are on a GPU


def _zero(known: LayerStatistics) -> frozenset[str]:
    """The statistics that are zero throughout, as no calibration token reached the layer."""
    return frozenset(name for name in ("X", "G", "D") if is_zero(known, name))
