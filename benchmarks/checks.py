"""On a GPU, without pytest: the tests of ``tests/metrics/test_gpu.py``, differences counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "metrics"))


def operators() -> Iterator[dict[str, Any]]:
    from gpu_cases import awkward

    from prunerzero.metrics.gpu import Layers

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


def masks() -> Iterator[dict[str, Any]]:
    from gpu_cases import alike, masks_of

    counts: Counter[str] = Counter()
    for seed in range(200):
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
