"""Duplicates by behaviour: one key for each ranking."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_trees import random_tree

from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity, SparsityError, canonical
from prunerzero.scoring.ranking import (
    Probe,
    _lowest,
    _rounded,
    agreement,
    probe_scores,
    ranking_key,
    synthetic_probe,
)

pytestmark = pytest.mark.filterwarnings("error")

PROBE = synthetic_probe()
HALF = Sparsity(0.5)
PATTERN = Sparsity.parse("2:4")


def key(formula: str, sparsity: Sparsity = HALF) -> str:
    return ranking_key(Expression.parse(formula), [PROBE], sparsity)


@pytest.mark.parametrize(
    "formula",
    [
        "exp(W * G)", "tanh(W * G)", "log(W * G)", "sqrt(W * G)", "sqr(W * G)", "mms(W * G)",
        "zsn(W * G)", "W * G + 3", "W * G * 2.5", "div(W * G, X)", "rownorm(W * G)", "G * W",
        "rownorm(W) * G", "W * G - 1", "-(2 - W * G)", "-1 / (W * G)",
    ],
)  # fmt: skip
def test_metrics_that_rank_alike_share_a_key(formula):
    for sparsity in (HALF, PATTERN):
        assert key(formula, sparsity) == key("W * G", sparsity)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("W + X + G", "G + (X + W)"),
        ("W * X * G", "G * W * X"),
        ("(W + G) - G", "W"),
        ("W * X / X", "W"),
        ("W * 0.1 + W * 0.2", "W * 0.3"),
        ("W * (X + G)", "W * X + W * G"),
        ("max(W, 0.01) + G * 0", "max(0.01, W)"),
    ],
)
def test_rounding_does_not_tell_equal_metrics_apart(first, second):
    assert key(first) == key(second)


def test_canonical_forms_share_the_key_of_the_original():
    same, compared = 0, 0
    for seed in range(400):
        tree = random_tree(random.Random(seed), 4, published=True)
        try:
            keys = [ranking_key(e, [PROBE], HALF) for e in (tree, canonical(tree))]
        except ScoreError:
            continue
        compared += 1
        same += keys[0] == keys[1]
    # exp and tanh saturate on the large values of X: those metrics rank less than they simplify to
    assert compared > 250 and same > 0.75 * compared


def test_metrics_that_rank_differently_have_different_keys():
    for sparsity in (HALF, PATTERN, Sparsity(0.5, group="layer"), Sparsity(0.5, group="model")):
        keys = {ranking_key(m.expression, [PROBE], sparsity) for m in CATALOG.values()}
        assert len(keys) == len(CATALOG)
    assert len({key(f) for f in ("W", "-W", "X", "G", "W + X", "W * X", "W * G")}) == 7


def test_scores_far_from_one_are_ranked_too():
    for scale in ("1e-60", "1e60"):
        assert key(f"W * {scale}") == key("W")
        assert key(f"G * {scale}") == key("G") != key("W")


def test_a_factor_of_a_row_matters_within_a_layer_alone():
    layer = Sparsity(0.5, group="layer")
    assert key("rownorm(W)") == key("W")
    assert key("rownorm(W)", layer) != key("W", layer)


def test_a_factor_of_a_layer_matters_within_a_model_alone():
    probes = [PROBE, synthetic_probe(seed=1)]
    factor, plain = Expression.parse("div(W, G)"), Expression.parse("W")
    for group in ("layer", "model"):
        sparsity = Sparsity(0.5, group=group)
        keys = [ranking_key(e, probes, sparsity) for e in (factor, plain)]
        assert (keys[0] == keys[1]) == (group == "layer")


def test_only_the_order_within_a_run_matters_for_a_pattern():
    runs = torch.arange(256)[None] // 4
    probe = Probe(PROBE.W, (1000.0 * runs).double(), PROBE.G, PROBE.D)
    keys = {
        str(sparsity): {ranking_key(Expression.parse(f), [probe], sparsity) for f in ("W + X", "W")}
        for sparsity in (HALF, PATTERN)
    }
    assert [len(k) for k in keys.values()] == [2, 1]


def test_a_key_reads_every_probe():
    probes = [PROBE, synthetic_probe(seed=1)]
    wanda = CATALOG["wanda"].expression
    assert ranking_key(wanda, probes, HALF) != ranking_key(wanda, probes[:1], HALF)


@pytest.mark.parametrize("formula", ["2", "W - W", "G / G", "W ** 0", "(W + G) / (G + W)", "0 * W"])
def test_a_metric_that_is_constant_is_refused(formula):
    with pytest.raises(ScoreError, match="constant"):
        key(formula)


@pytest.mark.parametrize("formula", ["mms(2)", "zsn(W - W)", "W * 1e300 * 1e300", "log(W) ** 1e9"])
def test_a_metric_that_is_not_finite_is_refused(formula):
    with pytest.raises(ScoreError, match="finite"):
        key(formula)


def test_a_probe_narrower_than_a_run_is_refused():
    with pytest.raises(SparsityError, match="probe of 256 inputs cannot show 1:512"):
        key("W", Sparsity.parse("1:512"))


def test_a_probe_is_an_evenly_spaced_sample():
    W = -torch.arange(300.0 * 1000).reshape(300, 1000)
    X = torch.arange(1000.0)
    probe = Probe.of(W.bfloat16(), X, W)
    assert probe.W.shape == probe.G.shape == (32, 256) and probe.X.shape == (1, 256)
    assert {t.dtype for t in (probe.W, probe.X, probe.G)} == {torch.float64}
    assert (probe.W >= 0).all() and (probe.X.diff() >= 3).all() and (probe.X.diff() <= 4).all()


def test_a_probe_of_a_small_layer_is_the_layer():
    W, X = torch.rand(30, 200), torch.rand(200)
    probe = Probe.of(W, X, W)
    assert torch.equal(probe.W, W.double()) and torch.equal(probe.X, X.double()[None])


def test_synthetic_probes_repeat():
    assert torch.equal(synthetic_probe(7).W, synthetic_probe(7).W)
    assert not torch.equal(synthetic_probe(7).W, synthetic_probe(8).W)


def test_agreement_is_the_share_of_weights_pruned_by_both():
    magnitude, opposite = Expression.parse("W"), Expression.parse("-W")
    assert agreement(magnitude, Expression.parse("sqr(W)"), PROBE, HALF) == 1.0
    assert agreement(magnitude, opposite, PROBE, HALF) == 0.0
    assert agreement(magnitude, opposite, PROBE, Sparsity(0.75)) == pytest.approx(2 / 3)
    assert agreement(magnitude, opposite, PROBE, Sparsity(0.0)) == 1.0
    assert probe_scores(magnitude, PROBE).dtype == torch.float64


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32)
        | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
        min_size=2,
        max_size=40,
    )
)
def test_rows_are_ordered_as_a_stable_argsort_orders_them(scores: list[float]) -> None:
    exact = np.array([scores])
    rounded = ((exact.view(np.int64) + (1 << 11)) & ~((1 << 12) - 1)).view(np.float64)
    expected = rounded.argsort(axis=1, kind="stable")
    order, lowest = _lowest(_rounded(exact), 0.5)
    assert order.tolist() == expected.tolist()
    half = round(len(scores) / 2)
    assert set(np.flatnonzero(lowest)) == set(expected[0, :half].tolist())
