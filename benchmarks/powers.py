"""What powers cost: masks of all layers by metrics with ``**`` and by as many other operators.

A power is exp(b · log|a|), computed for each weight unless it is one of X or D alone, of which
there is one for each input. Beside the masks stand the scores of the same metrics by eager torch,
which is how metrics are scored that the kernel does not take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.commands import no_command
from benchmarks.evaluation import random_model, random_statistics
from benchmarks.timing import times
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.pruned_weights import PrunedWeights

PAIRS = {
    "one power, of inputs": ("W * X ** 0.5", "W * sqrt(X)"),
    "one power": ("W * G ** 0.75", "W * sqrt(G)"),
    "two powers": ("W ** 0.9 * G ** 0.75", "tanh(W) * sqrt(G)"),
    "two powers, one of inputs": ("W * X ** 0.5 * G ** 0.25", "W * sqrt(X) * sqrt(G)"),
    "four powers": (
        "(W ** 0.9 + G ** 0.75) ** 0.5 * X ** 0.25",
        "sqrt(tanh(W) + sqrt(G)) * sqrt(X)",
    ),
}
"""Metrics with powers, and the same with another operator in the place of each."""
SPARSITIES = (Sparsity(0.5), Sparsity.parse("2:4"), Sparsity.parse("0.5", "model"))


def run(shape: str, device: str) -> Iterator[dict[str, Any]]:
    """Milliseconds for all layers of a model: a row for each pair and each thing done with it."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    layers = prunable_layers(random_model(shape, device, dtype))
    statistics = random_statistics(layers)
    weights = PrunedWeights(layers, statistics, SPARSITIES[0])

    def scores(e: Expression) -> None:
        for name, layer in layers.items():
            e.score(W=layer.weight, X=statistics[name].X, G=statistics[name].G)

    def masks(e: Expression, sparsity: Sparsity) -> None:
        weights.at(sparsity).prune(e)

    for pair, formulas in PAIRS.items():
        metrics = dict(zip(("with", "without"), map(Expression.parse, formulas), strict=True))
        functions: dict[str, Callable[[], None]] = {}
        for kind, e in metrics.items():
            functions[f"{kind}, scores by eager torch"] = partial(scores, e)
            for s in SPARSITIES:
                functions[f"{kind}, masks, {s.in_words}"] = partial(masks, e, s)
        weights.restore()
        repeats = 3 if shape == "Llama-7B" else 9
        measured = times(functions, device, repeats=repeats, warmups=1)
        facts = {
            "model": shape,
            "powers": pair,
            **{kind: str(e) for kind, e in metrics.items()},
            "operators": _operators(metrics["with"]),
            "by the kernel": device == "cuda" and _is_fused(metrics["with"]),
        }
        for name in functions:
            kind, what = name.split(", ", 1)
            if kind == "with":
                ours, others = measured[name], measured[f"without, {what}"]
                yield facts | {
                    "what": what,
                    "with, ms": ours,
                    "without, ms": others,
                    "ratio": ours / others,
                }


def _operators(e: Expression) -> int:
    return sum(bool(node.arguments) for _, node in e.subtrees())


def _is_fused(e: Expression) -> bool:
    from prunerzero.scoring.gpu import is_fused  # which needs Triton

    return is_fused(e, torch.device("cuda", 0))


if __name__ == "__main__":
    no_command("python -m benchmarks powers")
