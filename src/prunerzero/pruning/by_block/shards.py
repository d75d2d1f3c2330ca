"""The shards of a checkpoint that is written piece by piece."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from prunerzero.files import write_json
from prunerzero.language.checkpoint_files import restore_dtypes
from prunerzero.language.quiet import quiet_transformers


def is_whole(file: Path) -> bool:
    """Whether this is a safetensors file as long as its header says."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


class ShardWriter:
    """Writes a checkpoint piece by piece, one shard a piece, each completely or not at all.

    Args:
        folder: of the new checkpoint.
        model: the model; its class decides the names and the layout of the saved tensors.
        pieces: the number of shards; config and code are written with the first.
        source: the files of the original checkpoint, by tensor; each tensor keeps its dtype there.
    """

    def __init__(
        self, folder: Path, model: Any, pieces: int, source: Mapping[str, Path] | None = None
    ) -> None:
        self._folder, self._model, self._pieces = folder, model, pieces
        self._source = source or {}
        self._lock = Lock()  # saving touches the model's config

    def write(self, piece: int, tensors: dict[str, Tensor]) -> None:
        """Write one piece, numbered from 0: tensors by their names in the model."""
        aside = self._folder / f"piece-{piece}"
        with self._lock:
            shutil.rmtree(aside, ignore_errors=True)
            try:
                with quiet_transformers():
                    self._model.save_pretrained(aside, state_dict=tensors, max_shard_size="100TB")
                restore_dtypes(aside, self._source)
                (weights,) = aside.glob("*.safetensors")
                shutil.copymode(aside / "config.json", weights)  # so that others may read it
                os.replace(weights, self._folder / self._name(piece))
                if piece == 0:
                    for file in aside.iterdir():
                        os.replace(file, self._folder / file.name)
            finally:  # on a full disk too: finished pieces need the space
                shutil.rmtree(aside, ignore_errors=True)

    def read(self, piece: int) -> dict[str, Tensor]:
        """The tensors of a finished piece, by their names in the file."""
        return load_file(self._folder / self._name(piece))

    def has(self, piece: int) -> bool:
        """Whether a piece is written completely."""
        return is_whole(self._folder / self._name(piece))

    def finish(self) -> None:
        """Write the index, which says which shard holds each tensor."""
        places: dict[str, str] = {}
        size = 0
        for piece in range(self._pieces):
            file = self._folder / self._name(piece)
            with safe_open(file, framework="pt") as tensors:
                places |= dict.fromkeys(tensors.keys(), file.name)
            size += file.stat().st_size
        write_json(
            self._folder / "model.safetensors.index.json",
            {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))},
        )

    def _name(self, piece: int) -> str:
        return f"model-{piece + 1:05}-of-{self._pieces:05}.safetensors"
