"""Files of the package's own that hold something else by now, told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinja2 import UndefinedError

from prunerzero.errors import InputError
from prunerzero.metrics import MetricError

_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, MetricError, UndefinedError)
"""The errors of reading values that are not there, or are of another kind."""


@contextmanager
def damage_told(*files: Path, writer: str, remedy: str) -> Iterator[None]:
    """Inside, such an error becomes an InputError that names the files.

    Args:
        files: what is read.
        writer: what writes them, such as ``a search``.
        remedy: what to do, as the end of the sentence.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        named = " and ".join(f"'{file}'" for file in files)
        verb, one = ("do", "one") if len(files) > 1 else ("does", "it")
        lacks = f": {one} lacks {error}" if isinstance(error, KeyError) else ""
        raise InputError(f"{named} {verb} not hold what {writer} writes{lacks}; {remedy}.") from (
            error
        )
