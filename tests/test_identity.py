"""What is the same model, text or setting, and what is not: each byte counts, no spelling does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

from prunerzero import identity
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    return save_tiny_model(tmp_path / "model")


def identity_of(folder: Path | str, **options: Any) -> dict[str, str]:
    return load_model(ModelSource(str(folder), device="cpu", **options)).identity()


def changed(folder: Path, name: str) -> set[str]:
    """Which parts of the identity differ between a folder and its copy of that name."""
    before, now = identity_of(folder), identity_of(folder.with_name(name))
    return {part for part in before if before[part] != now[part]}


def copy(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Models


def test_a_path_however_spelt_is_the_same_model(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").symlink_to("model")
    spellings = ["model", "./model", "model/", "../" + folder.parent.name + "/model", str(folder)]
    assert len({str(identity_of(name)) for name in [*spellings, "link"]}) == 1


def test_a_copy_elsewhere_is_the_same_model(folder):
    copy(folder, "copy")
    assert changed(folder, "copy") == set()


@pytest.mark.parametrize("seed", range(5))
def test_every_weight_counts(folder, seed):
    generator = torch.Generator().manual_seed(seed)
    other = copy(folder, "other")
    tensors = load_file(other / WEIGHTS)
    name = sorted(tensors)[int(torch.randint(len(tensors), (), generator=generator))]
    flat = tensors[name].view(-1)
    index = int(torch.randint(flat.numel(), (), generator=generator))
    flat[index] = torch.nextafter(flat[index], torch.tensor(torch.inf))
    save_file(tensors, other / WEIGHTS, metadata={"format": "pt"})
    assert changed(folder, "other") == {"weights"}


def test_how_weights_are_spread_over_files_does_not_count(folder):
    sharded = copy(folder, "sharded")
    (sharded / WEIGHTS).unlink()
    tiny_model().save_pretrained(sharded, max_shard_size="2KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert changed(folder, "sharded") == set()


def test_files_that_transformers_does_not_read_do_not_count(folder):
    other = copy(folder, "other")
    tensors = load_file(other / WEIGHTS)
    save_file({k: v + 1 for k, v in tensors.items()}, other / "model_ema.safetensors")
    (other / "model-00001-of-00002.safetensors").write_bytes(b"half of a shard")
    (other / "notes.txt").write_text("nothing")
    assert changed(folder, "other") == set()


def test_the_type_of_the_weights_counts(folder):
    other = copy(folder, "other")
    tiny_model().to(torch.bfloat16).save_pretrained(other)
    assert changed(folder, "other") == {"weights", "config"}


@pytest.mark.parametrize(
    "values", [{"hidden_act": "relu"}, {"rms_norm_eps": 0.1}, {"tie_word_embeddings": False}]
)
def test_the_config_counts(folder, values):
    edit_config(copy(folder, "other"), **values)
    if "tie_word_embeddings" in values:
        tensors = load_file(folder.with_name("other") / WEIGHTS)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder.with_name("other") / WEIGHTS, metadata={"format": "pt"})
    assert "config" in changed(folder, "other")


def test_paths_and_versions_in_a_config_do_not_count(folder):
    edit_config(
        copy(folder, "other"),
        _name_or_path="/elsewhere",
        transformers_version="4.40.0",
        attention_dropout=0.0,  # a default, spelt out
    )
    assert changed(folder, "other") == set()


def test_the_tokenizer_counts(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(copy(folder, "other"))
    assert changed(folder, "other") == {"tokenizer"}


# Reading once


def settle(folder: Path) -> None:
    """Make the weights old enough that their time of change tells a further change."""
    weights = folder / WEIGHTS
    past = weights.stat().st_mtime_ns - 10 * identity._SETTLED
    os.utime(weights, ns=(past, past))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all tensors that were hashed."""
    seen: list[tuple[int, ...]] = []
    whole = identity.of_tensor
    monkeypatch.setattr(identity, "of_tensor", lambda t: (seen.append(tuple(t.shape)), whole(t))[1])
    monkeypatch.setattr(identity, "_SETTLED", 0)
    return seen


def test_a_file_is_read_once(folder, hashed):
    first = identity_of(folder)
    count = len(hashed)
    assert count == len(load_file(folder / WEIGHTS))
    assert identity_of(folder) == first
    assert len(hashed) == count


def test_a_file_that_changes_is_read_again_though_its_size_and_date_stay(folder, hashed):
    first = identity_of(folder)
    weights = folder / WEIGHTS
    before = weights.stat()
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    assert identity_of(folder)["weights"] != first["weights"]


def test_a_file_that_has_only_just_changed_is_not_remembered(folder):
    first = identity_of(folder)["weights"]
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert identity_of(folder)["weights"] != first
    assert not (folder.parent / "cache" / "weights").exists()


# Texts and settings


@given(st.lists(st.integers(0, 31), min_size=8, max_size=8), st.integers(0, 7))
def test_every_token_of_a_text_counts(ids, place):
    windows = torch.tensor(ids).reshape(2, 4)
    other = windows.clone().view(-1)
    other[place] += 1
    assert identity.of_windows(windows) == identity.of_windows(windows.clone())
    assert identity.of_windows(windows) != identity.of_windows(other.reshape(2, 4))
    assert identity.of_windows(windows) != identity.of_windows(windows.reshape(4, 2))


names = st.text("abc", min_size=1, max_size=3)
values = st.none() | st.integers() | st.text("xy", max_size=3) | st.lists(st.integers(), max_size=2)
identities = st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=4)


@given(identities)
def test_equal_settings_do_not_differ(settings):
    assert identity.difference(settings, json.loads(json.dumps(settings))) is None


@given(identities, names, values)
def test_what_differs_is_named(settings, name, value):
    changed = {**settings, name: value}
    told = identity.difference(settings, changed)
    if name in settings and settings[name] == value:
        assert told is None
    elif told is not None:
        assert name in told


def test_digests_are_not_shown():
    a, b = identity.digest("a"), identity.digest("b")
    before = {"model": {"weights": a, "config": a}, "seed": 0}
    now = {"model": {"weights": b, "config": a}, "seed": 1}
    assert identity.difference(before, now) == "other model weights, seed 0, not 1"
