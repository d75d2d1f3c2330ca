"""The language of metrics: what one is, how it is read, written, simplified and put into words.

Needs torch, and of this package only ``errors``.
"""

from prunerzero.metrics.catalog import CATALOG, Metric, find_metric, power_law
from prunerzero.metrics.errors import (
    MetricError,
    NotationError,
    OperatorError,
    ScoreError,
    SparsityError,
)
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.known import known_metrics
from prunerzero.metrics.register import load_plugins, register_operator
from prunerzero.metrics.simplify import canonical, remove_opposing, simplify
from prunerzero.metrics.sparsity import Sparsity

__all__ = [
    "CATALOG",
    "Expression",
    "Metric",
    "MetricError",
    "NotationError",
    "OperatorError",
    "ScoreError",
    "Sparsity",
    "SparsityError",
    "canonical",
    "find_metric",
    "known_metrics",
    "power_law",
    "register_operator",
    "remove_opposing",
    "simplify",
]

load_plugins()
