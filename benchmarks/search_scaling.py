"""How a search scales: 1, 2, … workers in the same time; one that joins late, one that is killed.

    python benchmarks/search_scaling.py --model FOLDER --calibration calibration.txt \\
        --validation validation.txt --workers 1 2 --time 25 --output scaling.json

There is a worker for each GPU, or they share the CPU. Options that are not known here go to
``prunerzero search`` as they are. Statistics are computed before the clock runs.

Told of each number of workers: candidates finished an hour, how that compares with as many times
one worker (efficiency), the share of the workers' time that is not spent measuring (engine), and
the best perplexity on the race's chunks after a quarter, half and all of the time. Then one worker
searches alone, a second is started on its study after a quarter of the time, and the first is
killed when both have been at work for a quarter; after another quarter Ctrl-C ends the second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from prunerzero.evolution.storage import open_storage

PRUNERZERO = [sys.executable, "-m", "prunerzero"]


def main() -> None:
    options, more = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        command = [*PRUNERZERO, "search", "--model", options.model]
        command += ["--calibration", options.calibration, "--validation", options.validation]
        command += ["--seed", str(options.seed), "--evaluations", "1000000", *more]
        # loads once, so that nothing is read from a cold disk, and computes the statistics
        finish(start(command, runs / "warm", "--evaluations", "2"))
        results: dict[str, Any] = {"device": device_name(), "seconds": options.time}
        timed = [*command, "--time", f"{options.time}s"]
        crews = [measure_crew(timed, runs, n, options.time) for n in options.workers]
        for crew in crews:
            linear = crews[0]["per_hour"] / crews[0]["workers"] * crew["workers"]
            crew["efficiency"] = crew["per_hour"] / linear
        results["crews"] = crews
        results["late and killed"] = measure_changes(command, runs, options.time)
    print(table(results))
    options.output.write_text(json.dumps(results, indent=2) + "\n")


def measure_crew(command: list[str], runs: Path, workers: int, seconds: float) -> dict[str, Any]:
    folder = runs / f"crew-{workers}"
    finish(start(command, folder, "--workers", str(workers)))
    found = json.loads((folder / "best.json").read_text())
    trials = measured(folder / "journal.log")
    return {
        "workers": workers,
        "took_part": len({worker_of(t) for t in trials}),
        "evaluations": len(trials),
        "per_hour": per_hour(trials),
        "engine_share": engine_share(trials),
        "seconds_an_evaluation": sum(took(t) for t in trials) / len(trials),
        "best_after": {
            f"{share:.0%}": best_until(trials, share * seconds) for share in (0.25, 0.5, 1.0)
        },
        "perplexity": found["perplexity"]["validation"]["evolved"],
        "metric": found["metric"],
    }


def measure_changes(command: list[str], runs: Path, seconds: float) -> dict[str, Any]:
    """One worker, which another joins; then the first is killed."""
    journal = runs / "shared.log"
    shared = ["--storage", str(journal)]
    last = torch.cuda.device_count() - 1
    devices = ["cuda:0", f"cuda:{last}"] if last >= 0 else ["cpu", "cpu"]
    first = start(command, runs / "first", *shared, "--device", devices[0])
    await_workers(first, journal, 1)
    time.sleep(seconds / 4)
    second = start(command, runs / "second", *shared, "--device", devices[1])
    await_workers(second, journal, 2)
    time.sleep(seconds / 4)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    counted = {t.number for t in measured(journal)}
    time.sleep(seconds / 4)
    second.send_signal(signal.SIGINT)
    told = finish(second, code=130)
    trials = measured(journal)
    formulas = [t.user_attrs["expression"] for t in trials]
    by_worker: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        by_worker[worker_of(trial)].append(trial)
    return {
        "evaluations": len(trials),
        "by worker": [len(own) for own in by_worker.values()],
        "per_hour by worker": [per_hour(own) for own in by_worker.values()],
        "counted twice": len(formulas) - len(set(formulas)),
        "counted before the kill and lost": len(counted - {t.number for t in trials}),
        "told": [line for line in told.splitlines() if "joined" in line or "lost" in line],
    }


def start(command: list[str], folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "--output-dir", str(folder), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it told; raises SystemExit if it ended with another code."""
    _, told = process.communicate()
    if process.returncode != code:
        raise SystemExit(f"{' '.join(map(str, process.args))} failed:\n{told}")  # type: ignore[arg-type]
    return told


def await_workers(process: subprocess.Popen[str], journal: Path, count: int) -> None:
    """Until so many workers have measured something; the process must not end before."""
    while not journal.exists() or len({worker_of(t) for t in measured(journal)}) < count:
        if process.poll() is not None:
            finish(process, code=-1)
        time.sleep(0.2)


def measured(journal: Path) -> list[FrozenTrial]:
    """The trials that were measured, in the order in which that ended."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name="search", storage=open_storage(journal))
    except KeyError:  # it is only just being made
        return []
    trials = [t for t in study.get_trials(deepcopy=False) if "measured" in t.user_attrs]
    return sorted(trials, key=lambda t: t.user_attrs["measured"]["seconds"])


def worker_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs["proposal"]["worker"])


def took(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["measured"]["took"])


def wall(trials: list[FrozenTrial]) -> float:
    """Seconds from the first proposal to the last record."""
    begun = min(t.datetime_start for t in trials if t.datetime_start)
    ended = max(t.datetime_complete for t in trials if t.datetime_complete)
    return float((ended - begun).total_seconds())


def per_hour(trials: list[FrozenTrial]) -> float:
    return 3600 * len(trials) / wall(trials) if len(trials) > 1 else math.nan


def engine_share(trials: list[FrozenTrial]) -> float:
    """Share of the workers' time, from first to last trial of each, that was not measuring."""
    workers: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        workers[worker_of(trial)].append(trial)
    whole = sum(wall(own) for own in workers.values())
    return 1 - sum(took(t) for t in trials) / whole


def best_until(trials: list[FrozenTrial], seconds: float) -> float | None:
    """The best perplexity on the race's chunks of those that finished it by then."""
    losses = [
        t.value
        for t in trials
        if t.user_attrs["measured"]["state"] == "complete"
        and t.user_attrs["measured"]["seconds"] <= seconds
    ]
    return math.exp(min(losses)) if losses else None


def device_name() -> str:
    if not torch.cuda.is_available():
        return f"{os.cpu_count()} CPUs"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['device']}, {results['seconds']:.0f} s each",
        "workers  evaluations   an hour  efficiency  engine   best after 25%/50%/100%   perplexity",
    ]
    for crew in results["crews"]:
        best = " / ".join(f"{b:.3f}" if b else "-" for b in crew["best_after"].values())
        lines.append(
            f"{crew['workers']:7}  {crew['evaluations']:11}  {crew['per_hour']:8.0f}  "
            f"{crew['efficiency']:10.0%}  {crew['engine_share']:6.1%}   {best:23}   "
            f"{crew['perplexity']:.3f}"
        )
    lines.append("one worker, joined late by another, then killed:")
    lines += [f"  {what}: {value}" for what, value in results["late and killed"].items()]
    return "\n".join(lines)


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--time", type=float, default=25.0, help="seconds of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
