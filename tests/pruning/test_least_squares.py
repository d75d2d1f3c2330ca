"""Refitting the weights that stay: against each row's own solution in float64."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning.gram import DAMPING
from prunerzero.pruning.least_squares import least_squares
from prunerzero.pruning.refine import refine
from prunerzero.pruning.refit import Refit, refit_weights


def row_by_row(weight: Tensor, gram: Tensor, mask: Tensor, damping: float = DAMPING) -> Tensor:
    """The solution of each row by itself, in float64."""
    A = gram.double() + damping * torch.diag(gram.double().diagonal())
    found = weight.double().masked_fill(mask, 0)
    for row, target, gone in zip(found, weight.double(), mask, strict=True):
        kept = (~gone & (A.diagonal() > 0)).nonzero().squeeze(1)
        if len(kept):
            # least-squares solver: a Gram matrix without damping may be singular
            row[kept] = torch.linalg.lstsq(A[kept][:, kept], A[kept] @ target, driver="gelsd")[0]
    return found


def errors(found: Tensor, weight: Tensor, gram: Tensor, damping: float = DAMPING) -> Tensor:
    A = gram.double() + damping * torch.diag(gram.double().diagonal())
    moved = found.double() - weight.double()
    return ((moved @ A) * moved).sum(1)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, Gram matrix and mask: with dead inputs, repeated ones, massive ones, few tokens."""
    out, width = draw(st.integers(1, 5)), draw(st.integers(1, 24))
    tokens = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rows = torch.randn(tokens, width, generator=generator)
    for feature in range(width):
        match draw(st.sampled_from(["plain", "plain", "dead", "massive", "tiny", "copy"])):
            case "dead":
                rows[:, feature] = 0
            case "massive":
                rows[:, feature] *= 1e3
            case "tiny":
                rows[:, feature] *= 1e-4
            case "copy":
                rows[:, feature] = rows[:, 0]
    weight = torch.randn(out, width, generator=generator)
    mask = torch.rand(out, width, generator=generator) < draw(
        st.sampled_from([0, 0.3, 0.5, 0.9, 1])
    )
    return weight, rows.T @ rows, mask


@settings(max_examples=150)
@given(layers())
def test_each_row_has_its_least_error_to_one_millionth(layer):
    weight, gram, mask = layer
    found = least_squares(weight, gram, mask)
    least = errors(row_by_row(weight, gram, mask), weight, gram)
    scale = errors(torch.zeros_like(weight), weight, gram)
    assert not found[mask].any()
    assert (errors(found, weight, gram) <= least * (1 + 1e-6) + 1e-9 * scale).all()


@given(layers())
def test_it_never_makes_a_row_worse_than_the_mask_alone(layer):
    weight, gram, mask = layer
    alone = errors(weight.masked_fill(mask, 0), weight, gram)
    found = errors(least_squares(weight, gram, mask), weight, gram)
    scale = errors(torch.zeros_like(weight), weight, gram)
    assert (found <= alone + 1e-9 * scale).all()


@given(layers(), st.integers(1, 8))
def test_each_step_that_it_may_take_brings_it_closer(layer, steps):
    weight, gram, mask = layer

    def after(count: int | None) -> Tensor:
        refit = Refit("least-squares", solver_steps=count)
        return errors(refit_weights(weight, gram, mask, refit, "row"), weight, gram)

    alone = errors(weight.masked_fill(mask, 0), weight, gram)
    slack = 1e-5 * alone + 1e-12 * errors(torch.zeros_like(weight), weight, gram)
    fewer, more, exact = after(steps), after(2 * steps), after(None)
    assert (fewer <= alone + slack).all()
    assert (more <= fewer + slack).all()
    assert (exact <= more + slack).all()
    assert (after(200) <= exact + slack).all(), "it has converged long before"


@given(layers())
def test_without_a_mask_nothing_changes(layer):
    weight, gram, _ = layer
    found = least_squares(weight, gram, torch.zeros_like(weight, dtype=torch.bool))
    torch.testing.assert_close(found, weight)


def test_weights_of_inputs_that_are_never_active_stay():
    weight = torch.randn(3, 4)
    rows = torch.randn(9, 4)
    rows[:, 2] = 0
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[:, 0] = mask[0, 2] = True
    found = least_squares(weight, rows.T @ rows, mask)
    assert torch.equal(found[1:, 2], weight[1:, 2])
    assert found[0, 2] == 0


def test_a_layer_that_no_token_reached_is_masked_and_no_more():
    weight, mask = torch.randn(3, 4), torch.rand(3, 4) < 0.5
    found = least_squares(weight, torch.zeros(4, 4), mask)
    assert torch.equal(found, weight.masked_fill(mask, 0))


def test_kept_weights_are_rounded_once():
    weight, rows = torch.randn(4, 16).bfloat16(), torch.randn(40, 16)
    mask = torch.rand(4, 16) < 0.5
    gram = rows.T @ rows
    found = least_squares(weight, gram, mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, least_squares(weight.float(), gram, mask).bfloat16())


def test_a_row_that_loses_nothing_keeps_its_bits():
    weight, rows = torch.randn(3, 16), torch.randn(40, 16)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[1, :8] = True
    found = least_squares(weight, rows.T @ rows, mask)
    assert torch.equal(found[[0, 2]], weight[[0, 2]])
    assert not torch.equal(found[1], weight[1])


@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e30, 1e60])
def test_the_size_of_the_inputs_does_not_matter(scale):
    weight, rows = torch.randn(4, 12), torch.randn(40, 12)
    mask = torch.rand(4, 12) < 0.5
    gram = (rows.T @ rows).double()
    expected = least_squares(weight, gram, mask)
    torch.testing.assert_close(least_squares(weight, gram * scale, mask), expected)


EYE, NONE = torch.eye(4), torch.zeros(2, 4, dtype=torch.bool)
SKEW = EYE + torch.tensor([0.5, 0, 0, 0])


@pytest.mark.parametrize("function", [least_squares, refine])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gram": torch.eye(3)}, "Gram matrix [4, 4]"),
        ({"mask": torch.zeros(2, 3, dtype=torch.bool)}, "mask must be of bool"),
        ({"mask": torch.zeros(2, 4)}, "mask must be of bool"),
        ({"mask": NONE.numpy()}, "a mask must be a torch tensor"),
        ({"gram": [[1.0]]}, "a Gram matrix must be a torch tensor"),
        ({"gram": torch.full((4, 4), torch.nan)}, "not finite"),
        ({"gram": -EYE}, "negative values on its diagonal"),
        ({"gram": EYE + 2 * (1 - EYE)}, "positive semidefinite"),
        ({"gram": SKEW}, "symmetric"),
        ({"weight": torch.full((2, 4), torch.inf)}, "not finite"),
        ({"weight": torch.ones(2, 4, dtype=torch.int64)}, "floating-point"),
        ({"damping": 0}, "positive number"),
        ({"damping": -1.0}, "positive number"),
        ({"damping": torch.nan}, "positive number"),
        ({"damping": torch.inf}, "positive number"),
    ],
)
def test_what_does_not_fit_is_refused(function, change, words):
    given = {"weight": torch.ones(2, 4), "gram": EYE, "mask": NONE} | change
    with pytest.raises(InputError, match=re.escape(words)):
        function(**given)
