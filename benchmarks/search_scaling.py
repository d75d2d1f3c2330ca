"""How a search scales: 1, 2, … workers in the same time; one that joins late, one that is killed.

    python -m benchmarks.search_scaling --model FOLDER --calibration calibration.txt \\
        --validation validation.txt --workers 1 2 --time 25 --output scaling.json

There is a worker for each GPU, or they share the CPU. Options that are not known here go to
``prunerzero search`` as they are; of the validation text 24 windows are read unless
``--num-validation-samples`` says otherwise, 16 by a race and all by the judging of finalists. A
GGUF file is dequantised once. The clock of a search runs once the model is there and the statistics
are, which the first crew computes (in its start) and the others read.

Told of each number of workers: how many candidates and chunks are measured an hour, how that
compares with as many times one worker (efficiency), the share of the workers' time that is not
spent measuring (engine), and the best perplexity on the race's chunks after a quarter, half and all
of the time; and the seconds of each part: to start, to measure the dense model and the named
metrics, to search, to judge finalists, to measure the metric found. Searches race out different
shares of their candidates, and both rates change with that, so efficiency is told by the work too:
the time that these candidates and chunks take the first crew. Then one worker searches alone, a
second is started on its study after a quarter of the time, and the first is killed when both have
been at work for a quarter; after another quarter Ctrl-C ends the second. ``--no-changes`` leaves
that out.

What happens is told on standard error with the seconds since the start, and the JSON is written
after every step: of a benchmark that is killed everything is kept that had been measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import study_figures as figures
from benchmarks.commands import new_file
from benchmarks.study_figures import Study
from prunerzero.files import write_json
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource

PRUNERZERO = [sys.executable, "-m", "prunerzero"]
OUTSIDE = 30.0
"""Seconds of a search outside its own time, guessed as long as none has been measured."""

BEGUN = time.monotonic()


def write(results: dict[str, Any], path: Path | None) -> None:
    """As JSON, where a file is asked for."""
    if path:
        write_json(path, results)


def main() -> None:
    options, more = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: dict[str, Any] = {"device": device_name(), "seconds": options.time, "crews": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        runs = Path(folder)
        command = [*PRUNERZERO, "search", "--model", as_folder(options.model, runs)]
        command += ["--calibration", options.calibration, "--validation", options.validation]
        command += ["--seed", str(options.seed), "--evaluations", "1000000"]
        command += ["--num-validation-samples", "24", *more]
        try:
            for done, workers in enumerate(options.workers):
                left = estimate(results["crews"], options, len(options.workers) - done)
                say(f"{workers} at work; the whole will take about {left:.0f} s from here")
                first = results["crews"][0]["cost"] if results["crews"] else None
                crew = measure_crew(command, runs, workers, options.time, first)
                results["crews"].append(crew)
                compare(results["crews"])
                say(row(crew))
                write(results, options.output)
            if options.changes:
                say("one at work, another will join it")
                results["late and killed"] = measure_changes(command, runs, options.time)
                write(results, options.output)
        finally:
            for search in Search.running:
                search.process.kill()
            print(table(results))


def as_folder(model: str, runs: Path) -> str:
    """The model in a form that every process opens quickly."""
    if Path(model).suffix != ".gguf":
        return model
    say("dequantising the model")
    load_model(ModelSource(model, device="cpu")).save(runs / "model")
    return str(runs / "model")


def estimate(crews: list[dict[str, Any]], options: argparse.Namespace, left: int) -> float:
    """Seconds that so many crews and the change of workers take if they start like the last one."""
    outside = sum(crews[-1][part] for part in ("start", "known", "end")) if crews else OUTSIDE
    changes = 2 * outside + options.time if options.changes else 0
    return float(left * (outside + options.time) + changes)


def measure_crew(
    command: list[str],
    runs: Path,
    workers: int,
    seconds: float,
    first: tuple[float, float] | None,
) -> dict[str, Any]:
    """The figures of so many workers; ``first`` is what measuring takes the first crew."""
    folder = runs / f"crew-{workers}"
    search = Search(command, folder, "--time", f"{seconds}s", "--workers", str(workers))
    search.finish()
    found = json.loads((folder / "best.json").read_text())
    trials = search.study.measured()
    by_worker = figures.by_worker(trials)
    return {
        "workers": workers,
        "took_part": len(by_worker),
        "evaluations": len(trials),
        "per_hour": figures.per_hour(trials),
        "chunks_per_hour": figures.per_hour(trials, figures.chunks),
        "cost": (cost := figures.cost(trials)),
        "work": figures.work(first or cost, trials),
        "engine_share": figures.engine_share(trials),
        "seconds_a_chunk": figures.seconds_a_chunk(trials),
        "best_after": {
            f"{share:.0%}": figures.best_until(trials, share * seconds)
            for share in (0.25, 0.5, 1.0)
        },
        "perplexity": found["perplexity"]["validation"][found["origin"]],
        "metric": found["metric"],
        **search.parts(),
    }


def compare(crews: list[dict[str, Any]]) -> None:
    """What the last of these is of as many workers like those of the first."""
    first, crew = crews[0], crews[-1]
    for rate, name in (
        ("per_hour", "efficiency"),
        ("chunks_per_hour", "efficiency_chunks"),
        ("work", "efficiency_work"),
    ):
        crew[name] = crew[rate] / (first[rate] / first["workers"] * crew["workers"])


def measure_changes(command: list[str], runs: Path, seconds: float) -> dict[str, Any]:
    """One worker, which another joins; then the first is killed."""
    journal = runs / "shared.log"
    shared = ["--storage", str(journal)]
    last = torch.cuda.device_count() - 1
    devices = ["cuda:0", f"cuda:{last}"] if last >= 0 else ["cpu", "cpu"]
    first = Search(command, runs / "first", *shared, "--device", devices[0], journal=journal)
    first.await_workers(1)
    time.sleep(seconds / 4)
    say("the second worker is started")
    second = Search(command, runs / "second", *shared, "--device", devices[1], journal=journal)
    second.await_workers(2)
    joined = time.monotonic() - second.begun_monotonic
    time.sleep(seconds / 4)
    say(f"the second worker joined after {joined:.0f} s; the first is killed")
    first.process.send_signal(signal.SIGKILL)
    first.end()
    counted = {t.number for t in first.study.measured()}
    time.sleep(seconds / 4)
    say("Ctrl-C ends the second worker")
    second.process.send_signal(signal.SIGINT)
    second.finish(code=130)
    trials = second.study.measured()
    formulas = [t.user_attrs["expression"] for t in trials]
    by_worker = figures.by_worker(trials).values()
    return {
        "evaluations": len(trials),
        "by worker": [len(own) for own in by_worker],
        "per_hour by worker": [figures.per_hour(own) for own in by_worker],
        "seconds to join": joined,
        "counted twice": len(formulas) - len(set(formulas)),
        "counted before the kill and lost": len(counted - {t.number for t in trials}),
        "told": [line for line in second.told if "joined" in line or "lost" in line],
    }


class Search:
    """A ``prunerzero search`` that runs; what it tells is told on, and kept."""

    running: list[Search] = []

    def __init__(
        self, command: list[str], folder: Path, *more: str, journal: Path | None = None
    ) -> None:
        self.study = Study(journal or folder / "journal.log")
        self.told: list[str] = []
        self.begun, self.begun_monotonic = datetime.now(), time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--output-dir", str(folder), *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.running.append(self)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line.rstrip())
            say(f"    {line.rstrip()}")

    def end(self) -> None:
        """Wait for it."""
        self.process.wait()
        self._listener.join()
        self.running.remove(self)
        self.ended = datetime.now()

    def finish(self, code: int = 0) -> None:
        """Wait for it; raises SystemExit if it ends with another code."""
        self.end()
        if self.process.returncode != code:
            raise SystemExit(f"a search ended with {self.process.returncode}, not {code}.")

    def parts(self) -> dict[str, float]:
        """Seconds of each part, in order; of a search that has ended."""
        return self.study.parts(self.begun, self.ended)

    def await_workers(self, count: int) -> None:
        """Until so many have measured something; the process must not end before."""
        while len(figures.by_worker(self.study.measured())) < count:
            if self.process.poll() is not None:
                self.finish(code=-1)
            time.sleep(0.2)


def device_name() -> str:
    if not torch.cuda.is_available():
        return f"{os.cpu_count()} CPUs"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


COLUMNS = (
    "workers  evaluations   an hour  efficiency  by chunks  by work  engine   "
    "best after 25%/50%/100%   perplexity | start  known  search  judging  end, s"
)


def row(crew: dict[str, Any]) -> str:
    best = " / ".join(f"{b:.3f}" if b else "-" for b in crew["best_after"].values())
    return (
        f"{crew['workers']:7}  {crew['evaluations']:11}  {crew['per_hour']:8.0f}  "
        f"{crew['efficiency']:10.0%}  {crew['efficiency_chunks']:9.0%}  "
        f"{crew['efficiency_work']:7.0%}  "
        f"{crew['engine_share']:6.1%}   {best:23}   {crew['perplexity']:10.3f} | "
        f"{crew['start']:5.1f}  {crew['known']:5.1f}  {crew['search']:6.1f}  "
        f"{crew['judging']:7.1f}  {crew['end']:3.1f}"
    )


def table(results: dict[str, Any]) -> str:
    lines = [f"{results['device']}, {results['seconds']:.0f} s each", COLUMNS]
    lines += map(row, results["crews"])
    if "late and killed" in results:
        lines.append("one worker, joined late by another, then killed:")
        lines += [f"  {what}: {value}" for what, value in results["late and killed"].items()]
    return "\n".join(lines)


def say(what: str) -> None:
    print(f"{time.monotonic() - BEGUN:6.1f} s  {what}", file=sys.stderr, flush=True)


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--time", type=float, default=25.0, help="seconds of each search")
    parser.add_argument("--changes", action=argparse.BooleanOptionalAction, default=True,
                        help="of workers: one joins late, one is killed")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=new_file, help="JSON file")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
