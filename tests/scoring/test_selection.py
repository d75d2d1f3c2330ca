"""The fast path from metric to mask gives the masks of the plain one."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_tree, statistics

from prunerzero import score_mask
from prunerzero.metrics import Expression, ScoreError, Sparsity, SparsityError
from prunerzero.scoring import prune_mask, selection, threads
from prunerzero.scoring.selection import prune_into, write_scores

SPARSITIES = [
    Sparsity(0.5), Sparsity(0.3), Sparsity(0.0), Sparsity(0.5, group="layer"),
    *map(Sparsity.parse, ("2:4", "4:8", "1:16")),
]  # fmt: skip


def reference(e: Expression, sparsity: Sparsity, values: dict) -> torch.Tensor | str:
    try:
        return prune_mask(e.score(**values), sparsity)
    except ScoreError as error:
        return str(error)


def found(e: Expression, sparsity: Sparsity, values: dict) -> torch.Tensor | str:
    try:
        return score_mask(e, sparsity, **values)
    except ScoreError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPARSITIES), st.sampled_from([16, 48, 400]))
def test_blocks_of_rows_give_the_same_masks_to_the_bit(seed, sparsity, block):
    e = random_tree(random.Random(seed), 4)
    values = {name: v.float() for name, v in statistics(seed % 7, (23, 16)).items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "BLOCK", block)
        ours, theirs = found(e, sparsity, values), reference(e, sparsity, values)
    assert ours == theirs if isinstance(theirs, str) else torch.equal(ours, theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([16, 48, 400]))
def test_blocks_of_rows_give_the_same_scores_to_the_bit(seed, block):
    e = random_tree(random.Random(seed), 4)
    values = {name: v.float() for name, v in statistics(seed % 7, (23, 16)).items()}
    scores = torch.empty(values["W"].shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "BLOCK", block)
        patch.setattr(selection, "_CACHED", 0)
        write_scores(scores, e, **values)
    assert torch.equal(scores.nan_to_num(nan=0.5), e.score(**values).nan_to_num(nan=0.5))


@pytest.fixture
def blocks_of_one_row(monkeypatch):
    monkeypatch.setattr(threads, "BLOCK", 16)


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


@pytest.mark.parametrize("inner", ["0.00001", "X"])
def test_what_a_norm_divides_is_spread_over_the_matrix(inner, blocks_of_one_row):
    e = Expression.parse(f"rownorm(div({inner}, W)) ** min(tanh(X), W)")
    for seed in range(7):
        values = {name: v.float() for name, v in statistics(seed, (23, 16)).items()}
        assert torch.equal(found(e, Sparsity(0.5), values), reference(e, Sparsity(0.5), values))


@pytest.mark.parametrize("sparsity", SPARSITIES, ids=str)
def test_several_threads_give_the_same_masks(sparsity, blocks_of_one_row, three_threads):
    for seed in range(20):
        e = random_tree(random.Random(seed), 4)
        values = {name: v.float() for name, v in statistics(seed % 7, (23, 16)).items()}
        ours, theirs = found(e, sparsity, values), reference(e, sparsity, values)
        assert ours == theirs if isinstance(theirs, str) else torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("block", [16, 1 << 17])
def test_weights_of_every_type_are_pruned_in_place(dtype, block, monkeypatch):
    monkeypatch.setattr(threads, "BLOCK", block)
    e, G = Expression.parse("W * G"), torch.rand(12, 16)
    for sparsity in SPARSITIES:
        W = torch.randn(12, 16).to(dtype)
        expected = W.masked_fill(prune_mask(e.score(W=W, G=G), sparsity), 0)
        prune_into(W, e, sparsity, W=W, G=G)
        assert torch.equal(W, expected)


@pytest.mark.parametrize("sparsity", SPARSITIES, ids=str)
def test_weights_are_pruned_in_place_however_they_are_stored(sparsity, blocks_of_one_row):
    e = Expression.parse("abs(W * W) * mms(G)")
    G = torch.rand(12, 16)
    for W in (torch.randn(12, 16), torch.randn(16, 12).t(), torch.randn(12, 32)[:, ::2]):
        expected = W.masked_fill(prune_mask(e.score(W=W, G=G), sparsity), 0)
        prune_into(W, e, sparsity, W=W, G=G)
        assert torch.equal(W, expected)


def test_nan_anywhere_is_refused_with_its_number(blocks_of_one_row):
    G = torch.ones(4, 16)
    G[2, 3:5] = torch.nan
    with pytest.raises(ScoreError, match="2 of 64 scores are NaN"):
        score_mask(Expression.parse("W * G"), Sparsity(0.5), W=torch.randn(4, 16), G=G)


def test_what_does_not_fit_is_refused():
    W = torch.randn(4, 16)
    with pytest.raises(ScoreError, match="reads the gradients"):
        score_mask(Expression.parse("W * G"), Sparsity(0.5), W=W)
    with pytest.raises(SparsityError, match="multiple of 5"):
        score_mask(Expression.parse("W"), Sparsity.parse("2:5"), W=W)
