"""What a formula means, in words and as a tree."""

from __future__ import annotations

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OPERATORS, TERMINALS


def in_words(e: Expression) -> str:
    """The formula as an English phrase."""
    if e.value is not None:
        return f"{e.value:g}"
    if e.name in TERMINALS:
        return TERMINALS[e.name]
    words = [f"({in_words(a)})" if len(a.arguments) == 2 else in_words(a) for a in e.arguments]
    return OPERATORS[e.name].meaning.format(*words)


def draw_tree(e: Expression) -> str:
    """The tree, one node a line, children indented under their parent."""
    return "\n".join(_draw(e))


def _draw(e: Expression) -> list[str]:
    lines = [e.name if e.value is None else f"{e.value:g}"]
    for index, argument in enumerate(e.arguments):
        last = index == len(e.arguments) - 1
        first, *rest = _draw(argument)
        lines.append(("└─ " if last else "├─ ") + first)
        lines.extend(("   " if last else "│  ") + line for line in rest)
    return lines
