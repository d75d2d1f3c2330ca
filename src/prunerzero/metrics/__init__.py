"""The language of metrics: what one is, how it is read, written, simplified and put into words.

Needs torch and nothing else of this package.
"""

from prunerzero.metrics.catalog import CATALOG, Metric, find_metric, power_law
from prunerzero.metrics.errors import MetricError, NotationError, ScoreError, SparsityError
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.simplify import canonical, remove_opposing, simplify
from prunerzero.metrics.sparsity import Sparsity

__all__ = [
    "CATALOG",
    "Expression",
    "Metric",
    "MetricError",
    "NotationError",
    "ScoreError",
    "Sparsity",
    "SparsityError",
    "canonical",
    "find_metric",
    "power_law",
    "remove_opposing",
    "simplify",
]
