"""What cheaper gradients, and statistics of the pruned model, give up or gain in perplexity.

    python -m benchmarks.cheap_statistics --model bundled
    python -m benchmarks.cheap_statistics --model MODEL --calibration FILE --validation FILE

Each metric prunes the model with statistics in four ways: of the dense model or block by block on
the pruned one (``--propagate``), with the gradient of the model's loss or of the norm of each
block's output (``--gradient``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.commands import in_one_sentence, new_file, require
from prunerzero.metrics import Sparsity, find_metric
from prunerzero.pruning.by_block.block_passes import BlockPasses, Resources
from prunerzero.pruning.by_block.held_blocks import HeldBlocks
from prunerzero.pruning.by_block.prune_blocks import Plan, prune_by_block
from prunerzero.pruning.pruner import LayerSparsity, prune_model
from prunerzero.pruning.statistics import Statistics, collect_statistics, watch
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

METRICS = ("wanda", "power-law", "power-law(0.25,1)", "pruner-zero", "gblm")
WAYS = (("dense", "full"), ("dense", "block"), ("pruned", "full"), ("pruned", "block"))


class PrunedInPlace(HeldBlocks):
    """Blocks of a model that is on its device as a whole, pruned in place."""

    def pruned(self, index: int) -> dict[str, Tensor]:
        return {}


class NoRecord:
    """Every block is still to be pruned, and stays where it is."""

    def finished(self, index: int) -> bool:
        return False

    def zeros(self, index: int) -> dict[str, Tensor]:
        return {}

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        pass


def block_statistics(blocks: PrunedInPlace, windows: Tensor, room: Resources) -> Statistics:
    """X, and G of the norm of each block's output, of the dense model."""
    found: Statistics = {}
    with BlockPasses(blocks, windows, room) as passes:
        for index in range(len(blocks)):
            with watch(blocks.layers(index), True) as statistics_over:
                every = iter(range(len(windows)))
                passes.forward(index, room.devices[0], every, gradient=True)
            found |= statistics_over(len(windows))
    return found


def measure(work: Workspace, room: Resources, patterns: list[str], limit: float) -> Iterator[Any]:
    """Perplexity of each metric and pattern by each way, until so many seconds are over."""
    began = time.perf_counter()
    blocks, windows = (
        PrunedInPlace(work.language_model.model, work.layers),
        work.texts.of("calibration").windows,
    )
    seconds = {}
    start = time.perf_counter()
    full = collect_statistics(blocks.model, work.layers, windows)
    _wait()
    seconds["full"] = time.perf_counter() - start
    start = time.perf_counter()
    local = block_statistics(blocks, windows, room)
    _wait()
    seconds["block"] = time.perf_counter() - start
    print(f"statistics: {seconds['full']:.1f} s full, {seconds['block']:.1f} s block", flush=True)
    yield {"metric": "seconds of statistics", **seconds}
    yield {"metric": "dense", "perplexity": work.measure("validation", "dense").value}
    for metric in METRICS:
        expression = find_metric(metric).expression
        for pattern in patterns:
            sparsity = Sparsity.parse(pattern)
            if time.perf_counter() - began > limit:
                return
            row: dict[str, Any] = {"metric": metric, "sparsity": pattern}
            for propagate, gradient in WAYS:
                if "G" not in expression.terminals and gradient == "block":
                    continue
                if "X" not in expression.terminals and (propagate, gradient) == ("pruned", "full"):
                    continue  # it reads nothing that pruning the blocks before would change
                with work.pruned_for_now():
                    if propagate == "dense":
                        statistics = full if gradient == "full" else local
                        prune_model(work.layers, statistics, expression, sparsity)
                    else:
                        plan = Plan(expression, sparsity, propagate, gradient)  # type: ignore[arg-type]
                        prune_by_block(blocks, windows, plan, room, NoRecord())  # type: ignore[arg-type]
                    found = work.measure("validation", metric).value
                row[f"{propagate}, {gradient}"] = found
            print(_line(row), flush=True)
            yield row


def _line(row: dict[str, Any]) -> str:
    cells = [f"{row[key]:10.2f}" if (key := ", ".join(way)) in row else " " * 10 for way in WAYS]
    return f"{row['metric']:>18} {row['sparsity']:>4} " + " ".join(cells)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--calibration", type=Path, default=None)
    parser.add_argument("--validation", type=Path, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--windows", type=int, default=128, help="of calibration at most")
    parser.add_argument("--validation-windows", type=int, default=None)
    parser.add_argument("--max-seq-length", type=int, default=None)
    parser.add_argument("--sparsities", default="0.5,2:4")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no row after these")
    parser.add_argument("--output", type=new_file, help="JSON file")
    args = parser.parse_args()
    require(args.device)
    work = Workspace(
        Setup(
            model=args.model,
            calibration=args.calibration,
            validation=args.validation,
            device=args.device,
            dtype=args.dtype,
            max_seq_length=args.max_seq_length,
            num_calibration_samples=args.windows,
            num_validation_samples=args.validation_windows,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        room = Resources((work.language_model.device,), 64 * 2**30, Path(folder))
        heads = " ".join(f"{'/'.join(way):>10}" for way in WAYS)
        print(f"perplexity by --propagate/--gradient\n{'':24}{heads}")
        rows = []
        for row in measure(work, room, args.sparsities.split(","), args.seconds):
            rows.append(row)
            if args.output:
                told = {"settings": describe(work), "rows": rows}
                args.output.write_text(json.dumps(told, indent=2))
    print(f"dense model: {rows[1]['perplexity']:.3f}")


if __name__ == "__main__":
    main()
