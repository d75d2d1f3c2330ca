"""Where the files of a model are: in the package, in a folder, or on the hub."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from prunerzero.documents import path_of
from prunerzero.errors import ModelError
from prunerzero.language.checkpoint_files import CheckpointFiles, check_folder
from prunerzero.language.hub import ask_hub
from prunerzero.language.source import BUNDLED, ModelSource


def locate(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The folder or hub id to pass to ``from_pretrained`` of transformers, and its options.

    Raises:
        ModelError: there is no such model, a folder that holds none, or a revision of what is not
            on the hub.
    """
    name = source.model
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    path = path_of(name)
    if source.revision is not None and (name == BUNDLED or os.path.exists(path)):
        raise ModelError(
            f"model {name!r} is not on the hub, so it has no revisions; leave out `revision`."
        )
    if name == BUNDLED:
        return str(files("prunerzero.bundled") / "model"), options
    if os.path.isfile(path):  # unlike Path.is_file, False for a name too long for a file
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"model file {name!r} is not a .gguf file; pass a folder instead.")
        # the whole path: transformers would take a file of that name in the working folder first
        return str(path.parent), {**options, "gguf_file": str(path.resolve())}
    if os.path.isdir(path):
        check_folder(path, source.allow_pickle)
        return str(path), options
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder or file {name!r}.")
    offline = _must_come_from_cache(name, source.revision)
    return name, {**options, "revision": source.revision, "local_files_only": offline}


def files_of(source: ModelSource) -> tuple[Path, ...]:
    """The files of weights that transformers will read; empty where they are to be downloaded.

    Raises:
        ModelError: as ``locate``.
    """
    where, options = locate(source)
    name = options.get("gguf_file", where)
    return CheckpointFiles.of(name, source.revision, source.allow_pickle).weights


def _must_come_from_cache(name: str, revision: str | None) -> bool:
    """Whether the hub is out of reach, but its cache has the model.

    Raises:
        ModelError: neither the hub nor the cache has it.
    """
    answer = ask_hub(name, "model", revision)
    if answer == "there":
        return False
    from huggingface_hub import try_to_load_from_cache

    if answer == "unreachable" and isinstance(
        try_to_load_from_cache(name, "config.json", revision=revision), str
    ):
        return True
    problem = (
        "and the hub cannot be reached"
        if answer == "unreachable"
        else "and the hub has none either"
    )
    raise ModelError(
        f"there is no model folder {name!r}, {problem}; pass a model folder, a .gguf file, or "
        "'bundled'."
    )
