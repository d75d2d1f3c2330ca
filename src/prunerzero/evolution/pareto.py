"""Size against loss: the Pareto front, and the smallest metric that is as good as the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, sqrt
from statistics import fmean, stdev

from prunerzero.evolution.records import EvaluationRecord


def pareto_front(evaluations: Iterable[EvaluationRecord]) -> tuple[EvaluationRecord, ...]:
    """The metrics that finished the race and are better than all smaller ones, smallest first."""
    finished = [
        (e.size, e.loss, e.number, e)
        for e in evaluations
        if e.state == "complete" and e.loss is not None
    ]
    front: list[EvaluationRecord] = []
    best = inf
    for _, loss, _, e in sorted(finished, key=lambda f: f[:3]):
        if loss < best:
            front.append(e)
            best = loss
    return tuple(front)


def is_as_good(losses: Sequence[float], best: Sequence[float]) -> bool:
    """Whether the mean difference from the best, paired over chunks, is within one standard error.

    The one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984.
    """
    differences = [a - b for a, b in zip(losses, best, strict=True)]
    if len(differences) < 2:
        return fmean(differences) <= 0
    return fmean(differences) <= stdev(differences) / sqrt(len(differences))


def smallest_as_good(
    measured: Mapping[int, Sequence[float]], sizes: Mapping[int, int]
) -> int | None:
    """The smallest metric that is as good as the best; None where there is none.

    Args:
        measured: the losses of each metric, by its number.
        sizes: the nodes of each, by its number.

    Returns:
        its number.
    """
    if not measured:
        return None
    best = min(measured.values(), key=fmean)
    equal = [number for number, losses in measured.items() if is_as_good(losses, best)]
    return min(equal, key=lambda number: (sizes[number], fmean(measured[number]), number))
