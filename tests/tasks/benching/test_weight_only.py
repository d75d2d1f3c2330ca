"""torch's int8 and int4 products give what their formats say, in the place of linear layers."""

from __future__ import annotations

import pytest
import torch
from tiny_model import tiny_model
from torch import nn

from prunerzero.errors import ModelError
from prunerzero.tasks.benching.weight_only import (
    GROUP,
    Int4Linear,
    Int8Linear,
    fits_int4,
    lies_on_int4,
    replaced,
)


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).to(torch.bfloat16).requires_grad_(False)


def applied(layer: nn.Module, inputs: int) -> torch.Tensor:
    """The matrix of a layer without a bias: what it makes of each unit vector."""
    return layer(torch.eye(inputs, dtype=torch.bfloat16)).float().T


def test_int8_is_off_by_half_a_step_of_its_row_at_most():
    layer = linear(96, 48)
    weight = layer.weight.float()
    step = weight.abs().amax(1, keepdim=True) / 127
    error = (applied(Int8Linear(layer), 96) - weight).abs()
    rounding = weight.abs() / 128  # of scales and products in bfloat16
    assert (error <= 0.5 * step + rounding + 1e-6).all()
    assert error.max() > 0


def test_int4_is_off_by_half_a_step_of_its_group_at_most():
    layer = linear(96, 48)
    weight = layer.weight.float()
    grouped = weight.unflatten(1, (-1, GROUP))
    reach = grouped.abs().amax(2, keepdim=True)
    step = (grouped.amax(2, keepdim=True) - grouped.amin(2, keepdim=True)) / 15
    error = (applied(Int4Linear(layer), 96).unflatten(1, (-1, GROUP)) - grouped).abs()
    assert (error <= 0.5 * step + reach / 16).all()  # scales, shifts and products in bfloat16
    assert error.max() > 0


@pytest.mark.parametrize("make", [Int8Linear, Int4Linear])
def test_a_row_of_zeros_stays_zero_and_a_bias_is_added(make):
    layer = linear(64, 32, bias=True)
    layer.weight[3] = 0
    inputs = torch.randn(2, 5, 64, dtype=torch.bfloat16)
    found = make(layer)(inputs)
    assert found.shape == (2, 5, 32)
    assert torch.equal(found[..., 3], layer.bias[3].expand(2, 5))
    assert (found - layer(inputs)).abs().max() < 0.3


def test_a_models_linear_layers_are_replaced_inside_but_its_head_is_not():
    model = tiny_model(hidden_size=64, intermediate_size=96).to(torch.bfloat16)
    before = dict(model.named_modules())
    with replaced(model, Int8Linear) as left:
        assert left == []
        for name, module in model.named_modules():
            if "_proj" in name:
                assert isinstance(module, Int8Linear)
        assert type(model.lm_head) is nn.Linear
        assert model(input_ids=torch.arange(5)[None]).logits.shape == (1, 5, 32)
    assert dict(model.named_modules()) == before


def test_weights_that_were_rounded_to_four_bits_before_are_recognised():
    model = tiny_model(hidden_size=64, intermediate_size=96).to(torch.bfloat16)
    assert not lies_on_int4(model)
    for name, layer in model.named_modules():
        if "_proj" in name:
            layer.weight.copy_(applied(Int4Linear(layer), layer.in_features))
    assert lies_on_int4(model)


def test_a_layer_that_the_product_does_not_take_stays_and_is_named():
    model = tiny_model(hidden_size=64, intermediate_size=100).to(torch.bfloat16)
    assert not fits_int4(model.model.layers[0].mlp.down_proj)
    with replaced(model, Int4Linear) as left:
        assert "model.layers.0.mlp.down_proj" in left
        assert isinstance(model.model.layers[0].self_attn.q_proj, Int4Linear)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ModelError, match="name the dense one first"):
        with replaced(tiny_model().to(torch.bfloat16), Int4Linear):
            pass
