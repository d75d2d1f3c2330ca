"""How much memory this process has, and had at most.

What is counted is resident memory: every page of the process that is in memory, those of files
that it has mapped too. A model whose weights are mapped from its file needs these pages to run at
speed, so they count as in use; that the system may drop them, and read them again, is told by
``mapped_bytes``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

_STATUS = Path("/proc/self/status")


class InUse(NamedTuple):
    """Memory once a model is loaded; see ``ModelFigures``."""

    memory_bytes: int
    mapped_bytes: int | None
    libraries_bytes: int | None


class Memory(Protocol):
    """What counts the memory of a model."""

    def begin(self) -> None:
        """The model is loaded next."""

    def in_use(self, loaded: Any) -> InUse:
        """What the model that was loaded takes now."""

    def peak(self) -> int | None:
        """The most at once since ``begin``, less what was taken before; None where unknown."""


class ResidentMemory:
    """See ``Memory``: of this process."""

    def begin(self) -> None:
        self._before = resident_bytes()
        self._mapped = mapped_bytes()
        forget_peak()
        self._peak_before = peak_bytes()

    def in_use(self, loaded: Any) -> InUse:
        now = mapped_bytes()
        return InUse(
            resident_bytes() - self._before,
            None if now is None or self._mapped is None else now - self._mapped,
            self._before,
        )

    def peak(self) -> int | None:
        """None where more was in use before, and the system cannot forget it."""
        peak = peak_bytes()
        return None if peak == self._peak_before else peak - self._before


def resident_bytes() -> int:
    """Memory in use now."""
    return int(psutil.Process().memory_info().rss)


def mapped_bytes() -> int | None:
    """What of it are pages of mapped files; None where the system does not tell."""
    return _of_status("RssFile")


def forget_peak() -> None:
    """Let ``peak_bytes`` count from now on, where the system can: Linux alone does."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that the process had at once, since it began or ``forget_peak``.

    On Linux not ``ru_maxrss``, in which a new process begins with what its parent had.
    """
    peak = _of_status("VmHWM")
    if peak is None:
        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return _of_getrusage() if peak is None else int(peak)


def _of_status(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _of_getrusage() -> int:
    import resource

    usage: Any = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
