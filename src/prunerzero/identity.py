"""Whether a model, a text or a setting is the same: the one answer.

Caches, searches and tunings that resume, pruning block by block and recipes ask it here. A model is
every byte of the weights that transformers would load, its config and its tokenizer; how its path
is spelt is nothing. A text is its windows of tokens.

An identity is a mapping from names to JSON values. A value that would be long is replaced by its
digest; ``difference`` recognises digests by their form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time_ns
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from prunerzero.memory import cached

Identity = Mapping[str, Any]

_DIGITS = 32
_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")

_READERS = 4
"""Threads that hash the tensors of a file: hashing is slower than a disk's cache."""

_SETTLED = 2_000_000_000
"""Nanoseconds. A file that changes twice within this time may keep its time of change."""

_NOT_OF_A_MODEL = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "transformers_weights"}
)
"""Keys of a config that hold paths and versions."""


def digest(*parts: str | bytes) -> str:
    """A hash of these parts, in this order: 32 hexadecimal digits."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(f"{len(data)}:".encode())
        whole.update(data)
    return whole.hexdigest()[:_DIGITS]


# Models


def of_tensor(tensor: Tensor) -> str:
    """The digest of a tensor's dtype, shape and bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    whole = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()[:_DIGITS]


def of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """The digest of each tensor by its name; tensors are read one by one."""
    return {name: of_tensor(tensor) for name, tensor in tensors}


def of_weights(files: Sequence[Path], on_bytes: Callable[[int], None] = lambda done: None) -> str:
    """The digest of the weights in these files, each byte of them.

    In safetensors, the names, dtypes, shapes and bytes of the tensors count, and not which file
    holds them; where several files hold a tensor, the last one counts, as in transformers. Of other
    files (GGUF, pickles) every byte counts.

    A file is read once: its digests are cached under its path, size and time of change.

    Args:
        files: in the order in which transformers reads them.
        on_bytes: called with the number of bytes done.
    """
    tensors: dict[str, str] = {}
    done = 0
    for path in files:
        tensors |= _of_file(path)
        done += path.stat().st_size
        on_bytes(done)
    return digest(*(f"{name} {its_digest}" for name, its_digest in sorted(tensors.items())))


def _of_file(path: Path) -> dict[str, str]:
    path = path.resolve()
    there = path.stat()
    stamp = [there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, there.st_dev]

    def read() -> dict[str, str]:
        if path.suffix != ".safetensors":
            with path.open("rb") as file:
                return {path.suffix: hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]}
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())

            def one(name: str) -> tuple[str, str]:
                return name, of_tensor(file.get_tensor(name))

            with ThreadPoolExecutor(_READERS) as pool:
                return dict(pool.map(one, names))

    if time_ns() - max(there.st_mtime_ns, there.st_ctime_ns) < _SETTLED:
        return read()  # changed again at once, it might keep the same time
    return cached("weights", {"path": str(path), "stamp": stamp}, read, _read_json, _write_json)


def _read_json(path: Path) -> dict[str, str]:
    digests = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(digests, dict):
        raise ValueError("no digests")
    return digests


def _write_json(value: dict[str, str], path: Path) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def of_config(config: Any, code: Sequence[Path] = ()) -> str:
    """The digest of a transformers config, and of the model's own code if it brings some.

    Only values that differ from the defaults of its class count, so that a release of transformers
    with more options does not change the digest. Paths and versions do not count.

    Args:
        config: as ``AutoConfig`` reads it, before a model is made with it.
        code: Python files that ``trust_remote_code`` would run.
    """
    content = json.dumps(_without_paths(config.to_diff_dict()), sort_keys=True, default=str)
    return digest(content, *(path.read_bytes() for path in sorted(code)))


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_paths(v) for k, v in value.items() if k not in _NOT_OF_A_MODEL}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return value


def of_tokenizer(tokenizer: Any) -> str:
    """The digest of a transformers tokenizer: how it cuts text into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        for state in ("padding", "truncation"):  # settings of a call, not of the tokenizer
            content.pop(state, None)
    else:
        content = [sorted(tokenizer.get_vocab().items()), type(tokenizer).__name__]
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return digest(json.dumps([content, ends], sort_keys=True))


# Texts and settings


def of_windows(windows: Tensor) -> str:
    """The digest of token ids [count, length]."""
    return of_tensor(windows)


def of_names(names: Iterable[str]) -> str:
    """The digest of a set of names; their order does not count."""
    return digest(*sorted(names))


def difference(before: Identity, now: Identity) -> str | None:
    """What differs, as a phrase to follow the word "with"; None where nothing differs.

    >>> difference({"sparsity": "0.5", "seed": 0}, {"sparsity": "0.7", "seed": 0})
    "sparsity '0.5', not '0.7'"
    >>> difference({"model": {"weights": 32 * "0"}}, {"model": {"weights": 32 * "1"}})
    'other model weights'
    >>> difference({"sparsity": "0.5"}, {"sparsity": "0.5", "update": "least-squares"})
    "update left out, not 'least-squares'"
    """
    then, here = _flat(before), _flat(now)
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    return ", ".join(_phrase(name, then.get(name), here.get(name)) for name in names) or None


def _flat(identity: Identity, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(dict(identity), default=str)).items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _phrase(name: str, then: Any, now: Any) -> str:
    if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (then, now)):
        return f"other {name}" if None not in (then, now) else f"an unknown {name}"
    return f"{name} {_shown(then)}, not {_shown(now)}"


def _shown(value: Any) -> str:
    return "left out" if value is None else repr(value)
