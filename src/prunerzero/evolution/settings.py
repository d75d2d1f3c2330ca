"""How a search searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from prunerzero.evolution.variation import Limits, OperatorSet, PrimitiveSet

Strategy = Literal["evolution", "random", "powerlaw"]
SeedMetrics = Literal["none", "catalog"]


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search. The settings of the paper (Dong et al., ICML 2024) are not public.

    How often each variation is chosen, the tournament, the population and the size of the first
    generation were chosen on 60 problems of synthetic layers with a hidden importance of each
    weight, where populations of 50 to 1000 and tournaments of 3 to 10 differed by less than the
    spread between problems, and much less crossover, fewer first trees and margins of 1 or 3
    seemed worse. ``screened``, ``elite`` and the weight of constant mutation are reasoned choices:
    no clear order was measured among their values. ``places`` is explained in ``racing``.

    Attributes:
        seed: with one worker, equal seeds give equal searches.
        evaluations: budget, counting everything that was measured, by all workers and before a
            resume too; None for no such limit.
        seconds: budget of time, the judging of finalists included; None for no such limit.
        least_evaluations: made even where the time does not suffice for them.
        strategy: "evolution"; or, to compare it with, "random" trees, or "powerlaw": a grid of
            W · X^a · G^b, then steps around the best of it.
        operators: "published", or "extended" with further operators and constants.
        seed_metrics: "none" begins from scratch, as the paper does; "catalog" with those known
            metrics that can be written with the operators.
        initial: number of random trees to begin with.
        population: parents are chosen among the last so many candidates (ageing).
        elite: and among so many of the best that finished the race.
        tournament: how many of them compete to be a parent.
        screened: offspring of which the most promising is measured; see ``surrogate``.
        crossover, node_mutation, constant_mutation, subtree_mutation, insertion, shrinking: how
            often each is chosen, as weights; the published operators have no constants to move.
        max_depth, max_size: of a proposed tree, in edges and nodes.
        attempts: proposals known already before a random tree is tried instead.
        first_rung: chunks a candidate reads before it is first judged; see ``racing``.
        reduction_factor: each rung has so many times the chunks of the one before.
        noise_margin: how far behind a candidate may be, in standard errors; see ``racing``.
        places: among how many of the best it must still be able to come.
        finalists: how many of the best are judged on all chunks.

    Raises:
        ValueError: a setting out of its range, or no budget at all.
    """

    seed: int = 0
    evaluations: int | None = 500
    seconds: float | None = None
    least_evaluations: int = 0
    strategy: Strategy = "evolution"
    operators: OperatorSet = "published"
    seed_metrics: SeedMetrics = "none"
    initial: int = 50
    population: int = 100
    elite: int = 10
    tournament: int = 5
    screened: int = 8
    crossover: float = 0.4
    node_mutation: float = 0.25
    constant_mutation: float = 0.1
    subtree_mutation: float = 0.2
    insertion: float = 0.1
    shrinking: float = 0.05
    max_depth: int = 8
    max_size: int = 30
    attempts: int = 50
    first_rung: int = 1
    reduction_factor: float = 2.0
    noise_margin: float = 2.0
    places: int = 2
    finalists: int = 10

    def __post_init__(self) -> None:
        PrimitiveSet.of(self.operators)
        Limits(self.max_depth, self.max_size)
        for name, choices in (("strategy", Strategy), ("seed_metrics", SeedMetrics)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, not {value!r}.")
        if self.evaluations is None and self.seconds is None:
            raise ValueError("a search needs a budget: evaluations, seconds, or both.")
        at_least = {
            "evaluations": 1,
            "initial": 1,
            "population": 1,
            "elite": 0,
            "tournament": 1,
            "screened": 1,
            "attempts": 1,
            "first_rung": 1,
            "places": 1,
            "reduction_factor": 1,
            "finalists": 1,
            "seconds": 0,
            "least_evaluations": 0,
            "noise_margin": 0,
            **dict.fromkeys(VARIATIONS, 0),
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        if not any(getattr(self, name) for name in VARIATIONS):
            raise ValueError("at least one of the weights of variation must be above 0.")

    @property
    def limits(self) -> Limits:
        """Of a proposed tree."""
        return Limits(self.max_depth, self.max_size)


VARIATIONS = (
    "crossover",
    "node_mutation",
    "constant_mutation",
    "subtree_mutation",
    "insertion",
    "shrinking",
)
"""The settings that are weights of ways to vary a parent."""
