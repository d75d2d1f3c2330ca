"""The next candidate, proposed while the one before is measured if that leaves the CPU idle."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from prunerzero.evolution.records import Candidate
from prunerzero.evolution.study import SearchStudy

Proposal = tuple[int, Candidate | None]
"""A draw and its candidate, which is None where there is nothing new to propose."""


class Proposer(Protocol):
    """Makes a candidate from a draw."""

    def propose(self, draw: int) -> Candidate | None:
        """A candidate that was never measured, or None."""


class Proposals:
    """Proposes candidates, ahead of time or when they are asked for.

    Only one thread at a time may use the study: between ``start`` and ``settle`` the caller only
    measures.

    Args:
        study: of the search.
        proposer: makes the candidates.
        evaluations: the number of draws; None for no limit.
        ahead: let ``start`` propose in a thread of its own; otherwise it does nothing.
    """

    def __init__(
        self,
        study: SearchStudy,
        proposer: Proposer,
        evaluations: int | None,
        *,
        ahead: bool = False,
    ) -> None:
        self._study = study
        self._proposer = proposer
        self._evaluations = evaluations
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._next: Future[Proposal | None] | None = None

    def start(self) -> None:
        """Start the next proposal in the thread."""
        if self._thread is not None:
            self._next = self._thread.submit(self._make)

    def settle(self) -> None:
        """Wait for that proposal."""
        if self._next is not None:
            self._next.exception()

    def take(self) -> Proposal | None:
        """The proposal made ahead, or a new one; None while all draws are taken."""
        made, self._next = self._next, None
        ahead = made.result() if made else None
        return ahead or self._make()

    def another_draw(self) -> int | None:
        """A free draw, or None while all are taken."""
        return self._study.next_draw(self._evaluations)

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def _make(self) -> Proposal | None:
        draw = self.another_draw()
        return None if draw is None else (draw, self._proposer.propose(draw))
