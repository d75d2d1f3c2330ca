"""A model in a process of its own, seen from the one that asks for its measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from prunerzero.errors import ModelError
from prunerzero.tasks.benching.subject import Subject

_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


class ModelFailedError(Exception):
    """A model could not be measured, for a reason that is not the user's to mend."""


class ModelProcess:
    """Ask it by words that ``Worker`` has as methods. Close it to free the memory.

    Args:
        subject: the model.
        threads: that it may use.
        device: where it is.

    Raises:
        ModelError: the model is refused.
        ModelFailedError: something else ended it, such as want of memory.
    """

    def __init__(self, subject: Subject, threads: int, device: str) -> None:
        self.is_warm = False
        """For the caller to tell whether it has run what it will be measured with."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prunerzero.tasks.benching.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_QUIET},
            encoding="utf-8",
            process_group=0,  # Ctrl-C in a terminal is for us, who then close it
        )
        try:
            self.ask("begin", subject=subject.to_json(), threads=threads, device=device)
        except BaseException:
            self.close()
            raise

    def ask(self, word: str, on_done: Callable[[int], None] | None = None, **told: Any) -> Any:
        """The answer to a word. ``on_done`` is told how many are done of what is counted."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": word, **told}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ModelFailedError(self._ending()) from None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "done" in answer:
                if on_done is not None:
                    on_done(answer["done"])
            elif "refused" in answer:
                raise ModelError(answer["refused"])
            elif "failed" in answer:
                raise ModelFailedError(answer["failed"])
            else:
                return answer["answer"]
        raise ModelFailedError(self._ending())

    def close(self) -> None:
        """End the process; what it is doing is given up."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ending(self) -> str:
        """Why the process ended."""
        code = self._process.wait()
        if code < 0:
            told = signal.Signals(-code).name
            why = ", as happens where memory runs out" if told == "SIGKILL" else ""
            return f"its process was ended by {told}{why}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1] if lines else f'exit code {code}'}"
