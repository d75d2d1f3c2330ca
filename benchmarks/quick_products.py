"""What products in TF32 change in a refit: layers' errors, perplexities and seconds beside fp32.

    python -m benchmarks.quick_products --model ORG/NAME --calibration a.txt --test b.txt \\
        --device cuda --output quick_products.json

On a GPU both refits are timed, one after the other. A CPU has no TF32: there the factors of each
product are rounded to its ten bits, which gives the errors and no time. The model is computed in
fp32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from inspect import unwrap
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.commands import in_one_sentence
from benchmarks.refit import asked
from prunerzero.files import write_json
from prunerzero.metrics import Sparsity
from prunerzero.metrics.catalog import find_metric
from prunerzero.pruning import refit
from prunerzero.pruning.least_squares import settle
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.prune_loaded import prune_loaded
from prunerzero.tasks.settings import describe
from prunerzero.tasks.workspace import Workspace

ROWS = (("obs", "2:4", "row"), ("obs", "0.5", "row"), ("W * G ** 0.75", "0.5", "model"))
PRODUCTS = (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul)


class Rounded(TorchFunctionMode):
    """Factors of products are rounded to TF32."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in PRODUCTS:
            args = tuple(map(to_tf32, args))
        return function(*args, **(kwargs or {}))


def to_tf32(factor: Tensor) -> Tensor:
    """fp32 rounded to ten bits behind the first, still in fp32.

    >>> to_tf32(torch.tensor([1 + 2**-10, 1 + 2**-12, -3.0])).tolist()
    [1.0009765625, 1.0, -3.0]
    """
    bits = factor.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def rounded(*given: Any) -> Tensor:
    """The refit with products that are rounded as those of a GPU in TF32."""
    with Rounded():
        return settle(*given)


@torch.no_grad()
def plain(*given: Any) -> Tensor:
    """The refit with products in fp32."""
    return unwrap(settle)(*given)  # type: ignore[no-any-return]


def pruned(
    work: Workspace, row: tuple[str, str, str], solver: Callable[..., Tensor]
) -> tuple[float, tuple[LayerSparsity, ...], list[float]]:
    """Seconds of pruning and refitting, what is told of layers, perplexities on the tests."""
    metric, sparsity, group = row
    amount = Sparsity.parse(sparsity, group)  # type: ignore[arg-type]
    with work.pruned_for_now(), patch.object(refit, "settle", solver):
        begun = time.perf_counter()
        found = prune_loaded(
            work, find_metric(metric).expression, amount, RefitOptions("least-squares")
        )
        if work.language_model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        return seconds, found, [work.measure(p, "").value for p in work.texts.places("test")]


@in_one_sentence()
def main() -> None:
    options, work = asked(__doc__)
    work.calibration.statistics("WXGD")
    work.calibration.grams  # noqa: B018 (made once)
    on_gpu = work.language_model.device.type == "cuda"
    in_tf32 = settle if on_gpu else rounded
    rows: list[dict[str, Any]] = []
    for row in ROWS:
        for solver in (in_tf32, plain) if on_gpu else ():
            pruned(work, row, solver)  # kernels are chosen and compiled
        quick_seconds, quick, quick_perplexities = pruned(work, row, in_tf32)
        seconds, exact, perplexities = pruned(work, row, plain)
        ratios = [
            a.error / b.error for a, b in zip(quick, exact, strict=True) if a.error and b.error
        ]
        found = {
            "metric": row[0],
            "sparsity": Sparsity.parse(row[1], row[2]).in_words,  # type: ignore[arg-type]
            "error of a layer, mean": fmean(ratios),
            "most": max(ratios),
            "perplexity, TF32": quick_perplexities,
            "fp32": perplexities,
        }
        times = {"seconds, TF32": quick_seconds, "seconds, fp32": seconds}
        rows.append(found | (times if on_gpu else {}))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    if options.output:
        told = {"settings": describe(work), "torch": str(torch.__version__), "rows": rows}
        write_json(options.output, told)


if __name__ == "__main__":
    main()
