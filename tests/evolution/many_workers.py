"""Workers in processes of their own, on one study."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from forked import CONTEXT
from toy_fitness import HALF, ToyFitness, run_search, settings

from prunerzero.evolution import SearchStudy, search
from prunerzero.evolution.records import SearchResult
from prunerzero.metrics import Expression


class Unhurried(ToyFitness):
    """Takes a while for each chunk, and tells in a file which finalists were judged."""

    def __init__(self, pace: float, judged: Path | None = None) -> None:
        super().__init__()
        self.pace = pace
        self.judged = judged

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        if start and self.judged:
            with self.judged.open("a") as file:
                file.write(f"{expression}\n")
        for loss in super().losses(expression, start, stop):
            time.sleep(self.pace)
            yield loss


def run_worker(
    storage: str | Path, evaluations: int, pace: float = 0.0, judged: Path | None = None
) -> SearchResult:
    fitness = Unhurried(pace, judged)
    with SearchStudy.open(storage) as study:
        return search(
            fitness,
            study=study,
            settings=settings(evaluations),
            probes=fitness.probes,
            sparsity=HALF,
            ahead=os.getpid() % 2 == 0,  # both kinds of workers, mixed
        )


run_search(ToyFitness(), 3)  # what is slow the first time, before workers are made


def start_worker(
    storage: str | Path, evaluations: int, pace: float = 0.0, judged: Path | None = None
) -> BaseProcess:
    worker = CONTEXT.Process(target=run_worker, args=(storage, evaluations, pace, judged))
    worker.start()
    return worker
