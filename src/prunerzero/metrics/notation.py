"""Text ⇄ Expression ⇄ the published JSON.

Grammar, loosest binding first::

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = "-" factor | power
    power   = atom [("**" | "^") factor]
    atom    = NUMBER | TERMINAL | OPERATOR "(" sum ["," sum] ")" | "(" sum ")"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from prunerzero.metrics.errors import NotationError
from prunerzero.metrics.operators import OPERATORS, TERMINALS, arity_of

MAX_DEPTH = 64
"""Deeper trees are refused: no metric needs them, and every walk over a tree may then recurse."""


class Tree(Protocol):
    """What the notation knows of an expression: this module is below ``expression``."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self: T) -> tuple[T, ...]: ...
    @property
    def value(self) -> float | None: ...


T = TypeVar("T", bound=Tree)

Node = Callable[[str, tuple[T, ...], float | None], T]
"""Makes a tree of a name, its arguments and, for a constant, its number."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)"
    r"|(?P<symbol>\*\*|[-+*/^(),]))"
)
_INFIX = {"+": "add", "-": "sub", "*": "mul", "/": "ediv", "**": "epow", "^": "epow"}
_SUM, _PRODUCT, _FACTOR, _POWER, _ATOM = range(5)
_BINDING = {"add": _SUM, "sub": _SUM, "mul": _PRODUCT, "ediv": _PRODUCT, "epow": _POWER}

MAX_NESTING = 2 * MAX_DEPTH + 10
"""How deep a formula may nest; a tree of ``MAX_DEPTH`` needs at most two levels for one of its."""


def parse(text: str, node: Node[T]) -> T:
    """Read a formula. Raises NotationError, which points at the place."""
    if not isinstance(text, str):
        raise NotationError("a formula must be text, such as 'W * sqrt(X)'.")
    return _Parser(text, node).whole()


def suggest(name: str, known: list[str]) -> str:
    """``"; did you mean 'sqrt'?"`` where something known is near, else what is known."""
    spelling = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name[:40].lower(), spelling, n=1)
    return f"; did you mean {spelling[near[0]]!r}?" if near else f"; known are {', '.join(known)}."


class _Parser(Generic[T]):
    def __init__(self, text: str, node: Node[T]) -> None:
        self.text = text
        self.node = node
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                start = len(text) - len(text[position:].lstrip())
                raise self.error(f"{text[start]!r} is not part of the notation", start)
            kind = match.lastgroup
            self.tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        self.tokens.append(("end", "", len(text.rstrip())))
        self.next = 0
        self.nesting = 0

    def error(self, what: str, position: int) -> NotationError:
        start = max(0, position - 30)
        excerpt = self.text[start : position + 30].replace("\n", " ")
        pointer = " " * (position - start) + "^"
        end = "" if what.endswith(("?", ".")) else "."
        return NotationError(f"{what}{end}\n  {excerpt}\n  {pointer}", position)

    def take(self, *symbols: str) -> str | None:
        kind, token, _ = self.tokens[self.next]
        if kind == "symbol" and token in symbols:
            self.next += 1
            return token
        return None

    def expect(self, symbol: str) -> None:
        if self.take(symbol) is None:
            _, token, position = self.tokens[self.next]
            found = f"found {_short(token)}" if token else "the formula ends"
            raise self.error(f"{symbol!r} is expected here, but {found}", position)

    def make(self, position: int, name: str, *arguments: T) -> T:
        try:
            return self.node(name, arguments, None)
        except NotationError as error:  # too deep
            raise self.error(str(error), position) from None

    def whole(self) -> T:
        if self.tokens[0][0] == "end":
            raise NotationError("the formula is empty; write for example 'W * sqrt(X)'.", 0)
        result = self.operand(_SUM)
        kind, token, position = self.tokens[self.next]
        if kind != "end":
            raise self.error(f"{_short(token)} is not expected here", position)
        return result

    def operand(self, at_least: int) -> T:
        """A sum, product, factor or power: what binds at least so tightly."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            position = self.tokens[self.next][2]
            raise self.error(f"the formula is nested deeper than {MAX_NESTING} levels", position)
        result = self.factor() if at_least <= _FACTOR else self.atom()
        while True:
            kind, token, position = self.tokens[self.next]
            name = _INFIX.get(token) if kind == "symbol" else None
            if name is None or _BINDING[name] < at_least:
                break
            self.next += 1
            # a power takes a power as its exponent, all others group from the left
            right = self.operand(_FACTOR if name == "epow" else _BINDING[name] + 1)
            result = self.make(position, name, result, right)
        self.nesting -= 1
        return result

    def factor(self) -> T:
        signs = []
        while self.take("-"):
            signs.append(self.tokens[self.next - 1][2])
        if not signs:
            return self.atom()
        bare_number = self.tokens[self.next][0] == "number"
        result = self.operand(_POWER)
        for position in reversed(signs):
            if bare_number and result.value is not None:  # "-2" is a number, not neg(2)
                result, bare_number = self.node("constant", (), -result.value), False
            else:
                result = self.make(position, "neg", result)
        return result

    def atom(self) -> T:
        kind, token, position = self.tokens[self.next]
        self.next += 1
        if kind == "number":
            try:
                return self.node("constant", (), float(token))
            except NotationError as error:
                raise self.error(str(error), position) from None
        if kind == "name" and token in TERMINALS:
            return self.node(token, (), None)
        if kind == "name" and token in OPERATORS:
            self.expect("(")
            arguments = [self.operand(_SUM)]
            while self.take(","):
                arguments.append(self.operand(_SUM))
            self.expect(")")
            return self.make(position, token, *arguments)
        if kind == "name":
            known = [*TERMINALS, *OPERATORS]
            raise self.error(
                f"there is no operator or terminal {_short(token)}{suggest(token, known)}", position
            )
        if token == "(":
            result = self.operand(_SUM)
            self.expect(")")
            return result
        found = f"{_short(token)} is not expected here" if token else "the formula ends too early"
        raise self.error(found, position)


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:40] + "…")


def to_text(expression: Tree) -> str:
    """The formula, with as few parentheses as parse back to an equal expression."""
    e = expression
    if e.value is not None:
        return repr(e.value).removesuffix(".0")
    if not e.arguments:
        return e.name
    binding = _binding(e)
    if e.name == "neg" and binding == _FACTOR:
        return "-" + _wrap(e.arguments[0], _FACTOR)
    if binding == _ATOM:
        return f"{e.name}({', '.join(map(str, e.arguments))})"
    left, right = e.arguments
    if e.name == "epow":
        return f"{_wrap(left, _ATOM)} ** {_wrap(right, _FACTOR)}"
    # The left argument may bind as loosely, the right one must bind tighter: a - (b - c).
    return f"{_wrap(left, binding)} {OPERATORS[e.name].infix} {_wrap(right, binding + 1)}"


def _binding(e: Tree) -> int:
    """How tightly the outermost operator of the text binds."""
    if e.value is not None:
        return _FACTOR if e.value < 0 else _ATOM
    if e.name == "neg" and e.arguments[0].value is None:  # "-2" would be a number
        return _FACTOR
    return _BINDING.get(e.name, _ATOM)


def _wrap(e: Tree, at_least: int) -> str:
    return str(e) if _binding(e) >= at_least else f"({e})"


def from_json(tree: Any, node: Node[T], _depth: int = 0) -> T:
    """Read the published JSON, already decoded. Raises NotationError."""
    if _depth > MAX_DEPTH:
        raise NotationError(f"the tree is nested deeper than {MAX_DEPTH} levels.")
    if not isinstance(tree, dict) or "data" not in tree:
        raise NotationError(
            'a node of the tree must be an object such as {"data": "mul", "left": …, "right": …}, '
            f"not {_excerpt(tree)}."
        )
    data = tree["data"]
    if isinstance(data, int | float) and not isinstance(data, bool):
        try:
            value = float(data)
        except OverflowError:
            raise NotationError("a constant of the tree is too large.") from None
        return node("constant", _children(tree, node, str(value), 0, _depth), value)
    if not isinstance(data, str) or (data not in OPERATORS and data not in TERMINALS):
        known = [*TERMINALS, *OPERATORS]
        raise NotationError(
            f"the tree names an unknown operator {_excerpt(data)}{suggest(str(data)[:40], known)}"
        )
    return node(data, _children(tree, node, data, arity_of(data), _depth), None)


def _children(
    tree: dict[str, Any], node: Node[T], name: str, arity: int, depth: int
) -> tuple[T, ...]:
    sides = ("left", "right")
    for side in sides[:arity]:
        if tree.get(side) is None:
            raise NotationError(f"a node {name!r} of the tree has no {side!r} child.")
    for side in sides[arity:]:
        if tree.get(side) is not None:
            raise NotationError(f"a node {name!r} of the tree has a {side!r} child too many.")
    return tuple(from_json(tree[side], node, depth + 1) for side in sides[:arity])


def _excerpt(value: Any) -> str:
    if isinstance(value, dict | list):  # its text may be endless, and printing it recurses
        return f"a {type(value).__name__} without 'data'" if isinstance(value, dict) else "a list"
    if not isinstance(value, str | int | float | None):
        return "a value of another kind"
    return repr(value)[:40]


def to_json(expression: Tree) -> dict[str, Any]:
    """The published JSON. Constants, which the published space lacks, are plain numbers."""
    node: dict[str, Any] = {
        "data": expression.name if expression.value is None else expression.value
    }
    node.update(zip(("left", "right"), (to_json(a) for a in expression.arguments), strict=False))
    return node
