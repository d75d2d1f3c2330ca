"""Masks where the scores of all layers compete, on an NVIDIA GPU.

No score is kept. A sample gives limits that should hold the threshold, one kernel counts all scores
against these, another writes the pruned weights; each scores all weights anew. A CPU waits for one
answer of the GPU in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from prunerzero.metrics.expression import Expression
from prunerzero.scoring import narrowing
from prunerzero.scoring.competing_kernels import count_keys, keep_ties, prune_upto, sample_keys
from prunerzero.scoring.devices import current_device
from prunerzero.scoring.gpu import Layers, is_fused
from prunerzero.scoring.kernels import OPTIONS
from prunerzero.scoring.narrowing import Found, key_of_rank

SAMPLE = 1 << 22
"""Scores in the sample, or a few more."""

_ALONG = 128
"""A row's sample takes one input of up to so many; the fewer in each row, the more rows."""

_CHUNK, _WARPS, _REGISTERS = 1024, 4, 72
"""Weights that are scored together, by how many warps, with how many registers a thread. On an H100
64 registers differ by up to 2 % either way; without a limit, or with other chunks or warps, metrics
of many operators are slower."""

_TURNS = 255
"""A row is scored in no more turns, which a byte counts."""


class Competition:
    """Layers of a model on one GPU, all of whose scores compete.

    Args:
        groups: the layers, those of one shape and type together.
        places: which of all layers, in order, each of a group is.
    """

    def __init__(self, groups: Sequence[Layers], places: Sequence[Sequence[int]]) -> None:
        self.groups, self.places = groups, places
        self.device = groups[0].device
        heights = {
            place: group.shape[0]
            for group, of_group in zip(groups, places, strict=True)
            for place in of_group
        }
        self._heights = [heights[place] for place in sorted(heights)]
        self._rows = sum(self._heights)
        self._total = sum(len(group.W) * group.shape.numel() for group in groups)
        starts = torch.tensor([0, *self._heights]).cumsum(0).to(self.device, torch.int32)
        self._starts = [starts[torch.tensor(of_group, device=self.device)] for of_group in places]

    def supports(self, expression: Expression) -> bool:
        """Whether the kernels give the masks of eager torch for a metric."""
        widest = max(group.shape[1] for group in self.groups)
        fits = widest <= _CHUNK * _TURNS
        return fits and is_fused(expression, self.device) and competes_exactly(self.device)

    def prune(
        self, expression: Expression, count: int, out: Sequence[Sequence[Tensor]]
    ) -> list[int]:
        """Write the weights of each layer to ``out``, zeros for the ``count`` lowest scores of all.

        Equal scores are pruned in the order of layers, and in column order within one.

        Args:
            expression: a metric that is supported.
            count: at least 1.
            out: of each group, of the shape and type of its weights.

        Returns:
            How many scores are NaN in each layer, in order. If any are, nothing is written.
        """
        with current_device(self.device):
            given = [
                group.arguments(expression, of_group, None)
                for group, of_group in zip(self.groups, out, strict=True)
            ]
            tally = torch.empty((4, self._rows), dtype=torch.int32, device=self.device)

            def count_all(limits: Tensor) -> tuple[Tensor, Tensor]:
                bins = torch.zeros(narrowing.BINS, dtype=torch.int64, device=self.device)
                more = (tally, self._rows, bins)
                self._each_row(count_keys, given, lambda starts: (limits, starts, *more))
                return tally.sum(1), bins

            found = key_of_rank(count, self._total, self._sample(given), count_all)
            if found is None:
                return [int(nans.sum()) for nans in tally[3].cpu().split(self._heights)]
            self._write(given, found, count)
        return [0] * len(self._heights)

    def _write(self, given: list[list[Any]], found: Found, count: int) -> None:
        tied = torch.empty(self._rows, dtype=torch.int32, device=self.device)
        self._each_row(prune_upto, given, lambda starts: (found.key, starts, tied))
        ties = count - found.below
        if ties < found.equal:
            before = tied.cumsum(0) - tied
            taken = (ties - before).clamp_(min=0).minimum(tied).to(torch.int32)
            self._each_row(keep_ties, given, lambda starts: (found.key, starts, tied, taken))

    def _each_row(
        self, kernel: Any, given: list[list[Any]], more: Callable[[Tensor], tuple[Any, ...]]
    ) -> None:
        for group, arguments, starts in zip(self.groups, given, self._starts, strict=True):
            rows, width = group.shape
            chunk = min(_CHUNK, triton.next_power_of_2(width))
            kernel[rows * len(group.W),](
                *arguments, *more(starts),
                CHUNK=chunk, num_warps=_WARPS, maxnreg=_REGISTERS, **OPTIONS,
            )  # fmt: skip

    def _sample(self, given: list[list[Any]]) -> Tensor:
        """Keys of about ``SAMPLE`` weights, as many in proportion of each layer."""
        step = max(1, self._total // SAMPLE)
        along = min(step, _ALONG)
        down = step // along
        shapes = [
            (max(1, group.shape[0] * len(group.W) // down), max(1, group.shape[1] // along))
            for group in self.groups
        ]
        sizes = [rows * columns for rows, columns in shapes]
        keys = torch.empty(sum(sizes), dtype=torch.int32, device=self.device)
        for arguments, (rows, columns), part in zip(given, shapes, keys.split(sizes), strict=True):
            block = triton.next_power_of_2(columns)
            sample_keys[rows,](
                *arguments, part, columns, down, along,
                BLOCK=block, num_warps=max(1, min(4, block // 256)), **OPTIONS,
            )  # fmt: skip
        return keys


@lru_cache
def competes_exactly(device: torch.device) -> bool:
    """Whether the kernels prune as one stable sort does, of scores with many ties."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 1000), (40, 300), (64, 1000)]
    scores = [(torch.randn(shape, generator=generator) * 50).round().to(device) for shape in shapes]
    weights = [torch.ones_like(score) for score in scores]
    first, second, third = zip(weights, scores, strict=True)
    groups = [Layers([first[0], third[0]], None, [first[1], third[1]])]
    groups.append(Layers([second[0]], None, [second[1]]))
    order = torch.cat([score.flatten() for score in scores]).argsort(stable=True)
    for share in (0.2, 0.5):
        expected = torch.ones(len(order), device=device)
        expected[order[: int(len(order) * share)]] = 0
        out = [torch.full_like(weight, torch.nan) for weight in weights]
        competition = Competition(groups, [(0, 2), (1,)])
        competition.prune(Expression("G"), int(len(order) * share), [[out[0], out[2]], [out[1]]])
        if not torch.equal(torch.cat([pruned.flatten() for pruned in out]), expected):
            return False
    return True
