"""What the package keeps on disk: caches that all runs share, and what one run has measured.

A process may be killed at any moment. So a cache entry is written beside its place and then
renamed, and a last line of a run's memory that was cut short is dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from filelock import FileLock

from prunerzero.errors import OutputError, first_line
from prunerzero.files import refusal, writing

T = TypeVar("T")

CACHE_VARIABLE = "PRUNERZERO_CACHE"
"""Environment variable that names the folder of all caches; ``~/.cache/prunerzero`` without it."""


def cache_folder() -> Path:
    """The folder of all caches; it may not exist yet."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/prunerzero").expanduser()


def cached(
    kind: str,
    key: Mapping[str, Any],
    make: Callable[[], T],
    read: Callable[[Path], T],
    write: Callable[[T, Path], None],
    worth: Callable[[T], bool] = lambda value: True,
) -> T:
    """The value of ``key`` from the cache; where it is missing, it is made and stored.

    Where several processes want the same value, the first makes it and the others wait. A cache
    that cannot be used is no error: the value is made, and a warning names the environment variable
    that moves the cache.

    Args:
        kind: name of a folder inside ``cache_folder()``.
        key: everything that the value depends on, as JSON values.
        make: computes the value.
        read: reads it from a file; raises OSError or ValueError where that is not possible.
        write: writes it to a new file.
        worth: whether a value that was just made is stored.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / kind / name

    def known() -> tuple[T] | None:
        with suppress(OSError, ValueError):
            return (read(path),)
        return None

    if (found := known()) is not None:  # also from a cache that can only be read
        return found[0]
    with _alone(path):
        if (found := known()) is not None:
            return found[0]
        value = make()
        if not worth(value):
            return value
        partial = path.with_name(f"{name}.partial")
        try:
            write(value, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except Exception as error:  # a full disk: each library raises something else
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            _warn(error)
    return value


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a cache entry; without effect where the cache cannot be written."""
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # read-only, or without locks
        _warn(error)
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _warn(error: Exception) -> None:
    _warn_once(f"'{cache_folder()}'", refusal(error) or first_line(error))


@cache
def _warn_once(folder: str, reason: str) -> None:
    logging.getLogger("prunerzero").warning(
        "The cache %s cannot be written (%s), so results are computed anew each time; "
        "set %s to another folder.",
        folder,
        reason,
        CACHE_VARIABLE,
    )


class Memory:
    """What one run has measured: a value for each key, in a file of JSON lines.

    A line is appended as soon as a value is known, so that a run can be stopped at any moment and
    continued later.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        """Read the file, if there is one; its folder is made with the first value.

        Args:
            path: the file.
            remedy: what to do where a line is damaged, as the end of a sentence.

        Raises:
            OutputError: the file cannot be read, or a line in it is damaged.
        """
        self._path = path
        self._lock = Lock()
        self._values: dict[str, Any] = {}
        earlier = 0.0
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                entry = json.loads(line)
                self._values[entry["key"]] = entry["value"]
                earlier = max(earlier, float(entry["at"]))
            except (ValueError, TypeError, KeyError):
                raise OutputError(f"line {number} of '{path}' is damaged; {remedy}.") from None
        self._began = time.monotonic() - earlier

    @property
    def seconds(self) -> float:
        """Seconds of work, including earlier sessions."""
        return time.monotonic() - self._began

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def keep(self, key: str, value: Any) -> None:
        """Store a JSON value. Raises OutputError where it cannot be written."""
        entry = {"key": key, "value": value, "at": round(self.seconds, 3)}
        with self._lock:
            with writing(self._path, "what was measured before is kept"):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry, default=str) + "\n")
            self._values[key] = json.loads(json.dumps(value, default=str))

    def recall(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of ``key``; where it is missing, what ``make`` returns, which is stored."""
        if key not in self._values:
            self.keep(key, make())
        return self._values[key]

    def _whole_lines(self) -> list[bytes]:
        """All lines; a last line that was cut short, as by a power cut, is removed."""
        with writing(self._path):
            content = self._path.read_bytes() if self._path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(self._path, len(whole))
        return whole.splitlines()
