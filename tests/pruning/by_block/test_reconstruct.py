"""Training of what stays: zeros stay zero, blocks come closer to the dense ones, and always so."""

from __future__ import annotations

import pytest
import torch
from conformance.tiny_architectures import causal
from tiny_model import tiny_model

from prunerzero.metrics import Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.by_block.block_passes import Resources
from prunerzero.pruning.by_block.reconstruct import reconstruct
from prunerzero.scoring import prune_mask

WINDOWS = torch.randint(0, 32, (4, 16), generator=torch.Generator().manual_seed(1))


def pruned(make=tiny_model, dtype=torch.float32):
    """A model at half of its weights, its layers, and their dense weights."""
    model = make().to(dtype)
    layers = prunable_layers(model)
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.weight.masked_fill_(prune_mask(dense[name].abs(), Sparsity(ratio=0.5)), 0)
    return model, layers, dense


def outputs(model) -> list[torch.Tensor]:
    """What each block gives, of all windows, by a hook of its own."""
    found: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, out, rows=rows: rows.append(out[0] if isinstance(out, tuple) else out)
        )
        for block, rows in zip(model.model.layers, found, strict=True)
    ]
    with torch.no_grad():
        for ids in WINDOWS:
            model(input_ids=ids[None])
    for hook in hooks:
        hook.remove()
    return [torch.cat([row.flatten(0, -2) for row in rows]) for rows in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_come_closer_to_the_dense_ones_and_zeros_stay_zero(tmp_path, dtype):
    model, layers, dense = pruned(dtype=dtype)
    room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
    everything = {name: p.clone() for name, p in model.named_parameters()}
    done: list[int] = []
    errors = reconstruct(model, layers, dense, WINDOWS, 24, room, done.append)
    assert done == [1, 2]
    assert all(error.after < 0.9 * error.before for error in errors)
    targets, found = outputs(tiny_model().to(dtype)), outputs(model)
    for error, target, output in zip(errors, targets, found, strict=True):
        share = (output.float() - target.float()).square().sum() / target.float().square().sum()
        assert error.after == pytest.approx(float(share), rel=1e-3)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype and not parameter.requires_grad and parameter.grad is None
        before = everything[name]
        if name.removesuffix(".weight") in layers:
            assert torch.equal(parameter == 0, before == 0), name
            assert not torch.equal(parameter, before), name
        else:
            assert torch.equal(parameter, before), name
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    def trained(seed: int) -> list[torch.Tensor]:
        model, layers, dense = pruned()
        room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
        reconstruct(model, layers, dense, WINDOWS, 3, room, seed=seed)
        return [layer.weight for layer in layers.values()]

    first, again, other = trained(0), trained(0), trained(1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_a_block_that_training_does_not_help_keeps_its_weights(tmp_path):
    model, layers, dense = pruned()
    for name, layer in layers.items():  # nothing was pruned: there is nothing to gain
        layer.weight.copy_(dense[name])
    room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
    errors = reconstruct(model, layers, dense, WINDOWS, 5, room)
    assert [error.after for error in errors] == [0, 0]
    assert all(torch.equal(layer.weight, dense[name]) for name, layer in layers.items())


def test_trained_weights_are_rounded_to_the_type_of_the_checkpoint(tmp_path):
    model, layers, dense = pruned()
    room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
    stored = dict.fromkeys(layers, torch.bfloat16)
    reconstruct(model, layers, dense, WINDOWS, 8, room, stored=stored)
    for layer in layers.values():
        assert torch.equal(layer.weight, layer.weight.bfloat16().float())


@pytest.mark.parametrize("name", ["gpt2", "qwen2_moe", "gpt_oss", "mamba"])
def test_every_form_of_matrix_is_trained(tmp_path, name):
    torch.manual_seed(0)
    model, layers, dense = pruned(lambda: causal(name).eval())
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    room = Resources((torch.device("cpu"),), 1 << 20, tmp_path)
    errors = reconstruct(model, layers, dense, WINDOWS, 12, room)
    assert all(error.after <= error.before for error in errors)
    assert any(error.after < error.before for error in errors)
    moved = 0
    for layer_name, layer in layers.items():
        assert torch.equal(layer.weight == 0, before[layer_name] == 0), layer_name
        moved += not torch.equal(layer.weight, before[layer_name])
    assert moved > len(layers) / 2
