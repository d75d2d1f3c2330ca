"""Masks of every layer of a 7B model on a GPU, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.commands import no_command
from benchmarks.masks import METRICS, SHAPES, layer
from benchmarks.timing import times
from prunerzero.metrics import Expression, Sparsity

if TYPE_CHECKING:
    from prunerzero.scoring import gpu  # needs Triton, which a machine without a GPU may lack

BLOCKS = 32
OF_A_BLOCK = [SHAPES[0]] * 4 + [SHAPES[1]] * 2 + [SHAPES[2]]


class Model:
    """The prunable weights of a 7B model with their statistics; random, 32 blocks."""

    def __init__(self, blocks: int) -> None:
        self.groups: list[tuple[gpu.Layers, list[Tensor], Tensor]] = []
        for shape in SHAPES:
            layers = [
                layer(*shape, "cuda", torch.bfloat16, seed)
                for seed in range(blocks * OF_A_BLOCK.count(shape))
            ]
            W = [values["W"] for values in layers]
            X = torch.stack([values["X"] for values in layers])
            group = gpu.Layers(W, X, [values["G"] for values in layers])
            nans = torch.zeros(len(W), dtype=torch.int32, device="cuda")
            self.groups.append((group, [w.clone() for w in W], nans))

    def prune(self, e: Expression, sparsity: Sparsity) -> None:
        for group, out, nans in self.groups:
            group.prune(e, sparsity, out, nans)
        assert not any(int(nans.sum()) for _, _, nans in self.groups)

    def score(self, e: Expression) -> None:
        for group, _, _ in self.groups:
            for first in range(0, len(group.W), 4):
                group.score(e, first, min(first + 4, len(group.W)))

    def copy(self) -> None:
        """Read W and G, write W, and no more."""
        for group, out, _ in self.groups:
            assert group.G is not None
            for w, g, o in zip(group.W, group.G, out, strict=True):
                o.copy_(w)
                g.view(torch.int64).amax()

    def eager(self, e: Expression) -> None:
        for group, _, _ in self.groups:
            assert group.X is not None and group.G is not None
            for w, x, g in zip(group.W, group.X, group.G, strict=True):
                e.score(W=w, X=x, G=g)


def run(blocks: int = BLOCKS) -> Iterator[dict[str, Any]]:
    """Milliseconds for all layers of ``blocks`` blocks."""
    model = Model(blocks)
    for name, formula in METRICS.items():
        e = Expression.parse(formula)
        for sparsity in map(Sparsity.parse, ("0.5", "2:4")):
            yield _row(model, name, e, sparsity, blocks)
    yield from _kernels(lambda: model.prune(e, Sparsity(0.5)), "14 operators, 0.5")
    yield from _kernels(lambda: model.prune(e, Sparsity.parse("2:4")), "14 operators, 2:4")
    wanda = Expression.parse(METRICS["2 operators"])
    yield from _kernels(lambda: model.prune(wanda, Sparsity(0.5)), "2 operators, 0.5")
    yield from _kernels(lambda: model.prune(wanda, Sparsity.parse("2:4")), "2 operators, 2:4")


def _row(model: Model, name: str, e: Expression, sparsity: Sparsity, blocks: int) -> dict[str, Any]:
    measured = times(
        {
            "masks in place": lambda: model.prune(e, sparsity),
            "scores, fused": lambda: model.score(e),
            "scores, eager": lambda: model.eager(e),
            "floor: read W and G, write W": model.copy,
        },
        "cuda",
        repeats=5,
    )
    return {"metric": name, "sparsity": str(sparsity), "blocks": blocks, **measured}


def _kernels(function: Callable[[], None], name: str) -> Iterator[dict[str, Any]]:
    """The kernels that take longest, by the profiler."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    for event in events[:4]:
        ms = event.self_device_time_total / 1e3
        yield {"metric": name, "kernel": event.key[:60], "kernel ms": ms, "launches": event.count}


def shapes() -> Iterator[dict[str, Any]]:
    """Launch shapes of the row kernel, 8 layers of each width."""
    from prunerzero.scoring import gpu

    chosen, ways = gpu._launch, gpu._WAYS
    full = Expression.parse("log(sqr(W) * sqrt(G) + exp(neg(W))) * tanh(sqrt(X)) + abs(W - G)")
    wanda = Expression.parse(METRICS["2 operators"])
    half = Sparsity(0.5)
    candidates = {
        4096: [(4, 1024, 128, 3), (8, 1024, 64, 2), (8, 1024, 64, 3), (8, 2048, 80, 3)],
        11008: [(16, 4096, 128, 3), (32, 4096, 64, 2), (32, 4096, 64, 3)],
    }  # fmt: skip
    try:
        for width, options in candidates.items():
            values = [layer(4096, width, "cuda", torch.bfloat16, i) for i in range(8)]
            group = gpu.Layers(
                [v["W"] for v in values],
                torch.stack([v["X"] for v in values]),
                [v["G"] for v in values],
            )
            out = [v["W"].clone() for v in values]
            nans = torch.zeros(8, dtype=torch.int32, device="cuda")
            for option in options:
                gpu._WAYS = option[3]
                gpu._launch = lambda block: option[:3]
                row = {"width": width, "warps, chunk, registers, ways": option}
                try:
                    measured = times(
                        {
                            "2": lambda: group.prune(wanda, half, out, nans),
                            "13": lambda: group.prune(full, half, out, nans),
                        },
                        "cuda",
                        repeats=5,
                    )
                    yield row | {name: ms / 8 for name, ms in measured.items()}
                except Exception as error:
                    yield row | {"error": repr(error)[:200]}
    finally:
        gpu._launch, gpu._WAYS = chosen, ways


def growth() -> Iterator[dict[str, Any]]:
    """Masks of ever more weights: a part of one layer, one layer, 1 to 32 blocks."""
    from prunerzero.scoring import gpu

    half = Sparsity(0.5)
    e = Expression.parse(METRICS["14 operators"])
    for rows in (256, 2560):
        values = layer(rows, 4096, "cuda", torch.bfloat16)
        group = gpu.Layers([values["W"]], values["X"][None], [values["G"]])
        out = [values["W"].clone()]
        nans = torch.zeros(1, dtype=torch.int32, device="cuda")
        ms = times({"ms": lambda: group.prune(e, half, out, nans)}, "cuda", repeats=20)["ms"]
        yield {"weights": rows * 4096, "ms": ms, "ms a billion": ms / (rows * 4096) * 1e9}
    for blocks in (1, 4, 16, 32):
        yield _growth(blocks, e, half)


def _growth(blocks: int, e: Expression, sparsity: Sparsity) -> dict[str, Any]:
    model = Model(blocks)
    weights = sum(group.W[0].numel() * len(group.W) for group, _, _ in model.groups)
    ms = times({"ms": lambda: model.prune(e, sparsity)}, "cuda", repeats=5)["ms"]
    return {"weights": weights, "ms": ms, "ms a billion": ms / weights * 1e9}


if __name__ == "__main__":
    no_command('python -m benchmarks --device cuda "whole 7B model"')
