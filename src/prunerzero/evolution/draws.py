"""Draws: the numbers that seed candidates, of which each is measured once."""

from __future__ import annotations

from collections.abc import Iterable


class Draws:
    """Which draws have been measured: all below one of them, and some beyond."""

    def __init__(self) -> None:
        self._first_free = 0
        self._beyond: set[int] = set()

    def add(self, draw: int) -> None:
        """One more has been measured."""
        self._beyond.add(draw)
        while self._first_free in self._beyond:
            self._beyond.remove(self._first_free)
            self._first_free += 1

    def __contains__(self, draw: int) -> bool:
        return draw < self._first_free or draw in self._beyond

    def free(self, begun: Iterable[int], most: int, limit: int | None) -> list[int]:
        """The lowest draws that are neither measured nor begun, ``most`` at most.

        Of a budget of ``limit`` draws they are as many of the lowest as are left: whoever else
        begins one meanwhile takes it from the same ones, so that the budget holds.
        """
        taken = self._beyond.union(draw for draw in begun if draw not in self)
        if limit is not None:
            most = min(most, limit - self._first_free - len(taken))
        found: list[int] = []
        draw = self._first_free
        while len(found) < most:
            if draw not in taken:
                found.append(draw)
            draw += 1
        return found
