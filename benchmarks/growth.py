"""What grows with what: masks with weights and operators, a candidate's evaluation with windows.

How the engine's cost grows with the candidates that a study holds: ``engine_overhead.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.commands import no_command
from benchmarks.evaluation import random_model, random_statistics
from benchmarks.masks import METRICS, layer
from benchmarks.timing import times
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.scoring.selection import prune_into

WIDTH = 4096
ROWS = {"cpu": (64, 256, 1024, 4096, 16384), "cuda": ()}
"""On a GPU ``whole_model.growth`` goes on to 7·10⁹ weights."""

OPERATORS = (2, 4, 8, 14, 28)
WINDOWS = (1, 2, 4, 8, 16)
HALF = Sparsity(0.5)


def run(device: str, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each number of weights, of operators and of windows, in milliseconds."""
    if device == "cuda":
        from benchmarks import whole_model

        yield from whole_model.growth()
    yield from weights(device, ROWS[device][: 2 if quick else None])
    yield from operators(device, 64 if quick else WIDTH)
    yield from windows(device, WINDOWS[: 2 if quick else None])


def weights(device: str, rows: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Masks, written in place, of ever more rows."""
    e = Expression.parse(METRICS["14 operators"])
    for count in rows:
        ms = _masks(device, count, {"ms": e})["ms"]
        number = count * WIDTH
        yield {"weights": number, "ms": ms, "ms a million": ms / number * 1e6}


def operators(device: str, rows: int) -> Iterator[dict[str, Any]]:
    """Masks of one layer by ever longer metrics."""
    measured = _masks(device, rows, {str(count): chain(count) for count in OPERATORS})
    first = measured[str(OPERATORS[0])]
    for before, count in zip((None, *OPERATORS), OPERATORS, strict=False):
        ms = measured[str(count)]
        row = {"weights": rows * WIDTH, "operators": count, "ms": ms, "to 2 operators": ms / first}
        if before:
            row["ms an operator more"] = (ms - measured[str(before)]) / (count - before)
        yield row


def chain(operators: int) -> Expression:
    """A product and a root in turn, so that each two operators cost what the two before did."""
    text = "W"
    for step in range(operators // 2):
        text = f"sqrt({text} * {'XGW'[step % 3]})"
    return Expression.parse(text)


def windows(device: str, counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """A candidate's masks and its loss on ever more windows."""
    if device == "cuda":
        name, length = "SmolLM2-135M", 2048
        model = random_model(name, device, torch.bfloat16)
    else:
        loaded = load_model(ModelSource("bundled", device=device))
        name, length, model = "bundled", loaded.context_length, loaded.model
    layers = prunable_layers(model)
    text = torch.randint(0, model.config.vocab_size, (max(counts), length))
    e = Expression.parse(METRICS["14 operators"])
    fitness = PrunedLoss(
        model, layers, random_statistics(layers), HALF, text,
        windows_per_chunk=1, race_chunks=len(text),
    )  # fmt: skip

    def candidate(count: int) -> None:
        list(fitness.losses(e, 0, count))

    ways = {str(count): partial(candidate, count) for count in (0, *counts)}
    measured = times(ways, device, repeats=5)
    for count in counts:
        ms = measured[str(count)]
        yield {
            "model": f"{name}, windows of {length} tokens", "windows": count, "ms": ms,
            "masks, ms": measured["0"], "ms a window": (ms - measured["0"]) / count,
        }  # fmt: skip


def _masks(device: str, rows: int, metrics: dict[str, Expression]) -> dict[str, float]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    values = layer(rows, WIDTH, device, dtype)
    out = values["W"].clone()
    ways = {name: partial(prune_into, out, e, HALF, **values) for name, e in metrics.items()}
    return times(ways, device, repeats=5)


if __name__ == "__main__":
    no_command("python -m benchmarks growth")
