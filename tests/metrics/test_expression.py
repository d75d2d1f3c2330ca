"""A metric as a value: immutable, hashable, picklable; its structure and its scores."""

import copy
import os
import pickle
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
import torch
from random_trees import random_tree

from prunerzero.metrics import Expression, NotationError, ScoreError
from prunerzero.metrics.notation import MAX_DEPTH

pytestmark = pytest.mark.filterwarnings("error")

WANDA = Expression.parse("W * sqrt(X)")


def test_an_expression_cannot_be_changed():
    for name in ("name", "arguments", "value", "size", "depth"):
        with pytest.raises(FrozenInstanceError):
            setattr(WANDA, name, None)


def test_equal_expressions_have_equal_hashes():
    for seed in range(200):
        tree, same = (random_tree(random.Random(seed), 4) for _ in range(2))
        assert tree == same and hash(tree) == hash(same) and len({tree, same}) == 1
    assert Expression.parse("W - X") != Expression.parse("X - W")
    assert Expression.parse("W") != "W"


def test_minus_zero_is_zero():
    assert str(Expression.constant(-0.0)) == "0"
    assert Expression.constant(-0.0) == Expression.constant(0.0)


def test_copies_and_pickles_are_equal():
    for seed in range(100):
        tree = random_tree(random.Random(seed), 5)
        assert pickle.loads(pickle.dumps(tree)) == tree == copy.deepcopy(tree)


def test_a_pickle_is_found_in_a_set_of_another_process():
    text = "abs(W * W) * mms(G)"
    code = (
        "import pickle, sys; from prunerzero.metrics import Expression;"
        f"assert pickle.loads(sys.stdin.buffer.read()) in {{Expression.parse({text!r})}}"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(Expression.parse(text)),
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("sqroot", (WANDA,)),
        ("sqrt",),
        ("sqrt", (WANDA, WANDA)),
        ("W", (WANDA,)),
        ("W", (), 1.0),
        ("sqrt", (WANDA,), 1.0),
        ("constant",),
        ("constant", (WANDA,), 1.0),
        ("constant", (), float("nan")),
        ("constant", (), float("inf")),
    ],
)
def test_what_is_no_expression_cannot_be_made(arguments):
    with pytest.raises(NotationError):
        Expression(*arguments)


def test_a_tree_deeper_than_the_limit_cannot_be_made():
    tree = Expression("W")
    for _ in range(MAX_DEPTH):
        tree = Expression("abs", (tree,))
    assert tree.depth == MAX_DEPTH
    with pytest.raises(NotationError, match="deeper"):
        Expression("abs", (tree,))


def test_size_counts_nodes_and_depth_counts_edges():
    assert (WANDA.size, WANDA.depth) == (4, 2)
    assert (Expression("W").size, Expression("W").depth) == (1, 0)


def test_terminals_are_those_that_are_read():
    assert WANDA.terminals == {"W", "X"}
    assert Expression.constant(2).terminals == frozenset()


def test_replacing_every_subtree_by_itself_changes_nothing():
    for seed in range(100):
        tree = random_tree(random.Random(seed), 5)
        paths = list(tree.subtrees())
        assert len(paths) == tree.size and paths[0] == ((), tree)
        assert all(tree.replace(path, node) == tree for path, node in paths)


def test_replacing_a_subtree_changes_the_new_tree_alone():
    changed = WANDA.replace((1, 0), Expression("G"))
    assert (str(changed), str(WANDA)) == ("W * sqrt(G)", "W * sqrt(X)")


# Scores


def layer(dtype=torch.float32):
    W = torch.tensor([[-3.0, 2.0, 0.0], [1.0, -5.0, 4.0]], dtype=dtype)
    X = torch.tensor([4.0, 9.0, 16.0], dtype=dtype)
    return W, X, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_fp32_for_any_float_type(dtype):
    W, X, _ = layer(dtype)
    scores = WANDA.score(W=W, X=X)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[6.0, 6.0, 0.0], [2.0, 15.0, 16.0]]


def test_activations_may_be_a_vector_or_a_row():
    W, X, _ = layer()
    assert torch.equal(WANDA.score(W=W, X=X), WANDA.score(W=W, X=X[None]))


@pytest.mark.parametrize("formula", ["W", "X", "G", "2", "skp(G)", "sqrt(X)", "W * G", "zsn(2)"])
def test_scores_have_the_shape_of_the_weights_and_are_the_callers_own(formula):
    W, X, G = layer()
    before = [t.clone() for t in (W, X, G)]
    scores = Expression.parse(formula).score(W=W, X=X, G=G)
    assert scores.shape == W.shape
    scores.fill_(7)
    assert all(torch.equal(t, b) for t, b in zip((W, X, G), before, strict=True))


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_d_is_a_number_for_each_input(shape):
    W, X, G = layer()
    D = torch.tensor([0.5, 0.0, 2.0])
    scores = Expression.parse("W * D + X * G").score(W=W, X=X, G=G, D=D.reshape(shape))
    assert torch.equal(scores, W.abs() * D + X * G)


def test_scores_of_parameters_build_no_graph():
    W, X, G = layer()
    scores = Expression.parse("W * G").score(W=torch.nn.Parameter(W), G=G.requires_grad_())
    assert not scores.requires_grad


@pytest.mark.parametrize(("formula", "count"), [("mms(2)", 6), ("zsn(W - W)", 6), ("X ** -1", 0)])
def test_non_finite_scores_are_left_as_they_are(formula, count):
    W, X, G = layer()
    scores = Expression.parse(formula).score(W=W, X=X, G=G)
    assert int(scores.isnan().sum()) == count
    infinite = Expression.parse("W ** -1").score(W=W)
    assert infinite[0, 2] == float("inf")


def test_statistics_that_are_missing_or_misshapen_are_refused():
    W, X, G = layer()
    for formula, given, words in [
        ("W * X", {}, "none were given"),
        ("W * G", {}, "none were given"),
        ("W * X", {"X": X[:2]}, "3 inputs"),
        ("W * X", {"X": X.reshape(3, 1)}, "3 inputs"),
        ("W * G", {"G": G.T}, "shape of W"),
        ("W * D", {}, "none were given"),
        ("W * D", {"X": X}, "none were given"),
        ("W * D", {"D": X[:2]}, "3 inputs"),
        ("W * D", {"D": G}, "D must have one entry for each of 3 inputs"),
    ]:
        with pytest.raises(ScoreError, match=words):
            Expression.parse(formula).score(W=W, **given)
    with pytest.raises(ScoreError, match="matrix"):
        WANDA.score(W=X, X=X)


def test_what_a_metric_does_not_read_need_not_be_given():
    W, _, _ = layer()
    assert torch.equal(Expression.parse("W").score(W=W), W.abs())


@pytest.mark.parametrize("wrong", [0.5, "W", [[1.0]], object()])
@pytest.mark.parametrize("name", ["W", "X", "G", "D"])
def test_a_metric_scores_tensors_alone(name, wrong):
    given = {"W": torch.ones(2, 4), "X": torch.ones(4), "G": torch.ones(2, 4), "D": torch.ones(4)}
    with pytest.raises(ScoreError, match=f"{name} must be a torch tensor"):
        Expression.parse("W * X * G * D").score(**{**given, name: wrong})


@pytest.mark.parametrize("wrong", [None, 1j, b"W", ["W"], object])
def test_a_formula_is_text(wrong):
    with pytest.raises(NotationError, match="text"):
        Expression.parse(wrong)
