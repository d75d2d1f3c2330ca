"""What each strategy, operator set and setting of the search buys, at equal evaluations.

    python -m benchmarks.strategies --output strategies.json --jobs 12 --evaluations 400

Runs every variant at every sparsity with every seed, several at once in processes spread over the
GPUs; judges what they found on the test text. On the bundled model, unless another is named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.commands import in_one_sentence, new_file, sparsity_text
from prunerzero.evolution import SearchSettings
from prunerzero.metrics import Expression, Sparsity
from prunerzero.tasks.search_cases import search_in
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

VARIANTS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "evolution, extended": {"operators": "extended"},
    "evolution, extended, from the catalog": {
        "operators": "extended",
        "seed_metrics": "catalog",
    },
    "random": {"strategy": "random"},
    "random, extended": {"strategy": "random", "operators": "extended"},
    "powerlaw": {"strategy": "powerlaw"},
    "extended, unscreened": {"operators": "extended", "screened": 1},
    "extended, unscreened, no elite": {"operators": "extended", "screened": 1, "elite": 0},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "screened 3": {"operators": "extended", "screened": 3},
    "screened 20": {"operators": "extended", "screened": 20},
    "elite 3": {"operators": "extended", "elite": 3},
    "elite 30": {"operators": "extended", "elite": 30},
    "no constant mutation": {"operators": "extended", "constant_mutation": 0},
    "more constant mutation": {"operators": "extended", "constant_mutation": 0.3},
    "more first trees": {"operators": "extended", "initial": 100},
    "many first trees": {"operators": "extended", "initial": 200},
    "places 1": {"operators": "extended", "places": 1},
    "places 10": {"operators": "extended", "places": 10},
    "margin 1": {"operators": "extended", "noise_margin": 1.0},
    "smaller trees": {"operators": "extended", "max_size": 20},
}
"""Variants around "evolution, extended", with ``--ablations``."""

MARKS = (100, 200, 400, 800)
"""Evaluations at which the best so far is told."""


@cache
def workspace(setup: Setup) -> Workspace:
    """The model of a process, loaded once."""
    torch.set_num_threads(1)
    return Workspace(setup)


def run(setup: Setup, sparsity: str, settings: SearchSettings) -> dict[str, Any]:
    """The result of one search: perplexities, and the best so far at the marks."""
    with tempfile.TemporaryDirectory() as folder:
        found, result = search_in(
            workspace(setup), Sparsity.parse(sparsity), Path(folder) / "run", settings
        )
    best: dict[int, float] = {}
    lowest = float("inf")
    for count, e in enumerate(result.evaluations, start=1):
        if e.state == "complete" and e.perplexity is not None:
            lowest = min(lowest, e.perplexity)
        if count in MARKS:
            best[count] = lowest
    read = sum(e.chunks_read for e in result.evaluations)
    return {
        "validation": found.perplexity["validation"][found.origin],
        "test": found.perplexity.get("test", found.perplexity["validation"])[found.origin],
        "best so far": best,
        "chunks read": read / sum(e.chunks for e in result.evaluations),
        "size": Expression.from_json(found.tree).size,
        "metric": found.metric,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
    }


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=new_file, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="of each search")
    parser.add_argument("--seeds", type=int, default=3, help="so many")
    parser.add_argument("--sparsities", nargs="+", type=sparsity_text, default=["0.5", "2:4"])
    parser.add_argument("--ablations", action="store_true", help="settings of evolution instead")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *SETTINGS], help="these alone")
    parser.add_argument("--model", default="bundled")
    for part in ("calibration", "validation", "test"):
        parser.add_argument(f"--{part}", type=Path)
        parser.add_argument(f"--num-{part}-samples", type=int)
    options = parser.parse_args()
    variants = SETTINGS if options.ablations else VARIANTS
    if options.variants:
        variants = {name: (VARIANTS | SETTINGS)[name] for name in options.variants}
    names = {field.name for field in fields(Setup)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    setup = Setup(dtype="float32", **given)
    gpus = torch.cuda.device_count()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results: dict[str, Any] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        jobs = {}
        # seed by seed, so that what is there when time runs out compares
        every = product(range(options.seeds), options.sparsities, variants)
        for number, (seed, sparsity, name) in enumerate(every):
            settings = SearchSettings(
                seed=seed,
                evaluations=options.evaluations,
                seconds=options.seconds,
                **variants[name],
            )
            device = f"cuda:{number % gpus}" if gpus else "cpu"
            job = pool.submit(run, replace(setup, device=device), sparsity, settings)
            jobs[job] = f"{name} | {sparsity} | {seed}"
        for job in as_completed(jobs):
            if job.exception() is not None:
                print(f"{jobs[job]}: {job.exception()!r}", flush=True)
                continue
            results[jobs[job]] = result = job.result()
            print(f"{jobs[job]}: {result['test']:.3f} {result['metric']}", flush=True)
            options.output.write_text(json.dumps(results), encoding="utf-8")
    tell(results)
    if failed := len(jobs) - len(results):
        print(f"{failed} of {len(jobs)} searches failed.", file=sys.stderr)
        raise SystemExit(1)


def tell(results: dict[str, Any]) -> None:
    """Means over the seeds."""
    groups: dict[str, list[Any]] = {}
    for name, result in results.items():
        groups.setdefault(name.rpartition(" | ")[0], []).append(result)
    print("\n| variant | test perplexity, mean ± deviation | validation | size | read | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, group in sorted(groups.items(), key=lambda item: item[0].split(" | ")[::-1]):
        tests = [result["test"] for result in group]
        spread = stdev(tests) if len(tests) > 1 else 0.0
        means = {
            key: fmean(result[key] or 0 for result in group)
            for key in ("validation", "size", "chunks read", "seconds")
        }
        print(
            f"| {name.replace(' | ', ' @ ')} | {fmean(tests):.3f} ± {spread:.3f} "
            f"({len(tests)}) | {means['validation']:.3f} | {means['size']:.1f} | "
            f"{means['chunks read']:.0%} | {means['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
