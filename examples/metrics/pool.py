"""Tasks in processes of their own, spread over the GPUs or the cores of this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.commands import no_command

_device = "cpu"


class Task(Protocol):
    """A piece of work whose result can be written as JSON."""

    @property
    def name(self) -> str:
        """What the result is kept under."""

    def run(self, device: str) -> Any:
        """Do it on that device."""


def run_all(tasks: Sequence[Task], jobs: int, results: dict[str, Any], output: Path) -> list[str]:
    """Run the tasks whose results are not there yet, ``jobs`` at once on each GPU, or in all.

    Each result is written to ``output`` as soon as it is there, so that the same call again goes
    on. A task that fails is told and left out.

    Returns:
        The names of those that failed.
    """
    devices = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]
    waiting = [task for task in tasks if task.name not in results]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = get_context("spawn")
    free: Queue[str] = context.Queue()
    for device in devices * jobs:
        free.put(device)
    failed = []
    begun = time.monotonic()
    with ProcessPoolExecutor(
        len(devices) * jobs, mp_context=context, initializer=_take, initargs=(free,)
    ) as pool:
        for done in as_completed(running := {pool.submit(_run, task): task for task in waiting}):
            task = running[done]
            if (error := done.exception()) is not None:
                print(f"{task.name}: {type(error).__name__}: {error}", flush=True)
                failed.append(task.name)
                continue
            results[task.name] = done.result()
            write(output, results)
            print(f"[{time.monotonic() - begun:.0f} s] {task.name}", flush=True)
    return failed


def end(failed: Sequence[str]) -> None:
    """Where tasks failed, say how many and end with exit code 1."""
    if failed:
        raise SystemExit(
            f"Error: what failed is told above, {len(failed)} in all; the same command again makes "
            "these alone."
        )


def write(output: Path, results: dict[str, Any]) -> None:
    """Write the results so that a reader never sees half of them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")
    beside.replace(output)


def _take(free: Queue[str]) -> None:
    global _device
    _device = free.get()
    torch.set_num_threads(1)


def _run(task: Task) -> Any:
    return task.run(_device)


if __name__ == "__main__":
    no_command("python -m examples.metrics.run --help")
