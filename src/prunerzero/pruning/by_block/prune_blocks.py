"""Pruning a model with one block of it on the device at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.by_block.block_passes import BlockPasses, Resources
from prunerzero.pruning.by_block.in_order import work_in_order
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks
from prunerzero.pruning.by_block.partial_checkpoint import Needed
from prunerzero.pruning.by_block.pipeline import run_blocks
from prunerzero.pruning.deterministic import deterministically
from prunerzero.pruning.gram import Grams
from prunerzero.pruning.pruner import LayerSparsity, masks_of, outcome, prune_model
from prunerzero.pruning.refit import OutputChange, Refit, refit_in_place
from prunerzero.pruning.statistics import GradientOf, LayerStatistics, Statistics, watch

Propagate = Literal["dense", "pruned"]


@dataclass(frozen=True)
class Plan:
    """How the blocks are pruned.

    Attributes:
        expression, sparsity: the metric, and the share or pattern of weights to prune.
        propagate: whether a block's inputs come from the dense blocks before it, or from the
            pruned ones.
        gradient: whether G is the gradient of the model's loss ("full"), or of the L2 norm of the
            block's own output ("block"), the regional gradient of Wanda++ (Yang et al., arXiv
            2503.04992).
        refit: whether masks are refined, and the weights that stay refitted. Gram matrices are
            those of the dense block's inputs; with propagate "pruned", of what each layer reads
            after those before it were pruned and refitted.
    """

    expression: Expression
    sparsity: Sparsity
    propagate: Propagate = "dense"
    gradient: GradientOf = "full"
    refit: Refit = Refit()

    @property
    def reads_text(self) -> bool:
        """Whether the windows are read."""
        return bool(self.refit) or self.expression.terminals != {"W"}

    @property
    def needed(self) -> Needed:
        """What finished blocks are set up again from in a later run."""
        if self.propagate == "dense":
            return "nothing"
        return "weights" if self.refit else "zeros"

    @property
    def reads_gradient(self) -> bool:
        """Whether the metric reads G."""
        return "G" in self.expression.terminals

    @property
    def reads_diagonal(self) -> bool:
        """Whether the metric reads D."""
        return "D" in self.expression.terminals

    @property
    def loss_gradient(self) -> bool:
        """Whether the plan needs a pass backward through the whole model."""
        return self.reads_gradient and self.gradient == "full"

    @property
    def visits(self) -> int:
        """How often each block is loaded."""
        return 1 + self.loss_gradient * (2 if self.propagate == "pruned" else 1)


class Record(Protocol):
    """Where finished blocks are kept, also from one run to the next."""

    def finished(self, index: int) -> bool:
        """Whether a block is pruned and kept."""

    def zeros(self, index: int) -> dict[str, Tensor]:
        """Where a finished block is zero: full name of a parameter → bool, flat.

        Asked for only where the plan needs them.
        """

    def weights(self, index: int) -> dict[str, Tensor]:
        """The tensors of a finished block as they were kept: full name → tensor, in any dtype.

        Asked for only where the plan needs them.
        """

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        """Keep a pruned block."""


def prune_by_block(
    source: OffloadedBlocks,
    windows: Tensor | None,
    plan: Plan,
    resources: Resources,
    record: Record,
    on_block: Callable[[], None] = lambda: None,
) -> None:
    """Prune the blocks that ``record`` lacks, and keep them there.

    Args:
        source: the dense model.
        windows: calibration token ids [count, length]; None where the plan reads none.
        plan: how the blocks are pruned.
        resources: devices, memory and folder to use.
        record: keeps finished blocks.
        on_block: called each time that a block was loaded and worked on: ``plan.visits`` times for
            each block, fewer where an earlier run has done a part.

    Raises:
        ModelError: the model's blocks cannot be run one by one.
        ScoreError, SparsityError: as ``prune_model``.
    """
    if all(record.finished(index) for index in range(len(source))):
        return
    deterministically(lambda: _Pruning(source, windows, plan, resources, record, on_block).run())


class _Pruning:
    def __init__(
        self,
        source: OffloadedBlocks,
        windows: Tensor | None,
        plan: Plan,
        resources: Resources,
        record: Record,
        on_block: Callable[[], None],
    ) -> None:
        self._source, self._windows, self._plan = source, windows, plan
        self._resources, self._record, self._on_block = resources, record, on_block
        self._missing = [i for i in range(len(source)) if not record.finished(i)]
        self._needed = range(self._missing[-1] + 1)
        """A pass forward goes up to the last block that is not yet pruned."""

    def run(self) -> None:
        """Prune all missing blocks."""
        plan = self._plan
        if not plan.reads_text:
            self._without_statistics()
            return
        assert self._windows is not None
        kept = len(self._source) + 1 if plan.loss_gradient else 2
        with BlockPasses(self._source, self._windows, self._resources, kept) as passes:
            if plan.loss_gradient:
                self._backward(passes)
            if plan.propagate == "pruned":
                self._forward_pruned(passes)
            elif not plan.loss_gradient:
                self._forward_dense(passes)

    def _without_statistics(self) -> None:
        def work(index: int, device: torch.device, _: Iterator[int]) -> None:
            with self._source.loaded(index, device):
                names = self._source.layers(index)
                self._prune(index, dict.fromkeys(names, LayerStatistics(X=None, G=None)))

        run_blocks(self._missing, self._resources.devices, 0, work, self._on_block)

    def _forward_dense(self, passes: BlockPasses) -> None:
        """Prune each block after its dense outputs, the inputs of the next one, are made."""
        gradients, count = self._plan.reads_gradient, len(passes.windows)

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self._source.loaded(index, device):
                if self._record.finished(index):
                    passes.forward(index, device, windows)
                else:
                    grams = self._wanted_grams()
                    with self._watching(index, gradients, grams=grams) as statistics_over:
                        passes.forward(index, device, windows, gradient=gradients)
                    self._prune(index, statistics_over(count), grams)

        run_blocks(self._needed, self._resources.devices, count, work, self._on_block)

    def _forward_pruned(self, passes: BlockPasses) -> None:
        """Prune each block before its outputs are made, which uses one device only.

        A refit goes through the layers of the block in order, each aimed at its dense weights, from
        what it reads after the layers before it were refitted.
        """
        gradients = self._plan.reads_gradient and not self._plan.loss_gradient
        count = len(passes.windows)

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self._source.loaded(index, device):
                if self._record.finished(index):
                    self._set_again(index)
                else:
                    with self._watching(index, gradients) as statistics_over:
                        first = iter(range(count))
                        passes.forward(index, device, first, gradient=gradients, keep=False)
                    statistics = statistics_over(count)
                    if self._plan.loss_gradient:
                        statistics = self._with_gradients(index, statistics)
                    if self._plan.refit:
                        self._refit_in_order(index, device, statistics, passes)
                    else:
                        self._prune(index, statistics)
                passes.forward(index, device, windows)

        run_blocks(self._needed, self._resources.devices[:1], count, work, self._on_block)

    def _backward(self, passes: BlockPasses) -> None:
        """Take statistics of the dense model with the gradient of its loss, last block first.

        Blocks are pruned at once, unless a pass forward through pruned blocks follows: then their
        gradients wait in files.
        """
        source, devices, count = self._source, self._resources.devices, len(passes.windows)
        wait = self._plan.propagate == "pruned"
        if wait and all(self._gradient_file(index).exists() for index in self._missing):
            return

        def forward(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with source.loaded(index, device):
                passes.forward(index, device, windows)

        def backward(index: int, device: torch.device, windows: Iterator[int]) -> None:
            wanted = index in self._missing and not (wait and self._gradient_file(index).exists())
            grams = None if wait else self._wanted_grams()
            with source.loaded(index, device):
                with (
                    self._watching(index, True, not wait, grams)
                    if wanted
                    else nullcontext() as statistics_over
                ):
                    passes.backward(index, device, windows)
                if statistics_over is not None and wait:
                    self._keep_gradients(index, statistics_over(count))
                elif statistics_over is not None:
                    self._prune(index, statistics_over(count), grams)

        run_blocks(range(len(source)), devices, count, forward, self._on_block)
        passes.begin_backward()
        backwards = range(len(source) - 1, self._missing[0] - 1, -1)
        run_blocks(backwards, devices, count, backward, self._on_block)

    def _watching(
        self, index: int, gradients: bool, inputs: bool = True, grams: Grams | None = None
    ) -> AbstractContextManager[Callable[[int], Statistics]]:
        """Watch a block for what the metric reads; D is left out where ``inputs`` do not count."""
        diagonals = self._plan.reads_diagonal and inputs
        layers = self._source.layers(index)
        return watch(layers, gradients, inverse_diagonals=diagonals, grams=grams)

    def _wanted_grams(self) -> Grams | None:
        return {} if self._plan.refit else None

    def _set_again(self, index: int) -> None:
        """Give a loaded block the weights that an earlier run kept."""
        if self._plan.needed == "weights":
            self._source.set(index, self._record.weights(index))
        else:
            self._source.zero(index, self._record.zeros(index))

    def _prune(self, index: int, statistics: Statistics, grams: Grams | None = None) -> None:
        """Prune a loaded block, refit it where there are Gram matrices, and keep it."""
        layers, plan = self._source.layers(index), self._plan
        stored = self._source.stored_dtypes(index)
        pruned = prune_model(
            layers, statistics, plan.expression, plan.sparsity, plan.refit, grams, stored=stored
        )
        self._record.keep(index, self._source.pruned(index), pruned)

    @torch.no_grad()
    def _refit_in_order(
        self, index: int, device: torch.device, statistics: Statistics, passes: BlockPasses
    ) -> None:
        """Prune a loaded block, refit its layers in the order of the data, and keep it."""
        layers, plan = self._source.layers(index), self._plan
        stored = self._source.stored_dtypes(index)
        errors: dict[str, OutputChange] = {}
        found = masks_of(layers, statistics, plan.expression, plan.sparsity)

        def solve(name: str, gram: Tensor) -> None:
            errors[name] = refit_in_place(
                layers[name], gram, found.pop(name), plan.refit, plan.sparsity, stored=stored[name]
            )

        work_in_order(passes, index, device, layers, solve)
        rows = outcome(layers, statistics, plan.expression, errors)
        self._record.keep(index, self._source.pruned(index), rows)

    def _gradient_file(self, index: int) -> Path:
        return self._resources.folder / f"gradients-of-block-{index}.safetensors"

    def _keep_gradients(self, index: int, statistics: Statistics) -> None:
        file = self._gradient_file(index)
        tensors = {n: s.G.cpu().contiguous() for n, s in statistics.items() if s.G is not None}
        save_file(tensors, file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)

    def _with_gradients(self, index: int, statistics: Statistics) -> Statistics:
        device = next(self._source.blocks[index].parameters()).device
        gradients = load_file(self._gradient_file(index), device=str(device))
        return {name: replace(s, G=gradients[name]) for name, s in statistics.items()}
