"""Measure models side by side: by turns, so that what disturbs the machine disturbs all alike.

Each model has a process of its own. All are loaded once where the memory suffices; where it does
not, one makes room for another, and is loaded again when its turn comes.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from prunerzero.errors import ModelError
from prunerzero.exponential import exp
from prunerzero.tasks.benching.figures import ModelFigures, median, quartiles
from prunerzero.tasks.benching.process import ModelFailedError, ModelProcess
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.observer import Observer

_SPARE = 1 << 30
"""Bytes of memory to leave free when another model is loaded."""
_TIMES_FILE = 2.5
"""A model is taken to need so many times its files' bytes while it is loaded and runs."""


def measure_models(
    subjects: Sequence[Subject],
    plan: Plan,
    observer: Observer | None = None,
    on_figures: Callable[[list[ModelFigures]], None] = lambda figures: None,
) -> list[ModelFigures]:
    """Measure models side by side.

    A model that cannot be measured to the end keeps what was measured, with a note.

    Args:
        subjects: the models, of different names.
        plan: how.
        observer: told of progress.
        on_figures: given what is measured so far, once a round of turns.

    Raises:
        ModelError: a model that is no rival is refused when it is first loaded.
    """
    records = [
        _Record(subject, without_graphs=_Speeds() if plan.in_graphs else None)
        for subject in subjects
    ]
    measuring = _Measuring(records, plan, observer or Observer(), on_figures)
    try:
        measuring.load_all()
        measuring.measure_speeds()
        if plan.perplexity:
            measuring.measure_perplexities()
    finally:
        measuring.close()
        on_figures([record.figures() for record in records])
    return [record.figures() for record in records]


@dataclass
class _Speeds:
    """Tokens a second, all runs: of prompts by length, of decoding by how many texts at once."""

    prefill: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[str, list[float]] = field(default_factory=dict)

    def each(self, of: Callable[[list[float]], Any]) -> dict[str, dict[str, Any]]:
        return {
            "prefill": {length: of(runs) for length, runs in self.prefill.items()},
            "decode": {batch: of(runs) for batch, runs in self.decode.items()},
        }


@dataclass
class _Record:
    """What is known so far of one model."""

    subject: Subject
    loads: list[dict[str, Any]] = field(default_factory=list)
    peak: int | None = None
    speeds: _Speeds = field(default_factory=_Speeds)
    """On a GPU, in CUDA graphs."""
    without_graphs: _Speeds | None = None
    no_graphs: bool = False
    """Whether no graphs can be made of it."""
    perplexity: float | None = None
    notes: list[str] = field(default_factory=list)
    """On what could not be measured."""
    failed: bool = False

    def figures(self) -> ModelFigures:
        def of_loads(name: str) -> Any:
            return self.loads[0][name] if self.loads else None

        seconds = [load["load_seconds"] for load in self.loads]
        medians, others = self.speeds.each(median), self.without_graphs

        def with_others(of: Callable[[list[float]], Any]) -> dict[str, Any]:
            return {} if others is None else {"without_graphs": others.each(of)}

        return ModelFigures(
            model=self.subject.name,
            file_bytes=of_loads("file_bytes"),
            memory_bytes=of_loads("memory_bytes"),
            load_seconds=median(seconds),
            prefill_tokens_per_second=medians["prefill"],
            decode_tokens_per_second=medians["decode"],
            perplexity=self.perplexity,
            peak_memory_bytes=self.peak,
            mapped_bytes=of_loads("mapped_bytes"),
            libraries_bytes=of_loads("libraries_bytes"),
            spread=self.speeds.each(quartiles) | with_others(quartiles),
            runs={"load_seconds": seconds} | self.speeds.each(list) | with_others(list),
            runtime=self.subject.runtime,
            dtype=of_loads("dtype"),
            kernel=of_loads("kernel"),
            is_rival=self.subject.is_rival,
            notes=(*self.subject.notes, *self.notes),
            without_graphs=None if others is None else others.each(median),
        )


class _Measuring:
    def __init__(
        self,
        records: list[_Record],
        plan: Plan,
        observer: Observer,
        on_figures: Callable[[list[ModelFigures]], None],
    ) -> None:
        self._records = records
        self._plan = plan
        self._observer = observer
        self._on_figures = on_figures
        self._open: dict[str, ModelProcess] = {}
        """By name, the one that was used last at the end."""

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def load_all(self) -> None:
        """Load each model once, so that one which cannot be is told before the work."""
        with self._observer.count("loading", len(self._records), "models") as advance:
            for done, record in enumerate(self._records, start=1):
                try:
                    self._process(record)
                except (ModelError, ModelFailedError) as error:
                    if isinstance(error, ModelError) and not record.subject.is_rival:
                        raise
                    self._give_up(record, str(error))
                advance(done)

    def measure_speeds(self) -> None:
        plan = self._plan
        began = time.monotonic()
        total = plan.repeats * len(self._records)
        with self._observer.count("measuring speed", total, "turns") as advance:
            for number in range(plan.repeats):
                started = time.monotonic()
                # there and back, so that a machine that slows down favours nobody
                order = self._records if number % 2 == 0 else self._records[::-1]
                for place, record in enumerate(order):
                    self._guarded(record, partial(self._turn, record))
                    advance(number * len(order) + place + 1)
                self._on_figures([record.figures() for record in self._records])
                now = time.monotonic()
                if plan.seconds is not None and now - began + (now - started) > plan.seconds:
                    break

    def measure_perplexities(self) -> None:
        windows = self._plan.windows
        total = len(windows) * len(self._records)
        with (
            tempfile.TemporaryDirectory() as folder,
            self._observer.count("measuring perplexity", total) as advance,
        ):
            file = Path(folder) / "windows.npy"
            array = io.BytesIO()  # where numpy writes a file itself, it makes Ctrl-C a TypeError
            np.save(array, windows.numpy())
            file.write_bytes(array.getvalue())
            for place, record in enumerate(self._records):
                before = place * len(windows)
                told = partial(_beyond, advance, before)
                self._guarded(record, partial(self._read, record, str(file), told))
                advance(before + len(windows))

    def _turn(self, record: _Record, process: ModelProcess) -> None:
        """Measure each speed once."""
        plan = self._plan
        if not process.is_warm:  # first runs are slower
            for length in plan.prefill_tokens:
                process.ask("prefill", tokens=plan.prompt(length))
            # on a GPU each length of a cache chooses its kernels the first time, all of them count
            new_tokens = 2 if plan.device == "cpu" else plan.new_tokens
            for batch in plan.batches:
                process.ask("decode", prompts=plan.prompts(batch), new_tokens=new_tokens)
            process.is_warm = True
        self._each_speed(record.without_graphs or record.speeds, process, "prefill", "decode")
        if plan.in_graphs and not record.no_graphs:
            try:
                self._each_speed(record.speeds, process, "prefill_in_graph", "decode_in_graphs")
            except (ModelError, ModelFailedError) as error:  # where the process ended, it is next
                record.no_graphs = True
                self._note(
                    record, f"Not measured to the end in CUDA graphs: {str(error).rstrip('.')}."
                )
        if (peak := process.ask("peak")) is not None:
            record.peak = max(record.peak or 0, peak)

    def _each_speed(
        self, speeds: _Speeds, process: ModelProcess, prefill: str, decode: str
    ) -> None:
        plan = self._plan
        for length in plan.prefill_tokens:
            seconds = process.ask(prefill, tokens=plan.prompt(length))
            speeds.prefill.setdefault(str(length), []).append(length / seconds)
        for batch in plan.batches:
            prompts = plan.prompts(batch)
            seconds = process.ask(decode, prompts=prompts, new_tokens=plan.new_tokens)
            runs = speeds.decode.setdefault(str(batch), [])
            runs.append(batch * plan.new_tokens / seconds)

    def _read(
        self, record: _Record, file: str, on_window: Callable[[int], None], process: ModelProcess
    ) -> None:
        losses = process.ask("losses", on_window, windows=file)
        record.perplexity = exp(float(np.mean(losses)))

    def _guarded(self, record: _Record, work: Callable[[ModelProcess], None]) -> None:
        """Do something with a model; where it fails, the others go on."""
        if record.failed:
            return
        try:
            work(self._process(record))
        except (ModelError, ModelFailedError) as error:
            self._give_up(record, str(error))

    def _give_up(self, record: _Record, reason: str) -> None:
        record.failed = True
        self._note(record, f"Not measured to the end: {reason.rstrip('.')}.")
        if (process := self._open.pop(record.subject.name, None)) is not None:
            process.close()

    def _note(self, record: _Record, sentence: str) -> None:
        record.notes.append(sentence)
        self._observer.note(f"{record.subject.name}: {sentence}")

    def _process(self, record: _Record) -> ModelProcess:
        """The model's process, loaded, and now the one that was used last."""
        name = record.subject.name
        process = self._open.pop(name, None)
        if process is None:
            self._make_room(record)
            process = ModelProcess(record.subject, self._plan.threads, self._plan.device)
            try:
                record.loads.append(process.ask("load", prompt=self._plan.prompts(1)[0]))
            except BaseException:
                process.close()
                raise
        self._open[name] = process
        return process

    def _make_room(self, record: _Record) -> None:
        """Close the models that were used longest ago, until there is memory for another."""
        known = record.loads[0]["file_bytes"] if record.loads else record.subject.known_bytes()
        while self._open and _free_bytes(self._plan.device) < _TIMES_FILE * known + _SPARE:
            self._open.pop(next(iter(self._open))).close()


def _free_bytes(device: str) -> int:
    """Of the machine's memory, or of the GPU's where less is free there."""
    free = int(psutil.virtual_memory().available)
    return free if device == "cpu" else min(free, torch.cuda.mem_get_info(device)[0])


def _beyond(advance: Callable[[int], None], before: int, done: int) -> None:
    """Tell how many are done, those before counted too."""
    advance(before + done)
