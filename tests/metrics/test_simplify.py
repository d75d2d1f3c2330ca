"""Simplifying never changes a mask; equal metrics read alike; opposing operations are removed."""

import random
from collections.abc import Callable

import pytest
import torch
from random_trees import random_tree, statistics
from torch import Tensor

from prunerzero.metrics import CATALOG, Expression, Sparsity
from prunerzero.metrics.expression import evaluate
from prunerzero.metrics.simplify import canonical, remove_opposing, simplify
from prunerzero.metrics.sparsity import Group
from prunerzero.scoring import prune_mask

pytestmark = pytest.mark.filterwarnings("error")

TREES = 2000
STATISTICS = statistics()
SHAPE = STATISTICS["W"].shape
OTHER_LAYER = {name: 3 * value.flip(0) + 0.1 for name, value in STATISTICS.items()}

FORMS: list[Callable[..., Expression]] = [simplify, canonical]


def trees(count: int = TREES, first: int = 0):
    for seed in range(first, first + count):
        rng = random.Random(seed)
        yield random_tree(rng, rng.randint(1, 6), published=seed % 2 == 0)


def scores_of(expression: Expression, statistics: dict[str, Tensor] = STATISTICS) -> Tensor:
    return evaluate(expression, statistics).expand(SHAPE)


def in_order(original: Tensor, simplified: Tensor) -> bool:
    """Whether the second rises wherever the first does, in each row, by more than rounding.

    Wherever scores rise clearly, so that whatever the sparsity the same weights are pruned.
    """
    order = original.argsort(dim=1, stable=True)
    original, simplified = original.gather(1, order), simplified.gather(1, order)
    margin = 1e-9 * original.abs().amax(1, keepdim=True)
    rises = original.diff(dim=1) > margin
    return not (rises & (simplified.diff(dim=1) <= 0)).any()


def competing(expression: Expression, group: Group) -> Tensor:
    """Scores in groups that compete, one in each row."""
    if group == "row":
        return scores_of(expression)
    layers = [STATISTICS] if group == "layer" else [STATISTICS, OTHER_LAYER]
    return torch.cat([scores_of(expression, layer).reshape(1, -1) for layer in layers], dim=1)


@pytest.mark.parametrize("group", ["row", "layer", "model"])
def test_the_order_of_scores_is_kept_on_random_trees(group: Group):
    compared = dict.fromkeys(FORMS, 0)
    for tree in trees():
        scores = competing(tree, group)
        if not torch.isfinite(scores).all():
            continue
        for form in FORMS:
            simplified = form(tree, group)
            if simplified == tree:
                continue
            if not simplified.terminals:  # rounding alone told weights apart
                terms = [scores_of(node).abs().max() for _, node in tree.subtrees()]
                assert scores.std(1).max() <= 1e-12 * max(t for t in terms if torch.isfinite(t))
                continue
            after = competing(simplified, group)
            if not torch.isfinite(after).all():  # exp had stopped at its limit what grows too large
                continue
            assert in_order(scores, after), f"{tree} became {simplified}"
            compared[form] += 1
    assert min(compared.values()) > TREES / 2


def is_tie_free(scores: Tensor, sparsity: Sparsity, margin: float = 1e-6) -> bool:
    """Whether clear gaps lie between all scores that compete."""
    ranked = scores.reshape(-1, sparsity.of or scores.shape[1]).sort(1).values
    return bool((ranked.diff(dim=1) > margin * ranked.abs().amax(1, keepdim=True)).all())


@pytest.mark.parametrize("text", ["0.5", "0.25", "2:4", "4:8"])
def test_masks_in_fp32_are_kept_on_random_trees(text: str):
    sparsity, compared = Sparsity.parse(text), 0
    dense = {name: value.clone() for name, value in STATISTICS.items()}
    for value in dense.values():
        value += 1e-3  # no zeros, which tie
    single = {name: value.float() for name, value in dense.items()}
    for tree in trees(1500, first=10_000):
        scores = tree.score(**single)
        simplified = canonical(tree)
        if simplified == tree or not torch.isfinite(scores).all():
            continue
        if not is_tie_free(scores, sparsity):
            continue
        mask = prune_mask(scores, sparsity)
        if not torch.equal(mask, prune_mask(scores_of(tree, dense), sparsity)):
            continue  # fp32 is not enough for the original
        after = simplified.score(**single)
        assert torch.equal(prune_mask(after, sparsity), mask), f"{tree} became {simplified}"
        compared += 1
    assert compared > 250


def test_simplifying_never_makes_longer():
    for tree in trees(first=20_000):
        for group in ("row", "layer", "model"):
            assert simplify(tree, group).size <= tree.size, f"{tree} became {simplify(tree, group)}"


def test_simplifying_twice_is_simplifying_once():
    for tree in trees(first=30_000):
        for form in FORMS:
            once = form(tree)
            assert form(once) == once, f"{tree} became {once}"


def shuffled(rng: random.Random, e: Expression) -> Expression:
    """The same tree with the arguments of commutative operators exchanged at random."""
    arguments = [shuffled(rng, a) for a in e.arguments]
    if e.name in ("add", "mul", "max", "min") and rng.random() < 0.5:
        arguments.reverse()
    return Expression(e.name, tuple(arguments), e.value)


def test_exchanging_commutative_arguments_does_not_change_the_canonical_form():
    for seed, tree in enumerate(trees(first=40_000)):
        exchanged = shuffled(random.Random(seed), tree)
        assert canonical(exchanged) == canonical(tree), f"{tree} and {exchanged}"


@pytest.mark.parametrize(
    ("formula", "simplified"),
    [
        # at the root: increasing functions, constants, factors that a row shares
        ("exp(tanh(mms(zsn(skp(W)))))", "W"),
        ("log(sqrt(sqr(W)))", "W"),
        ("div(W, G)", "W"),
        ("W * X + 3", "W * X"),
        ("2 - W * X", "-(W * X)"),
        ("W * X / 2", "W * X"),
        ("W * -2", "-W"),
        ("rownorm(W) * G", "W * G"),
        ("rownorm(W) * div(G, X) * 3", "W * G"),
        ("sqrt(rownorm(W * G))", "W * G"),
        ("W + W + X + X", "W + X"),
        ("2 / W", "-W"),
        ("W ** -0.5", "-W"),
        ("W ** 0.3", "W"),
        ("-(W - X)", "X - W"),
        ("sqr(W - X)", "abs(W - X)"),
        ("-exp(W)", "-W"),
        ("log(W - X)", "abs(W - X)"),
        ("sqr(W) * X", "W * sqrt(X)"),
        ("W * W * X", "W * sqrt(X)"),
        ("sqrt(W) * sqrt(sqrt(X))", "W * sqrt(X)"),
        ("abs(W * W) * mms(G)", "W * sqrt(mms(G))"),
        ("W * X ** 0.5 * G ** 0.25", "W * sqrt(X * sqrt(G))"),
        ("X - W - X", "-W"),
        ("(W + X) * zsn(G) + (X - X)", "(W + X) * zsn(G)"),
        # inside: what keeps every value
        ("zsn(G) * neg(neg(W))", "zsn(G) * W"),
        ("zsn(G) * sqrt(sqr(W))", "zsn(G) * W"),
        ("zsn(G) + sqr(zsn(W) * zsn(W))", "zsn(G) + sqr(sqr(zsn(W)))"),
        ("zsn(G) + W * W", "zsn(G) + sqr(W)"),
        ("zsn(G) * (W + G - W)", "zsn(G) * G"),
        ("zsn(G) * (W - (G - X))", "zsn(G) * (W + X - G)"),
        ("zsn(G) + mms(zsn(W * 2 + 1))", "zsn(G) + mms(W)"),
        ("zsn(G) + zsn(3 - W)", "zsn(G) - zsn(W)"),
        ("zsn(G) + colnorm(div(W, X) * 3)", "zsn(G) + colnorm(W)"),
        ("zsn(G) + max(W, max(X, W))", "zsn(G) + max(W, X)"),
        ("zsn(G) + W * (1 + 1)", "zsn(G) + W * 2"),
        ("zsn(G) + W * 3 ** (1 + 1)", "zsn(G) + W * 9"),
        ("zsn(G) + W * 10 ** -3", "zsn(G) + W * 0.001"),
        ("zsn(G) + (W ** 2) ** 0.5", "zsn(G) + W"),
        ("zsn(G) + W ** 0.3 * W ** 0.4", "zsn(G) + W ** 0.7"),
    ],
)  # fmt: skip
def test_is_simplified(formula, simplified):
    assert str(simplify(Expression.parse(formula))) == simplified


@pytest.mark.parametrize(
    "formula",
    [
        "W * G / G",  # is 0 where G is 0
        "W / G * G",
        "zsn(G) + exp(log(W))",  # log adds an offset
        "zsn(G) + log(exp(W))",
        "exp(W) * exp(X)",  # exp stops at its limit
        "W / X / G",  # W / (X * G) is protected elsewhere
        "W / zsn(X)",  # a divisor that is 0 counts as positive: no sign may pass
        "(X + W - W) * zsn(W) + div(W, X + W - W)",  # the norm of X over a matrix is not X's own
        "W * zsn(X + W - W)",
        "W * X * zsn(div(X, W))",
        "log(W) + log(X)",
    ],
)
def test_is_left_alone_because_it_would_change_masks(formula):
    before = Expression.parse(formula)
    after = simplify(before)
    assert after.size == before.size
    assert in_order(scores_of(before), scores_of(after)) and in_order(
        scores_of(after), scores_of(before)
    )


def test_within_a_layer_a_row_may_not_be_scaled():
    formula = Expression.parse("rownorm(W) * G")
    assert str(simplify(formula, "row")) == "W * G"
    assert simplify(formula, "layer") == formula


@pytest.mark.parametrize(
    ("formula", "within_a_layer"),
    [
        ("mms(W)", "W"),
        ("zsn(G) * 2", "G"),
        ("div(W, X)", "W"),
        ("div(W * 2, G) * X", "W * X"),
        ("exp(mms(W))", "W"),
    ],
)
def test_within_a_model_a_layer_may_not_be_scaled(formula, within_a_layer):
    before = Expression.parse(formula)
    assert str(simplify(before, "layer")) == within_a_layer
    after = simplify(before, "model")
    assert {"mms", "zsn", "div"} & {node.name for _, node in after.subtrees()}
    assert in_order(competing(before, "model"), competing(after, "model"))


@pytest.mark.parametrize(
    "formulas",
    [
        ("W * X * G", "G * (X * W)", "X * G * W"),
        ("W * W * G", "G * W * W", "sqr(W) * G", "G * (W * W)", "pow(W) * G", "sqrt(G) * W"),
        ("W + X + G", "G + (X + W)", "X + (W + G) + 1"),
        ("W - X - G", "W - (G + X)", "W - G - X", "neg(X) + (W - G)"),
        ("abs(W - G)", "sqr(G - W)", "sqrt(W - G)", "log(G - W)", "exp(abs(G - W))"),
        ("sqr(mms(W) - G)", "(mms(W) - G) * (mms(W) - G)", "(G - mms(W)) * (G - mms(W))"),
        ("W / G * X", "X * W / G", "X / G * W", "W * (X / G)"),
        ("W / X / G", "W / G / X"),
        ("max(W, max(X, G))", "max(max(G, W), X)", "max(X, max(W, max(G, X)))"),
        ("W * sqrt(X)", "sqr(W) * X", "exp(W * W * X)", "W * X ** 0.5", "sqrt(sqr(W) * X)"),
        ("mms(G) * zsn(W)", "zsn(3 * W + 1) * mms(G / 2)"),
        ("-W", "1 - W", "1 / W", "neg(exp(W))", "W - W - W"),
    ],
)
def test_what_means_the_same_has_one_canonical_form(formulas):
    assert len({canonical(Expression.parse(formula)) for formula in formulas}) == 1


def test_catalog_metrics_have_different_canonical_forms():
    assert len({canonical(metric.expression) for metric in CATALOG.values()}) == len(CATALOG)


# Opposing Operation Simplification


@pytest.mark.parametrize(
    ("formula", "without"),
    [
        ("exp(log(W))", "W"),
        ("exp(log(W - X))", "abs(W - X)"),
        ("log(exp(W - X))", "W - X"),
        ("sqrt(sqr(W))", "W"),
        ("sqrt(pow(zsn(W)))", "abs(zsn(W))"),
        ("sqr(sqrt(W))", "W"),
        ("pow(sqrt(zsn(W)))", "abs(zsn(W))"),
        ("neg(neg(W))", "W"),
        ("skp(W)", "W"),
        ("W + X - X", "W"),
        ("X + W - X", "W"),
        ("W - X + X", "W"),
        ("X + (W - X)", "W"),
        ("X - (X - W)", "W"),
        ("X - (X + W)", "-W"),
        ("X - (W + X)", "-W"),
        ("X - W - X", "-W"),
        ("W * G / G", "W"),
        ("G * W / G", "W"),
        ("W / G * G", "W"),
        ("G * (W / G)", "W"),
        ("sqrt(sqr(exp(log(neg(neg(W))))))", "W"),
        ("sqrt(skp(sqr(W))) * G", "W * G"),
        ("W * log(exp(X + G - G))", "W * X"),
        ("div(W * G, G)", "div(W * G, G)"),  # divided by a norm, nothing is undone
        ("W - X - G", "W - X - G"),
        ("W / G / G", "W / G / G"),
    ],
)
def test_opposing_operations_are_removed(formula, without):
    assert remove_opposing(Expression.parse(formula)) == Expression.parse(without)


def test_removing_opposing_operations_ends_and_never_makes_longer():
    for tree in trees(first=50_000):
        once = remove_opposing(tree)
        assert once.size <= tree.size and remove_opposing(once) == once
