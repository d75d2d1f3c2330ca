"""Rounding to 4 bits with a Gram matrix: what is pruned stays so, and outputs change less."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.packed.layout import (
    VALUE_TYPES,
    pack_numbers,
    spread,
    stored_numbers,
    unpack_matrix,
)
from prunerzero.packed.rounding import SHARES, choose_scales, round_to_grid
from prunerzero.pruning.gram import damped

INT4 = VALUE_TYPES["int4"]
GROUP = 32


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Pruned weights and a Gram matrix: with dead, repeated and massive inputs, few tokens."""
    out, width = draw(st.integers(1, 6)), draw(st.integers(1, 80))
    tokens = draw(st.integers(1, 120))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rows = torch.randn(tokens, width, generator=generator)
    for feature in draw(st.lists(st.integers(0, width - 1), max_size=8)):
        match draw(st.sampled_from(["dead", "massive", "tiny", "copy"])):
            case "dead":
                rows[:, feature] = 0
            case "massive":
                rows[:, feature] *= 1e3
            case "tiny":
                rows[:, feature] *= 1e-4
            case "copy":
                rows[:, feature] = rows[:, 0]
    weight = torch.randn(out, width, generator=generator)
    share = draw(st.sampled_from([0, 0.3, 0.5, 0.9, 1]))
    weight[torch.rand(out, width, generator=generator) < share] = 0
    return weight * draw(st.sampled_from([1e-20, 0.02, 1e6])), rows.T @ rows


def values_of(numbers: Tensor, scales: Tensor) -> Tensor:
    return numbers * spread(scales, GROUP, numbers.shape[1])


def error(found: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
    moved = (found.double() - weight.double()) / weight.abs().max().clamp(min=1e-30).double()
    return ((moved @ damped(gram.double())) * moved).sum(1)


@settings(deadline=None)
@given(layers())
def test_what_is_pruned_stays_pruned_and_nothing_else_becomes_zero(
    layer: tuple[Tensor, Tensor],
) -> None:
    weight, gram = layer
    numbers, scales = round_to_grid(weight, damped(gram))
    assert torch.equal(numbers != 0, weight != 0)
    assert (numbers[numbers != 0] % 2 == 1).all() and (numbers.abs() <= 15).all()
    assert scales.dtype == torch.bfloat16
    matrix = pack_numbers(numbers, scales, INT4)
    assert torch.equal(unpack_matrix(matrix, torch.float32), values_of(numbers, scales))


@settings(deadline=None)
@given(layers())
def test_no_row_is_worse_than_rounded_to_nearest_on_the_same_grid(
    layer: tuple[Tensor, Tensor],
) -> None:
    weight, gram = layer
    numbers, scales = round_to_grid(weight, damped(gram))
    steps = spread(scales, GROUP, weight.shape[1])
    odd = torch.arange(-15, 16, 2.0)
    distance = (weight[..., None] - odd * steps[..., None]).abs()
    nearest = odd[distance.argmin(2)].masked_fill(weight == 0, 0) * steps
    before, after = error(nearest, weight, gram), error(values_of(numbers, scales), weight, gram)
    assert (after <= before * (1 + 1e-3) + 1e-5 * before.max()).all()


def test_outputs_change_much_less_than_with_each_weight_rounded_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = alone = 0.0
    for _ in range(10):
        mixed = torch.randn(64, 64, generator=generator)
        rows = torch.randn(400, 64, generator=generator) @ mixed
        weight = torch.randn(24, 64, generator=generator)
        weight[torch.rand(24, 64, generator=generator) < 0.5] = 0
        gram = rows.T @ rows
        nearest = values_of(*stored_numbers(weight, INT4))  # type: ignore[arg-type]
        alone += float(error(nearest, weight, gram).sum())
        whole += float(error(values_of(*round_to_grid(weight, damped(gram))), weight, gram).sum())
    assert whole < 0.8 * alone


def test_scales_have_the_least_error_of_those_that_are_tried() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 70, generator=generator)
    weight[:, ::3] = 0
    importance = torch.rand(70, generator=generator)
    found = choose_scales(weight, importance, GROUP, torch.bfloat16)
    odd = torch.arange(-15, 16, 2.0)
    for row in range(7):
        for group in range(3):
            part = slice(GROUP * group, GROUP * (group + 1))
            kept = weight[row, part] != 0
            values, counts = weight[row, part][kept], importance[part][kept]

            def error_of(scale: Tensor, values: Tensor = values, counts: Tensor = counts) -> float:
                distances = (values[:, None] - odd * scale.float()).abs().amin(1)
                return float((distances.square() * counts).sum())

            tried = [(values.abs().max() * (share / 15)).bfloat16() for share in SHARES]
            assert error_of(found[row, group]) == pytest.approx(min(map(error_of, tried)), rel=1e-4)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_without_a_usable_matrix_weights_are_rounded_to_nearest(bad: float) -> None:
    weight = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    numbers, scales = round_to_grid(weight, torch.full((40, 40), bad))
    steps = spread(scales, GROUP, 40)
    inside = weight.abs() <= 15 * steps
    assert ((values_of(numbers, scales) - weight).abs() <= steps * 1.001)[inside].all()
