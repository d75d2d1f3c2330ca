"""The process that measures one model: it is told what to do by lines of JSON, and answers so.

A process for each model, so that memory is that of one model alone, and that no model disturbs
another. ``process`` holds the other end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from prunerzero.errors import InputError, first_line
from prunerzero.tasks.benching.loaded import Loaded, Loader, OfTorch
from prunerzero.tasks.benching.resident import Memory, ResidentMemory

_BLOCK = 1 << 24


class Worker:
    """Does what it is told, a method for each word.

    Args:
        subject: the model to measure, as ``Subject.to_json`` gives it.
        threads: that it may use.
        device: where it is.
        answers: where progress is told.
    """

    _loaded: Loaded

    def __init__(self, subject: dict[str, Any], threads: int, device: str, answers: TextIO) -> None:
        self._answers = answers
        self._loader = _loader(subject, threads, device)
        self._memory = _memory(device)

    def load(self, prompt: list[int]) -> dict[str, Any]:
        """Load the model and let it read a prompt: mapped weights are in memory only when used.

        The libraries are imported, and the files are in the system's cache, before time counts.
        """
        for file in self._loader.files:
            _read_through(file)
        self._memory.begin()
        began = time.perf_counter()
        self._loaded = self._loader.load()
        self._loaded.prefill(np.array(prompt))
        seconds = time.perf_counter() - began
        return {
            "load_seconds": seconds,
            **self._memory.in_use(self._loaded)._asdict(),
            "file_bytes": sum(file.stat().st_size for file in self._loaded.files),
            "dtype": self._loaded.dtype,
            "kernel": self._loaded.kernel,
        }

    def prefill(self, tokens: list[int]) -> float:
        return self._loaded.prefill(np.array(tokens))

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        return self._loaded.decode(np.array(prompts), new_tokens)

    def prefill_in_graph(self, tokens: list[int]) -> float:
        return self._of_torch().prefill_in_graph(np.array(tokens))

    def decode_in_graphs(self, prompts: list[list[int]], new_tokens: int) -> float:
        return self._of_torch().decode_in_graphs(np.array(prompts), new_tokens)

    def _of_torch(self) -> OfTorch:
        assert isinstance(self._loaded, OfTorch)
        return self._loaded

    def peak(self) -> int | None:
        """The most memory at once so far, less what the libraries had taken before loading."""
        return self._memory.peak()

    def losses(self, windows: str) -> list[float]:
        """Of the windows in a file of numpy."""
        return self._loaded.losses(
            np.load(windows), lambda done: _write(self._answers, {"done": done})
        )


def _loader(subject: dict[str, Any], threads: int, device: str) -> Loader:
    file = None if subject["file"] is None else Path(subject["file"])
    if subject["runtime"] == "llama.cpp":
        from prunerzero.tasks.benching.in_llama import LlamaLoader

        assert file is not None
        return LlamaLoader(subject["name"], file, threads)
    from prunerzero.language.source import ModelSource
    from prunerzero.tasks.benching.in_torch import TorchLoader

    source = ModelSource(**{**subject["source"], "device": device})
    return TorchLoader(subject["name"], source, file, threads)


def _memory(device: str) -> Memory:
    if device == "cpu":
        return ResidentMemory()
    from prunerzero.tasks.benching.card_memory import CardMemory

    return CardMemory(device)


def _read_through(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(_BLOCK):
            pass


def _write(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Answer each line of standard input, the first of which names the model."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it is lost in a destructor
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        word = request.pop("do")
        try:
            if word == "begin":
                worker = Worker(**request, answers=answers)
                answer: dict[str, Any] = {"answer": None}
            else:
                answer = {"answer": getattr(worker, word)(**request)}
        except InputError as error:
            answer = {"refused": str(error)}
        except Exception as error:  # of any library, such as no memory for a tensor
            answer = {"failed": first_line(error)}
        _write(answers, answer)


if __name__ == "__main__":
    main()
