"""The named metrics give the published formulas."""

import pytest
import torch
from random_trees import statistics
from torch import Tensor

from prunerzero.metrics import CATALOG, Expression, NotationError, find_metric, power_law


def layer() -> tuple[Tensor, Tensor, Tensor]:
    values = statistics(3)
    signs = torch.randn(values["W"].shape).sign()
    return tuple(v.float() for v in (values["W"] * signs, values["X"], values["G"]))  # type: ignore


def ria(W: Tensor, X: Tensor, G: Tensor) -> Tensor:
    relative = W.abs() / W.abs().sum(1, keepdim=True) + W.abs() / W.abs().sum(0, keepdim=True)
    return relative * X.sqrt() ** 0.5


def pruner_zero(W: Tensor, X: Tensor, G: Tensor) -> Tensor:
    return (W * W).abs() * ((G - G.min()) / (G.max() - G.min()))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("magnitude", lambda W, X, G: W.abs()),
        ("wanda", lambda W, X, G: W.abs() * X.sqrt()),
        ("ria", ria),
        ("gblm", lambda W, X, G: W.abs() * X.sqrt() + W.abs() * G),
        ("pruner-zero", pruner_zero),
        ("power-law", lambda W, X, G: W.abs() * X**0.5 * G**0.25),
        ("power-law(1,0.5)", lambda W, X, G: W.abs() * X * G**0.5),
        ("power-law(0,0)", lambda W, X, G: W.abs()),
        ("power-law(-0.5,2)", lambda W, X, G: W.abs() * X**-0.5 * G**2),
        ("power-law(0.5, 0, 0)", lambda W, X, G: W.abs() * X**0.5),
        ("Power-Law( .25 , 1e-1 )", lambda W, X, G: W.abs() * X**0.25 * G**0.1),
    ],
)
def test_gives_the_published_scores(name, published):
    W, X, G = layer()
    X[:, 3] = 1.0  # 0 to a negative power is infinite
    scores = find_metric(name).expression.score(W=W, X=X, G=G)
    torch.testing.assert_close(scores, published(W, X, G), rtol=1e-5, atol=0)


def test_optimal_brain_surgeon_weighs_by_what_other_inputs_cannot_replace():
    W, D = layer()[0], torch.rand(16)
    assert torch.equal(find_metric("obs").expression.score(W=W, D=D), W.abs() * D)


def test_every_metric_is_found_by_its_name_and_says_where_it_comes_from():
    for name, metric in CATALOG.items():
        assert find_metric(f" {name.upper()} ") is metric
        assert metric.name == name and metric.source


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 0.123456789, -2.0])
@pytest.mark.parametrize("b", [0.25, 1e-7])
def test_a_power_law_is_found_by_the_name_it_has(a, b):
    assert find_metric(power_law(a, b).name) == power_law(a, b)
    assert find_metric(power_law(a, b, 0.75).name) == power_law(a, b, 0.75)


@pytest.mark.parametrize(
    "formula", ["W", "W-X", "W - G", "W-X-G", "abs(W * W) * mms(G)", "-W", "2"]
)
def test_a_formula_is_a_metric_named_by_itself(formula):
    metric = find_metric(formula)
    assert metric.name == formula and metric.expression == Expression.parse(formula)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wandda", "there is no metric named 'wandda'; did you mean 'wanda'?"),
        ("pruner_zero", "did you mean 'pruner-zero'?"),
        ("Magnitud", "did you mean 'magnitude'?"),
        (
            "xyzzy",
            "known are magnitude, wanda, ria, gblm, fisher, obs, pruner-zero, fisher-obs, "
            "power-law.",
        ),
        ("WX", "there is no metric named 'WX'"),
        ("power-law(a,b)", "must hold two or three numbers"),
        ("power-law(nan,1)", "must hold two or three numbers"),
        ("power-law(1,2,3,4)", "must hold two or three numbers"),
        ("W * sqt(X)", "did you mean 'sqrt'?"),
        ("", "empty"),
    ],
)
def test_a_name_that_is_unknown_is_refused_with_the_nearest(text, words):
    with pytest.raises(NotationError) as refusal:
        find_metric(text)
    assert words in str(refusal.value)
