"""Where a study is kept, and the repair of a journal that a worker died on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


def open_storage(storage: str | Path | BaseStorage, alone: bool) -> BaseStorage:
    """The Optuna storage for a journal's path, a database's URL, or itself.

    Raises:
        ValueError: SQLite with several workers, or a file that is no journal.
    """
    if isinstance(storage, BaseStorage):
        return storage
    if "://" in str(storage):
        if str(storage).startswith("sqlite") and not alone:
            raise ValueError("SQLite does not bear several workers; use a journal or PostgreSQL.")
        return get_storage(str(storage))
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        repair_journal(path)
    # symbolic links make a lock that holds on NFSv2 and later too
    return JournalStorage(JournalFileBackend(str(path), JournalFileSymlinkLock(str(path))))


def repair_journal(path: Path) -> int:
    """Undo what a dead worker left half done: a torn last line and a held lock.

    Only where no other worker is alive. A line that was being written when the power went would
    break the next one appended to it.

    Returns:
        how many bytes were cut off.

    Raises:
        ValueError: the file is no journal; it is left as it is.
    """
    content = path.read_bytes() if path.exists() else b""
    if not content.startswith(_BEGINNING[: len(content)]):
        raise ValueError(f"{path} is no journal of a search.")
    Path(f"{path}.lock").unlink(missing_ok=True)
    end = len(content)
    while end and not _is_record(content[(start := content.rfind(b"\n", 0, end - 1) + 1) : end]):
        end = start
    if end < len(content):
        os.truncate(path, end)
    return len(content) - end


_BEGINNING = b'{"op_code":'
"""What every line of Optuna's journal begins with."""


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
