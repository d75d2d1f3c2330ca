"""Choose parents, vary them, simplify, and pass over what is known already."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from prunerzero.evolution.population import Population
from prunerzero.evolution.records import Candidate, Individual, Origin
from prunerzero.evolution.settings import VARIATIONS, SearchSettings
from prunerzero.evolution.variation import (
    PrimitiveSet,
    crossover,
    insert,
    mutate_node,
    mutate_subtree,
    random_tree,
    shrink,
)
from prunerzero.metrics.errors import ScoreError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.mask import Sparsity
from prunerzero.metrics.ranking import Probe, ranking_key
from prunerzero.metrics.simplify import remove_opposing

LAST_RESORT = 1000
"""Random trees tried before the search space counts as exhausted."""

_ORIGINS: dict[str, Origin] = {
    "crossover": "crossover",
    "node_mutation": "node mutation",
    "subtree_mutation": "subtree mutation",
    "insertion": "insertion",
    "shrinking": "shrinking",
}


class Breeder:
    """Proposes candidates that were never measured.

    Args:
        population: what is known.
        settings: of the search.
        probes: small samples of real layers, on which metrics that rank alike are told.
        sparsity: within which group scores compete.
    """

    def __init__(
        self,
        population: Population,
        settings: SearchSettings,
        probes: Sequence[Probe],
        sparsity: Sparsity,
    ) -> None:
        self.population = population
        self.settings = settings
        self.probes = probes
        self.sparsity = sparsity
        self.primitives = PrimitiveSet.of(settings.operators)
        self._weights = [getattr(settings, name) for name in VARIATIONS]
        self._rankings: dict[str, str | None] = {}

    def propose(self, draw: int) -> Candidate | None:
        """The candidate of a draw, or None where the search space seems exhausted.

        What is constant or not finite on a probe is passed over too, but is no duplicate.
        """
        rng = Random(f"{self.settings.seed}:{draw}")
        duplicates = 0
        for attempt in range(self.settings.attempts + LAST_RESORT):
            is_first = draw < self.settings.initial or not self.population.living
            if is_first or attempt >= self.settings.attempts:
                tree, origin, parents = self._random(rng)
            else:
                tree, origin, parents = self._offspring(rng)
            expression = remove_opposing(tree).canonical(self.sparsity.group)
            if not self.settings.limits.allow(expression):  # sorting a chain deepens it
                continue
            text = str(expression)
            if self.population.knows(text):
                duplicates += 1
                continue
            ranking = self._ranking(expression, text)
            if ranking is None:
                continue
            if self.population.knows(ranking):
                duplicates += 1
                continue
            return Candidate(expression, ranking, origin, parents, duplicates)
        return None

    def _random(self, rng: Random) -> tuple[Expression, Origin, tuple[int, ...]]:
        return random_tree(rng, self.primitives, limits=self.settings.limits), "random", ()

    def _offspring(self, rng: Random) -> tuple[Expression, Origin, tuple[int, ...]]:
        limits = self.settings.limits
        how = rng.choices(VARIATIONS, self._weights)[0]
        parent = self._tournament(rng)
        tree = parent.candidate.expression
        numbers: tuple[int, ...] = (parent.number,)
        match how:
            case "crossover":
                other = self._tournament(rng)
                tree = crossover(rng, tree, other.candidate.expression, limits)
                numbers = (parent.number, other.number)
            case "node_mutation":
                tree = mutate_node(rng, tree, self.primitives)
            case "subtree_mutation":
                tree = mutate_subtree(rng, tree, self.primitives, limits)
            case "insertion":
                tree = insert(rng, tree, self.primitives, limits)
            case "shrinking":
                tree = shrink(rng, tree)
        return tree, _ORIGINS[how], numbers

    def _tournament(self, rng: Random) -> Individual:
        """The best of a few of the last: by how far it got, then loss, then size."""
        last = self.population.living[-self.settings.population :]
        return min(
            rng.choices(last, k=self.settings.tournament),
            key=lambda i: (-len(i.losses), i.mean, i.candidate.expression.size),
        )

    def _ranking(self, expression: Expression, text: str) -> str | None:
        if text not in self._rankings:
            try:
                self._rankings[text] = ranking_key(expression, self.probes, self.sparsity)
            except ScoreError:
                self._rankings[text] = None
        return self._rankings[text]
