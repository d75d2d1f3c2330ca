"""Run the benchmarks: ``python -m benchmarks [--device cuda] [--output FILE.json] [SECTION …]``.

Prints a table for each section and writes everything as JSON. A section that fails is told and
the others go on; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

try:
    import prunerzero  # noqa: F401
except ImportError:  # a machine without the packages of the command line
    package = types.ModuleType("prunerzero")
    package.__path__ = [str(Path(__file__).parents[1] / "src" / "prunerzero")]
    sys.modules["prunerzero"] = package


def sections(device: str, quick: bool) -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    from benchmarks import evaluation, gradients, growth, masks, powers, profiling

    found: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {}
    if device == "cuda":
        from benchmarks import checks, tiles, whole_model

        found["operators"] = checks.operators
        found["parts"] = checks.subtrees
        found["same masks"] = checks.masks
        found["whole 7B model"] = whole_model.run
        found["candidates of SmolLM2"] = lambda: evaluation.run("SmolLM2-135M", device)
        found["refitted candidates of SmolLM2"] = lambda: evaluation.refitted(
            "SmolLM2-135M", device
        )
        found["refitted candidates of 7B"] = lambda: evaluation.refitted("Llama-7B", device)
        found["powers on SmolLM2"] = lambda: powers.run("SmolLM2-135M", device)
        found["powers on 7B"] = lambda: powers.run("Llama-7B", device)
        found["candidates of 7B"] = lambda: evaluation.run("Llama-7B", device)
        found["statistics of 7B"] = lambda: gradients.run("Llama-7B", device)
        found["deviation of G"] = lambda: gradients.deviation("Llama-7B", device)
        found["squared gradients"] = tiles.run
        found["launch shapes"] = whole_model.shapes
        found["graphs"] = evaluation.graphs
        found["kernels of SmolLM2"] = profiling.run
    found["masks"] = lambda: masks.run(device, quick=quick)
    found["growth"] = lambda: growth.run(device, quick=quick)
    if device == "cpu":
        found["statistics"] = lambda: gradients.run("tiny", device, 64)
        found["candidates"] = lambda: evaluation.run("tiny", device, length=64)
        found["powers"] = lambda: powers.run("tiny", device)
    return found


def chosen(
    names: list[str], device: str, quick: bool
) -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """The sections of these names, or all; a name that is none is refused."""
    from benchmarks.commands import refuse

    found = sections(device, quick)
    if unknown := [name for name in names if name not in found]:
        other = "cpu" if device == "cuda" else "cuda"
        there = [name for name in sections(other, quick) if name not in found]
        refuse(
            f"there is no section {unknown[0]!r} with --device {device}; there are "
            f"{_listed(found)}, and with --device {other} also {_listed(there)}."
        )
    return {name: run for name, run in found.items() if not names or name in names}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([_cell(row.get(name, "")) for name in columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    from benchmarks.commands import new_file, require

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help="which to run; all by default")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=new_file, help="where to write JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    options = parser.parse_args()
    require(options.device)
    asked = chosen(options.sections, options.device, options.quick)
    results: dict[str, Any] = {"machine": machine(options.device)}
    print(json.dumps(results["machine"]))
    failed = False
    for name, run in asked.items():
        rows: list[dict[str, Any]] = []
        start = time.perf_counter()
        try:
            for row in run():
                rows.append(row)
        except Exception:
            failed = True
            results[f"{name}: error"] = traceback.format_exc()
            print(f"{name}: {traceback.format_exc(limit=-6)[-1500:]}")
        if options.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        results[name] = rows
        print(f"\n## {name} ({time.perf_counter() - start:.0f} s)\n\n{table(rows)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
