"""Every operator of the table keeps the promises of the table."""

import math

import pytest
import torch

from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS, Operator

pytestmark = pytest.mark.filterwarnings("error")

every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda o: o.name)

INF, NAN = math.inf, math.nan
AWKWARD = [0.0, -0.0, 1.0, -1.0, 1e-38, 1e-45, -1e-12, 1e12, 3e38, -3e38, INF, -INF, NAN, 100.0]


def apply(operator: Operator, *values: torch.Tensor) -> torch.Tensor:
    return operator.function(*values[: operator.arity])


@every_operator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("first", "second"),
    [((3, 4), (3, 4)), ((3, 4), (1, 4)), ((1, 4), (3, 4)), ((1, 4), (1, 4)), ((3, 4), ()),
     ((), (3, 4)), ((), ()), ((1, 1), (1, 1)), ((0, 4), (0, 4)), ((0, 4), (1, 4)),
     ((3, 0), (1, 0)), ((3, 0), ())],
)  # fmt: skip
def test_keeps_the_type_and_broadcasts_the_shapes(operator, dtype, first, second):
    values = torch.rand(first).to(dtype), torch.rand(second).to(dtype)
    result = apply(operator, *values)
    assert result.dtype == dtype
    shape = first if operator.arity == 1 else torch.broadcast_shapes(first, second)
    assert result.shape == torch.Size(shape)


@every_operator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_values_make_it_raise_or_warn(operator, dtype):
    values = torch.tensor(AWKWARD, dtype=torch.float64).to(dtype)
    count = len(values)
    row, matrix = values[None], values[:, None].expand(count, count)
    constants = [matrix[:, i : i + 1].clone() for i in range(count)]
    for first in (matrix, row, *constants):
        for second in (matrix, row, row.flip(1), *values):
            apply(operator, first, second)


@every_operator
def test_does_not_change_its_arguments(operator):
    values = torch.randn(3, 4), torch.randn(3, 4)
    copies = [value.clone() for value in values]
    apply(operator, *values)
    assert all(torch.equal(value, copy) for value, copy in zip(values, copies, strict=True))


@every_operator
def test_the_sign_column_is_true(operator):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        first, second = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
        first[0, 0] = second[1, 1] = 0
        if operator.sign == "as its arguments":
            first = first.abs()
            second = second if operator.name == "div" else second.abs()
        if operator.sign != "any":
            assert (apply(operator, first, second) >= 0).all()


@every_operator
def test_the_order_column_is_true(operator):
    generator = torch.Generator().manual_seed(0)
    if operator.order == "other":
        return
    for _ in range(50):
        first, second = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) * 4
        if operator.order == "increasing for non-negative":
            first = first.abs()
        result = apply(operator, first, second).flatten()
        assert (result[first.flatten().argsort()].diff() > 0).all()


@every_operator
def test_the_commutative_column_is_true(operator):
    generator = torch.Generator().manual_seed(0)
    if operator.arity == 2:
        first, second = torch.randn(2, 6, 8, generator=generator)
        exchanged = operator.function(second, first)
        assert torch.equal(operator.function(first, second), exchanged) == operator.commutative


@every_operator
def test_its_meaning_names_each_argument(operator):
    words = operator.meaning.format(*("first", "second")[: operator.arity])
    assert "first" in words and ("second" in words) == (operator.arity == 2)


W = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
X = torch.tensor([[4.0, 9.0]])


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("sqr(W)", [[9, 16], [0, 144]]),
        ("pow(W)", [[9, 16], [0, 144]]),
        ("neg(W)", [[-3, -4], [0, -12]]),
        ("abs(neg(W))", [[3, 4], [0, 12]]),
        ("log(neg(W))", [[math.log(3.001), math.log(4.001)], [math.log(0.001), math.log(12.001)]]),
        ("log(exp(200 * W))", [[100, 100], [math.log(1.001), 100]]),
        ("sqrt(neg(X))", [[2, 3], [2, 3]]),
        ("tanh(W)", [[math.tanh(3), math.tanh(4)], [0, math.tanh(12)]]),
        ("skp(W)", [[3, 4], [0, 12]]),
        ("mms(W)", [[0.25, 1 / 3], [0, 1]]),
        ("zsn(X)", [[-math.sqrt(0.5), math.sqrt(0.5)]] * 2),
        ("zsn(X + 0 * W)", [[-math.sqrt(0.75), math.sqrt(0.75)]] * 2),
        ("div(W, W)", [[3 / 13, 4 / 13], [0, 12 / 13]]),
        ("div(X, X)", [[4 / math.sqrt(97), 9 / math.sqrt(97)]] * 2),
        ("div(W, X)", [[3 / math.sqrt(194), 4 / math.sqrt(194)], [0, 12 / math.sqrt(194)]]),
        ("div(W, 1)", [[1.5, 2], [0, 6]]),
        ("X / W", [[4 / 3, 9 / 4], [4e12, 9 / 12]]),
        ("X / neg(W)", [[-4 / 3, -9 / 4], [4e12, -9 / 12]]),
        ("W / W", [[1, 1], [0, 1]]),
        ("W ** 2", [[9, 16], [0, 144]]),
        ("neg(W) ** 0.5", [[3**0.5, 2], [0, 12**0.5]]),
        ("W ** 0", [[1, 1], [1, 1]]),
        ("rownorm(W)", [[3 / 7, 4 / 7], [0, 1]]),
        ("colnorm(neg(W))", [[-1, -0.25], [0, -0.75]]),
        ("rownorm(0 * W)", [[0, 0], [0, 0]]),
        ("max(W, X)", [[4, 9], [4, 12]]),
        ("min(W, X)", [[3, 4], [0, 9]]),
    ],
)  # fmt: skip
def test_gives_the_documented_values(formula, expected):
    # in float64, where e^100 is finite
    from prunerzero.metrics.expression import evaluate

    scores = evaluate(Expression.parse(formula), {"W": W.double(), "X": X.double()}).expand(2, 2)
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))
