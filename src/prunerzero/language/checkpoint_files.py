"""The files of a checkpoint: are they complete, and which belong to it beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunerzero.errors import ModelError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED_SINGLE, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

COMPANIONS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
"""Files for images, sound and chats, which a tokenizer does not save."""

ADAPTER = "adapter_config.json"

_ORDINARY = frozenset({"F64", "F32", "F16", "BF16"})
"""Names that safetensors has for the dtypes of weights that are not quantised."""


def weight_files(folder: Path, allow_pickle: bool = False) -> tuple[Path, ...]:
    """The files of a folder that ``from_pretrained`` would read weights from, in its order.

    These are the file that the config names, else ``model.safetensors``, else the files in the map
    of its index; then the same of pickles, where they are allowed. Other files in the folder, such
    as those of a variant, are not read. Empty where there are no weights.

    Raises:
        ModelError: an index without a map from weights to files.
    """
    config = _read_object(folder / "config.json") or {}
    names = [config.get("transformers_weights"), SINGLE, INDEX]
    names += [PICKLED_SINGLE, PICKLED_INDEX] if allow_pickle else []
    for name in names:
        if isinstance(name, str) and (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".index.json") else (folder / name,)
    return ()


def _shards(index: Path) -> tuple[Path, ...]:
    shards = (_read_object(index) or {}).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(f, str) for f in shards.values()):
        raise ModelError(f"'{index}' does not say which weights lie in which file.")
    return tuple(index.parent / file for file in sorted(set(shards.values())))


def check_folder(folder: Path, allow_pickle: bool = False) -> None:
    """Check that a folder holds a config and complete weights that can be pruned.

    Raises:
        ModelError: it does not; pickled weights count where they are allowed.
    """
    config = folder / "config.json"
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"folder '{folder}' holds an adapter ({ADAPTER}); merge it into its base model "
            "(merge_and_unload of peft) and pass that, or move the adapter's files away."
        )
    if not config.is_file():
        raise ModelError(f"folder '{folder}' holds no config.json, so it is no model.")
    if _read_object(config) is None:
        raise ModelError(f"'{config}' is not a valid JSON object.")
    files = weight_files(folder, allow_pickle)
    if not files:
        pickled = weight_files(folder, allow_pickle=True)
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        raise ModelError(
            f"folder '{folder}' holds no safetensors weights"
            + (
                ", only pickled ones; pass `allow_pickle=True` to read them."
                if pickled
                else f" that transformers would load: neither {SINGLE} nor {INDEX}, only "
                f"{others[0]!r}."
                if others
                else "."
            )
        )
    for file in files:
        if not file.is_file():
            raise ModelError(f"folder '{folder}' lacks the weights file {file.name!r}.")
        if file.suffix == ".safetensors":
            _check_file(file)


def _check_file(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights file '{path}' is truncated or damaged ({first_line(error)})."
        ) from None
    for name, dtype in dtypes.items():
        if name.endswith("weight") and dtype not in _ORDINARY:
            raise ModelError(
                f"the weights in '{path}' are quantised ({name} is {dtype}); pass the checkpoint "
                "that they were made from, or a .gguf file."
            )


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class CheckpointFiles:
    """The files that a model was read from, where they are known.

    Attributes:
        weights: the files of weights, in the order in which transformers reads them.
        companions: the files of ``COMPANIONS`` beside them.
        code: Python files beside them, which run only with ``trust_remote_code``.
    """

    weights: tuple[Path, ...] = ()
    companions: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()

    @classmethod
    def of(cls, name: str, revision: str | None, allow_pickle: bool = False) -> CheckpointFiles:
        """The files of a folder, a GGUF file, or a hub repository that has been downloaded."""
        path = Path(name).expanduser()
        if path.is_file():
            return cls(weights=(path,))
        folder = _folder(name, revision)
        if folder is None:
            return cls()
        companions = (folder / file for file in COMPANIONS)
        return cls(
            weight_files(folder, allow_pickle),
            tuple(file for file in companions if file.is_file()),
            tuple(sorted(folder.glob("*.py"))),
        )

    def tensors(self) -> dict[str, Path]:
        """Tensor name → the safetensors file that holds it; of several, the one read last."""
        files: dict[str, Path] = {}
        for path in self.weights:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    files.update(dict.fromkeys(file.keys(), path))
        return files


def restore_dtypes(folder: Path, source: Mapping[str, Path]) -> None:
    """Give the tensors of a checkpoint just written the dtypes that they have in ``source``.

    A model may hold some tensors in another dtype: transformers keeps some modules in float32, and
    rounds tensors whose dtype is not the one that the config names. Values that are rounded and
    else unchanged are taken from ``source`` again.

    Args:
        folder: of the checkpoint just written.
        source: tensor name → file of the original checkpoint.
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
    return torch.where(before.to(now.dtype) == now, before, now.to(before.dtype))


_FLOATING = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder itself, or that of the repository in the hub's cache; None without one."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or "/" not in name:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(COMPANIONS)))
    except LocalEntryNotFoundError:  # no connection, and not in the cache
        return None
