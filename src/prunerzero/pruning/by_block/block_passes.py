"""Windows of text on their way through a model, with one block of it on a device at a time.

The hidden states of all windows between one block and the next are kept, so each block is read once
a pass. Gradients of the model's loss take a pass backward after the pass forward: it is the chain
rule, a block at a time, from the same hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunerzero.language.perplexity import window_losses
from prunerzero.language.window_loss import plain_head
from prunerzero.pruning.by_block.hidden_states import Budget, HiddenStates
from prunerzero.pruning.by_block.pipeline import run_blocks
from prunerzero.pruning.by_block.shards import FiledBlocks
from prunerzero.pruning.calibration import run_back_from_loss
from prunerzero.pruning.replay import Replay


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
                    if window == 0:
                        head = plain_head(self.source.model, ids[None])
                    run_back_from_loss(self.source.model, head, ids[None])
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
