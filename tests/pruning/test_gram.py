"""Gram matrices of what layers read, against products written out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.pruning import gram as gram_module
from prunerzero.pruning.activations import squares
from prunerzero.pruning.gram import (
    DAMPING,
    collect_grams,
    collect_inverse_diagonals,
    gram,
    gram_and_squares,
    inverse_diagonal,
    passes,
    take_inverse_diagonals,
)
from prunerzero.pruning.statistics import collect_statistics, watch


def test_a_gram_matrix_is_the_sum_of_outer_products():
    features = torch.randn(2, 3, 5)
    rows = features.reshape(6, 5)
    assert torch.allclose(gram(features), sum(torch.outer(r, r) for r in rows), atol=1e-5)


def test_grams_are_of_what_each_layer_reads(model, layers):
    windows = torch.randint(0, 32, (3, 16))
    read: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda _m, inputs, name=name: read[name].append(inputs[0].detach())
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for ids in windows:
            model(input_ids=ids[None])
    for hook in hooks:
        hook.remove()
    found = collect_grams(model, layers, windows)
    assert found.keys() == layers.keys()
    for name, matrix in found.items():
        rows = torch.cat(read[name], 1)[0].double()
        torch.testing.assert_close(matrix.double(), rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_the_diagonal_is_the_square_norms_that_statistics_have(model, layers):
    windows = torch.randint(0, 32, (3, 16))
    statistics = collect_statistics(model, layers, windows, gradients=False)
    for name, matrix in collect_grams(model, layers, windows).items():
        X = statistics[name].X
        assert X is not None
        torch.testing.assert_close(matrix.diagonal(), X * len(windows), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_d_is_what_is_left_of_an_input_after_the_others_explain_it(width, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tokens, width, generator=generator).double()
    rows[:, 0] *= 1e3  # a massive activation
    H = rows.T @ rows
    A = H + DAMPING * torch.diag(H.diagonal())
    expected = torch.linalg.inv(A).diagonal().rsqrt()
    found = inverse_diagonal(H.float()).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_an_input_that_is_never_active_has_no_d():
    rows = torch.randn(8, 3)
    rows[:, 1] = 0
    found = inverse_diagonal(rows.T @ rows)
    assert found[1] == 0
    assert (found[[0, 2]] > 0).all()
    assert not inverse_diagonal(torch.zeros(3, 3)).any()


def test_a_matrix_that_overflowed_has_no_d():
    assert inverse_diagonal(torch.tensor([[torch.inf, 1.0], [1.0, 2.0]])).isnan().all()


@pytest.mark.parametrize("at_once", [1, 4 * 16**2 * 3, 1 << 32])
def test_d_of_the_layers_is_that_of_their_grams_however_few_fit_in_memory(
    model, layers, at_once, monkeypatch
):
    windows = torch.randint(0, 32, (3, 16))
    expected = {n: inverse_diagonal(H) for n, H in collect_grams(model, layers, windows).items()}
    monkeypatch.setattr(gram_module, "AT_ONCE", at_once)
    seen: list[int] = []
    found = collect_inverse_diagonals(model, layers, windows, seen.append)
    assert list(found) == list(layers)
    assert all(torch.equal(found[name], expected[name]) for name in layers)
    assert seen == list(range(1, 3 * passes(layers) + 1))
    assert passes(layers) == {1: len(layers), 1 << 32: 1}.get(at_once, passes(layers)) > 0


@pytest.mark.parametrize("at_once", [1, 4 * 16**2 * 3, 1 << 32])
def test_gram_matrices_for_the_host_are_the_same_however_few_fit_in_memory(
    model, layers, at_once, monkeypatch
):
    windows = torch.randint(0, 32, (3, 16))
    expected = collect_grams(model, layers, windows)
    monkeypatch.setattr(gram_module, "AT_ONCE", at_once)
    seen: list[int] = []
    found = collect_grams(model, layers, windows, seen.append, on_host=True)
    assert list(found) == list(layers)
    assert all(torch.equal(found[name], expected[name]) for name in layers)
    names = list(layers)
    shared = [[grams[a] is grams[b] for a, b in pairwise(names)] for grams in (expected, found)]
    assert shared[0] == shared[1] and any(shared[0])
    assert seen == list(range(1, 3 * passes(layers) + 1))


def test_matrices_are_dropped_as_their_d_is_taken():
    grams = {name: torch.eye(width) * 4 for name, width in (("a", 2), ("b", 2), ("c", 3))}
    D = take_inverse_diagonals(grams)
    assert not grams
    for name, width in (("a", 2), ("b", 2), ("c", 3)):
        torch.testing.assert_close(D[name], torch.full((width,), (4 * (1 + DAMPING)) ** 0.5))
    assert D["a"].data_ptr() != D["b"].data_ptr()


def test_squares_beside_a_gram_matrix_are_those_alone_to_the_bit():
    features = torch.randn(2, 7, 5).bfloat16()
    both = gram_and_squares(features)
    assert torch.equal(both[:-1], gram(features))
    assert torch.equal(both[-1], squares(features))


def test_watching_for_d_leaves_x_as_it_is_to_the_bit(model, layers):
    windows = torch.randint(0, 32, (3, 16))

    def watched(inverse_diagonals):
        with watch(layers, False, inverse_diagonals=inverse_diagonals) as statistics_over:
            for ids in windows:
                model(input_ids=ids[None])
        return statistics_over(len(windows))

    D, alone = collect_inverse_diagonals(model, layers, windows), watched(False)
    for name, both in watched(True).items():
        assert torch.equal(both.X, alone[name].X) and alone[name].D is None
        torch.testing.assert_close(both.D, D[name])


def test_sums_are_in_float32_whatever_the_model_computes_in():
    assert gram(torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.float32
