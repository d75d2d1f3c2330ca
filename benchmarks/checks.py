"""On a GPU: are fused scores and masks those of eager torch, to the bit?"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prunerzero.metrics import Expression, ScoreError, Sparsity, prune_mask
from prunerzero.metrics.operators import OPERATORS
from prunerzero.metrics.selection import prune_into, score_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "metrics"))
from random_trees import random_tree, statistics  # noqa: E402


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(nan=7.25), b.nan_to_num(nan=7.25))


def operators(device: str = "cuda") -> Iterator[dict[str, Any]]:
    """Each operator on awkward and on random values."""
    from prunerzero.metrics.gpu import Layer

    generator = torch.Generator().manual_seed(0)
    W = torch.randn(64, 1000, generator=generator) * 10 ** (
        torch.rand(64, 1, generator=generator) * 44 - 38
    )
    G = torch.randn(64, 1000, generator=generator) * 10 ** (
        torch.rand(64, 1000, generator=generator) * 12 - 8
    )
    W[0, :4] = torch.tensor([0.0, 1e-45, 3e38, 1.0])
    values = {
        "W": W.to(device),
        "X": (torch.rand(1000, generator=generator) * 200).to(device),
        "G": G.to(device),
    }
    layer = Layer(values["W"], values["X"].reshape(1, -1), values["G"])
    for operator in OPERATORS.values():
        for arguments in (("W", "G"), ("G", "W"), ("W", "X"), ("G", "X"))[
            : 4 if operator.arity == 2 else 2
        ]:
            e = Expression(operator.name, tuple(map(Expression, arguments[: operator.arity])))
            ours, theirs = layer.score(e), e.score(**values)
            bad = ~((ours == theirs) | (ours.isnan() & theirs.isnan()))
            row: dict[str, Any] = {"operator": str(e), "differ": int(bad.sum())}
            if row["differ"]:
                i = bad.nonzero()[0]
                row["example"] = [
                    values["W"][*i].item(),
                    values["G"][*i].item(),
                    ours[*i].item(),
                    theirs[*i].item(),
                ]
            yield row


def masks(device: str = "cuda", trees: int = 150) -> dict[str, Any]:
    """Random metrics on odd shapes, every type, with ties."""
    sparsities = [
        Sparsity.parse(s) for s in ("0.5", "0.3", "0.999", "2:4", "1:4", "4:8", "1:2", "1:16")
    ]
    sparsities.append(Sparsity(0.5, group="layer"))
    shapes = [(12, 16), (5, 80), (33, 1000), (3, 4096), (2, 11008), (1, 16)]
    result: dict[str, Any] = {"compared": 0, "refused alike": 0, "different": []}
    for seed in range(trees):
        rng = random.Random(seed)
        e = random_tree(rng, rng.choice((2, 3, 4, 5)))
        shape = rng.choice(shapes)
        sparsity = rng.choice([s for s in sparsities if shape[1] % (s.of or 1) == 0])
        dtype = rng.choice((torch.float32, torch.bfloat16, torch.float16))
        values = {name: value.float().to(device) for name, value in statistics(seed, shape).items()}
        if rng.random() < 0.5:  # ties
            values = {name: (value * 8).round() / 8 for name, value in values.items()}
        values["W"] = (values["W"] * torch.randn_like(values["W"]).sign()).to(dtype)
        outcome = []
        for how in ("usual", "ours"):
            try:
                if how == "usual":
                    outcome.append(prune_mask(e.score(**values), sparsity))
                else:
                    outcome.append(score_mask(e, sparsity, **values))
            except ScoreError as error:
                outcome.append(str(error))
        if isinstance(outcome[0], str) or isinstance(outcome[1], str):
            if outcome[0] is outcome[1] or (
                isinstance(outcome[0], str) and outcome[0] == outcome[1]
            ):
                result["refused alike"] += 1
                continue
            alike = False
        else:
            alike = torch.equal(*outcome)
            weights = values["W"].clone()
            prune_into(weights, e, sparsity, **values)
            alike &= torch.equal(weights, values["W"].masked_fill(outcome[0], 0))
        result["compared"] += 1
        if not alike:
            result["different"].append((seed, str(e), str(sparsity), list(shape), str(dtype)))
    return result
