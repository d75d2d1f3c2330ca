"""Refuses a device that this machine does not have, before anything is measured."""

from __future__ import annotations

import sys

from prunerzero.errors import ModelError
from prunerzero.language.devices import find_devices


def require(names: str) -> None:
    """End with one sentence and exit code 2 where one of these devices cannot be used here."""
    try:
        find_devices(names)
    except ModelError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
