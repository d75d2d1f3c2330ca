"""Every operator of the table keeps the promises of the table."""

import math
from dataclasses import replace

import pytest
import torch

from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS, Operator
from prunerzero.metrics.simplify import canonical

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
def test_the_power_column_is_true(operator):
    if operator.power is None:
        return
    assert operator.arity == 1
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(operator.function(values), values.abs() ** operator.power)


@every_operator
def test_the_idempotent_identity_and_parity_columns_are_true(operator):
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if operator.arity > 1:
        assert not operator.idempotent and not operator.identity and operator.parity is None
        return
    result = operator.function(values)
    if operator.idempotent:
        torch.testing.assert_close(operator.function(result), result)
    if operator.identity:
        assert torch.equal(result, values)
    if operator.parity is not None:
        mirrored = -result if operator.parity == "odd" else result
        torch.testing.assert_close(operator.function(-values), mirrored)


@every_operator
def test_the_ignores_column_is_true(operator):
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changes = {"shift": values + 3, "scale": values * 3}
    for change in operator.ignores:
        torch.testing.assert_close(operator.function(changes[change]), operator.function(values))


@every_operator
def test_simplification_knows_it_beside_every_other(operator):
    """As a factor, above and below another operator, and beside itself: nothing is raised."""

    def applied(name: str, argument: str) -> str:
        return f"{name}({argument})" if OPERATORS[name].arity == 1 else f"{name}({argument}, G)"

    formulas = [
        f"W * {applied(operator.name, 'X')}",
        f"{applied(operator.name, 'X')} * {applied(operator.name, 'W')}",
        *(applied(operator.name, applied(other, "X")) for other in OPERATORS),
    ]
    for formula in formulas:
        for group in ("row", "layer", "model"):
            canonical(Expression.parse(formula), group)


def test_a_power_that_simplification_cannot_write_is_refused():
    with pytest.raises(ValueError, match="a power of two"):
        replace(OPERATORS["sqrt"], name="cbrt", power=1 / 3)


def test_the_published_operators_are_those_of_the_paper():
    assert {name for name, operator in OPERATORS.items() if operator.published} == {
        *("sqr", "pow", "neg", "abs", "log", "exp", "sqrt", "tanh", "skp", "mms", "zsn"),
        *("add", "sub", "mul", "div"),
    }
    assert not Operator("new", 1, torch.abs, "{0}", "{0}").published


@every_operator
def test_its_meaning_names_each_argument(operator):
    words = operator.meaning.format(*("first", "second")[: operator.arity])
    assert "first" in words and ("second" in words) == (operator.arity == 2)


POWER = OPERATORS["epow"].function


def awkward_pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every awkward base [n, n] with every awkward exponent [n, n]."""
    values = torch.tensor([*AWKWARD, 2.0, 0.5, -3.0], dtype=dtype)
    return tuple(pair.contiguous() for pair in torch.meshgrid(values, values, indexing="ij"))


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first.nan_to_num(nan=7e7, posinf=8e8), second.nan_to_num(7e7, posinf=8e8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("base", "exponent", "power"),
    [
        *((base, 0.0, 1.0) for base in AWKWARD),
        *((base, -0.0, 1.0) for base in AWKWARD),
        *((1.0, exponent, 1.0) for exponent in AWKWARD),
        *((-1.0, exponent, 1.0) for exponent in AWKWARD),
        (0.0, 0.5, 0.0), (0.0, INF, 0.0), (-0.0, 3.0, 0.0), (0.0, -0.5, INF), (0.0, -INF, INF),
        (INF, 0.5, INF), (-INF, 3.0, INF), (INF, INF, INF), (INF, -0.5, 0.0), (INF, -INF, 0.0),
        (2.0, INF, INF), (0.5, INF, 0.0), (2.0, -INF, 0.0), (-0.5, -INF, INF),
        (NAN, 2.0, NAN), (2.0, NAN, NAN), (0.0, NAN, NAN), (INF, NAN, NAN), (NAN, INF, NAN),
    ],
)  # fmt: skip
def test_a_power_has_the_special_cases_of_ieee_754(dtype, base, exponent, power):
    values = torch.tensor([base, 2.0], dtype=dtype), torch.tensor([exponent, 3.0], dtype=dtype)
    expected = torch.tensor([power, 8.0], dtype=dtype)
    torch.testing.assert_close(POWER(*values), expected, equal_nan=True)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_power_is_that_of_torch_but_for_rounding(dtype, rtol):
    generator = torch.Generator().manual_seed(0)
    base = 10 ** (torch.rand(200, 100, generator=generator, dtype=dtype) * 40 - 20)
    base = base * torch.randn(200, 100, generator=generator, dtype=dtype).sign()
    exponent = torch.randn(200, 100, generator=generator, dtype=dtype)
    pairs = [(base, e) for e in (exponent, exponent[:1], exponent[0, 0], exponent[0, 0] * 0 + 0.5)]
    pairs += [(b, exponent) for b in (base[:1], base[:, :1], base[0, 0])]
    pairs += [(base, exponent[:, :1]), (base[:1], exponent[:, :1]), awkward_pairs(dtype)]
    tiny = torch.finfo(dtype).smallest_normal
    for x, y in pairs:
        expected = torch.pow(x.abs(), y)
        torch.testing.assert_close(POWER(x, y), expected, rtol=rtol, atol=tiny, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_may_be_written_over_either_argument(dtype):
    base, exponent = awkward_pairs(dtype)
    for y in (exponent, exponent.nan_to_num(2.0, 3.0, -3.0), exponent.abs() + 1):
        for x in (base, base[:, :1], base[:1], base[3, 0]):
            written = y.clone()
            assert POWER(x, written, out=written) is written
            assert same_bits(written, POWER(x, y))
        for z in (y, y[:1], y[:, :1], y[0, 5]):
            written = base.clone()
            assert POWER(written, z, out=written) is written
            assert same_bits(written, POWER(base, z))
        written = y.clone()
        assert same_bits(POWER(written, written, out=written), POWER(y, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_has_the_same_bits_wherever_in_a_tensor_it_stands(dtype):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 1000, generator=generator, dtype=dtype)
    exponent = torch.randn(3, 1000, generator=generator, dtype=dtype)
    base[1, ::50], exponent[1, ::70] = 0, 0  # special cases beside others
    base[2, ::50], exponent[2, ::70] = 1, INF
    whole = POWER(base, exponent)
    for start, length in ((0, 1), (1, 3), (5, 16), (7, 33), (2, 998)):
        part = slice(start, start + length)
        for row in range(3):
            assert same_bits(POWER(base[row, part], exponent[row, part]), whole[row, part])
    assert same_bits(POWER(base.t(), exponent.t()), whole.t())
    assert same_bits(POWER(base[:, ::3], exponent[:, ::3]), whole[:, ::3])


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
