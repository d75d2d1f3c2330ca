"""Small against good: which metrics no other is both smaller and better than."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

from prunerzero.evolution.records import Evaluation


def pareto_front(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Of what finished the race: each that is better than all that are as small, smallest first."""
    finished = [e for e in evaluations if e.state == "complete" and e.loss is not None]
    front: list[Evaluation] = []
    for e in sorted(finished, key=lambda e: (e.size, e.loss or 0.0, e.number)):
        if not front or (e.loss or 0.0) < (front[-1].loss or 0.0):
            front.append(e)
    return tuple(front)


def is_as_good(losses: Sequence[float], best: Sequence[float]) -> bool:
    """Whether the mean difference is within one standard error, paired over chunks.

    The one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984.
    """
    differences = [a - b for a, b in zip(losses, best, strict=True)]
    if len(differences) < 2:
        return fmean(differences) <= 0
    return fmean(differences) <= stdev(differences) / sqrt(len(differences))


def smallest_as_good(
    measured: Mapping[int, Sequence[float]], sizes: Mapping[int, int]
) -> int | None:
    """The number of the smallest of those that are as good as the best; None of none."""
    if not measured:
        return None
    best = min(measured.values(), key=fmean)
    equal = [number for number, losses in measured.items() if is_as_good(losses, best)]
    return min(equal, key=lambda number: (sizes[number], fmean(measured[number]), number))
