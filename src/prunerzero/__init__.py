"""Make language models smaller without retraining, by evolving the rule that prunes them.

>>> from prunerzero import Setup, prune, search
>>> little = Setup(  # so that this takes seconds
...     model="bundled",
...     max_seq_length=128,
...     num_calibration_samples=8,
...     num_validation_samples=8,
...     num_test_samples=8,
... )
>>> search(little, "0.5", "run", evaluations=4).evaluations
4
>>> prune(little, "run", "0.5", "pruned").sparsity
0.5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunerzero.packed.register import register_when_imported

__version__ = "0.2.0"

if TYPE_CHECKING:
    from prunerzero.errors import InputError, ModelError, OutputError, TextError
    from prunerzero.metrics import (
        Expression,
        Metric,
        MetricError,
        Sparsity,
        register_operator,
    )
    from prunerzero.pruning.least_squares import least_squares
    from prunerzero.pruning.refine import refine
    from prunerzero.scoring import prune_mask, score_mask
    from prunerzero.tasks.bench import bench
    from prunerzero.tasks.compare import compare
    from prunerzero.tasks.evaluate import evaluate
    from prunerzero.tasks.pack import pack
    from prunerzero.tasks.prune import prune
    from prunerzero.tasks.search import search
    from prunerzero.tasks.setup import Setup
    from prunerzero.tasks.tune import tune
    from prunerzero.tasks.tune_result import TuneResult
    from prunerzero.tasks.unpack import unpack

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
    "bench",
    "compare",
    "evaluate",
    "least_squares",
    "pack",
    "prune",
    "prune_mask",
    "refine",
    "register_operator",
    "score_mask",
    "search",
    "tune",
    "unpack",
]

_HOMES = {
    "Expression": "prunerzero.metrics",
    "InputError": "prunerzero.errors",
    "Metric": "prunerzero.metrics",
    "MetricError": "prunerzero.metrics",
    "ModelError": "prunerzero.errors",
    "OutputError": "prunerzero.errors",
    "Setup": "prunerzero.tasks.setup",
    "Sparsity": "prunerzero.metrics",
    "TextError": "prunerzero.errors",
    "TuneResult": "prunerzero.tasks.tune_result",
    "bench": "prunerzero.tasks.bench",
    "compare": "prunerzero.tasks.compare",
    "evaluate": "prunerzero.tasks.evaluate",
    "least_squares": "prunerzero.pruning.least_squares",
    "pack": "prunerzero.tasks.pack",
    "prune": "prunerzero.tasks.prune",
    "prune_mask": "prunerzero.scoring",
    "refine": "prunerzero.pruning.refine",
    "register_operator": "prunerzero.metrics",
    "score_mask": "prunerzero.scoring",
    "search": "prunerzero.tasks.search",
    "tune": "prunerzero.tasks.tune",
    "unpack": "prunerzero.tasks.unpack",
}

register_when_imported()

if not TYPE_CHECKING:  # a checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        """Import on first use: the command has to answer Ctrl-C while torch is being imported."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
