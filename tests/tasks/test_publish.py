"""Pushing to the hub, against a stand-in for it on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Hub, running_hub
from huggingface_hub import ModelCard, constants

ORDER = ["prune", "--model", "model", "--metric", "magnitude", "--output-dir", "mine"]
PUSH = [*ORDER, "--push-to-hub", "me/mine"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(workplace: Path) -> Any:
    """Where the pruned model goes; gone afterwards."""
    yield workplace / "mine"
    shutil.rmtree(workplace / "mine", ignore_errors=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(done: Any, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.index("Error:") :].strip()
    assert "\n" not in told and told.endswith(".")
    for word in words:
        assert word in told


def test_the_whole_folder_is_pushed_in_one_commit(hub, in_workplace, folder):
    done = in_workplace(*PUSH)
    assert done.exit_code == 0, done.output
    assert f"Pushed to {hub.address}/me/mine" in done.stdout
    there = hub.repositories["me/mine"]
    del there[".gitattributes"]
    assert there == files_of(folder)
    assert {"model.safetensors", "README.md", "recipe.yaml", "metric.json"} <= set(there)
    assert hub.commits == 1


def test_a_new_repository_is_private(hub, in_workplace, folder):
    in_workplace(*PUSH)
    assert hub.private == {"me/mine"}


def test_the_card_loads_the_model_from_where_it_is(hub, in_workplace, folder):
    in_workplace(*PUSH)
    card = ModelCard(hub.repositories["me/mine"]["README.md"].decode())
    assert 'from_pretrained("me/mine")' in card.content
    assert card.data.library_name == "transformers"


def test_a_repository_that_holds_files_is_left_alone(hub, in_workplace, folder):
    hub.repositories["me/mine"] = {"model.safetensors": b"precious"}
    refused(in_workplace(*PUSH), "me/mine", "not empty")
    assert hub.repositories["me/mine"] == {"model.safetensors": b"precious"}
    assert not folder.exists()


def test_an_empty_repository_is_filled(hub, in_workplace, folder):
    hub.repositories["me/mine"] = {".gitattributes": b"as it was"}
    assert in_workplace(*PUSH).exit_code == 0
    assert hub.repositories["me/mine"][".gitattributes"] == b"as it was"
    assert len(hub.repositories["me/mine"]) > 5


def test_without_a_token_nothing_is_begun(hub, in_workplace, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    refused(in_workplace(*PUSH), "hf auth login", "HF_TOKEN")
    assert not folder.exists() and not hub.requests


def test_a_token_that_is_not_accepted_is_told_before_the_work(
    hub, in_workplace, folder, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    refused(in_workplace(*PUSH), "Invalid credentials")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/", "me/mi ne"])
def test_a_name_that_cannot_be_is_told_before_the_work(hub, in_workplace, folder, name):
    refused(in_workplace(*ORDER, "--push-to-hub", name), "no hub repository")
    assert not folder.exists() and not hub.repositories


def test_a_hub_out_of_reach_is_told_before_the_work(in_workplace, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(in_workplace(*PUSH), "the hub was asked for me/mine")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("step", "status", "message"),
    [
        ("/api/repos/create", 403, "You don't have the rights to create a model under 'me'"),
        ("/preupload/", 403, "This token may only read"),
        ("/objects/batch", 403, "Storage quota exceeded"),
        ("/upload/", 403, "Signature has expired"),
        ("/commit/", 412, "The repository was changed meanwhile"),
    ],
)
def test_a_push_that_fails_shows_nothing_on_the_hub_and_keeps_the_folder(
    hub: Hub, in_workplace, folder, step, status, message
):
    hub.refused[step] = (status, message)
    done = in_workplace(*PUSH)
    refused(done, "complete in 'mine'", "hf upload me/mine mine . --private", message)
    assert set(hub.repositories.get("me/mine", {})) <= {".gitattributes"}
    assert json.loads((folder / "figures.json").read_text())["pushed_to"] is None
    assert (folder / "model.safetensors").is_file()
