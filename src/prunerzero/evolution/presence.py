"""Which workers are alive, so that the evaluations of dead ones are given up.

Each worker has an entry in the study of jobs, ``user_attrs["worker ID"]``, which says where it
runs, and it holds the lock of a file while its process lives. On the same machine that lock gives
the answer: the kernel releases it when the process dies, however it dies. A worker on another
machine counts as dead when its entry, which it renews twice a minute, has not changed for two
minutes of the observer's own monotonic clock. So no two clocks are compared, and a laptop that
slept sees the new entries of the others before it counts their silence.

A worker that wrongly counts as dead, because it slept, loses the one evaluation in flight.

Optuna has a heartbeat for databases alone (``RDBStorage(heartbeat_interval=...)``): a study in a
journal, the default here, has none, and two mechanisms would be more code than this one.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock

from prunerzero.evolution.locks import hostname, is_held, machine

BEAT = 30.0
"""Seconds between two renewals of a worker's entry."""

SILENCE = 120.0
"""Seconds without a renewal after which a worker on another machine counts as dead."""

_PREFIX = "worker "


class Presence:
    """This worker's entry, and what is known of the others.

    Args:
        study: holds the entries of all workers.
        folder: for the files that workers of this machine keep locked.
    """

    def __init__(self, study: optuna.Study, folder: Path | None = None) -> None:
        self.worker = uuid.uuid4().hex[:12]
        self._study = study
        folder = (folder or Path(tempfile.gettempdir())).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"prunerzero-{self.worker}.lock"
        self._lock = FileLock(self._file, fallback_to_soft=False, thread_local=False)
        self._heard: dict[str, tuple[int, float]] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._leaving = threading.Event()
        self._heart: threading.Thread | None = None

    def enter(self) -> None:
        """Write this worker's entry, and renew it from now on."""
        with suppress(NotImplementedError):  # a file system without locks: the entry must do
            self._lock.acquire()
        self._renew(0)
        self._heart = threading.Thread(target=self._beat, name="presence", daemon=True)
        self._heart.start()

    def leave(self) -> None:
        """Delete the entry: nothing of this worker is in flight."""
        if self._heart is None:
            return
        self._leaving.set()
        self._heart.join()
        self._heart = None
        try:
            self._delete_entry(self.worker)
            self._file.unlink(missing_ok=True)
        finally:
            self._lock.release()

    def refresh(self) -> None:
        """Read the entries."""
        attributes: Mapping[str, Any] = self._study.user_attrs
        self._entries = {
            name.removeprefix(_PREFIX): entry
            for name, entry in attributes.items()
            if name.startswith(_PREFIX) and entry is not None
        }
        for worker, entry in self._entries.items():
            beat, _ = self._heard.get(worker, (None, 0.0))
            if beat != entry["beat"]:
                self._heard[worker] = entry["beat"], time.monotonic()

    @property
    def others(self) -> list[str]:
        """The other workers that are alive, as of the last ``refresh``."""
        return [w for w in self._entries if w != self.worker and self.is_alive(w)]

    def is_alive(self, worker: str) -> bool:
        """Whether that worker is alive, as of the last ``refresh``."""
        if worker == self.worker:
            return True
        entry = self._entries.get(worker)
        if entry is None:
            return False
        if entry["machine"] == machine():
            held = is_held(Path(entry["lock"]))
            if held is not None:
                return held
        elif _is_this_host(entry):
            return False  # its machine was started again since
        return time.monotonic() - self._heard[worker][1] <= SILENCE

    def forget_dead(self) -> None:
        """Delete the entries of dead workers, and their files on this machine."""
        for worker in [w for w in self._entries if not self.is_alive(w)]:
            if _is_this_host(self._entries[worker]):
                with suppress(OSError):
                    os.unlink(self._entries[worker]["lock"])
            self._delete_entry(worker)
            del self._entries[worker]

    def _beat(self) -> None:
        number = 0
        while not self._leaving.wait(BEAT):
            number += 1
            with suppress(Exception):  # such as a full disk, which the worker itself will meet
                self._renew(number)

    def _renew(self, beat: int) -> None:
        entry = {"machine": machine(), "pid": os.getpid(), "lock": str(self._file), "beat": beat}
        self._study.set_user_attr(_PREFIX + self.worker, entry)

    def _delete_entry(self, worker: str) -> None:
        self._study.set_user_attr(_PREFIX + worker, None)  # Optuna cannot delete an attribute


def _is_this_host(entry: Mapping[str, Any]) -> bool:
    name: str = entry["machine"]
    return name.rpartition("-")[0] == hostname()
