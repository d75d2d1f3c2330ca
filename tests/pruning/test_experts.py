"""Mixtures of experts: each expert is its own matrix, the router is left alone."""

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

from prunerzero.errors import ModelError
from prunerzero.metrics import CATALOG, Expression, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.experts import Fused, fused_experts, routers
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import collect_statistics, probes_of
from prunerzero.scoring import prune_mask

HALF = Sparsity.parse("0.5")
TINY = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_local_experts": 4,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
WINDOWS = torch.randint(0, 32, (3, 20), generator=torch.Generator().manual_seed(1))


def mixtral(**changes: object) -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(**{**TINY, "num_experts_per_tok": 2, **changes})
    return MixtralForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def model():
    return mixtral()


def test_each_expert_is_a_view_of_its_slice(model):
    layers = prunable_layers(model)
    stored = model.model.layers[1].mlp.experts.gate_up_proj
    layer = layers["model.layers.1.mlp.experts.3.gate_up_proj"]
    assert layer.weight.shape == (48, 16)
    layer.weight.fill_(7)
    assert (stored[3] == 7).all() and not (stored[:3] == 7).any()


def test_experts_stored_input_first_are_turned():
    model = GptOssForCausalLM(GptOssConfig(**TINY))
    layer = prunable_layers(model)["model.layers.0.mlp.experts.2.down_proj"]
    stored = model.model.layers[0].mlp.experts.down_proj
    assert stored.shape == (4, 24, 16)
    assert torch.equal(layer.weight, stored[2].t())


def test_routers_and_gates_are_left_alone():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = nn.Sequential(nn.Linear(16, 4))
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 16)) for _ in range(4))
            self.shared = nn.Linear(16, 16)
            self.shared_gate = nn.Linear(16, 1)

    model = nn.Module()
    model.layers = nn.ModuleList([Mixture(), Mixture()])
    names = {name.removeprefix("layers.0.") for name in prunable_layers(model)}
    assert {name for name in names if not name.startswith("layers")} == {
        "shared",
        *(f"experts.{i}.0" for i in range(4)),
    }


def test_a_router_with_hidden_layers_is_left_alone():
    block = experts(gate_up=(4, 48, 16), down=(4, 16, 24))
    block.gate = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 5))  # 5: none
    block.shared = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 16))
    linears = {"gate.0": 8, "gate.1": 8, "gate.2": 5, "shared.0": 8, "shared.1": 16}
    fused = fused_experts(block, linears, 16)
    assert routers(block, linears, fused, 16) == {"gate.0", "gate.1", "gate.2"}


def experts(**shapes: tuple[int, ...]) -> nn.Module:
    block = nn.Module()
    block.experts = nn.Module()
    for name, shape in shapes.items():
        setattr(block.experts, name, nn.Parameter(torch.zeros(shape)))
    return block


@pytest.mark.parametrize(
    ("block", "width", "transposed"),
    [
        (experts(gate_up=(4, 48, 16), down=(4, 16, 24)), None, False),
        (experts(gate_up=(4, 16, 48), down=(4, 24, 16)), None, True),
        (experts(gate_up=(4, 16, 16), down=(4, 16, 8)), None, False),
        (experts(gate_up=(4, 16, 16), down=(4, 8, 16)), None, True),
        (experts(gate=(4, 24, 16), up=(4, 24, 16), down=(4, 16, 24)), 16, False),
        (experts(gate=(4, 16, 24), up=(4, 16, 24), down=(4, 24, 16)), 16, True),
        (experts(up=(4, 24, 16), down=(4, 16, 24)), 16, False),
    ],
)
def test_which_dimension_is_the_input_follows_from_the_shapes(block, width, transposed):
    assert set(fused_experts(block, {}, width).values()) == {Fused(4, transposed)}


@pytest.mark.parametrize(
    "block",
    [experts(mixing=(4, 24, 16)), experts(a=(4, 24, 16), b=(4, 7, 9)), experts(scale=(1, 1, 16))],
)
def test_other_tensors_of_three_dimensions_are_left_alone(block):
    assert fused_experts(block, {}, 16) == {}


def test_experts_below_each_other_are_counted_by_their_router():
    block = experts(gate=(96, 16), up=(96, 16), down=(96, 16))
    up, down = Fused(4, False), Fused(4, True)
    names = {
        ("experts", key): form
        for key, form in zip(("gate", "up", "down"), (up, up, down), strict=True)
    }
    assert fused_experts(block, {"router": 4}, 16) == names
    assert fused_experts(block, {"router": 4}, 24) == {}
    assert fused_experts(block, {"router": 4, "shared": 16}, 16) == {}
    assert fused_experts(block, {"router": 7}, 16) == {}


def test_a_square_expert_is_told_by_its_class_or_else_left_alone():
    block = experts(up=(4, 16, 16), down=(4, 16, 16))
    assert fused_experts(block, {}, 16) == {}
    block.experts.is_transposed = True
    assert set(fused_experts(block, {}, 16).values()) == {Fused(4, True)}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_an_expert_reads_the_tokens_that_are_routed_to_it(model, implementation):
    model.set_experts_implementation(implementation)
    layers = prunable_layers(model)
    found = collect_statistics(model, layers, WINDOWS)
    module, seen = model.model.layers[0].mlp.experts, []
    module.register_forward_pre_hook(lambda _module, args: seen.append(args))
    for window in WINDOWS:
        model(input_ids=window[None])
    for expert in range(4):
        squares = [torch.zeros(16), torch.zeros(24)]
        for hidden, chosen, _ in seen:
            for token, its_experts in zip(hidden, chosen, strict=True):
                if expert in its_experts.tolist():
                    gate, up = (module.gate_up_proj[expert] @ token).chunk(2)
                    squares[0] += token**2
                    squares[1] += (module.act_fn(gate) * up) ** 2
        for key, expected in zip(("gate_up_proj", "down_proj"), squares, strict=True):
            name = f"model.layers.0.mlp.experts.{expert}.{key}"
            torch.testing.assert_close(found[name].X, expected / len(WINDOWS))


def test_experts_whose_products_cannot_be_seen_are_refused(model):
    module = model.model.layers[0].mlp.experts

    def elementwise(hidden, *_):
        return (hidden[:, None] * module.down_proj[0][:, :16]).sum(-1)

    module.forward = elementwise
    with pytest.raises(ModelError, match=r"`ignore='model\.layers\.0\.mlp\.experts\.\*\.gate_up"):
        collect_statistics(model, prunable_layers(model), WINDOWS)


@pytest.mark.parametrize("metric", ["wanda", "gblm", "pruner-zero"])
def test_an_expert_that_no_token_reached_is_pruned_by_magnitude_and_told(metric):
    model = mixtral(num_experts_per_tok=1)
    for block in model.model.layers:
        block.mlp.gate.weight[2] = 0  # never the largest of four
        block.mlp.gate.weight[3] = -block.mlp.gate.weight[1]
    layers = prunable_layers(model)
    statistics = collect_statistics(model, layers, WINDOWS)
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    expression: Expression = CATALOG[metric].expression
    report = prune_model(layers, statistics, expression, HALF)
    unreached = {layer.name for layer in report if layer.unreached}
    assert unreached == {name for name in layers if ".experts.2." in name}
    for name in unreached:
        by_magnitude = prune_mask(dense[name].abs(), HALF)
        assert torch.equal(layers[name].weight == 0, by_magnitude)


def test_what_ranks_metrics_are_experts_that_tokens_reached(model):
    for block in model.model.layers:
        block.mlp.gate.weight.zero_()  # all tokens go to the same two
    layers = prunable_layers(model)
    statistics = collect_statistics(model, layers, WINDOWS)
    assert any(not known.X.any() for known in statistics.values())
    assert all(probe.X.any() for probe in probes_of(layers, statistics, len(layers)))


def test_by_magnitude_alone_nobody_asks_what_was_reached(model):
    layers = prunable_layers(model)
    statistics = collect_statistics(model, layers, torch.zeros(1, 2, dtype=torch.long))
    report = prune_model(layers, statistics, Expression.parse("W"), HALF)
    assert not any(layer.unreached for layer in report)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_on_a_gpu_experts_read_the_same_however_they_are_computed(implementation):
    found = {}
    for name in ("eager", implementation):
        model = mixtral().to("cuda", torch.bfloat16)
        model.set_experts_implementation(name)
        found[name] = collect_statistics(model, prunable_layers(model), WINDOWS)
    for layer, expected in found["eager"].items():
        got = found[implementation][layer]
        torch.testing.assert_close(got.X, expected.X, rtol=0.05, atol=0.05)
        torch.testing.assert_close(got.G.norm(), expected.G.norm(), rtol=0.05, atol=0.05)
