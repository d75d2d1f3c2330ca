"""Metric and mask: the usual way against ``score_mask``, on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import usual
from benchmarks.commands import no_command
from benchmarks.timing import times
from prunerzero.metrics import Expression, Sparsity
from prunerzero.scoring.selection import prune_into, score_mask

METRICS = {
    "2 operators": "W * sqrt(X)",
    "4 operators": "abs(W * W) * mms(G)",
    "14 operators": ("log(sqr(W) * sqrt(G) + exp(neg(W))) * tanh(sqrt(X)) + abs(W - mms(G))"),
}
SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
SPARSITIES = tuple(map(Sparsity.parse, ("0.5", "2:4")))


def layer(
    out: int, width: int, device: str, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """W, X and G at the scales of a language model."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    return {
        "W": (0.02 * normal(out, width)).to(dtype),
        "X": (1.5 * normal(width)).exp() * 100,
        "G": (0.3 * normal(out, width)).abs(),
    }


def run(device: str, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each shape, metric and sparsity, in milliseconds."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = ((256, 256),) if quick else SHAPES if device == "cuda" else SHAPES[:1]
    for out, width in shapes:
        values = layer(out, width, device, dtype)
        weights = values["W"].clone()
        for name, formula in METRICS.items():
            expression = Expression.parse(formula)
            for sparsity in SPARSITIES:
                equal = (
                    torch.equal(
                        usual.mask(expression, sparsity, **values),
                        score_mask(expression, sparsity, **values),
                    )
                    if sparsity.of is None
                    else None
                )
                slow = sparsity.of is not None
                measured = times(
                    {
                        "usual": lambda: usual.mask(expression, sparsity, **values),
                        "score_mask": lambda: score_mask(expression, sparsity, **values),
                        "in place": lambda: prune_into(weights, expression, sparsity, **values),
                        "metric alone, eager": lambda: expression.score(**values),
                    },
                    device,
                    repeats=3 if slow else 7,
                    warmups=1,
                )  # fmt: skip
                yield {
                    "shape": f"{out} × {width}", "metric": name, "sparsity": str(sparsity),
                    **measured, "ratio": measured["usual"] / measured["score_mask"],
                    "same mask": equal,
                }  # fmt: skip


if __name__ == "__main__":
    no_command("python -m benchmarks masks")
