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


@pytest.fixture(scope="session")
def int4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sparser: the padding of such small matrices is more than 4 bits save at one half."""
    place = tmp_path_factory.mktemp("int4")
    pack(sparse_tiny_model(place / "sparse", share=0.75), place / "int4", values="int4")
    return place / "int4"
