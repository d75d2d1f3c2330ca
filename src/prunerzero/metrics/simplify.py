"""Smaller expressions that prune the same, and Opposing Operation Simplification.

Three levels:

- ``simplify`` writes a metric with fewer operations that prunes the same weights. Inside the tree
  the *values* are kept (see ``algebra``); at the root only the *order* of scores within a
  comparison group counts, so increasing functions, constants and positive factors are stripped.
  "The same" is meant in real arithmetic: where ``exp`` or ``tanh`` saturates or fp32 rounds, scores
  tie that the stripped metric still tells apart.
- ``canonical`` also puts exchangeable arguments in one order, so that more duplicates read alike.
- ``remove_opposing`` is Opposing Operation Simplification as the paper means it (Dong et al., ICML
  2024, section 3): pairs of operations that undo each other are removed although some undo each
  other only nearly, ``exp(log(x))`` being |x| + 0.001 and ``x * y / y`` 0 where y is 0. It may
  change a mask, so a search applies it *before* a metric is evaluated.
"""

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from prunerzero.metrics.algebra import normal, product_of
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.facts import is_non_negative, is_product, power_of, unary
from prunerzero.metrics.operators import OPERATORS
from prunerzero.metrics.products import Product
from prunerzero.metrics.sparsity import Group
from prunerzero.metrics.sums import Sum


def simplify(expression: Expression, group: Group = "row") -> Expression:
    """A smaller expression that prunes the same weights, whatever the sparsity.

    ``group`` says within what scores compete: within a row (or an N:M run of one) a factor that is
    constant in each row changes nothing, within a layer one that is constant in each layer, and
    within a model only what is the same in all its layers.
    """
    return _same_order(expression, group, False)


def canonical(expression: Expression, group: Group = "row") -> Expression:
    """``simplify`` with chains of exchangeable operators flattened and sorted."""
    return _same_order(expression, group, True)


@lru_cache(maxsize=1 << 12)
def _same_order(expression: Expression, group: Group, ordered: bool) -> Expression:
    expression = normal(expression, ordered)
    for _ in range(expression.size + 1):  # each step but the last removes something
        better = normal(_strip(expression, group, ordered), ordered)
        if better == expression:
            break
        expression = better
    return expression


def _strip(e: Expression, group: Group, ordered: bool) -> Expression:
    """The root without one thing that cannot change a ranking."""
    if not e.arguments:
        return e
    a = e.arguments[0]
    if e.name == "neg":
        return unary("neg", _strip(a, group, ordered))
    if e.name in ("add", "sub"):
        return _strip_sum(e, ordered)
    if is_product(e):
        return _strip_product(e, group, ordered)
    if e.name == "rownorm" and group == "row":
        return a
    if group == "model" and OPERATORS[e.name].reads is not None:  # another function in each layer
        return e
    order = OPERATORS[e.name].order
    if order == "increasing" or (order == "increasing for non-negative" and is_non_negative(a)):
        return a
    if e.name == "log":
        return unary("abs", a)
    if e.name == "epow" and (e.arguments[1].value or 0) < 0:
        return unary("neg", unary("abs", a))
    return e


def _strip_sum(e: Expression, ordered: bool) -> Expression:
    """A sum without its constant, and ``a`` instead of ``a + a``."""
    total = Sum.of(e, None, ordered).cancelled()
    common = math.gcd(*total.plus.values(), *total.minus.values()) or 1

    def shared(counts: Counter[Expression]) -> Counter[Expression]:
        return Counter({term: count // common for term, count in counts.items()})

    return Sum(ordered, shared(total.plus), shared(total.minus)).write()


def _strip_product(e: Expression, group: Group, ordered: bool) -> Expression:
    e = normal(_without_group_factors(e, group), ordered)
    if not is_product(e):
        return e
    product = product_of(e, ordered)
    if not product.is_writable():
        return e
    if product.number == 0:
        return Expression.constant(0)
    norms = product.norms if group == "model" else []
    product = replace(product, number=math.copysign(1, product.number), norms=norms)
    if norms:
        return product.write()
    if not product.signed and not product.divisors:
        return _best_power(product)
    if not product.signed and not product.powers and len(product.divisors) == 1:
        divisor = product.divisors[0]  # a constant divided by it
        if is_non_negative(divisor):
            return unary("neg", divisor) if product.number > 0 else divisor
    return product.write()


def _without_group_factors(e: Expression, group: Group) -> Expression:
    """A product without the positive factors that are one number for each comparison group."""
    if group == "model":
        return e
    if e.name == "div" or (e.name == "rownorm" and group == "row"):
        return _without_group_factors(e.arguments[0], group)
    if e.name == "mul":
        return _with_arguments(e, tuple(_without_group_factors(a, group) for a in e.arguments))
    if e.name in ("neg", "ediv") or power_of(e) is not None:
        first, *rest = e.arguments
        return _with_arguments(e, (_without_group_factors(first, group), *rest))
    return e


def _with_arguments(e: Expression, arguments: tuple[Expression, ...]) -> Expression:
    """The root of ``e`` above others; ``e`` itself, which is known to caches, above its own."""
    if all(map(operator.is_, arguments, e.arguments)):
        return e
    return Expression(e.name, arguments)


def _best_power(product: Product) -> Expression:
    """The power of a product of powers that is shortest: W * sqrt(X) for sqr(W) * X."""
    if len(product.powers) < 2:
        return replace(product, powers=dict.fromkeys(product.powers, 1.0)).write()

    def scaled(j: int) -> tuple[tuple[float, ...], Expression]:
        powers = {base: power * 2.0**j for base, power in product.powers.items()}
        written = replace(product, powers=powers).write()
        highest = math.log2(max(powers.values()))
        return (written.size, abs(highest), highest), written

    lengths = [math.floor(math.log2(power)) for power in product.powers.values()]
    candidates = map(scaled, range(-max(lengths) - 1, -min(lengths) + 2))
    return min(candidates, key=lambda candidate: candidate[0])[1]


# Opposing Operation Simplification


def remove_opposing(expression: Expression) -> Expression:
    """Opposing Operation Simplification: remove each pair of operations that undo each other.

    Removed are exp/log, sqrt/sqr (and pow), neg/neg, skp, and adding then subtracting, multiplying
    then dividing the same (element by element), in either order.
    """
    while (better := _everywhere(expression, _opposing_pair)) != expression:
        expression = better
    return expression


def _everywhere(e: Expression, rule: Callable[[Expression], Expression]) -> Expression:
    """Apply ``rule`` to every node, the leaves first."""
    if not e.arguments:
        return e
    return rule(_with_arguments(e, tuple([_everywhere(a, rule) for a in e.arguments])))


def _opposing_pair(e: Expression) -> Expression:
    if len(e.arguments) == 2:
        return _opposing_binary(e.name, *e.arguments) or e
    a = e.arguments[0]
    if OPERATORS[e.name].identity:
        return a
    if not a.arguments:
        return e
    b = a.arguments[0]
    match e.name, a.name:
        case ("neg", "neg") | ("log", "exp"):
            return b
        case ("exp", "log") | ("sqrt", "sqr" | "pow") | ("sqr" | "pow", "sqrt"):
            return b if is_non_negative(b) else unary("abs", b)
    return e


def _opposing_binary(name: str, a: Expression, b: Expression) -> Expression | None:
    """``(x + y) - y``, ``x - (x - y)``, ``(x * y) / y`` and their like; None where none applies."""
    match name, a.name:
        case ("sub", "add") | ("ediv", "mul"):
            for x, y in (a.arguments, a.arguments[::-1]):
                if y == b:
                    return x
        case ("add", "sub") | ("mul", "ediv") if a.arguments[1] == b:
            return a.arguments[0]
        case "sub", "sub" if a.arguments[0] == b:
            return unary("neg", a.arguments[1])
    match name, b.name:
        case ("add", "sub") | ("mul", "ediv") if b.arguments[1] == a:
            return b.arguments[0]
        case "sub", "sub" if b.arguments[0] == a:
            return b.arguments[1]
        case "sub", "add":
            for x, y in (b.arguments, b.arguments[::-1]):
                if y == a:
                    return unary("neg", x)
    return None
