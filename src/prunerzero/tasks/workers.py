"""Several workers of one host, each a process with its device, supervised by this one.

The supervisor loads no model. It starts the workers, shows what they tell as one, starts again
those that are killed, and hands on Ctrl-C and SIGTERM. All that the workers share is the study;
whatever happens to the supervisor, they end by themselves, and nothing in the study is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.resource_tracker import ensure_running
from types import FrameType
from typing import Any

import torch

from prunerzero.errors import InputError
from prunerzero.evolution import Progress, SearchResult
from prunerzero.evolution.interrupt import STOPS, interrupts_wait
from prunerzero.metrics import MetricError
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.order import Order
from prunerzero.tasks.search_result import Found

Outcome = tuple[Found, SearchResult]
Run = Callable[[Order, Observer], Outcome]

GIVE_UP_AFTER = 3
"""Deaths in a row, without an evaluation in between, after which a worker is not started again."""


LAST_WORDS = ("found", "refused", "crashed", "interrupted")
"""What a worker may end with; one that ends with none of them was killed."""


def gpus_of(device: str) -> list[str]:
    """All GPUs, where the user's word for the device stands for them; else none."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [f"cuda:{number}" for number in range(count)]


def devices_for(workers: int | str, device: str) -> list[str]:
    """The device of each worker.

    Args:
        workers: how many, or ``"auto"``: as many as GPUs are visible, or one.
        device: as the user gave it; ``"auto"`` and ``"cuda"`` stand for all GPUs in turn.

    Raises:
        InputError: ``workers`` is neither "auto" nor a positive number.
    """
    gpus = len(gpus_of(device))
    if workers == "auto":
        count = max(1, gpus)
    else:
        try:
            count = int(workers)
        except (TypeError, ValueError):
            count = 0
        if count < 1:
            raise InputError(f"`workers` must be 'auto' or a positive number, not '{workers}'.")
    if count == 1 or not gpus:
        return [device] * count
    return [f"cuda:{i % gpus}" for i in range(count)]


def run_workers(
    run: Run, order: Order, places: Sequence[Sequence[str]], observer: Observer
) -> Outcome:
    """Run ``run(order, …)`` in several processes; what one of those found that finished.

    Args:
        run: a worker's part.
        order: what all are told.
        places: of each worker, the device of each model.
        observer: receives what they tell.

    Raises:
        InputError: a worker refused the order, or all of them died.
        KeyboardInterrupt: Ctrl-C, before anything was measured.
    """
    return _Crew(run, order, places, observer).work()


class _Worker:
    def __init__(self, number: int, devices: Sequence[str]) -> None:
        self.name = f"worker {number} ({' and '.join(sorted(set(devices)))})"
        self.devices = devices
        self.deaths = 0

    def start(self, run: Run, order: Order, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.inbox, outbox = context.Pipe(duplex=False)
        own = order.on(self.devices)
        self.process = context.Process(target=_work, args=(run, own, threads, outbox), daemon=True)
        ensure_running()  # what start() does where it must, and unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self.process.start()  # inherits that: signals wait until it is ready for them
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        outbox.close()

    def interrupt(self) -> None:
        """As Ctrl-C does; not where it has ended, as its number may be another process's then."""
        if self.process.exitcode is None:
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGINT)


class _Crew:
    def __init__(
        self, run: Run, order: Order, places: Sequence[Sequence[str]], observer: Observer
    ) -> None:
        self.run = run
        self.order = order
        self.observer = observer
        self.workers = [_Worker(n, devices) for n, devices in enumerate(places, start=1)]
        self.threads = max(1, torch.get_num_threads() // len(places))
        self.at_work: list[_Worker] = []
        self.outcomes: list[Outcome] = []
        self.refusal: str | None = None
        self.is_stopping = False
        self._has_told = False
        self._evaluations = -1
        self._shown: set[str] = set()
        self._counts: dict[tuple[str, str], tuple[Any, Callable[[int], None]]] = {}

    def work(self) -> Outcome:
        try:
            try:
                for worker in self.workers:
                    self._start(worker)
                self._attend_to_the_end()
            except KeyboardInterrupt:
                self.is_stopping = True
                self._attend_to_the_end()
        finally:
            for worker in self.at_work:  # a second Ctrl-C; the study bears it
                worker.process.kill()
        return self._outcome()

    def _start(self, worker: _Worker) -> None:
        with interrupts_wait():  # one that is started and not known would be left behind
            worker.start(self.run, self.order, self.threads)
            self.at_work.append(worker)

    def _attend_to_the_end(self) -> None:
        while self.at_work:
            if self.is_stopping and not self._has_told:
                self._has_told = True
                for worker in self.at_work:
                    worker.interrupt()
            wait([w.inbox for w in self.at_work] + [w.process.sentinel for w in self.at_work], 0.5)
            for worker in list(self.at_work):
                has_ended = not worker.process.is_alive()
                last = self._listen(worker)
                if last or has_ended:
                    worker.process.join()
                    self.at_work.remove(worker)
                    if last in (None, "crashed"):
                        self._died(worker)

    def _listen(self, worker: _Worker) -> str | None:
        """Take what it has told; the kind of its last word, if that was among it."""
        with suppress(EOFError, OSError):
            while worker.inbox.poll():
                kind, content = worker.inbox.recv()
                self._take(worker, kind, content)
                if kind in LAST_WORDS:
                    return str(kind)
        return None

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        match kind:
            case "search":
                worker.deaths = 0
                if content.evaluations >= self._evaluations:
                    self._evaluations = content.evaluations
                    self.observer.search(content)
            case "stage" if content not in self._shown:
                self._shown.add(content)
                self.observer.stage(content)
            case "note" if content not in self._shown:
                self._shown.add(content)
                self.observer.note(content)
            case "count":
                self._count(worker, *content)
            case "found":
                self.outcomes.append(content)
            case "refused":
                self.refusal = self.refusal or content
                self.is_stopping = True
            case "crashed":
                self.observer.note(f"{worker.name} failed:\n{content}")

    def _count(self, worker: _Worker, what: str, total: int, unit: str, done: int | None) -> None:
        key = (worker.name, what)
        if key not in self._counts:
            shown = self.observer.count(what, total, unit)
            self._counts[key] = shown, shown.__enter__()
        if done is None:
            self._counts.pop(key)[0].__exit__(None, None, None)
        else:
            self._counts[key][1](done)

    def _died(self, worker: _Worker) -> None:
        for key in [k for k in self._counts if k[0] == worker.name]:
            self._counts.pop(key)[0].__exit__(None, None, None)
        worker.deaths += 1
        if self.is_stopping or any(not found.interrupted for found, _ in self.outcomes):
            return
        how = _how_it_ended(worker.process.exitcode)
        if worker.deaths < GIVE_UP_AFTER:
            self.observer.note(
                f"{worker.name} {how}; it is started again, and at most the evaluation that it "
                "was at is lost."
            )
            self._start(worker)
        else:
            self.observer.note(f"{worker.name} {how} {worker.deaths} times in a row; it is left.")

    def _outcome(self) -> Outcome:
        if self.outcomes:
            return max(self.outcomes, key=lambda o: (not o[0].interrupted, o[0].evaluations))
        if self.refusal:
            raise InputError(self.refusal)
        if self.is_stopping:
            raise KeyboardInterrupt
        raise InputError(
            "every worker died several times in a row; what was evaluated is kept. Is there enough "
            "memory for so many? Try fewer `workers`."
        )


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


# In the worker


def _work(run: Run, order: Order, threads: int, outbox: Connection) -> None:
    for number in STOPS:
        signal.signal(number, _interrupt_once)
    device = order.setups[0].device
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        torch.set_num_threads(threads)
        if device.startswith("cuda:") and "," not in device:
            torch.cuda.set_device(device)
        last: tuple[str, Any] = ("found", run(order, _Messenger(outbox)))
    except KeyboardInterrupt:
        last = ("interrupted", None)
    except (InputError, MetricError) as error:
        last = ("refused", str(error))
    except Exception:
        last = ("crashed", traceback.format_exc())
    with suppress(OSError):  # the supervisor is gone
        outbox.send(last)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """What comes after the first is ignored: the terminal and the supervisor both send one."""
    for stop in STOPS:
        signal.signal(stop, lambda number, frame: None)  # SIG_IGN complains of one on its way
    raise KeyboardInterrupt


class _Messenger(Observer):
    """Tells the supervisor; a worker that has none any more ends as if by Ctrl-C."""

    def __init__(self, outbox: Connection) -> None:
        self._outbox = outbox

    def _send(self, kind: str, content: Any) -> None:
        try:
            self._outbox.send((kind, content))
        except OSError:
            raise KeyboardInterrupt from None

    def stage(self, what: str) -> None:
        self._send("stage", what)

    def note(self, what: str) -> None:
        self._send("note", what)

    def arrival(self, what: str) -> None:
        """Nothing: the supervisor has told of the study, and all workers come to the same one."""

    @contextmanager
    def count(
        self, what: str, total: int, unit: str = "windows"
    ) -> Iterator[Callable[[int], None]]:
        self._send("count", (what, total, unit, 0))
        try:
            yield lambda done: self._send("count", (what, total, unit, done))
        finally:
            self._send("count", (what, total, unit, None))

    def search(self, progress: Progress) -> None:
        self._send("search", progress)
