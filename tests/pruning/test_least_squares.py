"""Refitting the weights that stay: against each row's own solution in float64."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.carried import to_host
from prunerzero.pruning.conjugate import has_kernel
from prunerzero.pruning.gram import DAMPING
from prunerzero.pruning.least_squares import SETTLED, Scaled, least_squares, scaled_grams, settle
from prunerzero.pruning.quick_refit import QuickRefit
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


@given(layers(), st.sampled_from([-100, -50, -30, 30, 66, 100]))
def test_weights_of_any_size_are_refitted_alike(layer, exponent):
    weight, gram, mask = layer
    for weights, times in ((weight, 2.0**exponent), (weight.double(), 2.0 ** (5 * exponent))):
        found = least_squares(weights * times, gram, mask)
        assert torch.equal(found, least_squares(weights, gram, mask) * times)


def quickly(weight: Tensor, gram: Tensor, mask: Tensor, steps: int) -> Tensor:
    """What candidates of a search are judged after, of a model of three linear layers."""
    model = torch.nn.ModuleDict(
        {
            "one": torch.nn.Linear(*weight.shape[::-1], bias=False),
            "two": torch.nn.Linear(*weight.shape[::-1], bias=False),
            "other": torch.nn.Linear(3, 2, bias=False),
        }
    )
    model.to(weight.device)
    matrices = {name: Matrix(name, module) for name, module in model.items()}
    matrices["one"].weight.data.copy_(weight)
    matrices["two"].weight.data.copy_(weight.flip(0))
    dense = {name: matrix.weight.detach().clone() for name, matrix in matrices.items()}
    grams = {"one": gram, "two": gram, "other": torch.eye(3, device=gram.device)}
    refit = QuickRefit.of(matrices, grams, steps)
    assert sorted(name for batch in refit.batches for problem in batch for name in problem) == [
        "one", "other", "two",
    ]  # fmt: skip
    assert any(problem == ("one", "two") for batch in refit.batches for problem in batch)
    matrices["one"].weight.data.masked_fill_(mask, 0)
    matrices["two"].weight.data.masked_fill_(mask.flip(0), 0)
    refit.apply(matrices, dense, grams)
    assert torch.equal(matrices["other"].weight, dense["other"]), "nothing of it was pruned"
    torch.testing.assert_close(matrices["two"].weight.flip(0), matrices["one"].weight)
    return matrices["one"].weight.detach()


def settled(weight: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
    """What the weights of a model become."""
    return refit_weights(weight, gram, mask, Refit("least-squares"), "row")


@given(layers())
def test_what_a_model_gets_is_between_the_mask_alone_and_the_exact_solution(layer):
    weight, gram, mask = layer
    found = settled(weight, gram, mask)
    assert not found[mask].any()
    alone = errors(weight.masked_fill(mask, 0), weight, gram)
    slack = 1e-5 * alone + 1e-9 * errors(torch.zeros_like(weight), weight, gram)
    exact = errors(least_squares(weight, gram, mask), weight, gram)
    assert (exact - slack <= errors(found, weight, gram)).all()
    assert (errors(found, weight, gram) <= alone + slack).all()


@given(layers())
def test_it_stops_where_four_more_steps_hardly_lower_the_error(layer):
    weight, gram, mask = layer
    now = errors(settled(weight, gram, mask), weight, gram).sum()
    problem = Scaled.of(weight, gram)
    steps = next(
        steps
        for steps in range(4, 400, 4)
        if errors(quickly(weight, gram, mask, steps), weight, gram).sum() <= now * (1 + 1e-4) + 1e-6
    )
    more = errors(quickly(weight, gram, mask, steps + 4), weight, gram).sum()
    assert now - more <= 2 * SETTLED * more + 1e-6 * problem.target.square().sum()


def test_it_may_begin_elsewhere_and_is_done_where_nothing_is_pruned():
    torch.manual_seed(0)
    weight, rows = torch.randn(4, 9), torch.randn(60, 9)
    problem = Scaled.of(weight, rows.T @ rows)
    kept = torch.zeros(4, 9, dtype=torch.bool)
    assert torch.equal(settle(problem, kept), problem.target)
    mask = torch.rand(4, 9) < 0.5
    exact = problem.errors(settle(problem, mask, settle(problem, mask)))
    assert (exact <= problem.errors(settle(problem, mask)) * (1 + 1e-6)).all()


@given(layers(), st.integers(1, 8))
def test_each_step_of_the_quick_refit_brings_it_closer_to_the_exact_one(layer, steps):
    weight, gram, mask = layer
    alone = errors(weight.masked_fill(mask, 0), weight, gram)
    slack = 1e-5 * alone + 1e-12 * errors(torch.zeros_like(weight), weight, gram)
    fewer = quickly(weight, gram, mask, steps)
    assert not fewer[mask].any()
    fewer, more = (errors(found, weight, gram) for found in (fewer, quickly(*layer, 2 * steps)))
    exact = errors(least_squares(*layer), weight, gram)
    assert (fewer <= alone + slack).all()
    assert (more <= fewer + slack).all()
    assert (exact <= more + slack).all()
    converged = errors(quickly(*layer, 200), weight, gram)
    assert (converged <= exact + slack).all(), "it has converged long before"


def test_the_quick_refit_solves_layers_of_one_shape_together():
    torch.manual_seed(0)
    model = torch.nn.ModuleList(torch.nn.Linear(8, 6, bias=False).bfloat16() for _ in range(5))
    matrices = {str(n): Matrix(str(n), module) for n, module in enumerate(model)}
    dense = {name: matrix.weight.detach().clone() for name, matrix in matrices.items()}
    rows = {name: torch.randn(50, 8) for name in matrices}
    grams = {name: of.T @ of for name, of in rows.items()}
    grams["3"] = torch.zeros(8, 8)  # no token came there
    masks = {name: torch.rand(6, 8) < 0.5 for name in matrices}
    refit = QuickRefit.of(matrices, grams, 100)
    assert [len(batch) for batch in refit.batches] == [5]
    for name, matrix in matrices.items():
        matrix.weight.data.masked_fill_(masks[name], 0)
    refit.apply(matrices, dense, grams)
    for name, matrix in matrices.items():
        exact = refit_weights(dense[name], grams[name], masks[name], Refit("least-squares"), "row")
        torch.testing.assert_close(matrix.weight.detach(), exact)
    assert torch.equal(matrices["3"].weight, dense["3"].masked_fill(masks["3"], 0))


def of_several_shapes(device: str, *, on_host: bool) -> dict[str, Tensor]:
    """Weights after a quick refit of ten layers on the device, whose Gram matrices, some of them
    shared, are there too or come by turns."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(6, 8), (4, 8), (8, 6), (6, 8), (5, 3)] * 2
    model = torch.nn.ModuleList(torch.nn.Linear(n, out, bias=False) for out, n in sizes)
    for module in model:
        module.weight.data = torch.randn(module.weight.shape, generator=generator)
    matrices = {str(n): Matrix(str(n), module) for n, module in enumerate(model.to(device))}
    grams: dict[str, Tensor] = {}
    for name, (_, width) in zip(matrices, sizes, strict=True):
        rows = torch.randn(50, width, generator=generator)
        grams[name] = to_host(rows.T @ rows) if on_host else (rows.T @ rows).to(device)
    grams["1"] = grams["0"]
    dense = {name: matrix.weight.detach().clone() for name, matrix in matrices.items()}
    refit = QuickRefit.of(matrices, grams, 8)
    assert refit.carries == (on_host and device != "cpu")
    for matrix in matrices.values():
        gone = torch.rand(matrix.weight.shape, generator=generator) < 0.5
        matrix.weight.data.masked_fill_(gone.to(device), 0)
    replace(refit, carries=on_host).apply(matrices, dense, grams)
    return {name: matrix.weight.detach() for name, matrix in matrices.items()}


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_gram_matrices_that_come_by_turns_give_the_same_weights_to_the_bit(device):
    there = of_several_shapes(device, on_host=False)
    for name, weights in of_several_shapes(device, on_host=True).items():
        assert torch.equal(weights, there[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_kernel_takes_the_steps():
    assert has_kernel(torch.device("cuda"))
    torch.manual_seed(0)
    rows, weight = torch.randn(300, 200), torch.randn(40, 200)
    mask = torch.rand(40, 200) < 0.5
    layer = weight.cuda(), (rows.T @ rows).cuda(), mask.cuda()
    found = quickly(*layer, 50).cpu()
    exact = least_squares(weight, rows.T @ rows, mask)
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0.01)  # TF32 holds 10 bits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32_of_a_gpu_costs_less_than_what_a_refit_stops_at():
    torch.manual_seed(0)
    common = torch.randn(4096, 24) @ torch.randn(24, 1024)  # inputs that are much alike
    rows, weight = common + torch.randn(4096, 1024), torch.randn(256, 1024)
    layer = weight.cuda(), (rows.T @ rows).cuda(), (torch.rand(256, 1024) < 0.5).cuda()
    before = torch.backends.cuda.matmul.allow_tf32
    found = errors(settled(*layer), *layer[:2]).sum()
    assert torch.backends.cuda.matmul.allow_tf32 == before
    weight, gram, mask = (one.cpu() for one in layer)
    exact = errors(settled(weight, gram, mask), weight, gram).sum()
    assert float(found) == pytest.approx(float(exact), rel=SETTLED / 2)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_matrices_are_scaled_together_as_they_are_one_by_one(dtype: torch.dtype) -> None:
    inputs = torch.randn(3, 9, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    inputs *= torch.tensor([1e-6, 1.0, 1e6], dtype=dtype)[:, None, None]
    inputs[1, :, 2] = 0
    grams = inputs.mT @ inputs
    matrices, norms = scaled_grams(grams, 0.01)
    for gram, matrix, norm in zip(grams, matrices, norms, strict=True):
        problem = Scaled.of(torch.ones(2, 6), gram, 0.01)
        assert torch.equal(problem.matrix, matrix) and torch.equal(problem.norms, norm)
