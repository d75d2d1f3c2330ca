"""Text, JSON and YAML files that a user wrote: read as they are meant, or refused."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from prunerzero.errors import InputError, first_line
from prunerzero.files import refusal

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""First bytes of files in other encodings; longer marks first, as UTF-32's begins with UTF-16's."""


_LONGEST_NAME = 255
"""Bytes in the name of a file, on all common file systems."""


def path_of(name: str | os.PathLike[str]) -> Path:
    """The path of that name, a leading ``~`` being the user's home folder.

    Raises:
        InputError: no file can have that name.
    """
    if "\0" in str(name):
        raise InputError(f"{str(name)!r} is no path: it holds a zero character.")
    if any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in Path(name).parts):
        raise InputError(f"'{name}' is no path: file name too long.")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"'{name}' is no path: there is no home folder of that user.") from None


def read_text(path: Path, what: str, error_class: type[InputError] = InputError) -> str:
    """The text of a UTF-8 file, without the mark U+FEFF that some editors put at its beginning.

    Args:
        path: of the file.
        what: name of the file in errors, such as ``text file 'my.txt'``.
        error_class: class of that error.

    Raises:
        InputError: it cannot be read, or is not UTF-8 text; of the class ``error_class``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = refusal(error) or first_line(error)
        raise error_class(f"{what} cannot be read: {reason}.") from None
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise error_class(f"{what} is {encoding}, not UTF-8 text; save it as UTF-8.")
    try:
        text = content.decode("utf-8").lstrip("\ufeff")  # also the marks of files put together
    except UnicodeDecodeError:
        raise error_class(f"{what} is not UTF-8 text; save it as UTF-8.") from None
    if "\0" in text:
        raise error_class(f"{what} holds zero bytes, so it is not UTF-8 text; save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_users_json(path: Path, what: str) -> Any:
    """The value of a JSON file. Raises InputError, also where an object has a key twice."""
    text = read_text(path, what)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise InputError(f"{what} is nested too deep.") from None
    except _RepeatedKeyError as error:
        raise InputError(f"{what} {error}") from None
    except ValueError:
        raise InputError(f"{what} is no valid JSON.") from None


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file; scalars are text, except ``true``, ``false`` and ``null``.

    YAML 1.1 would read 2:4 as the number 124, 010 as 8 and ``no`` as false. So what is not quoted
    stays as written, and the code that uses a value knows whether it is a number.

    Raises:
        InputError: it cannot be read, or a mapping has a key twice.
    """
    text = read_text(path, what)
    try:
        return yaml.load(text, Loader=_AsWritten)  # noqa: S506 (made from the safe loader)
    except RecursionError:
        raise InputError(f"{what} is nested too deep.") from None
    except _RepeatedKeyError as error:
        raise InputError(f"{what} {error}") from None
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{what} is no valid YAML.") from None


class _RepeatedKeyError(Exception):
    def __init__(self, key: object) -> None:
        super().__init__(f"has {str(key)[:40]!r} twice in the same place; leave one of them.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RepeatedKeyError(key)
        content[key] = value
    return content


_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _AsWritten(yaml.SafeLoader):
    """Reads every scalar as text, except true, false and null."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise _RepeatedKeyError(key)
                seen.add(key)
        return super().construct_mapping(node, deep)


_AsWritten.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)
