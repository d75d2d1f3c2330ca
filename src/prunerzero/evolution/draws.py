"""Draws: the numbers that seed candidates. Each is measured once."""

from __future__ import annotations

from collections.abc import Iterable


class Draws:
    """The measured draws: all below a number, and some above it."""

    def __init__(self) -> None:
        self._first_free = 0
        self._beyond: set[int] = set()

    def add(self, draw: int) -> None:
        """Add a measured draw."""
        self._beyond.add(draw)
        while self._first_free in self._beyond:
            self._beyond.remove(self._first_free)
            self._first_free += 1

    def __contains__(self, draw: int) -> bool:
        return draw < self._first_free or draw in self._beyond

    def free(self, begun: Iterable[int], most: int, limit: int | None) -> list[int]:
        """The lowest draws that are neither measured nor begun.

        Args:
            begun: the draws in flight, measured ones among them or not.
            most: the number of draws to return, at most.
            limit: the budget of draws. No more are returned than it has left: another worker that
                begins one in the meantime takes it from the same ones, so that the budget holds.
        """
        taken = self._beyond.union(draw for draw in begun if draw not in self)
        if limit is not None:
            most = min(most, limit - self._first_free - len(taken))
        free: list[int] = []
        draw = self._first_free
        while len(free) < most:
            if draw not in taken:
                free.append(draw)
            draw += 1
        return free
