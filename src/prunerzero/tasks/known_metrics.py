"""The named metrics beside what a search finds, on the chunks that its race reads."""

from __future__ import annotations

from functools import partial
from statistics import fmean

from prunerzero.evolution import Jobs
from prunerzero.language.perplexity import exp
from prunerzero.metrics import CATALOG, Expression, ScoreError
from prunerzero.pruning.fitness import PrunedLoss


def measure_known(fitness: PrunedLoss, jobs: Jobs) -> None:
    """Read the race's chunks with each of the named metrics; once, by whichever worker."""
    for name, metric in CATALOG.items():
        jobs.once(_job(name), partial(_losses, fitness, metric.expression))


def known_perplexities(jobs: Jobs) -> dict[str, float]:
    """Perplexity of the named metrics on the race's chunks, of those that gave one."""
    measured = {name: jobs.result(_job(name)) for name in CATALOG}
    return {name: exp(fmean(losses)) for name, losses in measured.items() if losses}


def _job(name: str) -> str:
    return f"known {name}"


def _losses(fitness: PrunedLoss, expression: Expression) -> list[float]:
    try:
        return list(fitness.losses(expression, 0, fitness.chunks))
    except ScoreError:
        return []
