"""How a task tells what it is doing; the command line draws it, a program may ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prunerzero.evolution import Progress


class Observer:
    """Ignores everything; override what should be seen."""

    def stage(self, what: str) -> None:
        """Something of unknown length begins."""

    def note(self, what: str) -> None:
        """Something happened that is worth a line."""

    def arrival(self, what: str) -> None:
        """What a search found in its study when it came: it is resumed, or joined others."""
        self.note(what)

    @contextmanager
    def count(
        self, what: str, total: int, unit: str = "windows"
    ) -> Iterator[Callable[[int], None]]:
        """Something that is counted begins; the function given is told how many are done."""
        yield lambda done: None

    def search(self, progress: Progress) -> None:
        """One more evaluation of a search is done."""

    @contextmanager
    def other_progress(self) -> Iterator[None]:
        """Another library shows its own progress inside."""
        yield
