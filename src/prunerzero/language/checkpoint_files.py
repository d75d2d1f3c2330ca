"""The files of a checkpoint: whether they are all there, and which go along with the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.errors import ModelError

INDEX = "model.safetensors.index.json"

COMPANIONS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
"""What a processor of images, sound or chats reads, beside the tokenizer's own files."""


def check_folder(folder: Path, allow_pickle: bool = False) -> None:
    """Raise ModelError unless the folder holds a config and whole weights.

    Pickled weights count where they are allowed.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"folder '{folder}' holds no config.json, so it is no model.")
    if _read_object(config) is None:
        raise ModelError(f"'{config}' is no valid JSON object.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(folder.glob("*.bin"))
        if pickled and allow_pickle:
            return
        raise ModelError(
            f"folder '{folder}' holds no safetensors weights"
            + (", only pickled ones; pass --allow-pickle to read them." if pickled else ".")
        )
    if (index := folder / INDEX).is_file():
        shards = (_read_object(index) or {}).get("weight_map")
        if not isinstance(shards, dict):
            raise ModelError(f"'{index}' does not say which weights lie in which file.")
        absent = sorted({str(f) for f in shards.values()} - {file.name for file in weights})
        if absent:
            raise ModelError(f"folder '{folder}' lacks the weights file {absent[0]!r}.")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
            raise ModelError(f"weights file '{file}' is truncated or damaged ({line}).") from None


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def companion_files(name: str, revision: str | None) -> tuple[Path, ...]:
    """Those of ``COMPANIONS`` that the model's folder or hub repository holds."""
    folder = _folder(name, revision)
    if folder is None:
        return ()
    return tuple(folder / file for file in COMPANIONS if (folder / file).is_file())


def tensor_files(name: str, revision: str | None) -> dict[str, Path]:
    """In which safetensors file of the model's folder or hub repository each tensor lies."""
    folder, found = _folder(name, revision), {}
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        with safe_open(path, framework="pt") as file:
            found.update(dict.fromkeys(file.keys(), path))
    return found


def restore_dtypes(folder: Path, source: Mapping[str, Path]) -> None:
    """Give tensors of a checkpoint just written the dtypes that they have in ``source``.

    A model may hold some of them in another: transformers keeps some modules in float32, and
    rounds what does not have the dtype that the config names. What was rounded is read again, but
    for where it is zero now.
    """
    for path in folder.glob("*.safetensors"):
        wanted: dict[str, Tensor] = {}
        with safe_open(path, framework="pt") as written:
            for key in written.keys() & source.keys():
                with safe_open(source[key], framework="pt") as file:
                    before, now = file.get_slice(key), written.get_slice(key)
                    dtypes = [_FLOATING.get(part.get_dtype()) for part in (before, now)]
                    if None in dtypes or dtypes[0] == dtypes[1]:
                        continue
                    if before.get_shape() == now.get_shape():
                        wanted[key] = _as_before(written.get_tensor(key), file.get_tensor(key))
        if wanted:
            save_file(load_file(path) | wanted, path, metadata={"format": "pt"})


def _as_before(now: Tensor, before: Tensor) -> Tensor:
    if before.dtype.itemsize < now.dtype.itemsize:
        return now.to(before.dtype)
    return before.masked_fill((now == 0) & (before.to(now.dtype) != 0), 0)


_FLOATING = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def _folder(name: str, revision: str | None) -> Path | None:
    """Where the files are: the folder itself, or what the hub's cache has of the repository."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or "/" not in name:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(COMPANIONS)))
    except LocalEntryNotFoundError:  # out of reach, and nothing of it is in the cache
        return None
