"""Tasks of lm-evaluation-harness, on a small task of our own: no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TASK = """\
task: letters
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.5
"""


def needs_harness() -> None:
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed: pip install 'prunerzero[eval]'"
    )


@pytest.fixture
def task(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task whose choices differ in length, so that acc and acc_norm differ."""
    needs_harness()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = workplace / "tasks"
    folder.mkdir(exist_ok=True)
    rows = [
        {"question": f"after {a} comes", "choices": [" b", f" {b} and so on"], "answer": 1}
        for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
    ]
    data = folder / "letters.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (folder / "letters.yaml").write_text(TASK.format(data=data))
    return folder


def run(in_workplace: Any, *arguments: str) -> Any:
    done = in_workplace("eval", "--model", "model", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_folder_and_a_file_name_the_same_task(in_workplace, task):
    by_folder = run(in_workplace, "--tasks", "tasks")
    by_file = run(in_workplace, "--tasks", "tasks/letters.yaml")
    assert by_folder["tasks"] == by_file["tasks"]
    scores = {score["metric"]: score for score in by_folder["tasks"]}
    assert set(scores) == {"acc", "acc_norm"}
    for score in scores.values():
        assert (score["task"], score["examples"], score["version"]) == ("letters", 12, "1.5")
        assert 0 <= score["value"] <= 1
        assert score["error"] is not None
    assert by_folder["texts"] == [] and by_folder["perplexity"] is None


def test_scores_stand_beside_the_reference_s(in_workplace, task):
    found = run(
        in_workplace, "--reference", "model", "--tasks", "tasks", "--examples", "5", "--text",
        "test.txt",
    )  # fmt: skip
    assert found["tasks"] == found["reference_tasks"]
    assert all(score["examples"] == 5 for score in found["tasks"])
    assert found["texts"]
    shown = in_workplace("eval", "--model", "model", "--tasks", "tasks").stdout
    assert "acc" in shown and "acc_norm" in shown and "±" in shown


def test_a_task_can_be_the_limit_of_tune(in_workplace, task, workplace):
    asked = ["tune", "--model", "model", "--evaluations", "0", "--samples", "0"]
    for part in ("calibration", "validation", "test"):
        asked += [f"--{part}", f"{part}.txt"]
    limit = f"{task / 'letters.yaml'}:acc_norm:0.1"
    done = in_workplace(*asked, "--task-metric", limit, "--output-dir", "by-task", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    scores = result["task"]
    assert result["limit"]["min_score"] == pytest.approx(scores["dense"] - 0.1)
    assert result["reached"]
    assert scores["pruned"] >= result["limit"]["min_score"]
    assert scores["examples"] == 12
    measured = [point for point in result["curve"] if point["score"] is not None]
    for point in measured:
        assert point["within"] == (point["score"] >= result["limit"]["min_score"])
    assert all(p["within"] is None for p in result["curve"] if p["step"] == "choice")
    assert "acc_norm" in result["answer"]
    assert result["decision"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc_eazy", ["no task 'arc_eazy'"]),
        ("tasks/nowhere.yaml", ["tasks/nowhere.yaml"]),
        ("model", ["model", "no task"]),
        ("arc_easy", ["arc_easy", "could not be loaded"]),
    ],
)
def test_a_task_that_cannot_be_had_is_told_in_one_sentence(in_workplace, task, name, words):
    done = in_workplace("eval", "--model", "model", "--tasks", name)
    assert done.exit_code == 2, done.output
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_harness_one_sentence_says_what_to_install(in_workplace, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    done = in_workplace("eval", "--model", "model", "--tasks", "arc_easy")
    assert done.exit_code == 2
    assert "pip install 'prunerzero[eval]'" in done.stderr


def test_without_a_connection_it_says_at_once_what_to_do(in_workplace, monkeypatch, capfd):
    needs_harness()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = in_workplace("eval", "--model", "model", "--tasks", "arc_easy")
    assert done.exit_code == 2
    assert "the hub cannot be reached" in done.stderr and ".yaml file" in done.stderr
    assert "Retrying" not in done.stderr + capfd.readouterr().err
