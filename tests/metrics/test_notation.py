"""Text ⇄ Expression ⇄ the published JSON."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_tree

from prunerzero.metrics import Expression, NotationError
from prunerzero.metrics.notation import MAX_DEPTH
from prunerzero.metrics.operators import OPERATORS, TERMINALS

W, X, G = (Expression(name) for name in "WXG")


def e(name: str, *arguments: Expression) -> Expression:
    return Expression(name, arguments)


def constant(value: float) -> Expression:
    return Expression.constant(value)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("W", W),
        ("W + X * G", e("add", W, e("mul", X, G))),
        ("W * D", e("mul", W, Expression("D"))),
        ("(W + X) * G", e("mul", e("add", W, X), G)),
        ("W - X - G", e("sub", e("sub", W, X), G)),
        ("W - (X - G)", e("sub", W, e("sub", X, G))),
        ("W / X / G", e("ediv", e("ediv", W, X), G)),
        ("div(W, X)", e("div", W, X)),
        ("W ** X ** G", e("epow", W, e("epow", X, G))),
        ("(W ** X) ** G", e("epow", e("epow", W, X), G)),
        ("-W ** 2", e("neg", e("epow", W, constant(2)))),
        ("(-W) ** 2", e("epow", e("neg", W), constant(2))),
        ("-2 ** W", e("neg", e("epow", constant(2), W))),
        ("(-2) ** W", e("epow", constant(-2), W)),
        ("W ** -2", e("epow", W, constant(-2))),
        ("W ** -X ** 2", e("epow", W, e("neg", e("epow", X, constant(2))))),
        ("-W * X", e("mul", e("neg", W), X)),
        ("W - -X", e("sub", W, e("neg", X))),
        ("W - -2", e("sub", W, constant(-2))),
        ("--W", e("neg", e("neg", W))),
        ("neg(-2)", e("neg", constant(-2))),
        ("max(W, .5e1)", e("max", W, constant(5))),
        (" abs( W*W )\n* mms(G)", e("mul", e("abs", e("mul", W, W)), e("mms", G))),
        ("W ^ 2", e("epow", W, constant(2))),
    ],
)
def test_text_reads_as_the_tree_and_prints_back_to_it(text, tree):
    assert Expression.parse(text) == tree
    assert Expression.parse(str(tree)) == tree


def test_text_is_printed_with_as_few_parentheses_as_possible():
    for text in ("abs(W * W) * mms(G)", "W - (X - G)", "-(W + X) ** 2 / G", "W ** -0.5 + -2 * X"):
        assert str(Expression.parse(text)) == text


def test_parsing_what_was_printed_is_the_identity_on_random_trees():
    for seed in range(3000):
        tree = random_tree(random.Random(seed), depth=seed % 7)
        assert Expression.parse(str(tree)) == tree


def test_json_survives_the_round_trip_on_random_trees():
    for seed in range(1000):
        tree = random_tree(random.Random(seed), depth=seed % 7)
        assert Expression.from_json(json.loads(json.dumps(tree.to_json()))) == tree


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_constant_survives_text_and_json(value):
    for tree in (constant(value), e("neg", constant(value)), e("epow", constant(value), W)):
        assert Expression.parse(str(tree)) == tree
        assert Expression.from_json(json.loads(json.dumps(tree.to_json()))) == tree


@pytest.mark.parametrize("name", list(OPERATORS))
def test_every_operator_survives_text_and_json(name):
    tree = e(name, *(W, X)[: OPERATORS[name].arity])
    assert Expression.parse(str(tree)) == tree
    assert Expression.from_json(tree.to_json()) == tree


@pytest.mark.parametrize("name", [*OPERATORS, *TERMINALS])
def test_a_tree_of_the_greatest_depth_survives_text_and_json(name):
    tree = Expression("W")
    while tree.depth < MAX_DEPTH:
        if name in TERMINALS:
            tree = e("neg", e("mul", W, tree)) if tree.depth < MAX_DEPTH - 1 else e("abs", tree)
        else:
            tree = e(name, *(W, tree)[-OPERATORS[name].arity :])
    assert Expression.parse(str(tree)) == tree
    assert Expression.from_json(tree.to_json()) == tree


# What is refused


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("W *", 3, "ends too early"),
        ("W * (X", 6, "')' is expected here, but the formula ends"),
        ("W X", 2, "'X' is not expected here"),
        ("2W", 1, "'W' is not expected here"),
        ("W * $", 4, "'$' is not part of the notation"),
        ("sqt(W)", 0, "did you mean 'sqrt'?"),
        ("W + Sqrt(X)", 4, "did you mean 'sqrt'?"),
        ("w * X", 0, "did you mean 'W'?"),
        ("abs", 3, "'(' is expected here"),
        ("abs(W, X)", 0, "'abs' takes 1 argument, not 2"),
        ("W + mul(W)", 4, "'mul' takes 2 arguments, not 1"),
        ("abs()", 4, "')' is not expected here"),
        ("W + 1e999", 4, "one finite number"),
        ("W)", 1, "')' is not expected here"),
        (", W", 0, "',' is not expected here"),
        ("**", 0, "'**' is not expected here"),
    ],
)
def test_a_formula_that_does_not_parse_is_refused_at_the_place(text, position, words):
    with pytest.raises(NotationError) as refusal:
        Expression.parse(text)
    assert refusal.value.position == position
    assert words in str(refusal.value)


def test_the_refusal_points_at_the_place_under_the_formula():
    with pytest.raises(NotationError) as refusal:
        Expression.parse("W * sqrt(X) + " * 20 + "sqt(G) * W")
    message, excerpt, pointer = str(refusal.value).splitlines()
    assert excerpt[pointer.index("^") :].startswith("sqt(G)")
    assert len(excerpt) < 80


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000 + "W" + ")" * 10_000,
        "(" * 10_000,
        "-" * 10_000 + "W",
        "abs(" * 10_000 + "W" + ")" * 10_000,
        "W ** " * 10_000 + "W",
        "W + " * 10_000 + "W",
        "W - (" * 10_000,
        "W * -" * 10_000 + "W",
    ],
)
def test_text_nested_ten_thousand_deep_is_refused(text):
    with pytest.raises(NotationError, match="nested deeper") as refusal:
        Expression.parse(text)
    assert len(str(refusal.value)) < 300


def test_a_name_without_end_is_not_repeated_in_full():
    with pytest.raises(NotationError) as refusal:
        Expression.parse("x" * 100_000)
    assert len(str(refusal.value)) < 500


@settings(max_examples=300)
@given(st.text(alphabet="WXG0123.eE+-*/^(), sqrtabmindz", max_size=40))
def test_any_text_is_an_expression_or_refused(text):
    try:
        tree = Expression.parse(text)
    except NotationError as refusal:
        assert refusal.position is not None and 0 <= refusal.position <= len(text)
    else:
        assert Expression.parse(str(tree)) == tree


def nested(depth: int) -> dict:
    tree: dict = {"data": "W"}
    for _ in range(depth):
        tree = {"data": "abs", "left": tree}
    return tree


def cyclic() -> dict:
    tree: dict = {"data": "mul"}
    tree["left"] = tree["right"] = tree
    return tree


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"data": "abs"}, "no 'left' child"),
        ({"data": "mul", "left": {"data": "W"}}, "no 'right' child"),
        ({"data": "mul", "right": {"data": "W"}}, "no 'left' child"),
        ({"data": "W", "left": {"data": "W"}}, "'left' child too many"),
        ({"data": "abs", "left": {"data": "W"}, "right": {"data": "W"}}, "'right' child too many"),
        ({"data": 2.0, "left": {"data": "W"}}, "child too many"),
        ({"data": "mull", "left": {"data": "W"}, "right": {"data": "W"}}, "did you mean 'mul'?"),
        ({"data": "abs", "left": "W"}, "must be an object"),
        ({"data": "abs", "left": [{"data": "W"}]}, "a list"),
        ({"left": {"data": "W"}}, "without 'data'"),
        ({"data": None}, "unknown operator None"),
        ({"data": True}, "unknown operator True"),
        ({"data": ["abs"]}, "unknown operator a list"),
        ({"data": {"data": "W"}}, "unknown operator"),
        ({"data": float("nan")}, "one finite number"),
        ({"data": float("inf")}, "one finite number"),
        ({"data": 10**400}, "too large"),
        ({"data": 10**5000}, "too large"),
        ({}, "must be an object"),
        ([], "must be an object"),
        (None, "must be an object"),
        ("W", "must be an object"),
        (3, "must be an object"),
        (nested(10_000), "nested deeper"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (cyclic(), "nested deeper"),
    ],
    ids=lambda value: None if isinstance(value, str) else "tree",
)
def test_json_that_is_no_tree_is_refused(tree, words):
    with pytest.raises(NotationError) as refusal:
        Expression.from_json(tree)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_json_may_say_null_for_a_child_that_is_not_there():
    tree = {"data": "abs", "left": {"data": "W", "left": None, "right": None}, "right": None}
    assert Expression.from_json(tree) == e("abs", W)
