"""What a tree tells of its values without statistics: sign, breadth, powers, and a fixed order."""

from collections.abc import Iterable
from functools import lru_cache, reduce

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OF_INPUTS, OPERATORS, TERMINALS

_PRODUCT_NAMES = frozenset(("mul", "ediv", "div", "neg"))
"""Operators whose chains are gathered as factors, beside powers."""


def unary(name: str, argument: Expression) -> Expression:
    return Expression(name, (argument,))


def power_of(e: Expression) -> float | None:
    """p where ``e`` is |x| ** p with a constant p > 0, else None."""
    if e.name == "epow":
        exponent = e.arguments[1].value
        return exponent if exponent is not None and exponent > 0 else None
    return OPERATORS[e.name].power if e.arguments else None


@lru_cache(maxsize=1 << 14)
def is_non_negative(e: Expression) -> bool:
    """Whether no value of ``e`` can be negative, as far as the operators' table tells."""
    if e.value is not None:
        return e.value >= 0
    if e.name in TERMINALS:
        return True
    operator = OPERATORS[e.name]
    if operator.sign == "as its arguments":
        # a scale is positive: of what is rescaled, only the first argument matters
        return all(map(is_non_negative, e.arguments[:1] if operator.scale else e.arguments))
    return operator.sign == "non-negative"


@lru_cache(maxsize=1 << 14)
def breadth(e: Expression) -> int:
    """Whether ``e`` is a number (0), one row [1, in] (1), or a whole matrix (2)."""
    if e.name in OF_INPUTS:
        return 1
    return 2 if e.name in TERMINALS else max(map(breadth, e.arguments), default=0)


def is_product(e: Expression) -> bool:
    return e.name in _PRODUCT_NAMES or power_of(e) is not None


def even(a: Expression, ordered: bool) -> Expression:
    """What may stand for ``a`` where only absolute values are read."""
    if a.name in ("neg", "abs"):
        return a.arguments[0]
    if ordered and a.name == "sub" and key(a.arguments[1]) < key(a.arguments[0]):
        return Expression("sub", a.arguments[::-1])
    return a


def key(e: Expression) -> tuple[int, str]:
    return e.depth, str(e)


def arranged(links: Iterable[Expression], ordered: bool) -> list[Expression]:
    """The links of a chain, the shallow ones first where ``ordered``."""
    links = list(links)
    if ordered and len(links) > 1:
        depths = {link.depth for link in links}
        # writing a formula costs more than sorting by it, and different depths need none
        links.sort(key=_depth if len(depths) == len(links) else key)
    return links


def _depth(e: Expression) -> int:
    return e.depth


def join(name: str, links: list[Expression]) -> Expression:
    return reduce(lambda left, right: Expression(name, (left, right)), links)
