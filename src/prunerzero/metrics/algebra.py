"""Normal forms of expressions: rewriting that keeps every *value*, whatever the statistics hold.

Sums are gathered from ``add``, ``sub``, ``neg`` and written as one sum minus another, equal terms
cancelled. Products are gathered from ``mul``, ``neg``, ``abs``, ``sqr``, ``sqrt`` and constant
powers, as exponents of their bases, and written with the fewest nodes. Equality is meant in real
arithmetic; floating point differs in its last digits.

What is left alone, because it would change values:

- ``x * y / y``, since protected division makes it 0 where y is 0, and ``a / b / c``, since
  ``a / (b * c)`` is protected elsewhere;
- ``exp(x) * exp(y)``, since exp stops at its limit; ``log(exp(x))``, since log adds an offset;
- whatever turns a matrix into a row: mean, deviation and norm of one row of numbers are not those
  of the same row spread over a matrix (see ``breadth``).
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import torch

from prunerzero.metrics.expression import Expression, evaluate
from prunerzero.metrics.facts import (
    arranged,
    breadth,
    even,
    is_product,
    join,
    power_of,
    unary,
)
from prunerzero.metrics.operators import OPERATORS
from prunerzero.metrics.products import Product
from prunerzero.metrics.sums import Sum


@lru_cache(maxsize=1 << 14)
def normal(e: Expression, ordered: bool) -> Expression:
    """The normal form of ``e``; where ``ordered``, exchangeable arguments are sorted."""
    if not e.arguments:
        return e
    if is_product(e):
        return _normal_product(e, ordered)
    if e.name in ("add", "sub"):
        return _normal_sum(e, ordered)
    if e.name in ("max", "min"):
        return _normal_extreme(e, ordered)
    arguments = tuple(normal(a, ordered) for a in e.arguments)
    e = Expression(e.name, arguments)
    if all(a.value is not None for a in arguments):
        return _fold(e)
    if is_product(e):  # its exponent turned out to be a number
        return _normal_product(e, ordered)
    new = _rule(e, arguments[0], ordered)
    if new == e or breadth(new) != breadth(e):
        return e
    return normal(new, ordered)


def _fold(e: Expression) -> Expression:
    if e.name == "epow":  # the operator rounds 3 ** 2 to 9.000000000000002
        base, exponent = (torch.tensor(a.value, dtype=torch.float64) for a in e.arguments)
        value = torch.pow(base.abs(), exponent).item()
    else:
        value = evaluate(e, {"W": torch.zeros(1, 1, dtype=torch.float64)}).item()
    return Expression.constant(value) if math.isfinite(value) else e


def _rule(e: Expression, a: Expression, ordered: bool) -> Expression:
    """One step for an operator that is neither sum nor product, its arguments being normal."""
    operator = OPERATORS[e.name]
    if e.name == "epow":
        return _power_rule(a, e.arguments[1], ordered)
    if operator.arity > 1:
        return e
    if operator.identity or (operator.idempotent and a.name == e.name):
        return a
    if operator.parity == "even":
        return unary(e.name, even(a, ordered))
    if operator.parity == "odd" and a.name == "neg":
        return unary("neg", unary(e.name, a.arguments[0]))
    inner = a
    if operator.ignores >= {"shift", "scale"} and _is_affine(a):
        inner = a.arguments[0]
    else:
        if "shift" in operator.ignores:
            inner = without_constant(inner, ordered)
        if "scale" in operator.ignores:
            inner = without_factor(inner, ordered)
    return unary(e.name, inner)


def _is_affine(e: Expression) -> bool:
    """Whether ``e`` shifts and scales all of a layer by two numbers of that layer."""
    operator = OPERATORS.get(e.name)
    return operator is not None and operator.arity == 1 and operator.reads == "matrix" and (
        operator.scale is not None
    )  # fmt: skip


def _power_rule(a: Expression, exponent: Expression, ordered: bool) -> Expression:
    inner = power_of(a)
    if inner is None or exponent.value is None:
        return Expression("epow", (even(a, ordered), exponent))
    if 2**-64 < abs(exponent.value * inner) < 2**64:
        product = Expression.constant(exponent.value * inner)
        return Expression("epow", (a.arguments[0], product))
    return Expression("epow", (a, exponent))


def without_factor(a: Expression, ordered: bool) -> Expression:
    """``a`` without the positive factors that are one number for the whole layer."""
    if a.name not in ("mul", "ediv", "div"):
        return a
    product = product_of(a, ordered)
    if not product.is_writable() or product.number == 0:
        return a
    product.number, product.norms = math.copysign(1, product.number), []
    return product.write()


def without_constant(a: Expression, ordered: bool) -> Expression:
    """A sum without the number in it."""
    if a.name not in ("add", "sub"):
        return a
    total = Sum.of(a, None, ordered)
    return a if not total.constant else Sum(ordered, total.plus, total.minus).write()


def _normal_extreme(e: Expression, ordered: bool) -> Expression:
    def links(node: Expression) -> Iterable[Expression]:
        if node.name != e.name:
            node = normal(node, ordered)
        if node.name == e.name:
            for argument in node.arguments:
                yield from links(argument)
        else:
            yield node

    found = list(dict.fromkeys(links(e)))
    if all(link.value is not None for link in found):
        return _fold(e)
    return join(e.name, arranged(found, ordered))


def _normal_sum(e: Expression, ordered: bool) -> Expression:
    total = Sum.of(e, lambda term: normal(term, ordered), ordered)
    if not math.isfinite(total.constant):
        return e
    for candidate in (total.cancelled(), total):
        new = candidate.write()
        if breadth(new) == breadth(e):
            return normal(new, ordered) if new.name == "neg" else new
    return e


def product_of(e: Expression, ordered: bool) -> Product:
    """The factors of ``e``, each made normal."""
    return Product.of(e, lambda factor: normal(factor, ordered), ordered)


def _normal_product(e: Expression, ordered: bool) -> Expression:
    product = product_of(e, ordered)
    if not product.is_writable():
        arguments = tuple(normal(a, ordered) for a in e.arguments)
        e = Expression(e.name, arguments)
        return _fold(e) if all(a.value is not None for a in arguments) else e
    new = product.write()
    return new if breadth(new) == breadth(e) else e
