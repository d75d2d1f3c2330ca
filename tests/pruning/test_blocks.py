import pytest
import torch
from tiny_model import tiny_model
from torch import nn

from prunerzero.errors import ModelError
from prunerzero.metrics import Sparsity, SparsityError
from prunerzero.pruning.blocks import (
    check_apart,
    check_widths,
    find_blocks,
    prunable_layers,
)
from prunerzero.pruning.by_block.offloaded_blocks import block_names
from prunerzero.pruning.statistics import collect_statistics


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


def test_targets_limit_what_is_pruned_and_ignored_ones_still_go():
    layers = prunable_layers(tiny_model(), ignore=("*.0.*",), target=("*.mlp.*",))
    assert list(layers) == [f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")]


def test_writing_to_a_weight_prunes_the_model():
    model = tiny_model()
    prunable_layers(model)["model.layers.0.mlp.up_proj"].weight.zero_()
    assert not model.model.layers[0].mlp.up_proj.weight.any()


@pytest.mark.parametrize("outputs", [16, 24])
def test_a_transposed_linear_map_is_recognised_by_what_it_computes(outputs):
    class Turned(nn.Module):  # like the Conv1D of GPT-2
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, outputs))

        def forward(self, features):
            return features @ self.weight

    block = nn.Sequential(Turned(), nn.LayerNorm(16), nn.Embedding(8, 16), nn.Linear(16, 8))
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    layers = prunable_layers(model)
    assert list(layers) == ["blocks.0.0", "blocks.0.3"]
    assert torch.equal(layers["blocks.0.0"].weight, block[0].weight.t())
    assert torch.equal(layers["blocks.0.3"].weight, block[3].weight)


def test_a_linear_layer_tied_to_an_embedding_is_left_alone():
    model = tiny_model(vocab_size=16)
    model.model.layers[0].self_attn.q_proj.weight = model.model.embed_tokens.weight
    layers = prunable_layers(model)
    assert "model.layers.0.self_attn.q_proj" not in layers
    assert "model.layers.1.self_attn.q_proj" in layers


def test_a_shared_parameter_is_one_matrix_that_reads_what_all_its_owners_do():
    model = tiny_model()
    first, second = (block.mlp for block in model.model.layers)
    second.up_proj.weight = first.up_proj.weight
    layers = prunable_layers(model)
    assert "model.layers.0.mlp.up_proj" in layers and "model.layers.1.mlp.up_proj" not in layers
    windows = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(0))
    found = collect_statistics(model, layers, windows)
    twice = found["model.layers.0.mlp.gate_proj"].X + found["model.layers.1.mlp.gate_proj"].X
    torch.testing.assert_close(found["model.layers.0.mlp.up_proj"].X, twice)


def test_the_blocks_are_those_next_to_the_text_embedding_however_many_others_there_are():
    def block(*linears):
        return nn.Sequential(*linears)

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = nn.Module()
            self.vision.layers = nn.ModuleList(block(nn.Linear(4, 4)) for _ in range(9))
            self.text = nn.Module()
            self.text.embedding = nn.Embedding(8, 4)
            self.text.layers = nn.ModuleList([block(nn.Linear(4, 4)), block(nn.Linear(4, 4))])

        def get_input_embeddings(self):
            return self.text.embedding

    assert find_blocks(Seeing())[0] == "text.layers"


def test_blocks_of_several_classes_are_one_list():
    class Other(nn.Sequential):
        pass

    model = nn.Module()
    model.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)), Other(nn.Linear(4, 4))])
    assert find_blocks(model)[0] == "layers"
    assert list(prunable_layers(model)) == ["layers.0.0", "layers.1.0"]


def test_blocks_that_share_weights_cannot_be_pruned_one_by_one():
    model = tiny_model()
    check_apart(model.model.layers)
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ModelError, match="blocks 0 and 1 of the model share weights"):
        check_apart(model.model.layers)


def test_of_equally_close_towers_the_one_with_the_shorter_path_has_the_blocks():
    model = nn.Module()
    model.text, model.see = nn.Module(), nn.Module()
    model.words = nn.Embedding(8, 4)
    model.see.tower = nn.Module()
    model.see.tower.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(9))
    model.text.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model.get_input_embeddings = lambda: model.words
    assert find_blocks(model)[0] == "text.layers"


def test_twin_lists_are_pruned_both_but_not_block_by_block():
    model = nn.Module()
    model.attentions = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model.ffns = nn.ModuleList(nn.Sequential(nn.Linear(4, 8)) for _ in range(2))
    model.adapters = nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])
    assert list(prunable_layers(model)) == [
        *("attentions.0.0", "attentions.1.0", "ffns.0.0", "ffns.1.0")
    ]
    with pytest.raises(ModelError, match="has several lists of blocks, attentions and ffns"):
        block_names(model)
