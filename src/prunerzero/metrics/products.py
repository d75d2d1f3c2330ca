"""Products of any number of factors, gathered from products, powers and divisions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.facts import (
    arranged,
    breadth,
    even,
    is_non_negative,
    is_product,
    join,
    power_of,
    unary,
)
from prunerzero.metrics.operators import SMALLEST_DIVISOR
from prunerzero.metrics.sums import negated


@dataclass
class Product:
    """number · signed factors · |base| ** exponent … / divisors … / norms …"""

    inner: Callable[[Expression], Expression]
    """Makes a factor normal."""
    ordered: bool
    """Whether factors are sorted."""
    number: float = 1.0
    signed: Counter[Expression] = field(default_factory=Counter)
    powers: dict[Expression, float] = field(default_factory=dict)
    numeric: set[Expression] = field(default_factory=set)
    """Bases of which an exponent stood as a constant."""
    divisors: list[Expression] = field(default_factory=list)
    norms: list[Expression] = field(default_factory=list)
    seen: dict[Expression, None] = field(default_factory=dict)
    """Every factor and base, in order of appearance."""

    @classmethod
    def of(cls, e: Expression, inner: Callable[[Expression], Expression], ordered: bool) -> Product:
        product = cls(inner, ordered)
        product._gather(e, breadth(e))
        for base in list(product.signed):
            if product.signed[base] > 1:  # x * x is never negative
                pairs = product.signed[base] // 2
                product.signed[base] -= 2 * pairs
                product._add_power(base, 2.0 * pairs)
        product.signed += Counter()  # drops what is left 0 times
        # a pair of differences may have become a power of the opposite difference
        there = product.signed.keys() | product.powers.keys()
        product.seen = {base: None for base in product.seen if base in there}
        return product

    def _gather(self, e: Expression, whole: int) -> None:
        if not is_product(e):
            e = self.inner(e)
        if e.value is not None:
            self.number *= e.value
        elif e.name == "neg":
            self.number = -self.number
            self._gather(e.arguments[0], whole)
        elif e.name == "mul":
            for argument in e.arguments:
                self._gather(argument, whole)
        elif self._is_hoisted(e, whole):
            self._gather(e.arguments[0], whole)
            self._divide(e)
        elif (power := power_of(e)) is not None:
            self._gather_power(e.arguments[0], power, e.name == "epow", whole)
        else:
            factor = self._opaque(e)
            if factor.name == "neg":
                self.number, factor = -self.number, factor.arguments[0]
            if is_non_negative(factor):
                self._add_power(factor, 1.0)
            else:
                self.seen[factor] = None
                self.signed[factor] += 1

    def _gather_power(self, e: Expression, power: float, numeric: bool, whole: int) -> None:
        """Multiply by |e| ** power."""
        if not is_product(e):
            e = self.inner(e)
        if e.value is not None:
            try:
                self.number *= abs(e.value) ** power
            except OverflowError:
                self.number = math.inf
        elif e.name in ("neg", "mul"):
            for argument in e.arguments:
                self._gather_power(argument, power, numeric, whole)
        elif (inner := power_of(e)) is not None:
            numeric = numeric or e.name == "epow"
            self._gather_power(e.arguments[0], power * inner, numeric, whole)
        elif (
            power == 1
            and (e.name != "ediv" or is_non_negative(self.inner(e.arguments[1])))
            and self._is_hoisted(e, whole)
        ):
            self._gather_power(e.arguments[0], power, numeric, whole)
            self._divide(e)
        else:
            base = self._opaque(e)
            if base == e:
                self._add_power(base, power, numeric)
            else:
                self._gather_power(base, power, numeric, whole)

    @staticmethod
    def _is_hoisted(e: Expression, whole: int) -> bool:
        """Whether ``e`` is a division that may as well be one of the whole product."""
        # where the product is wider than a div, so would be what the norm is taken of
        return e.name == "ediv" or (e.name == "div" and breadth(e) == whole)

    def _divide(self, e: Expression) -> None:
        """Divide the whole product as the root of ``e`` does."""
        divisor = self.inner(e.arguments[1])
        if e.name == "div":
            self.norms.append(even(divisor, self.ordered))
        elif divisor.value is not None and abs(divisor.value) >= SMALLEST_DIVISOR:
            self.number /= divisor.value
        else:
            self.divisors.append(divisor)

    def _opaque(self, e: Expression) -> Expression:
        return self.inner(e) if is_product(e) else e

    def _add_power(self, base: Expression, power: float, numeric: bool = False) -> None:
        base = even(base, self.ordered)
        self.seen[base] = None
        self.powers[base] = self.powers.get(base, 0.0) + power
        if numeric:
            self.numeric.add(base)

    def is_writable(self) -> bool:
        exponents = self.powers.values()
        return abs(self.number) < math.inf and all(2**-64 < p < 2**64 for p in exponents)

    def write(self) -> Expression:
        """The product with the fewest nodes, powers under a common root or square."""
        factors = arranged(self._factors(), self.ordered)
        minus = self.number == -1 and bool(factors)
        if not minus and (self.number != 1 or not factors):
            factors.append(Expression.constant(self.number))
        core = join("mul", factors)
        for divisor in arranged(self.divisors, self.ordered):
            core = Expression("ediv", (core, divisor))
        norms = arranged(self.norms, self.ordered)
        for norm in sorted(norms, key=breadth, reverse=True):  # the widest makes the rest as wide
            core = Expression("div", (core, norm))
        return negated(core, self.ordered) if minus else core

    def _factors(self) -> list[Expression]:
        """x, abs(y) and powers; those made of sqr and sqrt as x * sqr(y * sqr(z)) * sqrt(…)."""
        at: dict[int, list[Expression]] = {0: []}  # base ** (2 ** j) for each j
        numeric: dict[float, dict[Expression, float]] = {}  # exponents that differ by powers of two
        absolute: list[Expression] = []
        for base in sorted(self.seen, key=self._place):
            if base in self.signed:
                at[0].append(base)
            if (power := self.powers.get(base)) is None:
                continue
            bits = _bits(power)
            if base in self.numeric and len(bits) > 1:
                mantissa = power / 2.0 ** bits[-1]  # odd: the same for what differs by 2 ** j
                numeric.setdefault(mantissa, {})[base] = power
                continue
            for j in bits:
                to_wrap = j == 0 and not is_non_negative(base)
                (absolute if to_wrap else at.setdefault(j, [])).append(base)
        factors = at[0]
        if absolute:
            factors.append(unary("abs", self._joined(absolute)))
        factors += self._nested({j: bases for j, bases in at.items() if j > 0}, "sqr")
        factors += self._nested({-j: bases for j, bases in at.items() if j < 0}, "sqrt")
        factors += [self._shared_power(powers) for powers in numeric.values()]
        return factors

    def _place(self, base: Expression) -> float:
        """Orders bases as they are written, so that what is written is read in the same order."""
        if base in self.signed:
            return 0
        bits = _bits(self.powers[base])
        if base in self.numeric and len(bits) > 1:
            return 1000
        if 0 in bits:
            return 0 if is_non_negative(base) else 0.5
        return min(j if j > 0 else 100 - j for j in bits)

    def _nested(self, at: dict[int, list[Expression]], name: str) -> list[Expression]:
        """``name(a * name(b * …))``, where ``at`` says under how many each base stands."""
        inside: list[Expression] = []
        for j in range(max(at, default=0), 0, -1):
            inside = [unary(name, self._joined(at.get(j, []) + inside))]
        return inside

    def _shared_power(self, powers: dict[Expression, float]) -> Expression:
        """Powers of which one is another to the power of 2 ** j, as ``(a * sqrt(b)) ** p``."""

        def written(power: float) -> Expression:
            at: dict[int, list[Expression]] = {}
            for base, exponent in powers.items():
                at.setdefault(round(math.log2(exponent / power)), []).append(base)
            inside = at.get(0, [])
            inside += self._nested({j: bases for j, bases in at.items() if j > 0}, "sqr")
            inside += self._nested({-j: bases for j, bases in at.items() if j < 0}, "sqrt")
            return Expression("epow", (self._joined(inside), Expression.constant(power)))

        return min(map(written, sorted(set(powers.values()), reverse=True)), key=lambda e: e.size)

    def _joined(self, factors: list[Expression]) -> Expression:
        return join("mul", arranged(factors, self.ordered))


def _bits(power: float) -> list[int]:
    """``power`` as a sum of powers of two: their exponents, the largest first."""
    numerator, denominator = power.as_integer_ratio()
    shift = denominator.bit_length() - 1
    return [j - shift for j in reversed(range(numerator.bit_length())) if numerator >> j & 1]
