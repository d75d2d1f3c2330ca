"""Options, each declared once: as the field of a frozen dataclass.

A field says its default, its meaning and what it takes. The command line, YAML files, the Python
functions and the documentation are made from these fields; nothing else spells an option.

>>> @dataclass(frozen=True)
... class Budget(Options):
...     evaluations: int = option(500, "At most this many evaluations.", whole_number(1))
>>> Budget()
Budget(evaluations=500)
>>> Budget(evaluations=0)
Traceback (most recent call last):
prunerzero.errors.InputError: `evaluations` must be at least 1, not 0.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from prunerzero import arguments
from prunerzero.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What an option takes.

    Attributes:
        read: name and value as given → the value that the code works with; raises InputError.
        on_command_line: the type that the command line reads.
    """

    read: Callable[[str, Any], Any]
    on_command_line: Any


STRING = Kind(arguments.text, str)
STRINGS = Kind(arguments.texts, list[str])
PATH = Kind(arguments.path, Path)
PATHS = Kind(arguments.paths, list[Path])
STRING_OR_STRINGS = Kind(arguments.text_or_texts, list[str])
PATH_OR_PATHS = Kind(arguments.path_or_paths, list[Path])
FLAG = Kind(arguments.flag, bool)
NUMBER = Kind(arguments.number, float)
AS_GIVEN = Kind(lambda _name, value: value, str)
"""Text on the command line; the function that takes the options reads it."""


def whole_number(least: int | None = None) -> Kind:
    """A whole number, at least ``least``."""
    return Kind(functools.partial(arguments.whole, least=least), int)


def one_of(words: Any) -> Kind:
    """One of the words of a ``Literal``."""
    return Kind(functools.partial(arguments.choice, choices=get_args(words)), words)


def option(
    default: Any, meaning: str, kind: Kind, *, panel: str | None = None, metavar: str | None = None
) -> Any:
    """The field of an option.

    Args:
        default: where None, the option may be left out.
        meaning: in a sentence; parameters stand between backticks, as in messages.
        kind: what it takes.
        panel: heading of ``--help`` under which it stands.
        metavar: what ``--help`` shows for the value.
    """
    about = {"meaning": meaning, "kind": kind, "panel": panel, "metavar": metavar}
    return field(default=default, metadata=about)


def same_option(cls: type[Options], name: str) -> Any:
    """The field of an option that another class declares."""
    one = next(one for one in options_of(cls) if one.name == name)
    return field(default=one.default, metadata=one.metadata)


@dataclass(frozen=True)
class Options:
    """Base of the dataclasses whose fields are options: reads each value as it is given."""

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            value = getattr(self, one.name)
            if value is None and one.default is None:
                continue
            object.__setattr__(self, one.name, one.metadata["kind"].read(one.name, value))


def options_of(cls: Any) -> list[Field[Any]]:
    """The fields that are options, in their order."""
    return [one for one in fields(cls) if "kind" in one.metadata]


F = TypeVar("F", bound=Callable[..., Any])


def takes(cls: type[Options], parameter: str = "options") -> Callable[[F], F]:
    """Let a function that takes an instance of ``cls`` take each of its options as a keyword too.

    Where the function has ``**keywords: Unpack[...]``, that tells type checkers which these are; it
    is given nothing.

    >>> @dataclass(frozen=True)
    ... class Budget(Options):
    ...     evaluations: int = option(500, "At most this many evaluations.", whole_number(1))
    >>> @takes(Budget)
    ... def run(model, options=Budget()):
    ...     return model, options.evaluations
    >>> run("m", evaluations=3), run("m", Budget(evaluations=4)), run("m")
    (('m', 3), ('m', 4), ('m', 500))
    """

    def decorate(function: F) -> F:
        declared = inspect.signature(function)
        own = declared.replace(
            parameters=[p for p in declared.parameters.values() if p.kind is not p.VAR_KEYWORD]
        )
        named = {one.name: one for one in options_of(cls)}

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            chosen = {name: given.pop(name) for name in list(given) if name in named}
            bound = own.bind_partial(*args, **given)
            base = bound.arguments.get(parameter, cls())
            if not isinstance(base, cls):
                kind = arguments.kind(base)
                raise InputError(f"`{parameter}` must be {cls.__name__}, not {kind}.")
            bound.arguments[parameter] = replace(base, **chosen)
            return function(*bound.args, **bound.kwargs)

        keywords = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type
            )
            for name, one in named.items()
            if name not in own.parameters
        ]
        call.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), *keywords]
        )
        return call  # type: ignore[return-value]

    return decorate
