"""On a GPU, without pytest: the tests of ``tests/scoring/test_gpu.py``, differences counted."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import no_command
from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS

_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "scoring")]


def operators() -> Iterator[dict[str, Any]]:
    from gpu_cases import awkward

    from prunerzero.scoring.gpu import Layers, selects_exactly, trusted_operators

    trusted = trusted_operators(torch.device("cuda", 0))
    yield {"operator": "not trusted", "differ": str(sorted(set(OPERATORS) - trusted))}
    yield {"operator": "selects exactly", "differ": selects_exactly(torch.device("cuda", 0))}
    values = awkward()
    layer = Layers([values["W"]], values["X"][None], [values["G"]])
    for operator in OPERATORS.values():
        for names in ("WG", "GW", "WX", "GX")[: 4 if operator.arity == 2 else 2]:
            e = Expression(operator.name, tuple(map(Expression, names[: operator.arity])))
            ours, theirs = layer.score(e)[0], e.score(**values)
            bad = ~((ours == theirs) | (ours.isnan() & theirs.isnan()))
            row: dict[str, Any] = {"operator": str(e), "differ": int(bad.sum())}
            if row["differ"]:
                i = tuple(bad.nonzero()[0].tolist())
                row["W"], row["G"] = values["W"][i].item(), values["G"][i].item()
                row["ours"], row["eager"] = ours[i].item(), theirs[i].item()
                yield row


def subtrees() -> Iterator[dict[str, Any]]:
    """The benchmarks' metrics, part by part, on the benchmarks' data."""
    from benchmarks.masks import METRICS, layer
    from benchmarks.usual import mask
    from prunerzero.metrics import Sparsity
    from prunerzero.scoring import prune_mask, score_mask
    from prunerzero.scoring.gpu import Layers

    values = layer(1024, 4096, "cuda", torch.bfloat16)
    group = Layers([values["W"]], values["X"][None], [values["G"]])
    for formula in METRICS.values():
        e = Expression.parse(formula)
        for part in dict.fromkeys(node for _, node in e.subtrees()):
            if part.terminals & {"W", "G"}:
                ours, theirs = group.score(part)[0], part.score(**values)
                bad = ours != theirs
                if bad.any():
                    i = tuple(bad.nonzero()[0].tolist())
                    values_there = {"ours": ours[i].item(), "eager": theirs[i].item()}
                    yield {"part": str(part), "differ": int(bad.sum()), **values_there}
        half = Sparsity(0.5)
        found = {
            "usual": mask(e, half, **values),
            "plain": prune_mask(e.score(**values), half),
            "fused": score_mask(e, half, **values),
        }
        for name in ("usual", "plain"):
            wrong = found[name] != found["fused"]
            yield {"part": str(e), "against": name, "differ": int(wrong.sum())}


def masks() -> Iterator[dict[str, Any]]:
    from gpu_cases import alike, masks_of

    counts: Counter[str] = Counter()
    start = time.perf_counter()
    for seed in range(200):
        if time.perf_counter() - start > 22:  # each new type and width is compiled first
            break
        try:
            found, expected, case = masks_of(seed)
        except Exception as error:
            yield {"seed": seed, "error": repr(error)[:300]}
            continue
        good = [alike(a, b) for a, b in zip(found, expected, strict=True)]
        counts["refused" if isinstance(expected[0], str) else "compared"] += 1
        if not all(good):
            counts["different"] += 1
            if counts["different"] < 15:
                pruned = [
                    int(x.sum()) if torch.is_tensor(x) and x.dtype == torch.bool else str(x)[:50]
                    for x in found[:2]
                ]
                yield {"seed": seed, "case": str(case)[:150], "alike": good, "found": str(pruned)}
    yield dict(counts)


if __name__ == "__main__":
    no_command('python -m benchmarks --device cuda operators parts "same masks"')
