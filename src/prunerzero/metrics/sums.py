"""Sums of any number of terms, gathered from ``add``, ``sub`` and ``neg``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.facts import arranged, join, unary


@dataclass
class Sum:
    """plus … - minus … + constant: terms, each as often as it stands."""

    ordered: bool
    """Whether terms are sorted."""
    plus: Counter[Expression] = field(default_factory=Counter)
    minus: Counter[Expression] = field(default_factory=Counter)
    constant: float = 0.0

    @classmethod
    def of(
        cls, e: Expression, inner: Callable[[Expression], Expression] | None, ordered: bool
    ) -> Sum:
        """The terms of ``e``, each made normal by ``inner`` (None: they are)."""
        total = cls(ordered)
        total._gather(e, 1, inner)
        return total

    def _gather(
        self, e: Expression, sign: int, inner: Callable[[Expression], Expression] | None
    ) -> None:
        if inner is not None and e.name not in ("add", "sub"):
            e, inner = inner(e), None
        if e.value is not None:
            self.constant += sign * e.value
        elif e.name == "mul" and (e.arguments[1].value or 0) < 0:
            self._gather(Expression("mul", (e.arguments[0], negated(e.arguments[1]))), -sign, None)
        elif e.name == "neg":
            self._gather(e.arguments[0], -sign, inner)
        elif e.name in ("add", "sub"):
            self._gather(e.arguments[0], sign, inner)
            self._gather(e.arguments[1], sign if e.name == "add" else -sign, inner)
        else:
            (self.plus if sign > 0 else self.minus)[e] += 1

    def cancelled(self) -> Sum:
        return Sum(self.ordered, self.plus - self.minus, self.minus - self.plus, self.constant)

    def write(self) -> Expression:
        plus, minus = list(self.plus.elements()), list(self.minus.elements())
        if (constant := self.constant) != 0:
            if constant > 0 or not plus:
                plus.append(Expression.constant(constant))
            else:
                minus.append(Expression.constant(-constant))
        plus, minus = arranged(plus, self.ordered), arranged(minus, self.ordered)
        if not plus:
            for index, term in enumerate(minus):
                if term.name == "mul" and term.arguments[1].value is not None:
                    first, number = term.arguments  # its number takes the minus sign
                    plus = [Expression("mul", (first, negated(number)))]
                    del minus[index]
                    break
        if not minus:
            return join("add", plus) if plus else Expression.constant(0.0)
        if not plus:
            return unary("neg", join("add", minus))
        return Expression("sub", (join("add", plus), join("add", minus)))


def negated(e: Expression, ordered: bool = False) -> Expression:
    """``-e`` of a normal ``e``, without a minus sign where that is possible."""
    if e.value is not None:
        return Expression.constant(-e.value)
    if e.name == "neg":
        return e.arguments[0]
    if e.name in ("add", "sub"):
        total = Sum.of(e, None, ordered)
        return Sum(ordered, total.minus, total.plus, -total.constant).write()
    return unary("neg", e)
