"""The files of a checkpoint: whether they are all there, and which go along with the weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

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


def common_dtype(name: str, revision: str | None) -> torch.dtype | None:
    """The dtype that all floating-point weights of a folder or repository have in their files.

    None where they have several, or no safetensors files. A loaded model may tell another: some
    modules are kept in float32 whatever the file holds.
    """
    found: set[str] = set()
    folder = _folder(name, revision)
    for path in folder.glob("*.safetensors") if folder is not None else ():
        with safe_open(path, framework="pt") as file:
            found |= {file.get_slice(key).get_dtype() for key in file.keys()}
    floating = found & {"F64", *_DTYPES}
    return _DTYPES.get(floating.pop()) if len(floating) == 1 else None


_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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
