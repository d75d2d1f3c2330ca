"""The settings of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from prunerzero.evolution.variation import Limits, OperatorSet, PrimitiveSet

Strategy = Literal["evolution", "random", "powerlaw"]
SeedMetrics = Literal["none", "catalog"]

VARIATIONS = (
    "crossover",
    "node_mutation",
    "constant_mutation",
    "subtree_mutation",
    "insertion",
    "shrinking",
)
"""The ways to vary a parent; a setting of the same name weights each."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search. The settings of the paper (Dong et al., ICML 2024) are not public.

    The weights of the variations, ``tournament``, ``population`` and ``initial`` were chosen on 60
    synthetic problems: layers with a hidden importance of each weight. Populations of 50 to 1000
    and tournaments of 3 to 10 differed there by less than the problems did; much less crossover,
    fewer first trees and margins of 1 or 3 seemed worse. ``screened``, ``elite`` and the weight of
    constant mutation are reasoned choices: measurements showed no clear order among their values.
    ``racing`` explains ``places``.

    Attributes:
        seed: with one worker, equal seeds give equal searches.
        evaluations: budget of evaluations, by all workers, including those before a resume; None
            for no limit.
        seconds: budget of time, including the judging of finalists; None for no limit.
        least_evaluations: how many to make even if the time is over.
        strategy: "evolution", or one to compare it with: "random" trees, or "powerlaw", a grid of
            W · X^a · G^b, with D^c where the operators have D, then steps around its best point.
        operators: "published", or "extended" with further operators and constants.
        seed_metrics: "none" begins from scratch, as the paper does; "catalog" begins with the known
            metrics that can be written with the operators.
        begin_with: formulas of further metrics to begin with, before those.
        initial: how many random trees to begin with.
        population: how many of the last candidates can be parents (ageing).
        elite: how many of the best that finished the race can be parents too.
        tournament: how many of these compete to be a parent.
        screened: how many offspring to choose the most promising from; see ``surrogate``.
        crossover, node_mutation, constant_mutation, subtree_mutation, insertion, shrinking: weights
            of the ways to vary a parent. Constant mutation does nothing with published operators.
        max_depth, max_size: limits of a proposed tree, in edges and nodes.
        attempts: how many proposals may be known already before a random tree is tried.
        first_rung: how many chunks a candidate reads before it is first judged; see ``racing``.
        reduction_factor: the ratio of chunks between one rung and the one before.
        noise_margin: how far behind a candidate may be, in standard errors; see ``racing``.
        places: how many of the best a candidate must still be able to join; see ``racing``.
        finalists: how many of the best are judged on all chunks.

    Raises:
        ValueError: a setting is out of its range, or there is no budget.
    """

    seed: int = 0
    evaluations: int | None = 500
    seconds: float | None = None
    least_evaluations: int = 0
    strategy: Strategy = "evolution"
    operators: OperatorSet = "published"
    seed_metrics: SeedMetrics = "none"
    begin_with: tuple[str, ...] = ()
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
    def terminals(self) -> tuple[str, ...]:
        """The terminals that its metrics may read."""
        return PrimitiveSet.of(self.operators).terminals

    @property
    def limits(self) -> Limits:
        """The limits of a proposed tree."""
        return Limits(self.max_depth, self.max_size)
