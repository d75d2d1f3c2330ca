"""Lengths of time as people write them."""

from __future__ import annotations

import re

from prunerzero.errors import InputError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float) -> float:
    """Seconds: ``"90s"``, ``"15m"``, ``"1h30m"``, ``"2d"``, or a plain number of seconds.

    >>> parse_duration("1h30m")
    5400.0

    Raises:
        InputError: it is none of these, or nothing.
    """
    found = _PATTERN.fullmatch(str(text).strip().lower())
    if found is None or not any(found.groups()):
        raise InputError(f"'{text}' is no length of time; write 90s, 15m, 2h or 1h30m.")
    parts = zip(found.groups(), _UNITS.values(), strict=True)
    seconds = float(sum(float(number or 0) * unit for number, unit in parts))
    if not seconds:
        raise InputError(f"'{text}' is no time at all; write 90s, 15m, 2h or 1h30m.")
    return seconds


def in_minutes(seconds: float) -> str:
    """``"1 min"``, ``"25 min"`` or ``"2 h 5 min"``: an estimate, never none at all.

    >>> in_minutes(10), in_minutes(7500)
    ('1 min', '2 h 5 min')
    """
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
