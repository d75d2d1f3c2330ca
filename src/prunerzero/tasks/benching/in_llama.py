"""A GGUF file that llama.cpp runs, measured by its own functions, through llama-cpp-python.

Token ids go in as they are: llama.cpp adds no token of its own to them, so that perplexity is on
the same windows as that of other models. All settings but the sizes and the number of threads are
its defaults.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from prunerzero.errors import ModelError
from prunerzero.tasks.benching.loaded import Ids

_CHUNK = 512
"""Tokens read at once, as is llama.cpp's default for its physical batch."""
_CELLS = 256
"""A sequence's share of the cache is a multiple of so many tokens."""


_SILENT = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
"""Takes what llama.cpp logs: an error is told by what it returns. Kept, since C calls it."""


class LlamaLoader:
    """See ``Loader``.

    Args:
        name: of the model.
        file: in GGUF.
        threads: of llama.cpp.
    """

    def __init__(self, name: str, file: Path, threads: int) -> None:
        silence()
        llama_cpp.llama_backend_init()
        self.files: tuple[Path, ...] = (file,)
        self._name, self._threads = name, threads

    def load(self) -> LlamaModel:
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        model = llama_cpp.llama_model_load_from_file(str(self.files[0]).encode(), options)
        if not model:
            raise ModelError(f"{self._name!r} could not be loaded by llama.cpp.")
        return LlamaModel(self._name, model, self.files, self._threads)


class LlamaModel:
    """See ``Loaded``."""

    def __init__(self, name: str, model: Any, files: tuple[Path, ...], threads: int) -> None:
        self.files = files
        self._name, self._model, self._threads = name, model, threads
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    @property
    def dtype(self) -> str:
        told = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self._model, told, len(told))
        return told.value.decode(errors="replace")

    @property
    def kernel(self) -> str | None:
        return None

    def prefill(self, tokens: Ids) -> float:
        with self._context(1, len(tokens)) as run:
            began = time.perf_counter()
            for start in range(0, len(tokens), _CHUNK):
                run(tokens[None, start : start + _CHUNK], start).argmax(-1)
            return time.perf_counter() - began

    def decode(self, prompts: Ids, new_tokens: int) -> float:
        count, length = prompts.shape
        with self._context(count, length + new_tokens) as run:
            ids = run(prompts, 0).argmax(-1)
            began = time.perf_counter()
            for place in range(length, length + new_tokens):
                ids = run(ids[:, None], place).argmax(-1)
            return time.perf_counter() - began

    def losses(self, windows: Ids, on_window: Callable[[int], None]) -> list[float]:
        length = windows.shape[1]
        losses = []
        for window in windows:
            with self._context(1, length) as run:
                parts = []
                for start in range(0, length, _CHUNK):
                    chunk = window[start : start + _CHUNK]
                    logits = run(chunk[None], start, every=True)
                    following = window[start + 1 : start + _CHUNK + 1]
                    parts.append(_losses(logits[: len(following)], following))
            losses.append(float(np.concatenate(parts).mean()))
            on_window(len(losses))
        return losses

    @contextmanager
    def _context(self, sequences: int, length: int) -> Iterator[Callable[..., NDArray[np.float32]]]:
        """What runs token ids [sequences, count] that begin at a place, in a cache of their own.

        It returns the logits after the last token of each sequence, or with ``every`` those after
        each token, [rows, vocabulary].
        """
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = sequences * _CELLS * -(-length // _CELLS)
        options.n_batch = options.n_ubatch = max(_CHUNK, sequences)
        options.n_outputs_max = 0
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = self._threads
        context = llama_cpp.llama_init_from_model(self._model, options)
        if not context:
            raise ModelError(f"llama.cpp has no memory to run {self._name!r}.")
        batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)

        def run(ids: Ids, start: int, every: bool = False) -> NDArray[np.float32]:
            if ids.max() >= self._vocabulary:
                raise ModelError(
                    f"{self._name!r} has {self._vocabulary} tokens, and the text has others."
                )
            count = ids.shape[1]
            batch.n_tokens = ids.size
            for place, token in enumerate(ids.flatten().tolist()):
                sequence, offset = divmod(place, count)
                batch.token[place] = token
                batch.pos[place] = start + offset
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = every or offset == count - 1
            if code := llama_cpp.llama_decode(context, batch):
                raise ModelError(f"llama.cpp could not run {self._name!r} (code {code}).")
            rows = ids.size if every else len(ids)
            found = llama_cpp.llama_get_logits(context)
            return np.ctypeslib.as_array(found, (rows, self._vocabulary))

        try:
            yield run
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def silence() -> None:
    """Let llama.cpp print nothing."""
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))


def _losses(logits: NDArray[np.float32], following: Ids) -> NDArray[np.float64]:
    """The negative log-likelihood of each token under the logits before it."""
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest, dtype=np.float32).sum(1, dtype=np.float64)
    chosen = logits[np.arange(len(following)), following]
    result: NDArray[np.float64] = np.log(total) + highest[:, 0] - chosen
    return result
