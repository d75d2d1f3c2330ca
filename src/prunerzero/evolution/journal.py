"""A study in a file: Optuna's journal, which survives the death of its writers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation

from prunerzero.evolution.errors import DamagedJournalError
from prunerzero.evolution.locks import SharedLock

_BEGINNING = b'{"op_code":'
"""The beginning of every line of Optuna's journal."""

_OPERATIONS = frozenset(JournalOperation)


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """The file of Optuna's ``JournalStorage``, in the format of its ``JournalFileBackend``.

    Differences from ``JournalFileBackend``, which has no equal of them:

    - A torn line, which a power loss, a full disk or a kill leaves, does no harm: the next writer
      cuts it off, and readers skip it, for it has no end. Optuna appends to it, which damages the
      next line too and makes the file unreadable.
    - A damaged line is reported with its number.
    - Only attributes, which hold what was measured, are forced to the disk at once. If power loss
      takes the end of a trial, its measurement restores it; if it takes the beginning of a trial,
      that trial was in flight.
    - The lock ends with the process that holds it; see ``SharedLock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines_read = self._bytes_read = 0
        self._lock = SharedLock(path)
        path.open("ab").close()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The complete lines from that number on. Reading goes on where it stopped before."""
        if log_number_from < self.lines_read:
            self.lines_read = self._bytes_read = 0
        with self.path.open("rb") as file:
            # on a network file system only an open file has its true size
            size = os.fstat(file.fileno()).st_size
            file.seek(self._bytes_read)
            *lines, _ = file.read(max(0, size - self._bytes_read)).split(b"\n")
        for line in lines:
            self.lines_read += 1
            self._bytes_read += len(line) + 1
            if (record := _record(line)) is None:
                raise DamagedJournalError(self.path, self.lines_read)
            if self.lines_read > log_number_from:
                yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write the lines, after cutting off a torn one."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._lock, self.path.open("r+b") as file:  # a deleted file must not be made again
            self._cut_torn_line(file)
            file.seek(0, os.SEEK_END)
            file.write(lines.encode())
            file.flush()
            if any("user_attr" in log for log in logs):
                os.fsync(file.fileno())

    def line_of(self, trial_id: int, *, created: bool) -> int:
        """The line that created a trial, or the last line that holds an attribute of it."""
        trials, line_of = -1, 0
        for number, record in enumerate(Journal(self.path).read_logs(0), start=1):
            is_new = record["op_code"] == JournalOperation.CREATE_TRIAL
            trials += is_new
            about = trials if is_new else record.get("trial_id")
            if about == trial_id and (is_new if created else "user_attr" in record):
                line_of = number
        return line_of

    def _cut_torn_line(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"\n", b""):
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)


def repair_journal(path: Path) -> int:
    """Cut off a torn or damaged end, which power loss or a full disk leaves.

    Returns:
        the number of bytes cut off.

    Raises:
        ValueError: the file is no journal; it stays as it is.
        DamagedJournalError: whole lines follow a damaged one; it stays as it is.
    """
    if not path.exists():
        return 0
    check_journal(path)  # before the lock's files are made beside it
    with SharedLock(path):
        whole, size = check_journal(path)
        if whole < size:
            os.truncate(path, whole)
    return size - whole


def check_journal(path: Path) -> tuple[int, int]:
    """The bytes of a journal up to the end of its last whole line, and all its bytes.

    Raises:
        ValueError: the file is no journal.
        DamagedJournalError: whole lines follow a damaged one.
    """
    if not path.exists():
        return 0, 0
    content = path.read_bytes()
    whole = size = 0
    damaged = None
    *lines, torn = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        size += len(line) + 1
        if _record(line) is None:
            damaged = damaged or number
        elif damaged:
            raise DamagedJournalError(path, damaged)
        else:
            whole = size
    if not whole and not _BEGINNING.startswith(content[: len(_BEGINNING)]):
        raise ValueError(f"'{path}' is no journal of a search.")
    return whole, size + len(torn)


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds, as Optuna writes it; None if the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = (
        isinstance(record, dict)
        and isinstance(record.get("op_code"), int)
        and record["op_code"] in _OPERATIONS
        and isinstance(record.get("worker_id"), str)
    )
    return record if is_record else None
