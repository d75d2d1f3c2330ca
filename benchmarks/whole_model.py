"""Masks of every layer of a 7B model on a GPU, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.masks import METRICS, SHAPES, layer
from benchmarks.timing import times
from prunerzero.metrics import Expression, Sparsity, gpu

BLOCKS = 32
OF_A_BLOCK = [SHAPES[0]] * 4 + [SHAPES[1]] * 2 + [SHAPES[2]]


def run(blocks: int = BLOCKS) -> Iterator[dict[str, Any]]:
    """Rows of milliseconds for all layers of ``blocks`` blocks."""
    model = [
        layer(*shape, "cuda", torch.bfloat16, seed)
        for seed in range(blocks)
        for shape in OF_A_BLOCK
    ]
    outs = [values["W"].clone() for values in model]
    nans = torch.zeros(len(model), dtype=torch.int32, device="cuda")

    def ours(e: Expression, sparsity: Sparsity) -> None:
        for i, (values, out) in enumerate(zip(model, outs, strict=True)):
            gpu.Layer(values["W"], values["X"][None], values["G"]).prune(
                e, sparsity, out, nans[i : i + 1]
            )
        assert not int(nans.sum())

    def scores(e: Expression) -> None:
        for values in model:
            gpu.Layer(values["W"], values["X"][None], values["G"]).score(e)

    def floor() -> None:
        for values, out in zip(model, outs, strict=True):
            torch.add(values["W"], values["G"], out=out)

    def eager(e: Expression) -> None:
        for values in model:
            e.score(**values)

    for name, formula in METRICS.items():
        e = Expression.parse(formula)
        for sparsity in map(Sparsity.parse, ("0.5", "2:4")):
            yield {
                "metric": name, "sparsity": str(sparsity), "blocks": blocks,
                **times(
                    {
                        "masks in place": lambda: ours(e, sparsity),
                        "scores alone, fused": lambda: scores(e),
                        "scores alone, eager": lambda: eager(e),
                        "floor: read W and G, write W": floor,
                    },
                    "cuda", repeats=5, warmups=2,
                ),
            }  # fmt: skip


def shapes() -> Iterator[dict[str, Any]]:
    """Launch shapes of the row kernel, for one layer of each width."""
    chosen = gpu._shape
    e = Expression.parse(METRICS["14 operators"])
    wanda = Expression.parse(METRICS["2 operators"])
    half = Sparsity(0.5)
    candidates = {
        4096: [(w, w * 32 * per, r) for w, per, r in (
            (4, 4, 128), (4, 4, 168), (8, 2, 64), (8, 4, 64), (8, 4, 80), (8, 4, 128), (16, 2, 64), (16, 4, 64), (16, 4, 128))],
        11008: [(w, w * 32 * per, r) for w, per, r in ((16, 2, 128), (16, 4, 128), (32, 1, 64), (32, 2, 64), (32, 4, 64))],
    }  # fmt: skip
    try:
        for width, options in candidates.items():
            values = [layer(4096, width, "cuda", torch.bfloat16, i) for i in range(3)]
            outs = [v["W"].clone() for v in values]
            nans = torch.zeros(1, dtype=torch.int32, device="cuda")
            for option in options:
                try:
                    gpu._shape = lambda block, option=option: option

                    def go(e: Expression) -> None:
                        for v, out in zip(values, outs, strict=True):
                            gpu.Layer(v["W"], v["X"][None], v["G"]).prune(e, half, out, nans)

                    row = times(
                        {"wanda": lambda: go(wanda), "14": lambda: go(e)}, "cuda", repeats=9
                    )
                    yield {
                        "width": width,
                        "warps, chunk, registers": str(option),
                        **{k: v / 3 for k, v in row.items()},
                    }
                except Exception as error:
                    yield {
                        "width": width,
                        "warps, chunk, registers": str(option),
                        "error": repr(error)[:300],
                    }
    finally:
        gpu._shape = chosen
