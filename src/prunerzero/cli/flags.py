"""The library's messages in the words of the command line.

The library names a parameter between backticks, with a value where one is advised, as Python has
it. On the command line the same parameter is a flag.

>>> in_flags('no text is named; pass `test=FILE` or `dataset="wikitext2"`.')
'no text is named; pass --test FILE or --dataset wikitext2.'
>>> in_flags("`max_seq_length` must be at least 2; or pass `allow_pickle=True`.")
'--max-seq-length must be at least 2; or pass --allow-pickle.'
"""

from __future__ import annotations

import ast
import re
import shlex

_PARAMETER = re.compile(r"`([a-z][a-z_]*)(?:=([^`]*))?`")

_REPEATED = {"datasets": "dataset", "texts": "text"}
"""What is one list in Python and on the command line an option that may be repeated."""


def in_flags(message: str) -> str:
    """The message with its parameters written as flags."""
    return _PARAMETER.sub(lambda found: _flag(found[1], found[2]), message)


def _flag(name: str, value: str | None) -> str:
    flag = f"--{_REPEATED.get(name, name).replace('_', '-')}"
    if value is None or value == "True":
        return flag
    return f"{flag} {shlex.quote(_plain(value))}"


def _plain(value: str) -> str:
    """The value without the quotes that Python wants."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder such as FILE
        return value
    return ",".join(map(str, found)) if isinstance(found, list) else str(found)
