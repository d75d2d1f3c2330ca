"""Output that a terminal of any encoding can show.

Where standard output cannot write a character, the nearest that it can takes its place. JSON stays
whole: it writes such a character as an escape.
"""

from __future__ import annotations

import codecs
import json
import sys
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


def never_fail_to_print() -> None:
    """From here on, what the terminal cannot write is replaced and raises no error."""
    codecs.register_error("prunerzero-nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="prunerzero-nearest")


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
