"""Evolve metrics for SmolLM2-135M from scratch, several seeds at once on all GPUs of the machine.

    python examples/smollm2/run.py --model SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2 \\
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
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource

PRUNERZERO = [sys.executable, "-m", "prunerzero"]
POLL_SECONDS = 2.0
TELL_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """One search."""

    sparsity: str
    operators: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.sparsity.replace(':', 'of')}-{self.operators}-{self.seed}"


def main() -> None:
    options = parse_options()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["PRUNERZERO_CACHE"] = str(options.work / "cache")
    model = as_folder(options.model, options.work / "model")
    setup = ["--model", str(model), "--max-seq-length", str(options.window)]
    setup += [f"--{part}={options.text / part}.txt" for part in ("calibration", "validation")]
    setup += options.more
    chosen = product(options.sparsities, options.operators, options.seeds)
    jobs = [Job(*values) for values in chosen]
    runs = options.work / "runs"
    run_all(jobs, setup, runs, options)
    keep(options.output_dir, jobs, runs, {})  # measuring may outlast a machine
    test = options.text / "test.txt"
    setup += [f"--test={test}"] if test.is_file() else []
    comparisons = compare_all(options.sparsities, jobs, setup, runs)
    keep(options.output_dir, jobs, runs, comparisons)
    print(table(runs, comparisons))


def keep(
    folder: Path, jobs: list[Job], runs: Path, comparisons: dict[str, dict[str, Any] | None]
) -> None:
    """Write down what is known so far."""
    results = {
        "command": sys.argv,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "runs": {job.name: result_of(runs / job.name) for job in jobs},
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
    parser.add_argument("--evaluations", type=int, default=100_000, help="of each search")
    parser.add_argument("--sparsities", nargs="+", default=["0.5", "2:4"])
    parser.add_argument("--operators", nargs="+", default=["extended"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--per-gpu", type=int, default=3, help="searches at once on a GPU")
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


def run_all(jobs: list[Job], setup: list[str], runs: Path, options: argparse.Namespace) -> None:
    """Run the searches, at most ``--per-gpu`` at once on each GPU, and tell where they stand."""
    gpus = torch.cuda.device_count() or 1
    free = list(range(gpus)) * options.per_gpu
    waiting, running = list(jobs), dict[Job, tuple[subprocess.Popen[bytes], int]]()
    told = began = time.monotonic()
    while waiting or running:
        while waiting and free:
            job, gpu = waiting.pop(0), free.pop(0)
            running[job] = start(job, gpu, setup, runs, options), gpu
        time.sleep(POLL_SECONDS)
        for job, (process, gpu) in list(running.items()):
            if process.poll() is not None:
                del running[job]
                free.append(gpu)
                print(f"{job.name} ended with exit code {process.returncode}", flush=True)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            for job in running:
                print(
                    f"[{told - began:.0f} s] {job.name}: {last_line(runs / job.name)}", flush=True
                )


def start(
    job: Job, gpu: int, setup: list[str], runs: Path, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    runs.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    if torch.cuda.is_available():
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    command = [*PRUNERZERO, "search", *setup, "--dtype", options.dtype, "--sparsity", job.sparsity]
    command += ["--operators", job.operators, "--seed", str(job.seed)]
    command += ["--time", f"{options.seconds:.0f}s", "--evaluations", str(options.evaluations)]
    command += ["--output-dir", str(runs / job.name)]
    with log_of(runs / job.name).open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def log_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def last_line(run: Path) -> str:
    lines = log_of(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def compare_all(
    sparsities: list[str], jobs: list[Job], setup: list[str], runs: Path
) -> dict[str, dict[str, Any] | None]:
    """The catalog and what was found for each sparsity, on the same windows, in fp32."""

    def one(number: int) -> dict[str, Any] | None:
        metrics = ["magnitude,wanda,ria,gblm,pruner-zero,power-law", "power-law(0.25,1)"]
        for job in jobs:
            found = runs / job.name
            if job.sparsity == sparsities[number] and (found / "best.json").is_file():
                metrics.append(str(found))
        command = ["compare", *setup, "--dtype", "float32", "--sparsity", sparsities[number]]
        device = f"cuda:{number % gpus}" if gpus else "cpu"
        return prunerzero_json([*command, "--device", device, "--metrics", ",".join(metrics)])

    gpus = torch.cuda.device_count()
    with ThreadPoolExecutor(gpus or 1) as pool:
        return dict(zip(sparsities, pool.map(one, range(len(sparsities))), strict=True))


def prunerzero_json(command: list[str]) -> dict[str, Any] | None:
    """What a command prints; None, with its message shown, where it fails."""
    done = subprocess.run([*PRUNERZERO, *command, "--json"], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, flush=True)
        return None
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def result_of(run: Path) -> dict[str, Any]:
    """``best.json``, and the best so far: [evaluations, seconds, perplexity, size, formula]."""
    if not (run / "best.json").is_file():
        return {"log": log_of(run).read_text(encoding="utf-8", errors="replace")[-2000:]}
    result: dict[str, Any] = json.loads((run / "best.json").read_text(encoding="utf-8"))
    curve, lowest = [], float("inf")
    for count, e in enumerate(json.loads((run / "history.json").read_text()), start=1):
        if e["state"] == "complete" and e["loss"] < lowest:
            lowest = e["loss"]
            curve.append([count, e["seconds"], e["perplexity"], e["size"], e["expression"]])
    return {**result, "curve": curve}


def table(runs: Path, comparisons: dict[str, dict[str, Any] | None]) -> str:
    """Perplexity on the validation text; of a search also its size and how it went."""
    lines = []
    for sparsity, comparison in comparisons.items():
        lines.append(
            f"{sparsity}: perplexity on validation (and test) text, evaluations, seconds, size"
        )
        figures = comparison["perplexity"] if comparison else {}
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
