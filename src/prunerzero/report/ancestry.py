"""Where the winner comes from, and what the best are made of; from a run's history alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .wording import finite

TOP = 0.1
"""The share of metrics that counts as the best."""


@dataclass(frozen=True)
class Ancestor:
    """One of the winner's family.

    Attributes:
        evaluation: as the history has it.
        number: of its trial.
        place: in the order of evaluations, from 1.
        perplexity: on the chunks it read.
        parents: those that are in the history.
        in_main_line: whether the line of the better parents leads through it.
    """

    evaluation: dict[str, Any]
    number: int
    place: int
    perplexity: float
    parents: tuple[int, ...]
    in_main_line: bool

    @property
    def origin(self) -> str:
        """How it was made."""
        return str(self.evaluation.get("origin", "unknown"))


def ancestry(history: list[dict[str, Any]], winner: str) -> list[Ancestor]:
    """The winner and all its ancestors, the oldest first; empty where it is not in the history."""
    places = {e["number"]: place for place, e in enumerate(history, start=1)}
    known = {e["number"]: e for e in history if finite(e.get("perplexity")) is not None}

    def parents_of(number: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(p for p in known[number].get("parents", ()) if p in known))

    found = [n for n, e in known.items() if e["expression"] == winner]
    if not found:
        return []
    main, family, waiting = {found[0]}, set(found[:1]), [found[0]]
    while waiting:
        for parent in parents_of(waiting.pop()):
            if parent not in family:
                family.add(parent)
                waiting.append(parent)
    number = found[0]
    while parents := parents_of(number):
        number = min(parents, key=lambda n: _merit(known[n]))
        main.add(number)
    return [
        Ancestor(known[n], n, places[n], known[n]["perplexity"], parents_of(n), n in main)
        for n in sorted(family, key=lambda n: places[n])
    ]


def uses(
    history: list[dict[str, Any]], names: dict[str, set[str]]
) -> list[tuple[str, float, float]]:
    """(operator or terminal, share of the best tenth that holds it, share of all), the best first.

    Args:
        history: the evaluations.
        names: the operators and terminals of each expression.
    """
    measured = [e for e in history if finite(e.get("perplexity")) is not None]
    measured.sort(key=_merit)
    best = measured[: max(1, round(TOP * len(measured)))]
    every = {name for e in measured for name in names[e["expression"]]}

    def share(group: list[dict[str, Any]], name: str) -> float:
        return sum(name in names[e["expression"]] for e in group) / len(group)

    found = [(name, share(best, name), share(measured, name)) for name in every]
    return sorted(found, key=lambda use: (-use[1], -use[2], use[0]))


def _merit(e: dict[str, Any]) -> tuple[int, float]:
    return -e["chunks_read"], e["perplexity"]
