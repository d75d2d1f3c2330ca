import pytest
from tiny_model import tiny_model
from torch import nn

from prunerzero.errors import ModelError
from prunerzero.metrics import Sparsity, SparsityError
from prunerzero.pruning.blocks import check_widths, find_blocks, prunable_layers


def test_the_blocks_are_the_longest_list_of_equal_modules():
    name, blocks = find_blocks(tiny_model())
    assert name == "model.layers"
    assert len(blocks) == 2


def test_every_linear_layer_in_a_block_is_prunable_and_nothing_else():
    model = tiny_model()
    layers = prunable_layers(model)
    assert len(layers) == 2 * 7
    assert all(model.get_submodule(name) is layer.module for name, layer in layers.items())
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in layers)


def test_ignored_layers_are_left_out():
    layers = prunable_layers(tiny_model(), ("*.down_proj", "model.layers.0.*"))
    assert len(layers) == 6
    assert all(name.startswith("model.layers.1.") for name in layers)


def test_ignoring_everything_is_refused():
    with pytest.raises(ModelError, match="left to prune"):
        prunable_layers(tiny_model(), ("*",))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match="no list of equal blocks"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))


def test_a_width_that_does_not_fit_the_pattern_is_named():
    layers = prunable_layers(tiny_model())
    check_widths(layers, Sparsity.parse("2:4"))
    with pytest.raises(SparsityError, match=r"down_proj has 24"):
        check_widths(layers, Sparsity.parse("4:16"))
