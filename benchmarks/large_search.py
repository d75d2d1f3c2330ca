"""A search on a Llama-7B of random weights, from a folder on disk, and what each part of it takes.

    python -m benchmarks.large_search --output search_7b.json -- --time 10m
    python -m benchmarks.large_search -- --time 10m --update least-squares
    python -m benchmarks.large_search --models 2 -- --time 2m --workers auto
    python -m benchmarks.large_search --beside search_7b.json -- --time 10m --workers 2
    python -m benchmarks.large_search --tiny -- --time 5s --device cpu

Behind ``--`` stand options of ``prunerzero search``, which runs as a user would run it: in bf16,
half of each row, the known metrics first, 16 windows of 2048 tokens of calibration and as many of
validation, unless they say otherwise. ``--models`` says how many models of that shape it has.
``--beside`` names the JSON of a search by one worker, and tells how many times as much is measured
here: by candidates, by chunks of text, and by the work, which is the time that they take there.

Tells seconds of each part, candidates an hour, and the most memory that was taken: of each GPU, by
all that runs there, and of the search's processes in the host (what each has for itself alone).
Weights and text are random, so losses mean nothing: metrics that differ in a real model are as good
as each other here, and more of them are refitted in full at the end than there would be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from benchmarks import study_figures as figures
from benchmarks.commands import at_least, folder, in_one_sentence, new_file, refuse
from benchmarks.large_model import GIB, HostMemory, write_model
from benchmarks.packed_cuda_model import SHAPE, TINY
from prunerzero.files import write_json

WINDOWS = 16
DENSE, CANDIDATES = "dense loss, known metrics of the race", "candidates"
OWN = ("--model", "--output-dir", "--calibration", "--validation", "--config")
"""Options of a search that this script gives itself."""


class Memory(HostMemory):
    """The most memory in use while it is open, in GiB: "own", of the processes; of each GPU."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.gpus = [0.0] * torch.cuda.device_count()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            own = 0
            with suppress(psutil.Error):
                for one in (self._process, *self._process.children(recursive=True)):
                    with suppress(psutil.Error):
                        held = one.memory_info()
                        own += held.rss - held.shared
            self.peak["own"] = max(self.peak["own"], own / GIB)
            for gpu in range(len(self.gpus)):
                free, all_of = torch.cuda.mem_get_info(gpu)
                self.gpus[gpu] = max(self.gpus[gpu], (all_of - free) / GIB)


def prepare(place: Path, count: int, shape: dict[str, int], length: int) -> list[Path]:
    """So many models, of which no two are the same, and the texts."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    models = [place / f"model-{number}" for number in range(1, count + 1)]
    write_model(models[0], shape, device)
    for number, other in enumerate(models[1:], start=2):
        other.mkdir()
        for file in models[0].iterdir():
            os.link(file, other / file.name)
        for file in other.glob("*.safetensors"):
            if "model.norm.weight" in (tensors := load_file(file)):
                file.unlink()
                tensors["model.norm.weight"] *= number
                save_file(tensors, file, metadata={"format": "pt"})
    words = random.Random(0)
    for part in ("calibration", "validation"):
        tokens = range((WINDOWS + 1) * length)
        text = " ".join(f"w{words.randrange(1, shape['vocab_size'])}" for _ in tokens)
        (place / f"{part}.txt").write_text(text)
    return models


def measured_before(text: str) -> dict[str, Any]:
    """An argument's type: what this script wrote."""
    try:
        found: dict[str, Any] = json.loads(Path(text).read_text(encoding="utf-8"))
        before = {"cost": found["cost"], "rates": found["rates"]}
    except (OSError, ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text} is no JSON of this script") from None
    if not all(before["rates"].values()):
        raise argparse.ArgumentTypeError(f"{text} tells of a search that measured nothing")
    return before


def part_of(line: str) -> str | None:
    """What begins or goes on by a line of progress; None where it tells something else.

    >>> part_of("refitting: 56 of 224 layers, 0:31 left"), part_of("statistics D (112 windows) …")
    ('refitting', 'statistics D')
    >>> part_of("24 evaluations (0.3/s), 43 duplicates skipped, 4 raced out, 0:00 left · best 7: W")
    'candidates'
    >>> part_of("1 evaluation (0.3/s), 0 duplicates skipped, 0 raced out, 1:00 left")
    'candidates'
    >>> part_of("wanda, model-1 at 0.5, validation text (16 windows) …")
    'metrics on the whole text'
    >>> part_of("Best metric: W")
    """
    if (" evaluations (" in line or " evaluation (" in line) and " left" in line:
        return CANDIDATES
    if line.startswith("dense, "):
        return DENSE
    if ", validation text" in line:
        return "metrics on the whole text"
    if line.endswith(" …"):
        return line.removesuffix(" …").split(" (")[0]
    return line.split(": ")[0] if line.endswith(" left") else None


def parts(lines: list[tuple[float, str]], search: float) -> dict[str, float]:
    """Seconds of each part, in the order in which they begin.

    Args:
        lines: of progress, with the seconds at which they came.
        search: seconds that the search counts for its candidates. It tells of them every ten
            seconds, so the first ones have no line; before them it reads the known metrics.
    """
    begun = [(at, part) for at, line in lines if (part := part_of(line)) is not None]
    ends = [*(at for at, _ in begun[1:]), lines[-1][0] if lines else 0.0]
    found = {"start": begun[0][0]} if begun else {}
    for (at, part), end in zip(begun, ends, strict=True):
        found[part] = found.get(part, 0.0) + end - at
        if part == DENSE:
            found.setdefault(CANDIDATES, 0.0)  # they come next, whether or not a line tells
    both = found.get(DENSE, 0.0) + found.get(CANDIDATES, 0.0)
    return found | {DENSE: max(0.0, both - search), CANDIDATES: min(both, search)}


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=at_least(1), default=1, help="of that shape")
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument("--folder", type=folder, help="where models are written, and deleted again")
    parser.add_argument("--output", type=new_file, help="JSON file")
    parser.add_argument("--beside", type=measured_before, help="JSON of a search by one worker")
    parser.add_argument("more", nargs="*", metavar="OPTION", help="of the search, behind --")
    options = parser.parse_args()
    if own := [one for one in options.more if one.split("=")[0] in OWN]:
        parser.error(f"{own[0]} is given to the search by this script; leave it out")
    length = 64 if options.tiny else 2048
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # models are deleted then too
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as place:
        there = Path(place)
        try:
            models = prepare(there, options.models, TINY if options.tiny else SHAPE, length)
        except (OSError, SafetensorError) as error:
            refuse(f"the model cannot be written to {there.parent}: {error}; pass --folder.")
        command = [sys.executable, "-m", "prunerzero", "search", "--output-dir", str(there / "run")]
        for model in models:
            command += ["--model", str(model)]
        for part in ("calibration", "validation"):
            command += [f"--{part}", str(there / f"{part}.txt")]
            command += [f"--num-{part}-samples", str(WINDOWS)]
        command += ["--max-seq-length", str(length), "--dtype", "bfloat16"]
        if not any(one.startswith(("--strategy", "--seed-metrics")) for one in options.more):
            command += ["--seed-metrics", "catalog"]
        results = measured([*command, *options.more], there / "run" / "best.json", options.beside)
    results |= {
        "options": [f"--models {options.models}", *options.more],
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if options.output:
        write_json(options.output, results)
    print(table(results))


def measured(command: list[str], best: Path, one: dict[str, Any] | None = None) -> dict[str, Any]:
    """The search's figures, also in times those of ``one``.

    What it says goes on to standard error with its seconds.
    """
    begun, lines = time.monotonic(), []
    environment = os.environ | {
        "PRUNERZERO_CACHE": str(best.parents[1] / "cache"),
        "COLUMNS": "250",
    }
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    with Memory(psutil.Process(running.pid)) as memory:
        for line in lines_of(running):
            told = line.rstrip().replace(f"{best.parents[1]}/", "")
            lines.append((time.monotonic() - begun, told))
            print(f"{lines[-1][0]:7.1f} {told}", file=sys.stderr, flush=True)
    lines.append((time.monotonic() - begun, ""))
    if running.returncode and not best.is_file():
        refuse("the search failed, as it says above; what stands behind -- goes to it as it is.")
    found = json.loads(best.read_text(encoding="utf-8"))
    trials = figures.Study(best.with_name("journal.log")).measured()
    cost = figures.cost(trials)
    rates = {
        "candidates": figures.per_hour(trials),
        "chunks": figures.per_hour(trials, figures.chunks),
        "work": figures.work(one["cost"] if one else cost, trials),
    }
    return {
        "seconds": lines[-1][0],
        "parts": parts(lines, found["seconds"]),
        "candidates": found["evaluations"],
        "seconds_of_search": found["seconds"],
        "candidates_an_hour": 3600 * found["evaluations"] / found["seconds"],
        "rates": rates,
        "cost": cost,
        "times": {what: rate / one["rates"][what] for what, rate in rates.items()} if one else {},
        "gpu_gib": memory.gpus,
        "host_gib": memory.peak["own"],
    }


def lines_of(running: subprocess.Popen[str]) -> Iterator[str]:
    """What a process says until it ends. Ctrl-C reaches it too: it then ends by itself."""
    assert running.stdout is not None
    try:
        while running.poll() is None:
            try:
                yield from running.stdout
                running.wait()
            except KeyboardInterrupt:
                running.send_signal(signal.SIGINT)
    finally:  # it does not outlive this script
        running.terminate()
        running.wait()


def table(results: dict[str, Any]) -> str:
    rows = [
        (part, f"{seconds:.1f} s") for part, seconds in results["parts"].items() if seconds >= 0.05
    ]
    rows += [
        ("all of it", f"{results['seconds']:.1f} s"),
        ("evaluated", f"{results['candidates']} in {results['seconds_of_search']:.0f} s"),
        ("candidates an hour", f"{results['candidates_an_hour']:,.0f}"),
        ("chunks of text an hour", f"{results['rates']['chunks']:,.0f}"),
        ("a candidate, and each chunk", "{:.3f} s, {:.3f} s".format(*results["cost"])),
        *(
            (f"times as much, by {what}", f"{value:.2f}")
            for what, value in results["times"].items()
        ),
        ("memory of each GPU, most", ", ".join(f"{gib:.1f} GiB" for gib in results["gpu_gib"])),
        ("memory of the host, most", f"{results['host_gib']:.1f} GiB"),
    ]
    told = f"{results['device']}, torch {results['torch']}, {' '.join(results['options'])}"
    return "\n".join(
        ["", told, "", "| | |", "| --- | ---: |", *(f"| {a} | {b} |" for a, b in rows)]
    )


if __name__ == "__main__":
    main()
