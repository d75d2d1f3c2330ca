"""Where a model keeps its blocks and the linear layers in them, found by structure, not by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from prunerzero.errors import ModelError
from prunerzero.metrics import Sparsity


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and list of the model's blocks: its longest list of modules of one class.

    Raises:
        ModelError: the model has no such list.
    """
    best: tuple[str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        if best is None or len(module) > len(best[1]):
            best = name, module
    if best is None:
        raise ModelError("the model has no list of equal blocks, so nothing in it can be pruned.")
    return best


def prunable_layers(model: nn.Module, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every linear layer inside the blocks, by its full name, in the model's order.

    Embeddings, norms and the output head are outside the blocks and so are left alone.

    Args:
        model: any model built of equal blocks.
        ignore: patterns such as ``"*.down_proj"`` of full names to leave out.

    Raises:
        ModelError: nothing is left to prune.
    """
    prefix, blocks = find_blocks(model)
    named = ((f"{prefix}.{name}", module) for name, module in blocks.named_modules())
    found = {
        name: module
        for name, module in named
        if isinstance(module, nn.Linear) and not any(fnmatchcase(name, p) for p in ignore)
    }
    if not found:
        raise ModelError("no linear layer of the model is left to prune.")
    return found


def check_widths(layers: dict[str, Any], sparsity: Sparsity) -> None:
    """Raise SparsityError where a layer's inputs cannot be pruned in that pattern."""
    for name, layer in layers.items():
        sparsity.check(layer.weight.shape[1], f"layer {name}")
