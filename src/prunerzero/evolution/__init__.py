"""Making metrics: genetic programming over expressions, against any measure of fitness.

Knows the language of metrics and nothing of models: what a metric is worth is asked of a
``Fitness``.
"""

from prunerzero.evolution.fitness import Fitness
from prunerzero.evolution.jobs import Jobs
from prunerzero.evolution.pareto import pareto_front
from prunerzero.evolution.population import Population, StudyMismatchError
from prunerzero.evolution.records import Evaluation, Finalist, Progress, SearchResult
from prunerzero.evolution.search import search
from prunerzero.evolution.settings import SearchSettings

__all__ = [
    "Evaluation",
    "Finalist",
    "Fitness",
    "Jobs",
    "Population",
    "Progress",
    "SearchResult",
    "SearchSettings",
    "StudyMismatchError",
    "pareto_front",
    "search",
]
