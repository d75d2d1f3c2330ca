"""What a person sees while a task runs: stages, bars, and the search as it improves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prunerzero.cli.flags import in_flags
from prunerzero.evolution import Progress as SearchProgress
from prunerzero.tasks.observer import Observer

_LOG_EVERY = 10.0
"""Seconds between lines where the output is no terminal."""


class TerminalObserver(Observer):
    """Draws progress on standard error: live in a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._search: TaskID | None = None
        self._last_line = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Progress is drawn inside."""
        if not self.console.is_terminal:
            yield
            return
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
        ) as self._bars:
            yield
        self._bars = self._search = None

    def stage(self, what: str) -> None:
        self.console.print(f"[dim]{escape(what)} …[/dim]")

    def note(self, what: str) -> None:
        self.console.print(in_flags(what), markup=False, soft_wrap=True)

    @contextmanager
    def count(
        self, what: str, total: int, unit: str = "windows"
    ) -> Iterator[Callable[[int], None]]:
        if self._bars is None:
            self.console.print(f"{what} ({total} {unit}) …", markup=False)
            began = self._last_line = time.monotonic()

            def log(done: int) -> None:
                if (now := time.monotonic()) - self._last_line >= _LOG_EVERY:
                    self._last_line = now
                    left = _clock((now - began) / done * (total - done))
                    line = f"{what}: {done} of {total} {unit}, {left} left"
                    self.console.print(line, markup=False, soft_wrap=True)

            yield log
            return
        bars = self._bars
        task = bars.add_task(what, total=total, detail="")
        try:
            yield lambda done: bars.update(task, completed=done)
        finally:
            bars.remove_task(task)

    @contextmanager
    def other_progress(self) -> Iterator[None]:
        if self._bars is None:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()

    def search(self, progress: SearchProgress) -> None:
        if self._bars is None:
            self._log(progress)
            return
        if self._search is None:
            self._search = self._bars.add_task("", total=None, detail="")
        whole = progress.seconds + (progress.seconds_left or 0.0)
        self._bars.update(
            self._search,
            description=progress.phase,
            completed=progress.seconds,
            total=whole,
            detail=escape(describe(progress)),
        )

    def _log(self, progress: SearchProgress) -> None:
        if time.monotonic() - self._last_line >= _LOG_EVERY:
            self._last_line = time.monotonic()
            self.console.print(describe(progress), markup=False, soft_wrap=True)
            sys.stderr.flush()


def describe(progress: SearchProgress) -> str:
    """One line: how far, how fast, what was skipped, how long still, and the best so far."""
    # what is measured on whole texts afterwards takes its own time
    seconds = progress.seconds_left
    left = "" if seconds is None else f", {_clock(seconds)} left of the search"
    workers = f", {progress.workers} workers" if progress.workers > 1 else ""
    times = " times dense" if progress.is_rise else ""
    after = f" after {progress.after}" if progress.after else ""
    judging = ", judging the best" if progress.phase == "judging" else ""
    best = (
        ""
        if progress.best_perplexity is None
        else f" · best {progress.best_perplexity:.3f}{times}{after}: {progress.best_expression}"
    )
    done = count_of(progress.evaluations, "evaluation")
    skipped = count_of(progress.duplicates_skipped, "duplicate")
    return (
        f"{done} ({_rate(progress.evaluations_per_second)}{workers}), {skipped} skipped, "
        f"{progress.raced_out} raced out{judging}{left}{best}"
    )


def count_of(count: int, what: str) -> str:
    """
    >>> count_of(1, "evaluation"), count_of(2, "evaluation")
    ('1 evaluation', '2 evaluations')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"{3600 * per_second:.0f}/h"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
