"""What is done with masks: numbers stay, and the errors told are those that are there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_least_squares import layers as some_layers
from torch import Tensor

from prunerzero.metrics import Sparsity
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.refit import Refit, budgets_of, output_errors, refit_layer, refit_model
from prunerzero.scoring import prune_mask

ALL = [Refit(update, refine) for update in ("none", "least-squares") for refine in ("none", "admm")]


@given(some_layers(), st.sampled_from(ALL))
def test_as_many_weights_stay_and_the_error_told_is_the_one_there(layer, refit):
    weight, gram, mask = layer
    found, error = refit_layer(weight, gram, mask, refit, "row")
    assert (found == 0).sum() >= mask.sum()
    for told, weights in ((error.refitted, found), (error.mask, weight.masked_fill(mask, 0))):
        near = {
            "rel": 1e-3 + _lost(weight, gram),
            "abs": 1e-6 + _lost(weight - weights, gram, weight),
        }
        assert told == pytest.approx(_share_changed(weight, weights, gram), **near)


def _share_changed(weight: Tensor, found: Tensor, gram: Tensor) -> float:
    moved, H, T = found.double() - weight.double(), gram.double(), weight.double()
    whole = float(torch.trace(T @ H @ T.T))
    return float(torch.trace(moved @ H @ moved.T)) / whole if whole else 0.0


def _lost(weight: Tensor, gram: Tensor, dense: Tensor | None = None) -> float:
    """The share of the dense outputs that the sum of these weights' outputs may lose in fp32, where
    its terms cancel out; the dense weights are these by default."""
    T, H, whole_of = weight.double(), gram.double(), (weight if dense is None else dense).double()
    whole = float(torch.trace(whole_of @ H @ whole_of.T))
    terms = float(torch.trace(T.abs() @ H.abs() @ T.abs().T))
    return 10 * torch.finfo(torch.float32).eps * terms / whole if whole else 0.0


@given(some_layers())
def test_without_a_choice_it_is_the_mask_alone(layer):
    weight, gram, mask = layer
    found, error = refit_layer(weight, gram, mask, Refit(), "row")
    assert torch.equal(found, weight.masked_fill(mask, 0))
    assert error.mask == error.refitted


@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
@pytest.mark.parametrize("refit", ALL[1:], ids=str)
def test_a_model_is_refitted_layer_by_layer(model, layers, pattern, refit):
    sparsity = Sparsity.parse(pattern)
    windows = torch.randint(0, 32, (4, 32), generator=torch.Generator().manual_seed(0))
    grams = collect_grams(model, layers, windows)
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    masks = {name: prune_mask(weight.abs(), sparsity) for name, weight in dense.items()}
    errors = refit_model(layers, masks.items(), grams, refit, sparsity)
    for name, layer in layers.items():
        size = sparsity.of or layer.weight.shape[1]
        zeros = (layer.weight == 0).reshape(-1, size).sum(1)
        assert torch.equal(zeros, masks[name].reshape(-1, size).sum(1))
        expected, _ = refit_layer(
            dense[name], grams[name], masks[name], refit, budgets_of(sparsity)
        )
        assert torch.equal(layer.weight, expected)
        assert [errors[name].refitted] == output_errors(dense[name], [expected], grams[name])
        if refit.update != "none":
            assert errors[name].refitted < errors[name].mask
