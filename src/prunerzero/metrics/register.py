"""Operators from outside the package: checked when they are registered, known everywhere after.

>>> import torch
>>> from prunerzero import register_operator, Expression
>>> row = register_operator("sigmoid", torch.sigmoid, meaning="the sigmoid of {0}")
>>> str(Expression.parse("W * sigmoid(G)"))
'W * sigmoid(G)'
>>> del OPERATORS["sigmoid"]  # so that this example leaves nothing behind

Commands and the workers of a search know an operator where it is registered by a plug-in: a Python
module, or file, that is named in the environment variable ``PRUNERZERO_PLUGINS`` (several with
commas between), or by an entry point of the group ``prunerzero.operators``.
"""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, get_args

import torch
from torch import Tensor

from prunerzero.errors import first_line
from prunerzero.metrics.errors import OperatorError
from prunerzero.metrics.operators import (
    OPERATORS,
    TERMINALS,
    Operator,
    Order,
    Parity,
    Reads,
    Sign,
)

PLUGINS_VARIABLE = "PRUNERZERO_PLUGINS"

ENTRY_POINTS = "prunerzero.operators"

_DTYPES = (torch.float32, torch.float64)


def register_operator(
    name: str,
    function: Callable[..., Tensor],
    *,
    meaning: str,
    meaning_ja: str | None = None,
    arity: int = 1,
    order: Order = "other",
    sign: Sign = "any",
    commutative: bool = False,
    parity: Parity | None = None,
    reads: Reads | None = None,
) -> Operator:
    """Add an operator to the language of metrics.

    It can then be written in formulas and JSON trees, explained, scored and pruned with; searches
    with ``--operators extended`` build metrics from it. Kernels do not know it: metrics with it are
    computed by torch, also on a GPU. Simplification uses what is declared here and leaves it alone
    otherwise.

    Args:
        name: how it is written: small letters, digits and underscores, beginning with a letter.
        function: one or two floating-point tensors that broadcast against each other → a tensor of
            their common shape and dtype. It must not raise, nor change its arguments, nor draw
            random numbers; what is not finite is passed on.
        meaning, meaning_ja: a phrase with ``{0}``, and with ``{1}`` for a second argument; in
            Japanese too where reports in Japanese are wanted.
        arity: how many arguments it takes, 1 or 2.
        order: "increasing", or "increasing for non-negative" arguments, where its result is ordered
            as the first argument is: at the root of a metric it then changes no mask.
        sign: "non-negative" where no result is negative, "as its arguments" where none is for
            arguments that are not.
        commutative: whether the arguments may be exchanged.
        parity: "even" where f(-x) = f(x), "odd" where f(-x) = -f(x).
        reads: "row", "column" or "matrix" [out, in] where a value depends on others of it; None
            where each weight is computed by itself.

    Returns:
        The row of the table of operators.

    Raises:
        OperatorError: the name is taken or cannot be written, or the function is not what is
            declared of it; it is tried on samples, among them zeros, infinities and NaN.
    """
    if name in OPERATORS and getattr(OPERATORS[name].function, "original", None) is function:
        return OPERATORS[name]
    _check_words(name, meaning, meaning_ja, arity)
    for word, value, choices in (
        ("order", order, get_args(Order)),
        ("sign", sign, get_args(Sign)),
        ("parity", parity, (None, *get_args(Parity))),
        ("reads", reads, (None, *get_args(Reads))),
    ):
        if value not in choices:
            known = ", ".join(map(repr, choices))
            raise OperatorError(
                f"{word} of operator {name!r} must be one of {known}, not {value!r}."
            )
    if not callable(function):
        raise OperatorError(f"operator {name!r} needs a function of tensors.")
    operator = Operator(
        name=name,
        arity=arity,
        function=_with_out(function),
        meaning=meaning,
        meaning_ja=meaning_ja or meaning,
        order=order,
        sign=sign,
        commutative=commutative,
        reads=reads,
        parity=parity,
    )
    with torch.no_grad(), _named(name):
        for dtype in _DTYPES:
            _check_values(operator, function, dtype)
    OPERATORS[name] = operator
    return operator


def _check_words(name: str, meaning: str, meaning_ja: str | None, arity: int) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise OperatorError(
            f"operator {name!r} must be named by small letters, digits and underscores."
        )
    if name in OPERATORS or name in TERMINALS or name == "constant":
        raise OperatorError(f"there is an operator {name!r} already; choose another name.")
    if arity not in (1, 2):
        raise OperatorError(f"operator {name!r} must take 1 or 2 arguments, not {arity!r}.")
    wanted = {"{0}"} if arity == 1 else {"{0}", "{1}"}
    for phrase in (meaning, meaning_ja or meaning):
        if not isinstance(phrase, str) or set(re.findall(r"{.*?}", phrase)) != wanted:
            raise OperatorError(
                f"the meaning of operator {name!r} must be a phrase with "
                f"{' and '.join(sorted(wanted))}, not {phrase!r}."
            )


def _with_out(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with the argument ``out`` of the operators of the table."""

    def computed(*arguments: Tensor, out: Tensor | None = None) -> Tensor:
        result = function(*arguments)
        return result if out is None else out.copy_(result)

    computed.original = function  # type: ignore[attr-defined]
    return computed


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Tell of whatever the function raises by the operator's name."""
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError(f"operator {name!r} fails on a sample: {first_line(error)}.") from error


def _samples(dtype: torch.dtype) -> Iterator[Tensor]:
    """Matrices [5, 8]: ordinary values, tiny and huge ones, zeros, and what is not finite."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(5, 8, generator=generator, dtype=dtype)

    yield normal()
    yield normal() * 1e-6
    yield normal() * 1e6
    yield torch.zeros(5, 8, dtype=dtype)
    special = normal()
    special[0, :3] = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=dtype)
    yield special


def _check_values(operator: Operator, function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    samples = list(_samples(dtype))
    for x in samples:
        others = samples if operator.arity == 2 else [None]
        for y in others:
            arguments = [x] if y is None else [x, y]
            _check_call(operator, function, arguments)
            _check_declared(operator, function, arguments)
    _check_order(operator, function, dtype)


def _refuse(operator: Operator, why: str) -> OperatorError:
    return OperatorError(f"operator {operator.name!r} {why}.")


def _check_call(
    operator: Operator, function: Callable[..., Tensor], arguments: list[Tensor]
) -> None:
    """Shapes, types, and nothing but a result."""
    shapes: list[list[Tensor]] = [
        arguments,
        [a[:1] for a in arguments],
        [a[0, 0] for a in arguments],
    ]
    if operator.arity == 2:
        x, y = arguments
        shapes += [[x, y[:1]], [x[:1], y], [x, y[0, 0]], [x[0, 0], y]]
    for given in shapes:
        before = [a.clone() for a in given]
        result = function(*given)
        if not isinstance(result, Tensor):
            raise _refuse(operator, f"gives a {type(result).__name__}, not a tensor")
        if result.dtype != given[0].dtype:
            raise _refuse(operator, f"turns {given[0].dtype} into {result.dtype}; keep the dtype")
        if result.shape != torch.broadcast_shapes(*(a.shape for a in given)):
            raise _refuse(
                operator,
                f"gives shape {list(result.shape)} for {[list(a.shape) for a in given]}, not their "
                "common shape",
            )
        if not all(map(_same, given, before)):
            raise _refuse(operator, "changes its arguments in place; compute a new tensor")
        if not _same(function(*before), result):
            raise _refuse(operator, "gives another result the second time; draw nothing at random")


def _check_declared(
    operator: Operator, function: Callable[..., Tensor], arguments: list[Tensor]
) -> None:
    """What is said of the operator holds on these samples."""
    result = function(*arguments)
    known = result[~result.isnan()]
    if operator.sign == "non-negative" and (known < 0).any():
        raise _refuse(operator, "is declared non-negative, but gives negative values")
    if operator.sign == "as its arguments":
        of_positive = function(*(a.abs() for a in arguments))
        if (of_positive[~of_positive.isnan()] < 0).any():
            raise _refuse(operator, "gives negative values for arguments that are not")
    if operator.commutative and not _same(function(*arguments[::-1]), result):
        raise _refuse(operator, "is declared commutative, but the order of its arguments counts")
    if operator.parity is not None and operator.arity == 1:
        mirrored = function(-arguments[0])
        expected = result if operator.parity == "even" else -result
        if not _close(mirrored, expected):
            raise _refuse(operator, f"is declared {operator.parity}, but is not")
    _check_reads(operator, function, arguments, result)


def _check_reads(
    operator: Operator, function: Callable[..., Tensor], arguments: list[Tensor], result: Tensor
) -> None:
    """No value depends on others than is declared: parts give what the whole does."""
    rows, columns = result.shape
    parts = {
        None: [(slice(i, i + 1), slice(j, j + 1)) for i in range(rows) for j in range(columns)],
        "row": [(slice(i, i + 1), slice(None)) for i in range(rows)],
        "column": [(slice(None), slice(j, j + 1)) for j in range(columns)],
        "matrix": [],
    }[operator.reads]
    for part in parts:
        if not _close(function(*(a[part] for a in arguments)), result[part]):
            what = "others" if operator.reads is None else f"others outside its {operator.reads}"
            raise _refuse(
                operator,
                f"computes a weight from {what}; say so: reads='row', 'column' or 'matrix'",
            )


def _check_order(operator: Operator, function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    if operator.order == "other":
        return
    low = 0.0 if operator.order == "increasing for non-negative" else -8.0
    x = torch.linspace(low, 8.0, 64, dtype=dtype)[None]
    second = [torch.full_like(x, value) for value in (0.5, 1.0, 2.0)]
    for y in second if operator.arity == 2 else [None]:
        result = function(x) if y is None else function(x, y)
        if (result.diff(dim=1) < 0).any():
            raise _refuse(operator, f"is declared {operator.order}, but falls somewhere")


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(nan=0.5), b.nan_to_num(nan=0.5))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-30, equal_nan=True)


# Plug-ins


def load_plugins() -> None:
    """Import what the environment and installed packages name as plug-ins.

    Raises:
        OperatorError: one of them cannot be imported.
    """
    named = os.environ.get(PLUGINS_VARIABLE, "").split(",")
    for name in filter(None, map(str.strip, named)):
        _load(f"{name!r} of {PLUGINS_VARIABLE}", lambda name=name: _import(name))  # type: ignore[misc]
    for point in entry_points(group=ENTRY_POINTS):
        _load(f"{point.value!r} of an installed package", point.load)


def _import(name: str) -> object:
    if name.endswith(".py"):
        return runpy.run_path(os.path.expanduser(name))
    return import_module(name)


def _load(what: str, load: Callable[[], Any]) -> None:
    try:
        load()
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError(f"plug-in {what} cannot be loaded: {first_line(error)}.") from error
