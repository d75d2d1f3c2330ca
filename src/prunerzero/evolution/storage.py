"""Where a study is kept: a journal that bears the death of its writers, or a database."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial

LOCK_GRACE = 30.0
"""Seconds that one and the same hold of a lock by another machine may last."""

_BEGINNING = b'{"op_code":'
"""What every line of Optuna's journal begins with."""

_OPERATIONS = frozenset(JournalOperation)


class StorageError(Exception):
    """The storage does not take or give what it should: a full disk, a lost connection."""


class DamagedJournalError(StorageError):
    """A line of a journal, but not a torn last one, does not hold what was written there.

    Args:
        path: the journal.
        line: its number, from 1.
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


@contextmanager
def storage_errors() -> Iterator[None]:
    """Tell what a storage fails with, whichever it is, as StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower()) from error
    except StorageInternalError as error:
        raise StorageError(_database_reason(error)) from error


def is_database(storage: str | Path | BaseStorage) -> bool:
    """Whether this is a database's URL."""
    return not isinstance(storage, BaseStorage) and "://" in str(storage)


def open_storage(storage: str | Path | BaseStorage) -> BaseStorage:
    """The Optuna storage for a journal's path, a database's URL, or itself.

    Raises:
        ValueError: a database that cannot be used.
    """
    if isinstance(storage, BaseStorage):
        return storage
    if is_database(storage):
        return _open_database(str(storage))
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    try:
        return JournalStorage(journal)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        # what this process has not written must not go amiss
        raise DamagedJournalError(path, journal.lines_read) from None


def check_storage(storage: str | Path) -> None:
    """Make sure before the work that what is there is a study's; nothing is written to a file.

    Raises:
        ValueError: a file that is no journal, or a database that cannot be used.
        DamagedJournalError: a line of the journal is damaged.
        StorageError: it cannot be read.
    """
    if is_database(storage):
        if not str(storage).startswith("sqlite"):  # which would make the file
            close_storage(_open_database(str(storage)))
        return
    path = Path(os.path.realpath(storage))
    with storage_errors():
        read_journal(path)


def _open_database(url: str, attempts: int = 3) -> BaseStorage:
    scheme, rest = url.split("://", 1)
    if scheme in ("postgres", "postgresql"):  # the driver that prunerzero[postgres] brings
        scheme = "postgresql+psycopg"
    # a connection that was cut in the meantime is made anew
    options = {"pool_pre_ping": True}
    try:
        return get_storage(RDBStorage(f"{scheme}://{rest}", engine_kwargs=options))
    except ImportError as error:
        raise ValueError(
            f"the database needs a driver ({error}); install prunerzero[postgres]."
        ) from None
    except Exception as error:
        if attempts == 1 or "already exists" not in str(error):
            raise ValueError(f"the database cannot be used: {_database_reason(error)}") from None
    time.sleep(0.5)  # another worker is making the tables
    return _open_database(url, attempts - 1)


def close_storage(storage: BaseStorage) -> None:
    """Let go of the connections to a database, if it is one."""
    backend = getattr(storage, "_backend", storage)  # of the cache around it
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def _database_reason(error: Exception) -> str:
    reason = str(error.__cause__ or error).split("(Background")[0]
    return " ".join(reason.split())


def repair_journal(path: Path) -> int:
    """Cut off a torn last line, which power loss or a full disk leaves.

    Returns:
        how many bytes were cut off.

    Raises:
        ValueError: the file is no journal; it is left as it is.
        DamagedJournalError: a line is damaged that others follow; likewise.
    """
    if not path.exists():
        return 0
    read_journal(path)
    with _held(SharedLock(path)):
        whole, size = read_journal(path)
        if whole < size:
            os.truncate(path, whole)
    return size - whole


def read_journal(path: Path) -> tuple[int, int]:
    """The bytes of a journal up to its last whole line, and all of them.

    Raises:
        ValueError: the file is no journal.
        DamagedJournalError: a line is damaged that others follow.
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


def trials_from(storage: BaseStorage, study_id: int, first: int) -> list[FrozenTrial]:
    """The trials of a study from that number on."""
    if not isinstance(storage, JournalStorage):
        return list(storage.get_all_trials(study_id, deepcopy=False)[first:])
    trials: list[FrozenTrial] = []
    with suppress(KeyError):  # there is none of that number yet
        while True:
            trial_id = storage.get_trial_id_from_study_id_trial_number(
                study_id, first + len(trials)
            )
            trials.append(storage.get_trial(trial_id))
    return trials


def damaged_trial(storage: BaseStorage, trial: FrozenTrial) -> StorageError:
    """The error to raise where a trial does not hold what a search writes; names the line."""
    backend = getattr(storage, "_backend", None)
    if not isinstance(backend, Journal):
        return StorageError(f"trial {trial.number} does not hold what a search writes")
    try:
        measured = trial.user_attrs["measured"]
        measured["state"], measured["seconds"], [float(loss) for loss in measured["losses"]]
    except (LookupError, TypeError, ValueError):
        created = False
    else:
        created = True  # so it is the proposal that is damaged
    return DamagedJournalError(backend.path, backend.line_of(trial._trial_id, created))


class Journal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal file, which stays whole when a line is torn.

    A line that was cut short by power loss, a full disk or a kill would make one broken line of
    itself and the next, and with it a journal that nobody can read. Here whoever writes next cuts
    it off first; readers never took it in, for it has no end.

    Only attributes, which hold what was measured, are forced to the disk at once. If power loss
    takes the end of a trial, its measurement tells it; if it takes the beginning of one, that was
    in flight.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = SharedLock(path)
        self.lines_read = self._bytes_read = 0
        super().__init__(str(path), self._lock)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from that number on that have an end, read from where reading has stopped."""
        if log_number_from < self.lines_read:
            self.lines_read = self._bytes_read = 0
        with self.path.open("rb") as file:
            # of a file on another machine only opening it tells the size
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

    def line_of(self, trial_id: int, created: bool) -> int:
        """The line that created a trial, or the last one that tells what was measured in it."""
        trials, line_of = -1, 0
        for number, record in enumerate(Journal(self.path).read_logs(0), start=1):
            is_new = record["op_code"] == JournalOperation.CREATE_TRIAL
            trials += is_new
            about = trials if is_new else record.get("trial_id")
            if about == trial_id and (is_new if created else "user_attr" in record):
                line_of = number
        return line_of

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with _held(self._lock), self.path.open("r+b") as file:  # not made anew
            self._cut_torn_line(file)
            file.seek(0, os.SEEK_END)
            file.write(lines.encode())
            file.flush()
            if any("user_attr" in log for log in logs):
                os.fsync(file.fileno())

    def _cut_torn_line(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"\n", b""):
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)


class SharedLock:
    """A lock among processes of any machines that see the same folder.

    A symbolic link shuts out other machines, which holds on any file system; a lock of the kernel's
    shuts out other processes of this machine. The kernel gives its lock back when the holder dies,
    so that a link which this machine left can be of a dead process alone, and is taken away at
    once. A link of another machine is taken away when the same one has been there for 30 seconds.
    """

    def __init__(self, path: Path) -> None:
        self._link = Path(f"{path}.lock")
        self._here = FileLock(
            f"{path}.lock-{machine()}", poll_interval=0.001, fallback_to_soft=False
        )
        self._token = ""

    def acquire(self) -> bool:
        try:
            self._here.acquire()
        except NotImplementedError:  # a file system without such locks
            mine = "none"
        else:
            mine = machine()
        try:
            self._acquire_everywhere(mine)
        except BaseException:
            self._here.release()
            raise
        return True

    def _acquire_everywhere(self, mine: str) -> None:
        self._token = f"{mine}/{uuid.uuid4().hex}"
        pause, seen, since = 0.001, None, time.monotonic()
        while True:
            try:
                os.symlink(self._token, self._link)
                return
            except FileExistsError:
                holder = _target(self._link)
            if holder != seen:
                pause, seen, since = 0.001, holder, time.monotonic()
            if holder and holder.startswith(f"{machine()}/"):
                self._remove(holder)
            elif holder and time.monotonic() - since > LOCK_GRACE:
                self._remove(holder)
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.1)

    def release(self) -> None:
        self._remove(self._token)
        self._here.release()

    def _remove(self, token: str) -> None:
        if _target(self._link) == token:  # or another machine took it while this one slept
            self._link.unlink(missing_ok=True)


@cache
def machine() -> str:
    """A name for this machine since it was started."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text()[:8] if boot.exists() else "0"
    return f"{hostname()}-{started}"


def hostname() -> str:
    """As the network knows this machine."""
    return platform.node().split(".")[0] or "localhost"


@contextmanager
def _held(lock: SharedLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _record(line: bytes) -> dict[str, Any] | None:
    """A line as Optuna writes them; None if it is damaged."""
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
