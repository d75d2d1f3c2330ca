"""The refit that candidates of a search are judged after: a few steps, many layers at once.

A search refits every layer of a model for every candidate, and needs to know only which candidate
is better. So it stops after some steps of conjugate gradients, multiplies in TF32 on a GPU, and
never waits for the GPU. Rows of layers that read the same are one problem, and problems of one
shape are solved together: a small model is otherwise bound by the launching of kernels.

Gram matrices that are kept in host memory come to the device by turns, while the problems before
are solved. The weights are the same, to the bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.carried import carried
from prunerzero.pruning.conjugate import Course, quick_products, step_on
from prunerzero.pruning.gram import DAMPING, Grams
from prunerzero.pruning.least_squares import scaled_grams

_TOGETHER = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Weights that are solved together at most: more do not fit in a CPU's cache, or take too much of a
GPU's memory, of which each takes about 30 bytes."""

Problem = tuple[str, ...]
"""Names of layers that read the same, whose rows share a Gram matrix."""


@dataclass(frozen=True)
class QuickRefit:
    """Refits the weights that stay of all layers.

    Attributes:
        batches: problems of one shape that are solved together.
        steps: of conjugate gradients.
        carries: whether Gram matrices are kept in host memory and come to the device by turns.
        damping: share of each diagonal entry of a Gram matrix that is added to it.
    """

    batches: tuple[tuple[Problem, ...], ...]
    steps: int
    carries: bool = False
    damping: float = DAMPING

    @classmethod
    def of(cls, layers: Mapping[str, Matrix], grams: Grams, steps: int) -> QuickRefit:
        """Group the layers; those in a row that share one Gram matrix are one problem."""
        problems: list[list[str]] = []
        for name in layers:
            if problems and grams[name] is grams[problems[-1][-1]]:
                problems[-1].append(name)
            else:
                problems.append([name])
        carries = any(grams[name].device != layers[name].weight.device for name in layers)
        return cls(tuple(_batches(layers, problems)), steps, carries)

    @torch.no_grad()
    def apply(
        self, layers: Mapping[str, Matrix], dense: Mapping[str, Tensor], grams: Grams
    ) -> None:
        """Refit in place the weights of pruned layers.

        Args:
            layers: the matrices, zero where pruned.
            dense: dense weights [out, in] of each.
            grams: Gram matrix [in, in] of each layer's inputs.
        """
        for device, group in groupby(self.batches, lambda b: layers[b[0][0]].weight.device):
            batches = list(group)
            stacks = [[grams[problem[0]] for problem in batch] for batch in batches]
            brought = carried(stacks, device) if self.carries else map(torch.stack, stacks)
            scaled = map(partial(scaled_grams, damping=self.damping), brought)
            for batch, (matrix, norms) in zip(batches, scaled, strict=True):
                self._refit(batch, matrix, norms[:, None, :], layers, dense)

    def _refit(
        self,
        batch: Sequence[Problem],
        matrix: Tensor,
        norms: Tensor,
        layers: Mapping[str, Matrix],
        dense: Mapping[str, Tensor],
    ) -> None:
        """Refit the problems of a batch from their scaled Gram matrices."""
        masked = torch.stack([torch.cat([layers[n].weight for n in p]) for p in batch]) == 0
        target = torch.stack([torch.cat([dense[n] for n in p]) for p in batch]).float()
        found = _solve(target * norms, matrix, ~masked, self.steps)
        # weights of an input that is never active, and rows that lose none, stay what they are
        changes = (norms > 0) & masked.any(2, keepdim=True)
        found = torch.where(changes, found / norms, target).masked_fill_(masked, 0)
        for problem, weights in zip(batch, found, strict=True):
            rows = [len(layers[name].weight) for name in problem]
            for name, own in zip(problem, weights.split(rows), strict=True):
                layers[name].weight.copy_(own)


def memory(layers: Mapping[str, Matrix]) -> int:
    """Bytes of a GPU that a refit works in: three stacks of Gram matrices, two of which are there
    where they are carried, and 30 bytes a weight, of the largest batch."""
    count = Counter(layer.weight.shape for layer in layers.values())
    together = {
        shape: max(1, min(same, _TOGETHER["cuda"] // max(1, shape.numel())))
        for shape, same in count.items()
    }
    sizes = (n * (30 * out * width + 12 * width**2) for (out, width), n in together.items())
    return max(sizes, default=0)


def _batches(
    layers: Mapping[str, Matrix], problems: Sequence[Sequence[str]]
) -> Iterator[tuple[Problem, ...]]:
    alike: dict[tuple[int, int, torch.dtype, torch.device], list[Problem]] = {}
    for problem in problems:
        weights = [layers[name].weight for name in problem]
        shape = sum(map(len, weights)), weights[0].shape[1]
        key = (*shape, weights[0].dtype, weights[0].device)
        alike.setdefault(key, []).append(tuple(problem))
    for (rows, width, _, device), found in alike.items():
        most = max(1, _TOGETHER.get(device.type, 1) // max(1, rows * width))
        for first in range(0, len(found), most):
            yield tuple(found[first : first + most])


def _solve(target: Tensor, matrix: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Scaled weights [n, rows, in] after so many steps from the dense ones, zero where not kept."""
    with quick_products():
        values = torch.where(kept, target, 0.0)
        residual = ((target - values) @ matrix).mul_(kept)
        course = Course.begin(values, residual, kept)
        take_step = step_on(values.device)
        for _ in range(steps):
            take_step(course, course.direction @ matrix)
    return values
