"""The next candidate, proposed while the one before is measured where that leaves the CPU idle."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from prunerzero.evolution.population import Population
from prunerzero.evolution.records import Candidate

Proposal = tuple[int, Candidate | None]
"""A draw, and its candidate; None where there is nothing new to propose."""


class Proposer(Protocol):
    """What makes a candidate of a draw."""

    def propose(self, draw: int) -> Candidate | None:
        """A candidate that was never measured, or None."""


class Proposals:
    """Proposes, at once or ahead.

    Only one thread at a time is at the population: between ``start`` and ``settle`` the caller does
    nothing but measure.

    Args:
        population: the study.
        proposer: what makes candidates.
        evaluations: how many draws there are; None where there is no end to them.
        ahead: whether to; if not, ``start`` does nothing.
    """

    def __init__(
        self,
        population: Population,
        proposer: Proposer,
        evaluations: int | None,
        *,
        ahead: bool = False,
    ) -> None:
        self._population = population
        self._proposer = proposer
        self._evaluations = evaluations
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._next: Future[Proposal | None] | None = None

    def start(self) -> None:
        """Begin to make the next proposal in a thread of its own."""
        if self._thread is not None:
            self._next = self._thread.submit(self._make)

    def settle(self) -> None:
        """Wait until it is made."""
        if self._next is not None:
            self._next.exception()

    def take(self) -> Proposal | None:
        """What was made ahead, or is made now; None where all draws are taken for now."""
        made, self._next = self._next, None
        ahead = made.result() if made else None
        return ahead or self._make()

    def another_draw(self) -> int | None:
        """A draw that nobody has, as ``Population.next_draw`` gives it."""
        return self._population.next_draw(self._evaluations)

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def _make(self) -> Proposal | None:
        draw = self.another_draw()
        return None if draw is None else (draw, self._proposer.propose(draw))
