"""Output that a terminal of any encoding can show.

Where standard output cannot write a character, the nearest that it can takes its place. JSON stays
whole: it writes such a character as an escape.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
from contextlib import suppress
from typing import Any

from prunerzero.files import to_json

_NEAREST = {
    "√": "sqrt",
    "·": "*",
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "±": "+-",
    "→": "->",
    "├": "|",
    "└": "`",
    "─": "-",
    "│": "|",
    "\u00a0": " ",
    "\u202f": " ",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What the writing of a stream fails with, but for a reader that has gone."""


def never_fail_to_print() -> None:
    """From here on, what the terminal cannot write is replaced and raises no error."""
    codecs.register_error("prunerzero-nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="prunerzero-nearest")


def print_all() -> None:
    """Write what was printed and still waits; raises OSError where that cannot be done."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_printing(error: OSError) -> str | None:
    """Why standard output cannot be written; None if ``error`` is about something else.

    Nothing more is written there: Python would try again at its end, and complain.
    """
    if error.filename is not None or error.errno not in _FULL:
        return None
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"standard output cannot be written: {os.strerror(error.errno).lower()}."


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_NEAREST.get(character, "?") for character in text), error.end


def print_json(value: Any) -> None:
    """Print a result as JSON, escaping what standard output cannot write."""
    text = to_json(value)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    print(text)
