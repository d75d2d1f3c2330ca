"""Workers in processes of their own, on one study."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from toy_fitness import HALF, ToyFitness, run_search, settings

from prunerzero.evolution import SearchStudy, search
from prunerzero.evolution.records import SearchResult
from prunerzero.metrics import Expression

CONTEXT = multiprocessing.get_context("forkserver")


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


def start_server() -> None:
    """A server that has imported everything makes a worker in a few milliseconds."""
    CONTEXT.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("OMP_NUM_THREADS", "1")  # of several, a fork would wait for those it lacks
        ensure_running()


def start_worker(
    storage: str | Path, evaluations: int, pace: float = 0.0, judged: Path | None = None
) -> BaseProcess:
    worker = CONTEXT.Process(target=run_worker, args=(storage, evaluations, pace, judged))
    worker.start()
    return worker
