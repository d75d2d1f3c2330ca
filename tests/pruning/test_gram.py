"""Gram matrices of what layers read, against products written out by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.pruning.gram import DAMPING, collect_grams, gram, inverse_diagonal
from prunerzero.pruning.statistics import collect_statistics


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


def test_sums_are_in_float32_whatever_the_model_computes_in():
    assert gram(torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.float32
