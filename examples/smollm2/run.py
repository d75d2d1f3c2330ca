"""Evolve metrics for SmolLM2-135M from scratch, several seeds at once on all GPUs of the machine.

    python -m examples.smollm2.run --model SmolLM2-135M-Instruct.Q4_1.gguf --text texts/wikitext2 \\
        --output-dir smollm2 --seconds 420

``--text`` is a folder with ``calibration.txt`` and ``validation.txt``; what was found is judged on
``test.txt`` too where that is there. Statistics come from the first, fitness from the second, in
windows of 2048 tokens. Every search is one plain ``prunerzero search``, in bf16, in which a GPU
reads several times as fast; at the end ``prunerzero compare`` measures in fp32 what was found
beside the catalog.

Leaves ``table.txt``, ``results.json`` (each ``best.json`` with the course of its search) and
``runs.tar.gz`` (the folders of the searches).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.commands import at_least, in_one_sentence, refuse, sparsity_text
from examples.metrics.pool import end, run_all
from prunerzero.evolution.variation import OperatorSet
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource

PRUNERZERO = [sys.executable, "-m", "prunerzero"]


@dataclass(frozen=True)
class Job:
    """One search, by the command line, with what it prints in a log beside its folder."""

    sparsity: str
    operators: str
    seed: int
    options: tuple[str, ...]
    runs: Path

    @property
    def name(self) -> str:
        return f"{self.sparsity.replace(':', 'of')}-{self.operators}-{self.seed}"

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    def run(self, device: str) -> dict[str, Any]:
        """What ``result_of`` tells of it."""
        self.runs.mkdir(exist_ok=True)
        command = [*PRUNERZERO, "search", *self.options, "--device", device]
        command += ["--sparsity", self.sparsity, "--operators", self.operators]
        command += ["--seed", str(self.seed), "--output-dir", str(self.folder)]
        with self.folder.with_name(f"{self.name}.log").open("wb") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
        return result_of(self.folder)


@dataclass(frozen=True)
class Comparison:
    """The catalog and what was found for a sparsity, on the same windows, in fp32."""

    sparsity: str
    options: tuple[str, ...]
    found: tuple[Path, ...]

    @property
    def name(self) -> str:
        return self.sparsity

    def run(self, device: str) -> dict[str, Any]:
        """What ``compare`` tells."""
        metrics = ["magnitude,wanda,ria,gblm,pruner-zero,power-law", "power-law(0.25,1)"]
        command = [*PRUNERZERO, "compare", *self.options, "--dtype", "float32", "--json"]
        command += ["--sparsity", self.sparsity, "--device", device]
        command += ["--metrics", ",".join([*metrics, *map(str, self.found)])]
        told: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
        return told


@in_one_sentence()
def main() -> None:
    options = parse_options()
    parts = {part: options.text / f"{part}.txt" for part in ("calibration", "validation")}
    for path in parts.values():
        if not path.is_file():
            refuse(f"there is no text {path}.")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["PRUNERZERO_CACHE"] = str(options.work / "cache")
    model = as_folder(options.model, options.work / "model")
    setup = ["--model", str(model), "--max-seq-length", str(options.window)]
    setup += [f"--{part}={path}" for part, path in parts.items()]
    setup += options.more
    budget = ["--time", f"{options.seconds:.0f}s", "--evaluations", str(options.evaluations)]
    how = (*setup, *budget, "--dtype", options.dtype)
    runs = options.work / "runs"
    chosen = product(options.sparsities, options.operators, options.seeds)
    jobs = [Job(*values, how, runs) for values in chosen]
    found: dict[str, Any] = {}
    failed = run_all(jobs, options.per_gpu, found, options.work / "searches.json")
    if not found:
        end(failed)
    keep(options.output_dir, found, runs, {})  # measuring may outlast a machine
    test = options.text / "test.txt"
    setup += [f"--test={test}"] if test.is_file() else []
    comparisons: dict[str, Any] = {}
    done = [job for job in jobs if job.name in found]
    side_by_side = [
        Comparison(one, tuple(setup), tuple(job.folder for job in done if job.sparsity == one))
        for one in options.sparsities
    ]
    failed += run_all(side_by_side, 1, comparisons, options.work / "comparisons.json")
    keep(options.output_dir, found, runs, comparisons)
    print(table(runs, comparisons))
    end(failed)


def keep(folder: Path, found: dict[str, Any], runs: Path, comparisons: dict[str, Any]) -> None:
    """Write down what is known so far."""
    results = {
        "command": sys.argv,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "runs": found,
        "comparisons": comparisons,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "table.txt").write_text(table(runs, comparisons) + "\n", encoding="utf-8")
    with tarfile.open(folder / "runs.tar.gz", "w:gz") as archive:
        archive.add(runs, "runs")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="GGUF file, folder, or hub id")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text's parts")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/prunerzero-smollm2"))
    parser.add_argument("--seconds", type=float, default=840, help="of each search")
    parser.add_argument("--evaluations", type=at_least(1), default=100_000, help="of each search")
    parser.add_argument("--sparsities", nargs="+", type=sparsity_text, default=["0.5", "2:4"])
    parser.add_argument(
        "--operators", nargs="+", choices=get_args(OperatorSet), default=["extended"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--per-gpu", type=at_least(1), default=3, help="searches at once on a GPU")
    parser.add_argument("--window", type=int, default=2048, help="tokens")
    parser.add_argument("--dtype", default="bfloat16", help="of the searches")
    parser.add_argument("more", nargs="*", help="after --: further options for prunerzero")
    return parser.parse_args()


def as_folder(name: str, folder: Path) -> Path | str:
    """A GGUF file is dequantised once, not by every search."""
    if not name.endswith(".gguf"):
        return name
    if not folder.exists():
        loaded = load_model(ModelSource(name, dtype="float32", device="cpu"))
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder


def result_of(run: Path) -> dict[str, Any]:
    """``best.json``, and the best so far: [evaluations, seconds, perplexity, size, formula]."""
    result: dict[str, Any] = json.loads((run / "best.json").read_text(encoding="utf-8"))
    curve, lowest = [], float("inf")
    for count, e in enumerate(json.loads((run / "history.json").read_text()), start=1):
        if e["state"] == "complete" and e["loss"] < lowest:
            lowest = e["loss"]
            curve.append([count, e["seconds"], e["perplexity"], e["size"], e["expression"]])
    return {**result, "curve": curve}


def table(runs: Path, comparisons: dict[str, Any]) -> str:
    """Perplexity on the validation text; of a search also its size and how it went."""
    lines = []
    for sparsity, comparison in comparisons.items():
        lines.append(
            f"{sparsity}: perplexity on validation (and test) text, evaluations, seconds, size"
        )
        figures = comparison["perplexity"]
        test = figures.get("test", {})
        for name, value in sorted(figures.get("validation", {}).items(), key=lambda item: item[1]):
            best = runs / Path(name).name / "best.json"
            more = ""
            if best.is_file():
                found = json.loads(best.read_text(encoding="utf-8"))
                sizes = {f["metric"]: f["size"] for f in found["finalists"]}
                size = sizes.get(found["metric"], "?")
                more = f"{found['evaluations']:6} {found['seconds']:6.0f} {size:3}  "
                more += found["metric"]
            tested = f"{test[name]:9.3f}" if name in test else ""
            lines.append(f"  {value:9.3f}  {tested}  {Path(name).name:22} {more}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
