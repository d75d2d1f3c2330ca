"""Pruning and measuring a model with one block of it on the device at a time.

A pass visits the blocks in order. The hidden states of all windows between one block and the next
are kept meanwhile, so each block is read once a pass. Gradients of the model's loss take a pass
backward after the pass forward: it is the chain rule, a block at a time, from the same hidden
states.
"""

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

from prunerzero.language.perplexity import window_losses
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.pruner import LayerSparsity, prune_model
from prunerzero.pruning.replay import Replay
from prunerzero.pruning.shards import FiledBlocks
from prunerzero.pruning.states import Budget, HiddenStates
from prunerzero.pruning.statistics import LayerStatistics, Statistics, watch
from prunerzero.pruning.wave import run_blocks

Propagate = Literal["dense", "pruned"]
GradientOf = Literal["full", "block"]


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


@dataclass(frozen=True)
class Room:
    """Where the work is done.

    Attributes:
        devices: blocks take turns on them, where no block has to wait for another to be pruned.
        memory: bytes for hidden states; what is more goes to files.
        folder: for these files.
    """

    devices: tuple[torch.device, ...]
    memory: int
    folder: Path


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


class Reading:
    """Windows on their way through the blocks.

    Args:
        source: the model.
        windows: token ids [count, length], read one by one.
        room: where.
        kept: how many places between blocks are remembered; a pass forward needs two.
    """

    def __init__(self, source: FiledBlocks, windows: Tensor, room: Room, kept: int = 2) -> None:
        self.source, self.room, self.windows = source, room, windows
        self._budget = Budget(room.memory)
        self.replay = Replay(source.model, source.blocks)
        self._stores: list[HiddenStates] = []
        device = room.devices[0]
        with source.outside_at_work(device), source.at_work(0, device):
            for window, ids in enumerate(windows.to(device)):
                hidden = self.replay.capture(ids[None])
                if window == 0:
                    self.states = self._store(hidden, kept, "states")
                self.states.put(0, window, hidden)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._stores:
            store.close()

    def _store(self, like: Tensor, kept: int, name: str) -> HiddenStates:
        store = HiddenStates(
            len(self.windows),
            like.shape,
            like.dtype,
            kept=kept,
            budget=self._budget,
            folder=self.room.folder,
            name=name,
        )
        self._stores.append(store)
        return store

    def advance(
        self,
        index: int,
        device: torch.device,
        windows: Iterator[int],
        *,
        gradient: bool = False,
        keep: bool = True,
    ) -> None:
        """Take the windows through a block that is at work.

        With ``gradient`` a pass backward is made from the L2 norm of the block's output; without
        ``keep`` the outputs are forgotten.
        """
        with torch.set_grad_enabled(gradient):
            for window in windows:
                hidden = self.states.get(index, window, device)
                output = self.replay.run(index, window, hidden)
                if gradient:
                    torch.linalg.vector_norm(output.float()).backward()
                if keep:
                    self.states.put(index + 1, window, output)

    @torch.enable_grad()
    def begin_backward(self) -> None:
        """Put the gradient of each window's loss behind the last block."""
        last, device = len(self.source), self.room.devices[0]
        with self.source.outside_at_work(device):
            for window, ids in enumerate(self.windows.to(device)):
                hidden = self.states.get(last, window, device).requires_grad_(True)
                with self.replay.read(hidden):
                    model = self.source.model
                    model(input_ids=ids[None], labels=ids[None], use_cache=False).loss.backward()
                assert hidden.grad is not None
                if window == 0:
                    self._gradients = self._store(hidden.grad, 2, "gradients")
                self._gradients.put(last, window, hidden.grad)

    @torch.enable_grad()
    def go_back(self, index: int, device: torch.device, windows: Iterator[int]) -> None:
        """Take the gradients back through a block that is at work."""
        for window in windows:
            hidden = self.states.get(index, window, device).requires_grad_(True)
            output = self.replay.run(index, window, hidden)
            output.backward(self._gradients.get(index + 1, window, device))
            assert hidden.grad is not None
            self._gradients.put(index, window, hidden.grad)

    def losses(self) -> list[float]:
        """Mean negative log-likelihood a token of each window that has been through all blocks."""
        last, device, found = len(self.source), self.room.devices[0], []
        with self.source.outside_at_work(device):
            for window, ids in enumerate(self.windows):
                with self.replay.read(self.states.get(last, window, device)):
                    found.append(float(window_losses(self.source.model, ids[None])))
        return found


def losses_by_block(
    source: FiledBlocks, windows: Tensor, room: Room, on_block: Callable[[], None]
) -> list[float]:
    """Mean negative log-likelihood a token (nats) of each window [count, length]."""
    with Reading(source, windows, room) as reading:

        def work(index: int, device: torch.device, mine: Iterator[int]) -> None:
            with source.at_work(index, device):
                reading.advance(index, device, mine)
            on_block()

        run_blocks(range(len(source)), room.devices, len(windows), work)
        return reading.losses()


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
    run = _Run(source, plan, room, record, on_block)
    if plan.expression.terminals <= {"W"}:
        run.without_statistics()
        return
    assert windows is not None
    kept = len(source) + 1 if plan.loss_gradient else 2
    with Reading(source, windows, room, kept) as reading:
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
        self._source, self._plan, self._room = source, plan, room
        self._record, self._tell, self._lock = record, on_block, Lock()
        self._missing = [i for i in range(len(source)) if not record.finished(i)]

    def without_statistics(self) -> None:
        def work(index: int, device: torch.device, _: Iterator[int]) -> None:
            with self._source.at_work(index, device):
                names = self._source.layers(index)
                self._prune(index, dict.fromkeys(names, LayerStatistics(X=None, G=None)))
            self._visited()

        run_blocks(self._missing, self._room.devices, 0, work)

    def forward_dense(self, reading: Reading) -> None:
        """One pass: each block's dense outputs are the next one's inputs."""
        gradients = "G" in self._plan.expression.terminals

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self._source.at_work(index, device):
                if self._record.finished(index):
                    reading.advance(index, device, windows)
                else:
                    with watch(self._source.layers(index), gradients) as statistics_over:
                        reading.advance(index, device, windows, gradient=gradients)
                    self._prune(index, statistics_over(len(reading.windows)))
            self._visited()

        run_blocks(self._up_to_last(), self._room.devices, len(reading.windows), work)

    def forward_pruned(self, reading: Reading) -> None:
        """Each block is pruned before its outputs are made; so one device is all that can help."""
        gradients = "G" in self._plan.expression.terminals and not self._plan.loss_gradient
        count = len(reading.windows)

        def work(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self._source.at_work(index, device):
                if self._record.finished(index):
                    self._source.zero(index, self._record.zeros(index))
                else:
                    with watch(self._source.layers(index), gradients) as statistics_over:
                        twice = iter(range(count))
                        reading.advance(index, device, twice, gradient=gradients, keep=False)
                    found = statistics_over(count)
                    if self._plan.loss_gradient:
                        found = self._with_gradients(index, found)
                    self._prune(index, found)
                reading.advance(index, device, windows)
            self._visited()

        run_blocks(self._up_to_last(), self._room.devices[:1], count, work)

    def backward(self, reading: Reading) -> None:
        """Statistics of the dense model, with the gradient of its loss; from last to first."""
        later = self._plan.propagate == "pruned"  # gradients wait in files for the pass forward

        def forward(index: int, device: torch.device, windows: Iterator[int]) -> None:
            with self._source.at_work(index, device):
                reading.advance(index, device, windows)
            self._visited()

        def back(index: int, device: torch.device, windows: Iterator[int]) -> None:
            wanted = index in self._missing and not (later and self._gradient_file(index).exists())
            layers = self._source.layers(index)
            with self._source.at_work(index, device):
                with watch(layers, True) if wanted else nullcontext() as statistics_over:
                    reading.go_back(index, device, windows)
                if statistics_over is not None:
                    found = statistics_over(len(reading.windows))
                    if later:
                        self._keep_gradients(index, found)
                    else:
                        self._prune(index, found)
            self._visited()

        devices, count = self._room.devices, len(reading.windows)
        if later and all(self._gradient_file(index).exists() for index in self._missing):
            return
        run_blocks(range(len(self._source)), devices, count, forward)
        reading.begin_backward()
        run_blocks(range(len(self._source) - 1, self._missing[0] - 1, -1), devices, count, back)

    def _up_to_last(self) -> range:
        return range(self._missing[-1] + 1)

    def _prune(self, index: int, statistics: Statistics) -> None:
        layers = self._source.layers(index)
        pruned = prune_model(layers, statistics, self._plan.expression, self._plan.sparsity)
        self._record.keep(index, self._source.pruned(index), pruned)

    def _gradient_file(self, index: int) -> Path:
        return self._room.folder / f"gradients-of-block-{index}.safetensors"

    def _keep_gradients(self, index: int, statistics: Statistics) -> None:
        file = self._gradient_file(index)
        found = {name: s.G.cpu().contiguous() for name, s in statistics.items() if s.G is not None}
        save_file(found, file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)

    def _with_gradients(self, index: int, statistics: Statistics) -> Statistics:
        device = next(self._source.blocks[index].parameters()).device
        gradients = load_file(self._gradient_file(index), device=str(device))
        return {name: LayerStatistics(s.X, gradients[name]) for name, s in statistics.items()}

    def _visited(self) -> None:
        with self._lock:
            self._tell()
