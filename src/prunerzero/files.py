"""Output files: checked before the work begins, written whole or not at all, never overwriting."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError, OutputError

_ELSEWHERE = "name another folder"

# Before the work: can it be written at all?


def real(path: Path | str) -> Path:
    """The absolute path behind symbolic links; the file there may not exist yet.

    Results are written beside this path and then renamed to it, so that a link stays a link.
    """
    try:
        return Path(os.path.realpath(path))
    except (ValueError, OSError):  # a NUL byte; a current folder that was deleted
        raise OutputError(f"{str(path)!r} is no path that a file can have.") from None


def check_new(folder: Path | str) -> None:
    """Raise OutputError unless ``folder`` is absent or empty, and can be made."""
    check_empty(folder)
    check_replaceable(folder)


def check_replaceable(folder: Path | str) -> None:
    """Raise OutputError unless a finished result can take the place of ``folder``.

    To find out, a folder is made where the result will be written, and removed again.
    """
    place = real(folder)
    with writing(folder, _ELSEWHERE):
        if place.exists() and (os.path.ismount(place) or place.samefile(os.curdir)):
            what = "a mount point" if os.path.ismount(place) else "the current folder"
            raise OutputError(
                f"output folder '{folder}' is {what}, which the finished result cannot replace; "
                "name a new folder inside it."
            )
        _try_to_write(place.parent, place.name)


def check_empty(folder: Path | str) -> None:
    """Raise OutputError unless ``folder`` is absent, or a folder that is empty."""
    place = real(folder)
    with writing(folder, _ELSEWHERE):
        if os.path.lexists(place) and not place.is_dir():
            raise OutputError(f"output folder '{folder}' is no folder; name a new one.")
        if place.exists() and any(place.iterdir()):
            raise OutputError(f"output folder '{folder}' exists and is not empty; name a new one.")


def check_fillable(folder: Path | str) -> None:
    """Raise OutputError unless files can be written into ``folder``, which may exist already."""
    place = real(folder)
    with writing(folder, _ELSEWHERE):
        if os.path.lexists(place) and not place.is_dir():
            raise OutputError(f"output folder '{folder}' is no folder; name another one.")
        _try_to_write(place, "file")


def check_file(path: Path | str) -> None:
    """Raise OutputError unless ``path`` can be written as a file, in a folder made for it."""
    place = real(path)
    with writing(path, "name another file"):
        if place.is_dir():
            raise OutputError(f"'{path}' is a folder; name a file.")
        if place.exists():
            place.open("ab").close()
        _try_to_write(place.parent, place.name)


def check_apart(folder: Path | str, model: Path) -> None:
    """Raise OutputError if ``folder`` is the folder ``model``, or inside it."""
    place, source = real(folder), real(model)
    if source.is_dir() and (place == source or source in place.parents):
        what = "is" if place == source else "lies inside"
        raise OutputError(
            f"output folder '{folder}' {what} the model folder '{model}', and would be mixed up "
            "with it; name another one."
        )


def _try_to_write(folder: Path, name: str) -> None:
    """Make a folder inside ``folder``, as writing ``name`` there will do, and remove it again.

    Missing folders above it are made under other names, so that nobody takes them for results.
    """
    missing = [partial_name(name)]
    while not os.path.lexists(folder):
        missing.insert(0, folder.name)
        folder = folder.parent
    missing[0] = partial_name(missing[0]) if len(missing) > 1 else missing[0]
    times = folder.stat()
    try:
        folder.joinpath(*missing).mkdir(parents=True)
    finally:
        with suppress(OSError):  # leave no trace
            shutil.rmtree(folder / missing[0])
            os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


def partial_name(name: str) -> str:
    """A unique name for a file or folder to be renamed to ``name`` when it is finished."""
    return f".{name}.{uuid.uuid4().hex[:8]}.partial"


# Writing


@contextmanager
def writing(what: Path | str, remedy: str = "") -> Iterator[None]:
    """Inside, an error of any library about writing becomes an OutputError of one sentence.

    Args:
        what: the file or folder that is written.
        remedy: what to do, or what is kept, as the end of that sentence.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (reason := refusal(error)) is None:
            raise
        raise OutputError(
            f"'{what}' cannot be written: {reason}{remedy and '; ' + remedy}."
        ) from error


def refusal(error: BaseException) -> str | None:
    """The system's reason for refusing a file, in words; None if ``error`` is about something else.

    safetensors, tokenizers and torch raise exceptions of their own on a full disk, which have the
    system's reason only in their text.
    """
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    for pattern in (r"\(os error (\d+)\)", r"\[Errno (\d+)\]", r"file write failed.*\((\d+)\)"):
        if number := re.search(pattern, str(error)):
            return os.strerror(int(number[1])).lower()
    if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):  # torch.save
        return "the disk is full, or does not take more"
    return None


def write_text(path: Path, text: str) -> None:
    """Write a file beside ``path``, then rename it; a symbolic link is followed."""
    place = real(path)
    partial = place.with_name(partial_name(place.name))
    try:
        with writing(path):
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, place)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write as JSON, non-finite numbers as null."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Indented JSON; a number that is not finite becomes null, which every reader accepts."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def make_folder(folder: Path | str) -> None:
    """Make a folder that is filled in place, and those above it, unless they exist."""
    with writing(folder, _ELSEWHERE):
        real(folder).mkdir(parents=True, exist_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it is renamed to ``folder`` when everything in it is written.

    If that name is taken meanwhile, the result is kept under another name, which the error says.
    """
    check_new(folder)
    place = real(folder)
    partial = place.with_name(partial_name(place.name))
    try:
        with writing(folder, "make room, and give the same command again"):
            partial.mkdir(parents=True)
            try:
                yield partial
            except OutputError as error:  # its message names the unfinished folder
                raise OutputError(str(error).replace(str(partial), str(folder))) from error
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, folder: Path) -> None:
    """Rename a finished folder to its name, where an empty folder may be.

    Raises:
        OutputError: something else has that name by now; it is left as it is, and the finished
            folder is kept under another name.
    """
    place = real(folder)
    try:
        os.replace(partial, place)
    except OSError as error:
        others = (place.with_name(f"{place.name}-{number}") for number in count(2))
        kept = next(path for path in others if not os.path.lexists(path))
        with suppress(OSError):
            os.replace(partial, kept)
            partial = kept
        raise OutputError(
            f"'{folder}' came into being while the work went on, and is left as it is "
            f"({refusal(error)}); the finished result is in '{partial}'."
        ) from None


def replace_folder(partial: Path, folder: Path) -> None:
    """Rename a finished folder to its name; what had that name before is removed."""
    place = real(folder)
    old = place.with_name(partial_name(place.name))
    try:
        if os.path.lexists(place):
            os.replace(place, old)
        os.replace(partial, place)
    except OSError as error:
        with suppress(OSError):
            os.replace(old, place)
        raise OutputError(
            f"'{folder}' cannot be replaced ({refusal(error)}); the result is in '{partial}'."
        ) from None
    shutil.rmtree(old, ignore_errors=True)


# Reading back


def read_own_json(path: Path, remedy: str) -> Any:
    """The value of a JSON file that this package wrote; ``documents`` reads those of users.

    Args:
        path: the file.
        remedy: what to do if it is damaged, as the end of a sentence.

    Raises:
        InputError: it cannot be read, or is damaged; names the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {refusal(error)}.") from None
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1}"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}"
    except (ValueError, RecursionError):
        where = "its JSON"
    raise InputError(
        f"{where} of '{path}' is damaged, so that it is no valid JSON; {remedy}."
    ) from None
