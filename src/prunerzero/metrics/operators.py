"""The table of operators: a new one needs a row here, and nothing else.

Semantics of the published operators follow the published search space of Pruner-Zero (Dong et al.,
ICML 2024): no input makes one raise, and a non-finite result is passed on, never hidden. To add an
operator, add a row; parsing, printing, JSON, words, simplification, evolution and the engine read
the table, and the tests in ``tests/metrics`` try what the row declares. A few operators are known
by name too, to ``simplify`` and ``algebra``. ``register`` adds one from outside the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

LOG_OFFSET = 0.001
"""Published: ``log(x) = ln(|x| + 0.001)``."""

EXP_LIMIT = 100.0
"""Published: ``exp(x) = e^min(x, 100)``."""

SMALLEST_DIVISOR = 1e-12
"""Element-wise division treats a divisor closer to zero than this as this, keeping its sign."""

Scale = tuple[Tensor | None, Tensor]
"""What a rescaling operator takes from all of a matrix: x becomes (x - shift) / scale."""

Order = Literal["increasing", "increasing for non-negative", "other"]
Sign = Literal["non-negative", "as its arguments", "any"]
Reads = Literal["matrix", "row", "column"]
Parity = Literal["even", "odd"]
Ignores = Literal["shift", "scale"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        name: how it is written in text and in JSON.
        arity: 1 or 2.
        function: tensors → tensor, with broadcasting; keeps the dtype. With ``out``, which has the
            result's shape and may be one of the arguments, the result is written there.
        meaning, meaning_ja: an English and a Japanese phrase, with ``{0}`` and ``{1}`` for the
            arguments.
        order: whether the result is ordered as the first argument is, the second held fixed.
        sign: what is known of the result's sign (arguments count as non-negative or unknown).
        infix: its symbol in text where it has one.
        commutative: whether the arguments may be exchanged.
        published: whether it belongs to the published search space.
        reads: whether its value at one weight depends on others, and on which: those of the whole
            matrix, of the row or of the column.
        scale: of an operator with ``reads``, the function that gives (shift, scale) from its last
            argument, spread over the shape of the result; the operator then is
            (x - shift) / scale of its first argument x.
        shifts: whether that shift is more than zero.
        power: p where the operator is |x| ** p, and p a power of two.
        parity: "even" where f(-x) = f(x), "odd" where f(-x) = -f(x).
        ignores: what of its argument changes nothing: a constant that is added to it ("shift"), a
            positive number that multiplies it ("scale").
        idempotent: whether f(f(x)) = f(x).
        identity: whether f(x) = x.
        proposed: whether evolution builds trees with it; False where another operator computes the
            same.
        takes_constant: whether evolution gives it a constant as its second argument.
        kernel: the instruction of ``scoring.kernels`` that computes it, "" where none is needed;
            None where no kernel knows it, so that a GPU runs ``function`` too.
    """

    name: str
    arity: int
    function: Callable[..., Tensor]
    meaning: str
    meaning_ja: str
    order: Order = "other"
    sign: Sign = "any"
    infix: str | None = None
    commutative: bool = False
    published: bool = False
    reads: Reads | None = None
    scale: Callable[[Tensor], Scale] | None = None
    shifts: bool = False
    power: float | None = None
    parity: Parity | None = None
    ignores: frozenset[Ignores] = frozenset()
    idempotent: bool = False
    identity: bool = False
    proposed: bool = True
    takes_constant: bool = False
    kernel: str | None = None

    def __post_init__(self) -> None:
        # simplification writes powers with sqr and sqrt
        if self.power is not None and math.frexp(self.power)[0] != 0.5:
            raise ValueError(
                f"operator {self.name!r}: its power must be a power of two, or left out."
            )


def _range(x: Tensor) -> Scale:
    if x.numel() == 0:
        return None, x.new_tensor(torch.nan)
    low, high = torch.aminmax(x)
    return low, high - low


def _mean_and_deviation(x: Tensor) -> Scale:
    if x.numel() < 2:  # an unbiased deviation needs two values
        return None, x.new_tensor(torch.nan)
    return x.mean(), x.std()


def _norm(x: Tensor) -> Scale:
    return None, torch.linalg.vector_norm(x)


def _total(dim: int) -> Callable[[Tensor], Scale]:
    def scale(x: Tensor) -> Scale:
        if x.dim() == 0:
            dim_total = x.abs()
        else:
            dim_total = x.abs().sum(dim, keepdim=True)
        # zeros stay zeros
        return None, torch.where(dim_total == 0, 1.0, dim_total).to(x.dtype)

    return scale


def rescale(x: Tensor, scale: Scale, *, out: Tensor | None = None) -> Tensor:
    """(x - shift) / scale."""
    shift, divisor = scale
    if shift is None:
        return torch.div(x, divisor, out=out)
    return torch.sub(x, shift, out=out).div_(divisor)


def _rescaling(name: str, scale: Callable[[Tensor], Scale], **fields: Any) -> Operator:
    def function(x: Tensor, *others: Tensor, out: Tensor | None = None) -> Tensor:
        # published: the norm of a row is that of the row spread over x's matrix
        x, *others = torch.broadcast_tensors(x, *others)
        return rescale(x, scale(others[-1] if others else x), out=out)

    return Operator(name, function=function, scale=scale, **fields)


def _log(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.abs(x, out=out).add_(LOG_OFFSET).log_()


def _exp(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.clamp(x, max=EXP_LIMIT, out=out).exp_()


def _sqrt(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.abs(x, out=out).sqrt_()


def _skip(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    return x if out is None else out.copy_(x)


def _divide_elements(x: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    nearest = torch.where(y < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR).to(y.dtype)
    return torch.div(x, torch.where(y.abs() < SMALLEST_DIVISOR, nearest, y), out=out)


def _power(x: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """|x| ** y as exp(y * log|x|), with the special cases of IEEE 754's pow.

    Unlike those of ``torch.pow``, its bits do not depend on where in a tensor a value stands, and a
    GPU kernel can give the same. The relative error grows with the logarithm of the result: in fp32
    it is up to about 1e-5 near overflow.
    """
    if out is None:
        out = x.new_empty(torch.broadcast_shapes(x.shape, y.shape))
    # y is read until the end
    work = torch.empty_like(out) if out.data_ptr() == y.data_ptr() else out
    logarithm = torch.abs(x, out=work if x.shape == work.shape else None).log_()
    # x ** 0 and 1 ** y are 1 whatever the other is, but infinity * 0 and NaN * 0 are NaN
    ones = None
    if x.device.type != "cpu" or not math.isfinite(y.sum().item()):
        ones = (y == 0) | (logarithm == 0)
    torch.mul(logarithm, y, out=work)
    # a sum, which costs little, is NaN if a product is; where all y are finite it is by x ** 0
    if ones is None and math.isnan(work.sum().item()):
        ones = y == 0
    if ones is not None:
        work.masked_fill_(ones, 0)
    return torch.exp(work, out=out)


_TABLE = (
    Operator("sqr", 1, torch.square, "the square of {0}", "{0}の 2 乗",
             order="increasing for non-negative", sign="non-negative", power=2.0, kernel="sqr",
             published=True),
    Operator("pow", 1, torch.square, "the square of {0}", "{0}の 2 乗",
             order="increasing for non-negative", sign="non-negative", power=2.0, kernel="sqr",
             proposed=False, published=True),
    Operator("neg", 1, torch.neg, "minus {0}", "{0}の符号を反転した値", infix="-", kernel="neg",
             published=True),
    Operator("abs", 1, torch.abs, "the absolute value of {0}", "{0}の絶対値",
             order="increasing for non-negative", sign="non-negative", power=1.0, kernel="abs",
             published=True),
    Operator("log", 1, _log, "the logarithm of {0}", "{0}の対数",
             order="increasing for non-negative", parity="even", kernel="log", published=True),
    Operator("exp", 1, _exp, "the exponential of {0}", "{0}の指数関数",
             order="increasing", sign="non-negative", kernel="exp", published=True),
    Operator("sqrt", 1, _sqrt, "the square root of {0}", "{0}の平方根",
             order="increasing for non-negative", sign="non-negative", power=0.5, kernel="sqrt",
             published=True),
    Operator("tanh", 1, torch.tanh, "the hyperbolic tangent of {0}", "{0}の双曲線正接",
             order="increasing", sign="as its arguments", parity="odd", kernel="tanh",
             published=True),
    Operator("skp", 1, _skip, "{0}", "{0}", order="increasing", sign="as its arguments",
             identity=True, proposed=False, kernel="", published=True),
    _rescaling("mms", _range, arity=1, meaning="{0} scaled to 0…1 over the layer",
               meaning_ja="{0}を層全体で 0〜1 に正規化した値",
               order="increasing", sign="non-negative", reads="matrix", shifts=True,
               ignores=frozenset({"shift", "scale"}), published=True),
    _rescaling("zsn", _mean_and_deviation, arity=1, meaning="{0} standardised over the layer",
               meaning_ja="{0}を層全体で標準化した値",
               order="increasing", reads="matrix", shifts=True, parity="odd",
               ignores=frozenset({"shift", "scale"}), published=True),
    Operator("add", 2, torch.add, "{0} plus {1}", "{0}と{1}の和", sign="as its arguments",
             infix="+", commutative=True, kernel="add", published=True),
    Operator("sub", 2, torch.sub, "{0} minus {1}", "{0}から{1}を引いた差", infix="-", kernel="sub",
             published=True),
    Operator("mul", 2, torch.mul, "{0} times {1}", "{0}と{1}の積", sign="as its arguments",
             infix="*", commutative=True, kernel="mul", published=True),
    _rescaling("div", _norm, arity=2, meaning="{0} divided by the norm of {1}",
               meaning_ja="{0}を{1}のノルムで割った値",
               order="increasing", sign="as its arguments", reads="matrix", published=True),
    Operator("ediv", 2, _divide_elements, "{0} divided, element by element, by {1}",
             "{0}を要素ごとに{1}で割った値",
             sign="as its arguments", infix="/", kernel="ediv"),
    Operator("epow", 2, _power, "{0} to the power of {1}", "{0}の {1} 乗",
             sign="non-negative", infix="**", takes_constant=True, kernel="epow"),
    _rescaling("rownorm", _total(-1), arity=1, meaning="the share of {0} in its output row",
               meaning_ja="出力行の中で{0}が占める割合",
               sign="as its arguments", reads="row", parity="odd",
               ignores=frozenset({"scale"}), idempotent=True),
    _rescaling("colnorm", _total(-2), arity=1, meaning="the share of {0} in its input column",
               meaning_ja="入力列の中で{0}が占める割合",
               sign="as its arguments", reads="column", parity="odd",
               ignores=frozenset({"scale"}), idempotent=True),
    Operator("max", 2, torch.maximum, "the larger of {0} and {1}", "{0}と{1}のうち大きい方",
             sign="as its arguments", commutative=True, kernel="max"),
    Operator("min", 2, torch.minimum, "the smaller of {0} and {1}", "{0}と{1}のうち小さい方",
             sign="as its arguments", commutative=True, kernel="min"),
)  # fmt: skip

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _TABLE}
"""Every operator by name."""

TERMINALS: dict[str, str] = {
    "W": "the weight's magnitude",
    "X": "the squared norm of its input feature over the calibration text",
    "G": "the magnitude of the gradient of the weight",
    "D": "the part of its input feature that the layer's other inputs cannot replace",
}
"""Every terminal by name, with its meaning: all are non-negative."""

PUBLISHED_TERMINALS = ("W", "X", "G")
"""The terminals of the published search space."""

OF_INPUTS = frozenset({"X", "D"})
"""The terminals that hold one number for each input of a layer, the same in every row."""

TERMINALS_JA: dict[str, str] = {
    "W": "重みの絶対値",
    "X": "入力特徴量の二乗ノルム",
    "G": "重みに対する損失の勾配の大きさ",
    "D": "入力特徴量のうち層の他の入力では代替できない成分",
}
"""The same in Japanese."""


def arity_of(name: str) -> int:
    """How many arguments ``name`` takes: 0 for a terminal or constant."""
    return OPERATORS[name].arity if name in OPERATORS else 0
