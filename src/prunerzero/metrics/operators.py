"""The table of operators: everything the rest of the package knows about one is a row here.

Semantics of the published operators follow the published search space of Pruner-Zero (Dong et al.,
ICML 2024): no input makes one raise, and a non-finite result is passed on, never hidden. To add an
operator, add a row; parsing, printing, JSON, simplification and evolution read the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LOG_OFFSET = 0.001
"""Published: ``log(x) = ln(|x| + 0.001)``."""

EXP_LIMIT = 100.0
"""Published: ``exp(x) = e^min(x, 100)``."""

SMALLEST_DIVISOR = 1e-12
"""Element-wise division treats a divisor closer to zero than this as this, keeping its sign."""

Order = Literal["increasing", "increasing for non-negative", "other"]
Sign = Literal["non-negative", "as its arguments", "any"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        name: how it is written in text and in JSON.
        arity: 1 or 2.
        function: tensors → tensor, with broadcasting; keeps the dtype.
        meaning: words for ``explain``, with ``{0}`` and ``{1}`` for the arguments.
        order: whether the result is ordered as the first argument is, the second held fixed.
        sign: what is known of the result's sign (arguments count as non-negative or unknown).
        infix: its symbol in text where it has one.
        commutative: whether the arguments may be exchanged.
        published: whether it belongs to the published search space.
    """

    name: str
    arity: int
    function: Callable[..., Tensor]
    meaning: str
    order: Order = "other"
    sign: Sign = "any"
    infix: str | None = None
    commutative: bool = False
    published: bool = True


def _min_max_scale(x: Tensor) -> Tensor:
    if x.numel() == 0:
        return x
    low, high = torch.aminmax(x)
    return (x - low) / (high - low)


def _standardise(x: Tensor) -> Tensor:
    if x.numel() < 2:  # an unbiased deviation needs two values
        return torch.full_like(x, torch.nan)
    return (x - x.mean()) / x.std()


def _divide_by_norm(x: Tensor, y: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, y.shape)
    # published: the norm of a row is that of the row spread over x's matrix
    norm: Tensor = torch.linalg.vector_norm(y.expand(shape))
    return x.expand(shape) / norm


def _divide_elements(x: Tensor, y: Tensor) -> Tensor:
    nearest = torch.where(y < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR).to(y.dtype)
    return x / torch.where(y.abs() < SMALLEST_DIVISOR, nearest, y)


def _share(x: Tensor, dim: int) -> Tensor:
    if x.dim() == 0:
        return x.sign()
    total = x.abs().sum(dim, keepdim=True)
    return x / torch.where(total == 0, 1.0, total).to(x.dtype)  # zeros stay zeros


_TABLE = (
    Operator("sqr", 1, torch.square, "the square of {0}",
             order="increasing for non-negative", sign="non-negative"),
    Operator("pow", 1, torch.square, "the square of {0}",
             order="increasing for non-negative", sign="non-negative"),
    Operator("neg", 1, torch.neg, "minus {0}", infix="-"),
    Operator("abs", 1, torch.abs, "the absolute value of {0}",
             order="increasing for non-negative", sign="non-negative"),
    Operator("log", 1, lambda x: (x.abs() + LOG_OFFSET).log(), "the logarithm of {0}",
             order="increasing for non-negative"),
    Operator("exp", 1, lambda x: x.clamp(max=EXP_LIMIT).exp(), "the exponential of {0}",
             order="increasing", sign="non-negative"),
    Operator("sqrt", 1, lambda x: x.abs().sqrt(), "the square root of {0}",
             order="increasing for non-negative", sign="non-negative"),
    Operator("tanh", 1, torch.tanh, "the hyperbolic tangent of {0}",
             order="increasing", sign="as its arguments"),
    Operator("skp", 1, lambda x: x, "{0}", order="increasing", sign="as its arguments"),
    Operator("mms", 1, _min_max_scale, "{0} scaled to 0…1 over the layer",
             order="increasing", sign="non-negative"),
    Operator("zsn", 1, _standardise, "{0} standardised over the layer",
             order="increasing"),
    Operator("add", 2, torch.add, "{0} plus {1}", sign="as its arguments", infix="+",
             commutative=True),
    Operator("sub", 2, torch.sub, "{0} minus {1}", infix="-"),
    Operator("mul", 2, torch.mul, "{0} times {1}", sign="as its arguments", infix="*",
             commutative=True),
    Operator("div", 2, _divide_by_norm,
             "{0} divided by the norm of {1}", order="increasing", sign="as its arguments",),
    Operator("ediv", 2, _divide_elements, "{0} divided, element by element, by {1}",
             sign="as its arguments", infix="/", published=False),
    Operator("epow", 2, lambda x, y: x.abs() ** y, "{0} to the power of {1}",
             sign="non-negative", infix="**", published=False),
    Operator("rownorm", 1, lambda x: _share(x, -1), "the share of {0} in its output row",
             sign="as its arguments", published=False),
    Operator("colnorm", 1, lambda x: _share(x, -2), "the share of {0} in its input column",
             sign="as its arguments", published=False),
    Operator("max", 2, torch.maximum, "the larger of {0} and {1}",
             sign="as its arguments", commutative=True, published=False),
    Operator("min", 2, torch.minimum, "the smaller of {0} and {1}",
             sign="as its arguments", commutative=True, published=False),
)  # fmt: skip

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _TABLE}
"""Every operator by name."""

TERMINALS: dict[str, str] = {
    "W": "the weight's magnitude",
    "X": "the squared norm of its input feature over the calibration text",
    "G": "the magnitude of the loss gradient of the weight",
}
"""Every terminal by name, with its meaning: all are non-negative."""
