"""Fetching the files of a checkpoint from the hub."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from tiny_model import save_tiny_model

from prunerzero.errors import ModelError
from prunerzero.language import locate
from prunerzero.language.download import checkpoint_folder
from prunerzero.language.source import ModelSource


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that the hub shall have; what is fetched comes to ``cache``."""
    there, cache = save_tiny_model(tmp_path / "there"), tmp_path / "cache"
    cache.mkdir()

    def snapshot(
        name: str,
        allow_patterns: list[str] | None,
        ignore_patterns: list[str] | None,
        **_: object,
    ) -> str:
        for file in there.iterdir():
            wanted = allow_patterns is None or any(fnmatch(file.name, p) for p in allow_patterns)
            if wanted and not any(fnmatch(file.name, p) for p in ignore_patterns or ()):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(locate, "ask_hub", lambda *_: "there")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return there


def test_the_weights_that_transformers_loads_are_fetched_and_no_others(repository: Path) -> None:
    for name in ("pytorch_model.bin", "consolidated.safetensors", "model.gguf", "notes.txt"):
        (repository / name).write_text("other")
    folder = checkpoint_folder(ModelSource("of-somebody/model"))
    fetched = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "notes.txt"} <= fetched
    assert not fetched & {"pytorch_model.bin", "consolidated.safetensors", "model.gguf"}


def test_several_files_of_weights_are_those_in_the_index(repository: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(repository)
    (repository / "model.safetensors").unlink()
    model.save_pretrained(repository, max_shard_size="5KB")
    shutil.copy(repository / "model-00001-of-00004.safetensors", repository / "other.safetensors")
    folder = checkpoint_folder(ModelSource("of-somebody/model"))
    fetched = {file.name for file in folder.glob("*.safetensors")}
    assert len(fetched) > 1 and all(name.startswith("model-0000") for name in fetched)


def test_a_repository_without_safetensors_is_refused(repository: Path) -> None:
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        checkpoint_folder(ModelSource("of-somebody/model"))


def test_a_gguf_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="prune it first"):
        checkpoint_folder(ModelSource(str(tmp_path / "model.gguf")))
