"""The language of metrics: read, write, simplify, compare and score them, and make masks.

Needs torch and nothing else of this package.
"""

from prunerzero.metrics.catalog import CATALOG, Metric, find_metric, power_law
from prunerzero.metrics.errors import MetricError, NotationError, ScoreError, SparsityError
from prunerzero.metrics.explain import explain
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.mask import Sparsity, prune_mask
from prunerzero.metrics.selection import score_mask

__all__ = [
    "CATALOG",
    "Expression",
    "Metric",
    "MetricError",
    "NotationError",
    "ScoreError",
    "Sparsity",
    "SparsityError",
    "explain",
    "find_metric",
    "power_law",
    "prune_mask",
    "score_mask",
]
