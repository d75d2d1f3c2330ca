"""Pruning a model with one block of it on the device at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.by_block.block_passes import Reading, Room
from prunerzero.pruning.by_block.pipeline import run_blocks
from prunerzero.pruning.by_block.shards import FiledBlocks
from prunerzero.pruning.pruner import LayerSparsity, prune_model
from prunerzero.pruning.repeatable import repeatably
from prunerzero.pruning.statistics import GradientOf, LayerStatistics, Statistics, watch

Propagate = Literal["dense", "pruned"]


@dataclass(frozen=True)
class Plan:
    """How the blocks are pruned.

    Attributes:
        expression, sparsity: the metric, and how much.
        propagate: a block's inputs come from the dense blocks before it, or from the pruned ones.
        gradient: G is that of the model's loss ("full"), or of the L2 norm of the block's own
            output ("block"), as the regional gradient of Wanda++ (Yang et al., arXiv 2503.04992).
    """

    expression: Expression
    sparsity: Sparsity
    propagate: Propagate = "dense"
    gradient: GradientOf = "full"

    @property
    def loss_gradient(self) -> bool:
        """Whether a pass backward through the whole model is needed."""
        return "G" in self.expression.terminals and self.gradient == "full"

    @property
    def visits(self) -> int:
        """How often a block is visited."""
        return 1 + self.loss_gradient * (2 if self.propagate == "pruned" else 1)


class Record(Protocol):
    """What was finished, here or before an interruption, and where it is put."""

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept."""

    def zeros(self, index: int) -> dict[str, Tensor]:
        """Where a finished block is zero: full name of a parameter → bool; for "pruned" alone."""

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        """Keep a pruned block."""


def prune_by_block(
    source: FiledBlocks,
    windows: Tensor | None,
    plan: Plan,
    room: Room,
    record: Record,
    on_block: Callable[[], None] = lambda: None,
) -> None:
    """Prune the blocks that ``record`` lacks and put them there.

    Args:
        source: the dense model.
        windows: calibration token ids [count, length]; None where the metric reads W alone.
        plan: what to do.
        room: where to do it.
        record: of what is finished.
        on_block: told when a block was visited; ``plan.visits`` times each, less what an
            interrupted run has done.

    Raises:
        ModelError: the model's blocks cannot be run one by one.
        ScoreError, SparsityError: as ``prune_model``.
    """
    if all(record.finished(index) for index in range(len(source))):
        return
    repeatably(lambda: _prune(_Run(source, plan, room, record, on_block), windows, plan))


def _prune(run: _Run, windows: Tensor | None, plan: Plan) -> None:
    if plan.expression.terminals <= {"W"}:
        run.without_statistics()
        return
    assert windows is not None
    kept = len(run.source) + 1 if plan.loss_gradient else 2
    with Reading(run.source, windows, run.room, kept) as reading:
        if plan.loss_gradient:
            run.backward(reading)
        if plan.propagate == "pruned":
            run.forward_pruned(reading)
        elif not plan.loss_gradient:
            run.forward_dense(reading)


class _Run:
    def __init__(
        self,
        source: FiledBlocks,
        plan: Plan,
        room: Room,
        record: Record,
        on_block: Callable[[], None],
    ) -> None:
        self.source, self._plan, self.room = source, plan, room
        self._record, self._tell, self._lock = record, on_block, Lock()
        self._missing = [i for i in range(len(source)) if not record.finished(i)]

    def without_statistics(self) -> None:
        def work(index: int, device: torch.device, _: Iterator[int]) -> None:
            with self.source.at_work(index, device):
                names = self.source.layers(index)
                self._prune(index, dict.fromkeys(names, LayerStatistics(X=None, G=None)))
            self._visited()

        run_blocks(self._missing, self.room.devices, 0, work)

    def forward_dense(self, reading: Reading) -> None:
        """One pass: each block's dense outputs are the next one's inputs."""
        gradients = "G" in self._plan.expression.terminals

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self.source.at_work(index, device):
                if self._record.finished(index):
                    reading.advance(index, device, windows)
                else:
                    with watch(self.source.layers(index), gradients) as statistics_over:
                        reading.advance(index, device, windows, gradient=gradients)
                    self._prune(index, statistics_over(len(reading.windows)))
            self._visited()

        run_blocks(self._up_to_last(), self.room.devices, len(reading.windows), work)

    def forward_pruned(self, reading: Reading) -> None:
        """Each block is pruned before its outputs are made; so one device is all that can help."""
        gradients = "G" in self._plan.expression.terminals and not self._plan.loss_gradient
        count = len(reading.windows)

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self.source.at_work(index, device):
                if self._record.finished(index):
                    self.source.zero(index, self._record.zeros(index))
                else:
                    with watch(self.source.layers(index), gradients) as statistics_over:
                        twice = iter(range(count))
                        reading.advance(index, device, twice, gradient=gradients, keep=False)
                    found = statistics_over(count)
                    if self._plan.loss_gradient:
                        found = self._with_gradients(index, found)
                    self._prune(index, found)
                reading.advance(index, device, windows)
            self._visited()

        run_blocks(self._up_to_last(), self.room.devices[:1], count, work)

    def backward(self, reading: Reading) -> None:
        """Statistics of the dense model, with the gradient of its loss; from last to first."""
        later = self._plan.propagate == "pruned"  # gradients wait in files for the pass forward

        def forward(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self.source.at_work(index, device):
                reading.advance(index, device, windows)
            self._visited()

        def back(index: int, device: torch.device, windows: Iterator[int]) -> None:
            wanted = index in self._missing and not (later and self._gradient_file(index).exists())
            layers = self.source.layers(index)
            with self.source.at_work(index, device):
                with watch(layers, True) if wanted else nullcontext() as statistics_over:
                    reading.go_back(index, device, windows)
                if statistics_over is not None:
                    found = statistics_over(len(reading.windows))
                    if later:
                        self._keep_gradients(index, found)
                    else:
                        self._prune(index, found)
            self._visited()

        devices, count = self.room.devices, len(reading.windows)
        if later and all(self._gradient_file(index).exists() for index in self._missing):
            return
        run_blocks(range(len(self.source)), devices, count, forward)
        reading.begin_backward()
        run_blocks(range(len(self.source) - 1, self._missing[0] - 1, -1), devices, count, back)

    def _up_to_last(self) -> range:
        return range(self._missing[-1] + 1)

    def _prune(self, index: int, statistics: Statistics) -> None:
        layers = self.source.layers(index)
        pruned = prune_model(layers, statistics, self._plan.expression, self._plan.sparsity)
        self._record.keep(index, self.source.pruned(index), pruned)

    def _gradient_file(self, index: int) -> Path:
        return self.room.folder / f"gradients-of-block-{index}.safetensors"

    def _keep_gradients(self, index: int, statistics: Statistics) -> None:
        file = self._gradient_file(index)
        found = {name: s.G.cpu().contiguous() for name, s in statistics.items() if s.G is not None}
        save_file(found, file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)

    def _with_gradients(self, index: int, statistics: Statistics) -> Statistics:
        device = next(self.source.blocks[index].parameters()).device
        gradients = load_file(self._gradient_file(index), device=str(device))
        return {name: LayerStatistics(s.X, gradients[name]) for name, s in statistics.items()}

    def _visited(self) -> None:
        with self._lock:
            self._tell()
