"""What a tuning leaves for people: the report in their language, and the model on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, running_hub
from huggingface_hub import constants
from tiny_model import some_text

ORDER = ["tune", "--model", "model", "--validation", "mine.txt", "--max-degradation", "2%"]
ORDER += ["--evaluations", "0", "--samples", "1", "--output-dir", "answer"]


@pytest.fixture
def asked(in_workplace: Callable[..., Any], workplace: Path) -> Any:
    """The folder of an answer; asking again with other words for it is quick."""
    (workplace / "mine.txt").write_text(some_text(7, 8000))
    done = in_workplace(*ORDER)
    assert done.exit_code == 0, done.output
    assert "Report: answer/report.html" in done.stdout
    return workplace / "answer"


def test_the_report_tells_what_json_tells(asked):
    result = json.loads((asked / "tune.json").read_text())
    page = (asked / "report.html").read_text()
    assert '<html lang="en">' in page and "</html>" in page
    for told in (result["metric"]["formula"], *result["commands"], result["samples"][0]["dense"]):
        assert told.strip()[:20] in page
    assert f"{100 * result['sparsity']:g}" in page


def test_the_same_answer_can_be_had_in_japanese(asked, in_workplace):
    before = (asked / "tune.json").read_bytes()
    done = in_workplace(*ORDER, "--language", "ja")
    assert done.exit_code == 0, done.output
    page = (asked / "report.html").read_text()
    assert '<html lang="ja">' in page
    assert "mine.txt を連続する 16 ブロックに分け" in page
    assert (asked / "tune.json").read_bytes() == before


def test_the_report_can_be_written_again_from_the_folder_alone(asked, in_workplace):
    english = (asked / "report.html").read_text()
    shown = in_workplace("report", "answer", "--language", "ja", "--json")
    assert json.loads(shown.stdout)["of"] == "tune"
    assert json.loads(shown.stdout)["language"] == "ja"
    assert '<html lang="ja">' in (asked / "report.html").read_text()
    assert in_workplace("report", "answer").exit_code == 0
    assert (asked / "report.html").read_text() == english


def test_the_curve_is_drawn_around_what_was_found(asked):
    result = json.loads((asked / "tune.json").read_text())
    drawn = [point["sparsity"] for point in result["curve"] if point["step"] == "outline"]
    assert drawn == sorted(drawn)
    # what was found may lie above the tenths that are drawn, among those that found it
    measured = [point["sparsity"] for point in result["curve"]]
    assert max(measured) > result["sparsity"] > min(drawn)
    assert max(drawn) > min(result["sparsity"], 0.89)


def test_the_pruned_model_is_pushed(asked, in_workplace, monkeypatch):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        done = in_workplace(*ORDER, "--push-to-hub", "me/tuned")
    assert done.exit_code == 0, done.output
    assert "Pushed to me/tuned" in done.stdout
    there = hub.repositories["me/tuned"]
    del there[".gitattributes"]
    assert there == {path.name: path.read_bytes() for path in (asked / "model").iterdir()}
    assert hub.private == {"me/tuned"}


def test_nothing_is_measured_where_the_model_could_not_be_pushed(
    in_workplace, workplace, monkeypatch, tmp_path
):
    (workplace / "mine.txt").write_text(some_text(7, 8000))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    done = in_workplace(*ORDER[:-1], "never", "--push-to-hub", "me/tuned")
    assert done.exit_code == 2
    assert "HF_TOKEN" in done.stderr
    assert not (workplace / "never").exists()
