"""Arguments of the Python API, as callers naturally write them, made what the tasks work with.

What is of the wrong kind is refused by its name. Names of parameters stand between backticks in
every message of the library; the command line writes them as its own flags (``cli.flags``).
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prunerzero.documents import path_of
from prunerzero.errors import InputError

_T = TypeVar("_T")


def kind(value: object) -> str:
    """``"a list"``, ``"an int"``, ``"None"``: how a message names what was given."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def path(name: str, value: Any) -> Path:
    """A path given as text or as a path; ``~`` is the user's home folder."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(f"`{name}` must be a path, not {kind(value)}.")
    if not os.fspath(value):
        raise InputError(f"`{name}` must be a path; it is empty.")
    return path_of(value)


def text(name: str, value: Any) -> str:
    """Text, or a path where that is what the text names."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise InputError(f"`{name}` must be text, not {kind(value)}.")
    if "\0" in value:
        raise InputError(f"`{name}` must be text without a zero character.")
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several texts, or a single one."""
    return tuple(text(name, item) for item in _several(name, value))


def paths(name: str, value: Any) -> tuple[Path, ...]:
    """Several paths, or a single one."""
    return tuple(path(name, item) for item in _several(name, value))


def text_or_texts(name: str, value: Any) -> str | tuple[str, ...] | None:
    """A text, or several; a list of one is that one, and an empty one None."""
    return _one_or_several(name, texts(name, value))


def path_or_paths(name: str, value: Any) -> Path | tuple[Path, ...] | None:
    """A path, or several; a list of one is that one, and an empty one None."""
    return _one_or_several(name, paths(name, value))


def _one_or_several(name: str, values: tuple[_T, ...]) -> _T | tuple[_T, ...] | None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"`{name}` names '{value}' twice; leave one of them out.")
    return values if len(values) > 1 else next(iter(values), None)


def _several(name: str, value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str | os.PathLike):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes | dict):
        raise InputError(f"`{name}` must be text, or several in a list, not {kind(value)}.")
    return tuple(value)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, at least ``least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"`{name}` must be a whole number, not {kind(value)}.") from None
    if least is not None and number < least:
        raise InputError(f"`{name}` must be at least {least}, not {number}.")
    return number


def number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool | str) or not is_number(value):
        raise InputError(f"`{name}` must be a number, not {kind(value)}.")
    if not math.isfinite(float(value)):
        raise InputError(f"`{name}` must be finite, not {value}.")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether ``float`` takes it."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputError(f"`{name}` must be True or False, not {kind(value)}.")
    return value


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        *others, last = choices
        given = repr(value) if isinstance(value, str) else kind(value)
        raise InputError(f"`{name}` must be {', '.join(others)} or {last}, not {given}.")
    return value
