"""A GGUF file is read once, however often transformers asks for it.

transformers opens the file for the config, for the tokenizer, for the config again and for the
weights, and the `gguf` package reads all of its metadata each time, every token of the vocabulary
by itself. Then the table of tensor names is made anew for each module of the model. Both are kept
while a model is loaded. Should a later transformers get them in another way, loading is slow again,
and no different.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_REPEATED = ("GGUFReader", "get_tensor_name_map")
"""What transformers takes from `gguf` where it calls it; equal arguments, equal result."""

_one_at_a_time = threading.Lock()
"""What is kept of a file ends with its loading, also where threads load: it may change later."""


@contextmanager
def gguf_once(options: dict[str, Any]) -> Iterator[None]:
    """Inside, the GGUF file that options of ``from_pretrained`` name, if any, is read once."""
    gguf = _library() if "gguf_file" in options else None
    if gguf is None:
        yield
        return
    with _one_at_a_time:
        usual = {name: getattr(gguf, name) for name in _REPEATED if hasattr(gguf, name)}
        try:
            for name, function in usual.items():
                setattr(gguf, name, functools.cache(function))
            yield
        finally:
            for name, function in usual.items():
                setattr(gguf, name, function)


def _library() -> Any | None:
    try:
        import gguf
    except ImportError:  # transformers will say so
        return None
    return gguf
