"""What is told of a metric, and of those it ranks like."""

import pytest

from prunerzero.metrics import CATALOG, Expression, ScoreError
from prunerzero.tasks.explain import explain


def test_an_explanation_tells_words_simplified_form_tree_and_relatives():
    explanation = explain(Expression.parse("exp(sqr(W) * X)"))
    assert explanation.formula == "exp(sqr(W) * X)"
    assert explanation.words.startswith("A weight is kept when this is large: the exponential of")
    assert explanation.simplified == "W * sqrt(X)"
    assert explanation.tree.splitlines() == [
        "exp",
        "└─ mul",
        "   ├─ sqr",
        "   │  └─ W",
        "   └─ X",
    ]
    assert explanation.agreement.keys() == CATALOG.keys()
    assert explanation.agreement["magnitude"] < 0.95


@pytest.mark.parametrize("name", CATALOG)
def test_every_catalog_metric_is_the_same_as_itself_alone(name):
    explanation = explain(CATALOG[name])
    assert explanation.same_as == (name,)
    assert explanation.agreement[name] == 1.0
    assert explanation.source == CATALOG[name].source
    assert all(0 <= share <= 1 for share in explanation.agreement.values())


@pytest.mark.parametrize("formula", ["X * W", "X * W * G", str(CATALOG["fisher-obs"].expression)])
def test_what_is_only_written_in_another_order_is_not_told_as_simpler(formula):
    assert explain(Expression.parse(formula)).simplified == formula


def test_a_metric_that_ranks_like_a_known_one_is_recognised():
    assert explain(Expression.parse("log(sqr(W) * X + 1) - 2")).same_as == ("wanda",)


@pytest.mark.parametrize("formula", ["2", "W - W", "mms(2)"])
def test_what_ranks_nothing_is_refused(formula):
    with pytest.raises(ScoreError):
        explain(Expression.parse(formula))
