"""What the engine costs beside measuring: proposing, simplifying, keys, storage.

    python -m benchmarks.engine_overhead --sizes 0 500 2000 --output overhead.json
    python -m benchmarks.engine_overhead --wait 0.01 0.03

Runs a search on a journal (or, with --storage, in a database) with a fitness that costs next to
nothing. Prints the engine's time for one evaluation when the study holds the given number of them,
its processor time, its parts, and its share of a worker's time where measuring takes 0.3 s and
10 s. The aim is 10 % and 1 %.

With ``--wait``, prints instead the milliseconds for each candidate where the fitness waits that
many seconds for each chunk, as for a GPU: proposed at once, and proposed ahead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.commands import new_file, refuse
from prunerzero.evolution import Progress, SearchSettings, SearchStudy, search
from prunerzero.evolution.breeding import Breeder
from prunerzero.evolution.variation import OperatorSet
from prunerzero.metrics import Expression, Sparsity
from prunerzero.scoring import prune_mask
from prunerzero.scoring.ranking import Probe

HALF = Sparsity.parse("0.5")
WINDOW = 50
"""Evaluations over which the mean is taken."""

CHUNKS = 16
PLANTED = "W * sqrt(X) * G"


class Planted:
    """Loss: how much of a planted importance is pruned in one small layer."""

    chunks = total_chunks = CHUNKS

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.layers = [self._layer(generator) for _ in range(4)]
        self.importance = Expression.parse(PLANTED).score(**self.layers[0])
        self.noise = (0.1 * torch.randn(CHUNKS, generator=generator)).tolist()
        self.seconds = self.processor_seconds = 0.0

    @staticmethod
    def _layer(generator: torch.Generator) -> dict[str, torch.Tensor]:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        return {
            "W": normal(64, 256).abs(),
            "X": (1.5 * normal(1, 256)).exp(),
            "G": normal(64, 256).abs() * normal(1, 256).exp(),
        }

    @property
    def probes(self) -> list[Probe]:
        return [Probe.of(layer["W"], layer["X"], layer["G"]) for layer in self.layers]

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        begun, processor = time.perf_counter(), time.process_time()
        pruned = prune_mask(expression.score(**self.layers[0]), HALF)
        loss = 3 + float(self.importance[pruned].sum() / self.importance.sum())
        self.seconds += time.perf_counter() - begun
        self.processor_seconds += time.process_time() - processor
        for chunk in range(start, stop or CHUNKS):
            yield loss + self.noise[chunk]


class Waiting(Planted):
    """Leaves the CPU idle meanwhile."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = wait

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        for loss in super().losses(expression, start, stop):
            time.sleep(self.wait)
            yield loss


def measure_ahead(storage: Path, wait: float, ahead: bool, operators: Any) -> tuple[float, float]:
    """Milliseconds from one candidate to the next, and those of them that it is measured."""
    fitness = Waiting(wait)
    ends: list[float] = []
    with SearchStudy.open(storage) as study:
        search(
            fitness,
            study=study,
            settings=SearchSettings(evaluations=4 * WINDOW, operators=operators),
            probes=fitness.probes,
            sparsity=HALF,
            on_progress=lambda progress: ends.append(time.perf_counter()),
            ahead=ahead,
        )
        trials = study.optuna_study.get_trials(deepcopy=False)[WINDOW : 4 * WINDOW]
    took = [trial.user_attrs["measured"]["took"] for trial in trials]
    apart = (ends[4 * WINDOW - 1] - ends[WINDOW - 1]) / (3 * WINDOW)
    return 1000 * apart, 1000 * sum(took) / len(took)


class Clock:
    """Adds up the time spent in methods that it is put around."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def put_around(self, owner: Any, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - begun

        setattr(owner, name, timed)


def measure(storage: str | Path, sizes: list[int], operators: Any) -> Iterator[dict[str, float]]:
    """For each size, in milliseconds an evaluation: the whole engine and its parts."""
    fitness = Planted()
    clock = Clock()
    for name in ("next_draw", "begin", "record"):
        clock.put_around(SearchStudy, name)
    clock.put_around(Breeder, "propose")
    with SearchStudy.open(storage) as study:

        def run_until(evaluations: int) -> None:
            search(
                fitness,
                study=study,
                settings=SearchSettings(evaluations=evaluations, operators=operators),
                probes=fitness.probes,
                sparsity=HALF,
            )

        run_until(3)  # what is slow the first time
        for size in sizes:
            run_until(max(size, 3))
            clock.seconds.clear()
            fitness.seconds = fitness.processor_seconds = 0.0
            marks: list[tuple[float, float]] = []

            def mark(_: Progress, marks: list[tuple[float, float]] = marks) -> None:
                if not marks:  # taking in what the study holds is done once
                    clock.seconds.clear()
                marks.append((time.perf_counter(), time.process_time()))

            search(
                fitness,
                study=study,
                settings=SearchSettings(evaluations=max(size, 3) + WINDOW, operators=operators),
                probes=fitness.probes,
                sparsity=HALF,
                on_progress=mark,
            )
            # the search itself, from the first evaluation's end to the last one's
            first, last = marks[0], marks[WINDOW - 1]
            whole = (last[0] - first[0]) / (WINDOW - 1) - fitness.seconds / WINDOW
            processor = (last[1] - first[1]) / (WINDOW - 1) - fitness.processor_seconds / WINDOW
            parts = {name: 1000 * s / (WINDOW - 1) for name, s in clock.seconds.items()}
            yield {
                "evaluations": size,
                "engine_ms": 1000 * whole,
                "processor_ms": 1000 * processor,
                **parts,
            }


def compare_ahead(waits: list[float], operators: Any) -> None:
    print("wait, ms  proposed  ms a candidate  measured")
    for wait in waits:
        for ahead in (False, True, False, True):
            with tempfile.TemporaryDirectory() as folder:
                journal = Path(folder) / "journal.log"
                apart, took = measure_ahead(journal, wait, ahead, operators)
            how = "ahead" if ahead else "at once"
            print(f"{1000 * wait:8.1f}  {how:8}  {apart:14.1f}  {took:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 500, 2000])
    parser.add_argument("--storage", help="URL of a database; a journal if left out")
    parser.add_argument("--operators", choices=get_args(OperatorSet), default="published")
    parser.add_argument("--wait", type=float, nargs="+", help="seconds for each chunk")
    parser.add_argument("--output", type=new_file)
    options = parser.parse_args()
    if options.wait and (options.output or options.storage):
        refuse("--wait takes no --output and no --storage: it prints what it measures.")
    torch.set_num_threads(1)
    if options.wait:
        compare_ahead(options.wait, options.operators)
        return
    rows = []
    print("evaluations  engine ms  (processor)  propose  begin  record  | share at 0.3 s  at 10 s")
    with tempfile.TemporaryDirectory() as folder:
        storage = options.storage or Path(folder) / "journal.log"
        for row in measure(storage, options.sizes, options.operators):
            row["share_at_0.3s"] = row["engine_ms"] / (row["engine_ms"] + 300)
            row["share_at_10s"] = row["engine_ms"] / (row["engine_ms"] + 10_000)
            rows.append(row)
            print(
                f"{row['evaluations']:11}  {row['engine_ms']:9.1f}  "
                f"{row['processor_ms']:11.1f}  {row['propose']:7.1f}  "
                f"{row['begin']:5.1f}  {row['record']:6.1f}  | {row['share_at_0.3s']:14.1%}  "
                f"{row['share_at_10s']:7.2%}",
                flush=True,
            )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
