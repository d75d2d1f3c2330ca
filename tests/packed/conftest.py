"""A sparse tiny model, and the folder that it packs to."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparse_model import sparse_tiny_model

from prunerzero.tasks.pack import pack


@pytest.fixture(scope="session")
def sparse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_tiny_model(tmp_path_factory.mktemp("packing") / "sparse")


@pytest.fixture(scope="session")
def packed_folder(sparse_folder: Path) -> Path:
    folder = sparse_folder.parent / "packed"
    pack(sparse_folder, folder)
    return folder


@pytest.fixture(scope="session")
def int8_folder(sparse_folder: Path) -> Path:
    folder = sparse_folder.parent / "int8"
    pack(sparse_folder, folder, values="int8")
    return folder
