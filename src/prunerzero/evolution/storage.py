"""Where a study is kept: in a journal, a database or memory, through Optuna's storages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial

from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.journal import Journal, check_journal


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise StorageError for the failure of any storage."""
    try:
        yield
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower()) from error
    except StorageInternalError as error:
        raise StorageError(_database_reason(error)) from error


def is_database(storage: str | Path | BaseStorage) -> bool:
    """Whether this is the URL of a database."""
    return not isinstance(storage, BaseStorage) and "://" in str(storage)


def open_storage(storage: str | Path | BaseStorage) -> BaseStorage:
    """Open the journal of that path or the database of that URL; an Optuna storage stays itself.

    Raises:
        ValueError: the database cannot be used.
        DamagedJournalError: a line of the journal does not hold what Optuna writes.
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
        # Optuna checks no line that another process wrote
        raise DamagedJournalError(path, journal.lines_read) from None


def check_shareable(storage: str | Path | BaseStorage) -> None:
    """Raise ValueError where several workers would damage the storage."""
    if str(storage).startswith("sqlite"):
        raise ValueError("SQLite cannot serve several workers; use a journal or PostgreSQL.")


def check_storage(storage: str | Path) -> None:
    """Check before the work that a study can be read there. Writes nothing to a file.

    Raises:
        ValueError: the file is no journal, or the database cannot be used.
        DamagedJournalError: a line of the journal is damaged.
        StorageError: the file cannot be read.
    """
    if is_database(storage):
        if not str(storage).startswith("sqlite"):  # opening it would make the file
            close_storage(_open_database(str(storage)))
        return
    with storage_errors():
        check_journal(Path(os.path.realpath(storage)))


def close_storage(storage: BaseStorage) -> None:
    """Close the connections to a database; does nothing for other storages."""
    backend = getattr(storage, "_backend", storage)  # behind Optuna's cache
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def trials_from(storage: BaseStorage, study_id: int, first: int) -> list[FrozenTrial]:
    """The trials of a study from that number on.

    A journal's are read one by one, which takes 0.02 ms: ``get_all_trials`` goes through all trials
    and takes 1.1 ms where there are 10,000.
    """
    if not isinstance(storage, JournalStorage):
        return list(storage.get_all_trials(study_id, deepcopy=False)[first:])
    trials: list[FrozenTrial] = []
    with suppress(KeyError):  # there is no trial of that number yet
        while True:
            trial_id = storage.get_trial_id_from_study_id_trial_number(
                study_id, first + len(trials)
            )
            trials.append(storage.get_trial(trial_id))
    return trials


def damaged_trial(storage: BaseStorage, trial: FrozenTrial) -> StorageError:
    """The error for a trial that does not hold what a search writes; names the line."""
    backend = getattr(storage, "_backend", None)
    if not isinstance(backend, Journal):
        return StorageError(f"trial {trial.number} does not hold what a search writes")
    try:
        measured = trial.user_attrs["measured"]
        measured["state"], measured["seconds"], [float(loss) for loss in measured["losses"]]
    except (LookupError, TypeError, ValueError):
        created = False
    else:
        created = True  # so the proposal is damaged, which was written with the trial itself
    return DamagedJournalError(backend.path, backend.line_of(trial._trial_id, created=created))


def _open_database(url: str, attempts: int = 3) -> BaseStorage:
    scheme, rest = url.split("://", 1)
    if scheme in ("postgres", "postgresql"):  # the driver that prunerzero[postgres] brings
        scheme = "postgresql+psycopg"
    options = {"pool_pre_ping": True}  # a connection that was cut is made again
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


def _database_reason(error: Exception) -> str:
    reason = str(error.__cause__ or error).split("(Background")[0]
    return " ".join(reason.split())
