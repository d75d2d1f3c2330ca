"""What can go wrong with a study, beside what the metrics themselves raise."""

from __future__ import annotations

from pathlib import Path


class StudyMismatchError(ValueError):
    """The study was begun with other settings, so its losses cannot be compared with new ones."""


class StorageError(Exception):
    """The storage fails to read or write: a full disk, a lost connection."""


class DamagedJournalError(StorageError):
    """A line of a journal does not hold what was written there, and it is not a torn last line.

    Args:
        path: the journal.
        line: the number of the line, from 1.
    """

    def __init__(self, path: Path, line: int) -> None:
        before = f"keep the {line - 1} lines before it (head -n {line - 1})"
        super().__init__(
            f"line {line} of '{path}' is damaged; restore the file from a copy"
            f"{f', or {before}' if line > 1 else ''}, or name another output folder."
        )
        self.path, self.line = path, line

    def __reduce__(self) -> tuple[type, tuple[Path, int]]:
        return type(self), (self.path, self.line)
