"""Make language models smaller without retraining, by evolving the rule that prunes them.

>>> from prunerzero import Setup, search, prune
>>> found = search(Setup(model="bundled"), "0.5", "run")  # doctest: +SKIP
>>> prune(Setup(model="bundled"), "run", "0.5", "pruned")  # doctest: +SKIP
"""

__version__ = "0.1.0"

from prunerzero.errors import InputError, ModelError, OutputError, TextError
from prunerzero.metrics import Expression, Metric, MetricError, Sparsity, prune_mask, score_mask
from prunerzero.tasks.compare import compare
from prunerzero.tasks.evaluate import evaluate
from prunerzero.tasks.prune import prune
from prunerzero.tasks.search import search
from prunerzero.tasks.tune import tune
from prunerzero.tasks.tune_result import TuneResult
from prunerzero.tasks.workspace import Setup

__all__ = [
    "Expression",
    "InputError",
    "Metric",
    "MetricError",
    "ModelError",
    "OutputError",
    "Setup",
    "Sparsity",
    "TextError",
    "TuneResult",
    "compare",
    "evaluate",
    "prune",
    "prune_mask",
    "score_mask",
    "search",
    "tune",
]
