"""What a formula means, in words."""

import pytest

from prunerzero.metrics import Expression
from prunerzero.metrics.explain import draw_tree, in_words
from prunerzero.metrics.operators import OPERATORS, TERMINALS, TERMINALS_JA


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_can_be_told_in_words_and_drawn(name):
    arguments = (Expression("W"), Expression.constant(0.5))[: OPERATORS[name].arity]
    tree = Expression(name, arguments)
    assert "the weight's magnitude" in in_words(tree)
    assert draw_tree(tree).startswith(name) and len(draw_tree(tree).splitlines()) == tree.size


def test_every_terminal_is_told_in_words_of_its_own():
    for terminals, language in ((TERMINALS, "en"), (TERMINALS_JA, "ja")):
        told = {in_words(Expression.parse(f"W * {name}"), language) for name in terminals}
        assert len(told) == len(TERMINALS) == 4


def test_nested_words_are_told_apart_by_parentheses():
    words = in_words(Expression.parse("(W + X) * G"))
    assert words.startswith("(") and words.index(")") < words.index("times")
