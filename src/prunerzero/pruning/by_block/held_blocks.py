"""The blocks of a model that is on its device as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from prunerzero.pruning.blocks import Matrix, block_lists, layers_inside, sharing_blocks
from prunerzero.pruning.by_block.block_calls import NotOneByOneError


class HeldBlocks:
    """The blocks of a loaded model, for passes through one block after the other.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by full name.

    Raises:
        NotOneByOneError: a layer is in no block of the list that is run, or in two of them.
    """

    def __init__(self, model: Any, layers: Mapping[str, Matrix]) -> None:
        self.model = model
        (self._prefix, self.blocks), *twins = block_lists(model)
        self._layers = layers
        if twins:
            raise NotOneByOneError(f"the model has a second list of blocks, {twins[0][0]}")
        if (pair := sharing_blocks(self.blocks)) is not None:
            raise NotOneByOneError(f"blocks {pair[0]} and {pair[1]} share weights")

    def __len__(self) -> int:
        return len(self.blocks)

    def layers(self, index: int) -> dict[str, Matrix]:
        """The prunable layers of one block, by full name."""
        return layers_inside(self._layers, f"{self._prefix}.{index}")

    @contextmanager
    def loaded(self, index: int, device: torch.device) -> Iterator[None]:
        """The block is there."""
        yield

    @contextmanager
    def outside_loaded(self, device: torch.device) -> Iterator[None]:
        """All is there."""
        yield
