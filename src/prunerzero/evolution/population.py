"""The population: the candidates evaluated so far, and the metrics and draws that are taken."""

from __future__ import annotations

from prunerzero.evolution.draws import Draws
from prunerzero.evolution.records import Begun, Candidate, Individual


class Population:
    """A study's evaluations in memory, as of the last ``SearchStudy.refresh``.

    Attributes:
        individuals: every finished evaluation; in trial order with one worker.
        living: those of them that can be parents: not failed.
        begun: the evaluations in flight, by trial number, this worker's own included.
    """

    def __init__(self) -> None:
        self.individuals: list[Individual] = []
        self.living: list[Individual] = []
        self.begun: dict[int, Begun] = {}
        self._keys: set[str] = set()
        self._draws = Draws()

    def add(self, individual: Individual) -> None:
        """Take in a finished evaluation."""
        self.individuals.append(individual)
        if individual.state != "failed":
            self.living.append(individual)
        self._keys |= {str(individual.candidate.expression), individual.candidate.ranking}
        self._draws.add(individual.draw)

    def knows(self, key: str) -> bool:
        """Whether a metric of that canonical text or ranking key was evaluated or is in flight."""
        return key in self._keys or any(key in (b.text, b.ranking) for b in self.begun.values())

    def knows_any(self, candidate: Candidate) -> bool:
        """Whether the canonical text or the ranking key of a candidate is known."""
        return self.knows(str(candidate.expression)) or self.knows(candidate.ranking)

    def is_first(self, number: int) -> bool:
        """Whether an evaluation in flight was the first to begin its metric and its draw."""
        own = self.begun.get(number)
        if own is None:  # given up in the meantime
            return False
        keys = {own.text, own.ranking}
        earlier = [b for n, b in self.begun.items() if n < number]
        return (
            own.draw not in self._draws
            and self._keys.isdisjoint(keys)
            and all(b.draw != own.draw and keys.isdisjoint((b.text, b.ranking)) for b in earlier)
        )

    def free_draws(self, most: int, limit: int | None) -> list[int]:
        """The lowest draws that are free, as ``Draws.free`` gives them."""
        return self._draws.free((b.draw for b in self.begun.values()), most, limit)
