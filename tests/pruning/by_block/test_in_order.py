"""Layers of a block in the order in which data flows: what a stage reads, the ones before made."""

from __future__ import annotations

import torch
from tiny_model import tiny_model

from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.by_block.block_passes import BlockPasses, Resources
from prunerzero.pruning.by_block.held_blocks import HeldBlocks
from prunerzero.pruning.by_block.in_order import work_in_order

WINDOWS = torch.randint(0, 32, (3, 16), generator=torch.Generator().manual_seed(1))


def test_each_stage_reads_what_the_changed_stages_before_it_give(tmp_path):
    model, changed = tiny_model(), tiny_model()
    layers = prunable_layers(model)
    order: list[str] = []
    room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
    with torch.no_grad(), BlockPasses(HeldBlocks(model, layers), WINDOWS, room) as passes:
        for index in range(2):
            found = passes.source.layers(index)

            def halve(name: str, gram: torch.Tensor) -> None:
                order.append(name.split(".")[-1])
                torch.testing.assert_close(gram, _gram(changed, name), rtol=1e-4, atol=1e-4)
                layers[name].weight.mul_(0.5)
                changed.get_submodule(name).weight.data.mul_(0.5)

            work_in_order(passes, index, torch.device("cpu"), found, halve)
            passes.forward(index, torch.device("cpu"), iter(range(3)))
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert order == names * 2


def _gram(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The Gram matrix of what one layer reads in the model as it is, by a hook of its own."""
    rows: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: rows.append(x[0]))
    for ids in WINDOWS:
        model(input_ids=ids[None])
    hook.remove()
    read = torch.cat(rows).flatten(0, 1)
    return read.T @ read
