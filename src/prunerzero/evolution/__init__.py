"""Evolves metrics by genetic programming over expressions, with any measure of fitness.

This package knows the language of metrics and nothing of models: a ``Fitness`` measures the loss.
"""

from prunerzero.evolution.at_once import AtOnce, Placed
from prunerzero.evolution.by_turns import ByTurns
from prunerzero.evolution.errors import StudyMismatchError
from prunerzero.evolution.fitness import Fitness
from prunerzero.evolution.jobs import Jobs
from prunerzero.evolution.loop import search
from prunerzero.evolution.pareto import pareto_front
from prunerzero.evolution.population import Population
from prunerzero.evolution.records import EvaluationRecord, Finalist, Progress, SearchResult
from prunerzero.evolution.settings import SearchSettings
from prunerzero.evolution.several import Case, Several
from prunerzero.evolution.study import SearchStudy

__all__ = [
    "AtOnce",
    "ByTurns",
    "Case",
    "EvaluationRecord",
    "Finalist",
    "Fitness",
    "Jobs",
    "Placed",
    "Population",
    "Progress",
    "SearchResult",
    "SearchSettings",
    "SearchStudy",
    "Several",
    "StudyMismatchError",
    "pareto_front",
    "search",
]
