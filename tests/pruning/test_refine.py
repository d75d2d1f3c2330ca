"""Choosing again which weights stay: budgets are kept exactly, and errors do not grow."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_least_squares import errors, layers
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.metrics import Sparsity
from prunerzero.pruning.least_squares import least_squares
from prunerzero.pruning.refine import refine
from prunerzero.scoring import prune_mask


@settings(max_examples=60)
@given(layers(), st.sampled_from(["row", "layer", 1, 2, 4]))
def test_each_budget_is_kept_exactly(layer, within):
    weight, gram, mask = layer
    if isinstance(within, int) and weight.shape[1] % within:
        return
    found = refine(weight, gram, mask, within)
    size = {"row": weight.shape[1], "layer": weight.numel()}.get(within, within)
    assert torch.equal(found.reshape(-1, size).sum(1), mask.reshape(-1, size).sum(1))


@settings(max_examples=60)
@given(layers(), st.sampled_from(["row", "layer"]))
def test_after_least_squares_the_error_is_no_larger(layer, within):
    weight, gram, mask = layer
    found = refine(weight, gram, mask, within)
    before = errors(least_squares(weight, gram, mask), weight, gram).sum()
    after = errors(least_squares(weight, gram, found), weight, gram).sum()
    scale = errors(torch.zeros_like(weight), weight, gram).sum()
    assert after <= before + 1e-6 * scale


@pytest.mark.parametrize("seed", range(5))
def test_n_of_m_stays_n_of_m(seed):
    torch.manual_seed(seed)
    weight, rows = torch.randn(6, 16), torch.randn(80, 16)
    mask = prune_mask(weight.abs(), Sparsity.parse("2:4"))
    found = refine(weight, rows.T @ rows, mask, 4)
    assert (found.reshape(-1, 4).sum(1) == 2).all()


def test_of_all_masks_it_comes_close_to_the_best():
    """All masks of a row, tried one by one: most of what the best of them gains is found."""
    gained = best = 0.0
    for seed in range(5):
        torch.manual_seed(seed)
        rows = torch.randn(60, 8) @ torch.randn(8, 8)  # inputs that can replace each other
        weight, gram = torch.randn(12, 8), rows.T @ rows
        mask = prune_mask(weight.abs() * gram.diagonal().sqrt(), Sparsity(ratio=0.5))

        def error(tried: Tensor, weight: Tensor = weight, gram: Tensor = gram) -> Tensor:
            return errors(least_squares(weight, gram, tried), weight, gram)

        least = torch.full((12,), torch.inf, dtype=torch.float64)
        for gone in combinations(range(8), 4):
            tried = torch.zeros(12, 8, dtype=torch.bool)
            tried[:, list(gone)] = True
            least = least.minimum(error(tried))
        gained += float((error(mask) - error(refine(weight, gram, mask, "row"))).sum())
        best += float((error(mask) - least).sum())
    assert gained > 0.6 * best


def test_a_width_that_is_no_multiple_is_refused():
    with pytest.raises(InputError, match="no multiple of within=3"):
        refine(torch.ones(2, 4), torch.eye(4), torch.zeros(2, 4, dtype=torch.bool), 3)


@pytest.mark.parametrize("within", ["2:4", "model", None, True, Sparsity.parse("2:4")])
def test_another_budget_is_refused(within):
    with pytest.raises(InputError, match="within must be 'row', 'layer'"):
        refine(torch.ones(2, 4), torch.eye(4), torch.zeros(2, 4, dtype=torch.bool), within)
