"""Refusing an output folder before the work begins, and a study's storage."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from prunerzero.errors import InputError, OutputError
from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.storage import check_shareable, check_storage, is_database
from prunerzero.files import (
    check_apart,
    check_empty,
    check_file,
    check_fillable,
    check_new,
    check_replaceable,
    real,
)
from prunerzero.language.source import BUNDLED
from prunerzero.tasks.setup import Setup


def check_output(folder: Path | str, setup: Setup, *, replaces: str | None = None) -> None:
    """Raise OutputError unless a new folder can be made there: absent or empty, not in the model's.

    The folder takes its name when all of it is written.

    Args:
        folder: where the result is wanted.
        setup: names the model, which is never written to.
        replaces: a file by which a folder is known that may be replaced.
    """
    _check_apart(folder, setup)
    if replaces is None or not (real(folder) / replaces).is_file():
        check_new(folder)
    else:
        check_replaceable(folder)


def check_run(folder: Path | str, setup: Setup, holds_run: Callable[[Path], bool]) -> None:
    """Raise OutputError unless a run can begin or continue there.

    The folder is filled in place: it is absent, empty, or ``holds_run`` says that it is that of a
    run.
    """
    _check_apart(folder, setup)
    check_fillable(folder)
    if not holds_run(Path(folder)):
        check_empty(folder)


def _check_apart(folder: Path | str, setup: Setup) -> None:
    model = files("prunerzero.bundled") / "model" if setup.model == BUNDLED else setup.model
    check_apart(folder, Path(str(model)).expanduser())


def check_study(storage: Path | str, workers: int) -> None:
    """Raise InputError where a study of that many workers cannot be kept there, or is damaged."""
    if not is_database(storage):
        check_file(storage)
    try:
        check_storage(storage)
        if workers > 1:
            check_shareable(storage)
    except (ValueError, DamagedJournalError) as error:
        raise InputError(str(error)) from None
    except StorageError as error:
        raise OutputError(f"'{storage}' cannot be written: {error}.") from None
