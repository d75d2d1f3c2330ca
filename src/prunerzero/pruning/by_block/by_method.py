"""Pruning a loaded model with a published method, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunerzero.metrics import Sparsity
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.by_block.block_passes import BlockPasses, Resources
from prunerzero.pruning.by_block.held_blocks import HeldBlocks
from prunerzero.pruning.by_block.in_order import work_through
from prunerzero.pruning.deterministic import deterministic
from prunerzero.pruning.methods import Method
from prunerzero.scoring.mask import prune_mask


@torch.no_grad()
def check_one_by_one(
    model: Any, layers: Mapping[str, Matrix], windows: Tensor, resources: Resources
) -> None:
    """Run the blocks of a loaded model one by one on the first window.

    Args:
        model, layers, windows, resources: as for ``prune_by_method``.

    Raises:
        NotOneByOneError: they cannot be run so.
    """
    source = HeldBlocks(model, layers)
    with BlockPasses(source, windows[:1], resources) as passes:
        for index in range(len(source)):
            passes.forward(index, resources.devices[0], iter(range(1)))


@torch.no_grad()
def prune_by_method(
    model: Any,
    layers: Mapping[str, Matrix],
    windows: Tensor,
    method: Method,
    sparsity: Sparsity,
    resources: Resources,
    on_block: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Prune the layers in place, in the order in which data flows through them.

    What a layer reads is measured after all layers before it were pruned, those of its own block
    too. Every layer gets the same share, also where ``sparsity`` lets scores compete within a row
    or the model.

    Args:
        model: a transformers causal language model, on one device.
        layers: its prunable matrices by full name.
        windows: calibration token ids [count, length].
        method: what is done with each layer.
        sparsity: the share or pattern to prune.
        resources: the model's device, and memory and folder for hidden states.
        on_block: gets the number of blocks done.

    Returns:
        names of the layers that no token reached, as can happen to experts; they are pruned by
        magnitude.

    Raises:
        NotOneByOneError: the model's blocks cannot be run one by one.
        SparsityError: a layer's inputs do not fit the pattern.
    """
    source = HeldBlocks(model, layers)
    by_magnitude = sparsity if sparsity.of else Sparsity(ratio=sparsity.fraction, group="layer")
    unreached: list[str] = []

    def solve(name: str, gram: Tensor) -> None:
        weight = layers[name].weight
        if bool(gram.any()):
            weight.copy_(method.solve(weight, gram, sparsity))
        else:
            unreached.append(name)
            weight.masked_fill_(prune_mask(weight.abs(), by_magnitude), 0)

    with deterministic(strict=False), BlockPasses(source, windows, resources) as passes:
        work_through(passes, solve, on_block)
    return unreached
