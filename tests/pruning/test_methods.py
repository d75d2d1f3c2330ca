"""Published methods: against their own rule, one weight after another in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_least_squares import layers
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.metrics import Sparsity, SparsityError
from prunerzero.pruning.methods import METHODS, alps, find_method, sparsegpt
from prunerzero.pruning.refit import output_errors
from prunerzero.scoring import prune_mask


def one_by_one(weight: Tensor, gram: Tensor, sparsity: Sparsity, block: int) -> Tensor:
    """SparseGPT as Optimal Brain Surgeon: an inverse of what is not fixed yet, for each column."""
    width = weight.shape[1]
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(width, dtype=gram.dtype)
    found = weight.clone()
    left = [torch.linalg.inv(damped[column:, column:]) for column in range(width)]
    step = sparsity.of or block
    for first in range(0, width, step):
        columns = range(first, min(first + step, width))
        cost = torch.stack([found[:, c] ** 2 / left[c][0, 0] for c in columns], 1)
        if sparsity.of is None:
            count = int(cost.numel() * sparsity.fraction)
            gone = torch.zeros(cost.numel(), dtype=torch.bool)
            gone[cost.flatten().argsort()[:count]] = True
            gone = gone.view_as(cost)
        else:
            gone = torch.zeros_like(cost, dtype=torch.bool)
            lowest = cost.argsort(dim=1)[:, : sparsity.of - sparsity.keep]
            gone.scatter_(1, lowest, True)
        for column in columns:
            for row in gone[:, column - first].nonzero().flatten():
                inverse = left[column]
                found[row, column:] -= found[row, column] / inverse[0, 0] * inverse[0]
                found[row, column] = 0
    return found


@pytest.mark.parametrize("pattern", ["0.5", "0.8", "2:4", "1:4", "2:3"])
@pytest.mark.parametrize("block", [1, 4, 5, 12, 128])
def test_sparsegpt_is_optimal_brain_surgeon_from_left_to_right(pattern, block):
    sparsity = Sparsity.parse(pattern)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(30, 12, generator=generator, dtype=torch.float64)
        rows = rows @ torch.randn(12, 12, generator=generator, dtype=torch.float64)
        weight = torch.randn(4, 12, generator=generator, dtype=torch.float64)
        gram = rows.T @ rows
        found = sparsegpt(weight, gram, sparsity, block=block)
        torch.testing.assert_close(found, one_by_one(weight, gram, sparsity, block))


@settings(max_examples=100)
@given(layers(), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.sampled_from([1, 3, 8, 128]))
def test_sparsegpt_prunes_each_block_of_columns_by_the_share(layer, ratio, block):
    weight, gram, _ = layer
    found = sparsegpt(weight, gram, Sparsity(ratio=ratio), block=block)
    assert found.isfinite().all() and found.dtype == weight.dtype
    for columns, of_gram in zip(found.split(block, 1), gram.diagonal().split(block), strict=True):
        dead = int((of_gram == 0).sum()) * len(weight)
        assert int((columns == 0).sum()) == max(int(columns.numel() * ratio), dead)


@settings(max_examples=100)
@given(layers(), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_alps_prunes_the_layer_by_the_share(layer, ratio):
    weight, gram, _ = layer
    found = alps(weight, gram, Sparsity(ratio=ratio))
    assert found.isfinite().all() and found.dtype == weight.dtype
    assert int((found == 0).sum()) == int(weight.numel() * ratio)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "5:6"])
def test_of_n_of_m_inputs_exactly_n_are_kept(method, pattern):
    sparsity = Sparsity.parse(pattern)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 48, generator=generator)
    rows = torch.randn(60, 48, generator=generator)
    found = method.solve(weight, rows.T @ rows, sparsity)
    assert ((found != 0).reshape(-1, sparsity.of).sum(1) == sparsity.keep).all()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_outputs_change_less_than_with_a_mask_alone(method, pattern):
    sparsity = Sparsity.parse(pattern)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(200, 160, generator=generator)
        rows = rows @ torch.randn(160, 160, generator=generator)
        weight, gram = torch.randn(24, 160, generator=generator), rows.T @ rows
        wanda = prune_mask(weight.abs() * gram.diagonal().sqrt(), sparsity)
        made = weight.masked_fill(wanda, 0), method.solve(weight, gram, sparsity)
        alone, solved = output_errors(weight, made, gram)
        assert solved < 0.8 * alone


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_inputs_that_are_never_active_lose_their_weights(method):
    gram = torch.diag(torch.tensor([1.0, 0.0, 4.0, 2.0]))
    found = method.solve(torch.ones(3, 4), gram, Sparsity(ratio=0.25))
    assert torch.equal(found == 0, (gram.diagonal() == 0).expand(3, 4))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_what_does_not_fit_is_refused(method):
    weight, half = torch.ones(2, 4), Sparsity(ratio=0.5)
    with pytest.raises(InputError, match="need a Gram matrix"):
        method.solve(weight, torch.eye(3), half)
    with pytest.raises(InputError, match="not finite"):
        method.solve(weight, torch.full((4, 4), torch.inf), half)
    with pytest.raises(SparsityError, match="multiple of 3"):
        method.solve(weight, torch.eye(4), Sparsity.parse("2:3"))


def test_a_method_is_found_by_its_name():
    assert find_method(" SparseGPT ") is METHODS["sparsegpt"]
    with pytest.raises(InputError, match="'sparsegtp'; those known are sparsegpt, alps"):
        find_method("sparsegtp")
