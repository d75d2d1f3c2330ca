"""Gradients of the norm of each block's own output, without a pass backward through the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunerzero.pruning.blocks import block_lists


@contextmanager
def from_each_block(model: nn.Module) -> Iterator[None]:
    """Inside the ``with``, each run of a block is followed by a pass backward through it alone.

    The pass backward begins at the L2 norm of the block's output, separately for each window, and
    ends at the block's input, so that only the activations of one block are in memory.

    Source: the regional gradient of Wanda++ (Yang et al., 2025, arXiv 2503.04992).
    """

    def enter(_block: nn.Module, _inputs: Any) -> None:
        torch.set_grad_enabled(True)

    def leave(_block: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple | list) else output
        if hidden.requires_grad:  # false where no matrix of the block is watched
            torch.linalg.vector_norm(hidden.float(), dim=(-2, -1)).sum().backward()
        torch.set_grad_enabled(False)
        if isinstance(output, tuple | list):
            return type(output)((hidden.detach(), *output[1:]))
        return hidden.detach()

    blocks = [block for _, blocks in block_lists(model) for block in blocks]
    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(before)
        for hook in hooks:
            hook.remove()
