"""The whole folder of a checkpoint on this machine, for what works on its files."""

from __future__ import annotations

import shutil
from pathlib import Path

from prunerzero.errors import ModelError
from prunerzero.language.checkpoint_files import INDEX, SINGLE, check_folder, weight_files
from prunerzero.language.hub import cache_refusal
from prunerzero.language.locate import locate
from prunerzero.language.source import ModelSource

WEIGHTS = (
    *(".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".bin.index.json"),
    *(".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data"),
)
"""How the names of files with weights end, in any format."""


def checkpoint_folder(source: ModelSource) -> Path:
    """The folder of a model, which is fetched from the hub where it is there.

    Raises:
        ModelError: there is no such model, or it is no folder of safetensors.
    """
    where, options = locate(source)
    if "gguf_file" in options:
        raise ModelError(
            f"{source.model!r} is a .gguf file, whose weights are quantised; prune it first, and "
            "pass the folder that this makes."
        )
    if "revision" not in options:
        return Path(where)
    return _fetched(where, options["revision"], options["local_files_only"])


def _fetched(name: str, revision: str | None, offline: bool) -> Path:
    """The folder in the hub's cache, with the weights that transformers would load."""
    from huggingface_hub import snapshot_download

    def fetch(allow: list[str] | None = None, ignore: list[str] | None = None) -> Path:
        folder = snapshot_download(
            name,
            revision=revision,
            local_files_only=offline,
            allow_patterns=allow,
            ignore_patterns=ignore,
        )
        return Path(folder)

    try:
        others = [f"*{ending}" for ending in WEIGHTS if not ending.endswith(".index.json")]
        folder = fetch(ignore=others)
        if (folder / INDEX).is_file():
            fetch([file.name for file in weight_files(folder)])
        else:
            fetch([SINGLE])
    except ModelError:
        raise
    except Exception as error:  # which one it is changes with the HTTP client
        reason = cache_refusal(error, is_local=False) or f"{type(error).__name__}."
        raise ModelError(f"{name!r} could not be fetched: {reason}") from error
    check_folder(folder)
    return folder


def copy_others(source: Path, target: Path) -> None:
    """Copy what a checkpoint has beside its weights and its config: tokenizer, card, code …"""

    def unwanted(folder: str, names: list[str]) -> list[str]:
        at_top = Path(folder) == source
        return [
            name
            for name in names
            if name.startswith(".")
            or name.lower().endswith(WEIGHTS)
            or (at_top and name == "config.json")
        ]

    shutil.copytree(source, target, ignore=unwanted, dirs_exist_ok=True)
