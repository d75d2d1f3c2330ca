"""Passes of all windows through a model, forward and backward, one block after the other.

The hidden states of all windows between two blocks are kept, so that each block is loaded once a
pass. The gradient of the model's loss takes a pass forward and a pass backward: the chain rule, one
block at a time, from the kept hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunerzero.language.perplexity import window_losses
from prunerzero.language.window_loss import plain_head
from prunerzero.pruning.by_block.block_calls import BlockCalls
from prunerzero.pruning.by_block.held_blocks import HeldBlocks
from prunerzero.pruning.by_block.hidden_states import HiddenStates, MemoryBudget
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks
from prunerzero.pruning.by_block.pipeline import run_blocks
from prunerzero.pruning.calibration import run_back_from_loss


@dataclass(frozen=True)
class Resources:
    """What the work may use.

    Attributes:
        devices: blocks take turns on them, unless each has to wait until the one before is pruned.
        memory: bytes for hidden states; more than that goes to files.
        folder: for these files.
    """

    devices: tuple[torch.device, ...]
    memory: int
    folder: Path


Blocks = OffloadedBlocks | HeldBlocks


class BlockPasses:
    """The windows with their hidden states, and the steps of a pass through one block.

    Args:
        source: the model's blocks, on disk or held.
        windows: token ids [count, length], read one by one.
        resources: devices, memory and folder to use.
        kept: number of places between blocks whose hidden states are kept at a time; a pass forward
            needs 2.

    Attributes:
        source, windows: as given.
        states: the hidden states; there is place 0, the input of the first block.
    """

    def __init__(
        self, source: Blocks, windows: Tensor, resources: Resources, kept: int = 2
    ) -> None:
        self.source, self.windows = source, windows
        self._resources, self._budget = resources, MemoryBudget(resources.memory)
        self._calls = BlockCalls(source.model, source.blocks)
        self._stores: list[HiddenStates] = []
        device = resources.devices[0]
        with source.outside_loaded(device), source.loaded(0, device):
            for window, ids in enumerate(windows.to(device)):
                hidden = self._calls.capture(ids[None])
                if window == 0:
                    self.states = self._store(hidden, kept, "states")
                self.states.put(0, window, hidden)

    def __enter__(self) -> BlockPasses:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._stores:
            store.close()

    def more_states(self, name: str) -> HiddenStates:
        """Room for other hidden states of the same shape at two places, closed with these."""
        return self._store(self.states.get(0, 0, torch.device("cpu")), 2, name)

    def run(self, index: int, window: int, hidden: Tensor) -> Tensor:
        """The output of a loaded block for these hidden states of a window."""
        return self._calls.run(index, window, hidden)

    def _store(self, like: Tensor, kept: int, name: str) -> HiddenStates:
        store = HiddenStates(
            len(self.windows),
            like.shape,
            like.dtype,
            kept=kept,
            budget=self._budget,
            folder=self._resources.folder,
            name=name,
        )
        self._stores.append(store)
        return store

    def forward(
        self,
        index: int,
        device: torch.device,
        windows: Iterator[int],
        *,
        gradient: bool = False,
        keep: bool = True,
    ) -> None:
        """Run a loaded block on these windows.

        Args:
            index: of the block.
            device: where it is loaded.
            windows: indices of windows, in order.
            gradient: whether to make a pass backward from the L2 norm of the block's output.
            keep: whether to keep the outputs, which are the inputs of the next block.
        """
        with torch.set_grad_enabled(gradient):
            for window in windows:
                hidden = self.states.get(index, window, device)
                output = self.run(index, window, hidden)
                if gradient:
                    torch.linalg.vector_norm(output.float()).backward()
                if keep:
                    self.states.put(index + 1, window, output)

    @torch.enable_grad()
    def begin_backward(self) -> None:
        """Compute the gradient of each window's loss by the output of the last block."""
        last, device = len(self.source), self._resources.devices[0]
        with self.source.outside_loaded(device):
            for window, ids in enumerate(self.windows.to(device)):
                hidden = self.states.get(last, window, device).requires_grad_(True)
                with self._calls.resume(hidden):
                    if window == 0:
                        head = plain_head(self.source.model, ids[None])
                    run_back_from_loss(self.source.model, head, ids[None])
                assert hidden.grad is not None
                if window == 0:
                    self._gradients = self._store(hidden.grad, 2, "gradients")
                self._gradients.put(last, window, hidden.grad)

    @torch.enable_grad()
    def backward(self, index: int, device: torch.device, windows: Iterator[int]) -> None:
        """Run a loaded block once more, and its pass backward, on these windows."""
        for window in windows:
            hidden = self.states.get(index, window, device).requires_grad_(True)
            output = self.run(index, window, hidden)
            output.backward(self._gradients.get(index + 1, window, device))
            assert hidden.grad is not None
            self._gradients.put(index, window, hidden.grad)

    def losses(self) -> list[float]:
        """Mean negative log-likelihood a token of each window, after the last block."""
        last, device = len(self.source), self._resources.devices[0]
        losses = []
        with self.source.outside_loaded(device):
            for window, ids in enumerate(self.windows):
                with self._calls.resume(self.states.get(last, window, device)):
                    losses.append(float(window_losses(self.source.model, ids[None])))
        return losses


def losses_by_block(
    source: OffloadedBlocks, windows: Tensor, resources: Resources, on_block: Callable[[], None]
) -> list[float]:
    """Mean negative log-likelihood a token (nats) of each window [count, length].

    ``on_block`` is called after each block.
    """
    with BlockPasses(source, windows, resources) as passes:

        def work(index: int, device: torch.device, mine: Iterator[int]) -> None:
            with source.loaded(index, device):
                passes.forward(index, device, mine)

        run_blocks(range(len(source)), resources.devices, len(windows), work, on_block)
        return passes.losses()
