"""What a formula means, in words and as a tree."""

from __future__ import annotations

from typing import Literal

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OPERATORS, TERMINALS, TERMINALS_JA


def in_words(e: Expression, language: Literal["en", "ja"] = "en") -> str:
    """The formula as a phrase in English or Japanese."""
    if e.value is not None:
        return f"{e.value:g}"
    terminals = TERMINALS_JA if language == "ja" else TERMINALS
    if e.name in terminals:
        return terminals[e.name]
    operator = OPERATORS[e.name]
    opening, closing = "「」" if language == "ja" else "()"
    phrases = []
    for argument in e.arguments:
        phrase = in_words(argument, language)
        # in Japanese what is joined by a particle is set apart, in English what holds an "and"
        apart = operator.arity == 2 and argument.arguments if language == "ja" else (
            len(argument.arguments) == 2
        )  # fmt: skip
        phrases.append(f"{opening}{phrase}{closing}" if apart else phrase)
    return (operator.meaning_ja if language == "ja" else operator.meaning).format(*phrases)


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
