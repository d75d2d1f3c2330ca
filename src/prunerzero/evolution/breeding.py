"""Proposes candidates: chooses parents, varies them, simplifies, and skips what is known."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import cast

from prunerzero.evolution.population import Population
from prunerzero.evolution.records import Candidate, Individual, Origin
from prunerzero.evolution.settings import VARIATIONS, SearchSettings
from prunerzero.evolution.surrogate import Surrogate
from prunerzero.evolution.variation import (
    PrimitiveSet,
    crossover,
    insert,
    mutate_constants,
    mutate_node,
    mutate_subtree,
    random_tree,
    shrink,
)
from prunerzero.metrics.catalog import CATALOG
from prunerzero.metrics.errors import ScoreError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.simplify import canonical, remove_opposing
from prunerzero.metrics.sparsity import Group, Sparsity
from prunerzero.scoring.ranking import Probe, Ranking, rank_on

LAST_RESORT = 1000
"""Random trees tried before the search space counts as exhausted."""

REMEMBERED = 10_000
"""Rankings kept in memory; each takes a few kilobytes."""

UNSCREENED = 0.1
"""Share of candidates chosen without a guess, so that guesses do not learn from guesses alone."""

_Proposal = tuple[Expression, Origin, tuple[int, ...]]
"""A tree, how it was made, and the numbers of its parents."""


class Breeder:
    """Proposes candidates that were never measured.

    Args:
        population: the evaluations so far.
        settings: of the search.
        samples: small samples of real layers, which show which metrics rank alike, and what they
            are pruned to; of several models, or for several sparsities, each. Their one group is
            the one in which scores compete.
        ahead: proposals are made while the draw before is measured. Its loss is ignored even where
            it is known, so that an interrupted search goes on as if it had not stopped.
    """

    def __init__(
        self,
        population: Population,
        settings: SearchSettings,
        samples: Sequence[tuple[Sequence[Probe], Sparsity]],
        *,
        ahead: bool = False,
    ) -> None:
        self.population = population
        self.ahead = ahead
        self.settings = settings
        self.samples = samples
        self.group = samples[0][1].group
        self.primitives = PrimitiveSet.of(settings.operators)
        self._firsts = inf if settings.strategy == "random" else settings.initial
        self._weights = [getattr(settings, name) for name in VARIATIONS]
        self.seeds = _seeds(self.primitives, settings, self.group)
        self.surrogate = Surrogate()
        self._elite: list[Individual] = []
        self._learned = 0
        self._rankings: dict[str, Ranking | None] = {}

    def propose(self, draw: int) -> Candidate | None:
        """The candidate of a draw, or None where the search space seems exhausted.

        It is the most promising of several new ones, as ``Surrogate`` guesses. A metric that is
        constant or not finite on a probe is skipped too, but does not count as a duplicate.
        """
        rng = Random(f"{self.settings.seed}:{draw}")
        self._learn(draw)
        wanted = self._wanted(rng, draw)
        new: dict[str, Candidate] = {}
        duplicates = 0
        for attempt in range(self.settings.attempts + LAST_RESORT):
            if new and attempt >= self.settings.attempts:
                break
            tree, origin, parents = self._tree(rng, draw, attempt)
            expression = canonical(remove_opposing(tree), self.group)
            if not self.settings.limits.allow(expression):  # sorting a chain deepens it
                continue
            text = str(expression)
            if self.population.knows(text):
                duplicates += 1
                continue
            ranking = self._ranking(expression, text)
            if ranking is None:
                continue
            if self.population.knows(ranking.key):
                duplicates += 1
                continue
            new.setdefault(ranking.key, Candidate(expression, ranking.key, origin, parents))
            if len(new) == wanted:
                break
        if not new:
            return None
        return replace(self._most_promising([*new.values()]), duplicates_skipped=duplicates)

    def _most_promising(self, candidates: list[Candidate]) -> Candidate:
        if len(candidates) > 1:
            rankings = [self._ranking(c.expression, str(c.expression)) for c in candidates]
            return candidates[self.surrogate.choose([r.pruned for r in rankings if r is not None])]
        return candidates[0]

    def _learn(self, draw: int) -> None:
        """Take in the new evaluations of all workers."""
        for individual in self.population.living[self._learned :]:
            if self.ahead and individual.draw == draw - 1:
                break
            self._learned += 1
            if individual.state == "complete":
                insort(self._elite, individual, key=merit)
                del self._elite[self.settings.elite :]
            if self.settings.screened > 1 and individual.losses:
                expression = individual.candidate.expression
                if (ranking := self._ranking(expression, str(expression))) is not None:
                    self.surrogate.add(individual, ranking.pruned)

    def _wanted(self, rng: Random, draw: int) -> int:
        """How many new candidates to choose from."""
        is_free = self.settings.strategy == "random" or draw < len(self.seeds)
        return 1 if is_free or rng.random() < UNSCREENED else self.settings.screened

    def _is_first(self, draw: int) -> bool:
        return draw < self._firsts or not self._learned

    def _tree(self, rng: Random, draw: int, attempt: int) -> _Proposal:
        if draw < len(self.seeds) and attempt == 0:
            return (*self.seeds[draw], ())
        if self._is_first(draw) or attempt >= self.settings.attempts:
            return random_tree(rng, self.primitives, limits=self.settings.limits), "random", ()
        return self._offspring(rng)

    def _offspring(self, rng: Random) -> _Proposal:
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
            case "constant_mutation":
                tree = mutate_constants(rng, tree)
            case "subtree_mutation":
                tree = mutate_subtree(rng, tree, self.primitives, limits)
            case "insertion":
                tree = insert(rng, tree, self.primitives, limits)
            case "shrinking":
                tree = shrink(rng, tree)
        return tree, cast(Origin, how.replace("_", " ")), numbers

    def _tournament(self, rng: Random) -> Individual:
        """The best of a few, drawn from the last evaluations and from the best of all.

        The elite stays because nothing is measured twice: without it the best would age away, and
        could not come back.
        """
        first = max(0, self._learned - self.settings.population)
        last = self.population.living[first : self._learned]
        return min(rng.choices([*self._elite, *last], k=self.settings.tournament), key=merit)

    def _ranking(self, expression: Expression, text: str) -> Ranking | None:
        if text not in self._rankings:
            if len(self._rankings) >= REMEMBERED:
                self._rankings.clear()
            try:
                self._rankings[text] = rank_on(expression, self.samples)
            except ScoreError:
                self._rankings[text] = None
        return self._rankings[text]


def merit(individual: Individual) -> tuple[int, float, int]:
    """The key to sort by, best first: chunks read in the race, then loss, then size."""
    return -len(individual.losses), individual.mean, individual.candidate.expression.size


def _seeds(
    primitives: PrimitiveSet, settings: SearchSettings, group: Group
) -> list[tuple[Expression, Origin]]:
    """The metrics to begin with: those given, and the known ones that the operators can write."""
    given = [canonical(Expression.parse(text), group) for text in settings.begin_with]
    seeds: list[tuple[Expression, Origin]] = [(tree, "given") for tree in given]
    if settings.seed_metrics == "catalog":
        trees = (canonical(metric.expression, group) for metric in CATALOG.values())
        seeds += [(tree, "catalog") for tree in trees if primitives.can_write(tree)]
    return seeds
