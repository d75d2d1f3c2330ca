"""Parts of a text that are not apart: refused, or told, by what is read and not by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_model import some_text, tiny_model, tiny_tokenizer

from prunerzero import Setup, search
from prunerzero.errors import TextError

MODEL = ["--model", "model", "--max-seq-length", "64"]
A, B, C = "--calibration", "--validation", "--test"
SEARCH = ["search", *MODEL, "--evaluations", "2"]
TUNE = ["tune", *MODEL, "--evaluations", "0", "--samples", "0"]


@pytest.fixture(scope="module", autouse=True)
def files(workplace: Path) -> None:
    """Three texts, and of the first a copy, one with a line before it, and one that holds it."""
    for seed, name in enumerate(("one", "two", "three"), start=50):
        (workplace / f"{name}.txt").write_text(some_text(seed, 4000))
    one = some_text(50, 4000)
    shutil.copy(workplace / "one.txt", workplace / "copy.txt")
    (workplace / "later.txt").write_text("of other words\n" + one)
    (workplace / "longer.txt").write_text(some_text(53, 1500) + one)


REFUSED = {
    "one file for every part": (A, "one.txt", B, "one.txt", C, "one.txt"),
    "the calibration text tested": (A, "one.txt", B, "two.txt", C, "one.txt"),
    "the validation text tested": (A, "two.txt", B, "one.txt", C, "one.txt"),
    "a copy": (A, "two.txt", B, "one.txt", C, "copy.txt"),
    "a text with a line before it": (A, "later.txt", B, "two.txt", C, "one.txt"),
    "a text within a longer one": (A, "two.txt", B, "longer.txt", C, "one.txt"),
    "one of several texts": (A, "two.txt", B, "three.txt", B, "one.txt", C, "later.txt"),
    "other numbers of windows": (
        *(A, "two.txt", B, "one.txt", C, "later.txt"),
        *("--num-validation-samples", "11", "--num-test-samples", "17"),
    ),
}


@pytest.mark.parametrize("command", [SEARCH, TUNE], ids=["search", "tune"])
@pytest.mark.parametrize("texts", REFUSED.values(), ids=REFUSED)
def test_test_text_that_a_choice_has_seen_is_refused(command, texts, in_workplace, workplace):
    done = in_workplace(*command, *texts, "--output-dir", "seen")
    assert done.exit_code == 2
    assert "windows of the test text" in done.stderr and "no choice has seen" in done.stderr
    assert "leave --test out" in done.stderr
    assert not (workplace / "seen").exists()


def test_the_same_text_is_refused_before_the_model_is_loaded(in_workplace):
    texts = (A, "one.txt", B, "one.txt", C, "copy.txt")
    for command in (SEARCH, TUNE):
        done = in_workplace(*command, *texts, "--output-dir", "seen")
        assert done.exit_code == 2 and "loading" not in done.stderr


def test_how_many_windows_were_seen_is_said(in_workplace):
    texts = (A, "two.txt", B, "three.txt", C, "later.txt")
    assert in_workplace(*SEARCH, *texts, "--output-dir", "apart").exit_code == 0
    seen = in_workplace(*SEARCH, *texts, A, "one.txt", "--output-dir", "seen").stderr
    assert " of the 62 windows of the test text 'later.txt' are also in the calibration" in seen


@pytest.mark.parametrize("other", [A, C])
def test_what_tune_sets_aside_is_held_against_what_was_named(other, in_workplace, workplace):
    asked = [*TUNE, B, "one.txt", other, "one.txt", "--output-dir", "seen"]
    assert "windows of the test text" in in_workplace(*asked).stderr
    assert not (workplace / "seen").exists()


def test_another_models_texts_have_been_seen_too(workplace, tmp_path):
    tiny_model(seed=5).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    texts = {"calibration": "three.txt", "validation": "one.txt", "test": "two.txt"}
    setups = [
        Setup(model, max_seq_length=64, **{part: workplace / name for part, name in given.items()})
        for model, given in (
            (str(workplace / "model"), texts),
            (str(tmp_path / "other"), texts | {"validation": "later.txt", "test": "copy.txt"}),
        )
    ]
    with pytest.raises(TextError, match="windows of the test text"):
        search(setups, 0.5, tmp_path / "run", evaluations=2)


def test_a_search_that_calibrates_on_what_it_judges_by_says_so_and_keeps_it(
    in_workplace, workplace
):
    asked = [*SEARCH, A, "later.txt", B, "one.txt", C, "two.txt", "--output-dir", "judged"]
    assert "windows of the validation text 'one.txt' are also in" in in_workplace(*asked).stderr
    [warning] = [w for w in kept_in(workplace / "judged" / "best.json") if "also in" in w]
    in_workplace("report", "judged")
    assert warning.split("'")[0] in (workplace / "judged" / "report.html").read_text()


def test_a_tuning_says_so_too(in_workplace, workplace):
    asked = [*TUNE, A, "one.txt", B, "copy.txt", C, "two.txt", "--update", "none"]
    in_workplace(*asked, "--max-degradation", "900%", "--output-dir", "tuned-on-it")
    assert any("also in" in w for w in kept_in(workplace / "tuned-on-it" / "tune.json"))
    assert "also in the calibration text" in (workplace / "tuned-on-it/report.html").read_text()


def test_a_pruned_model_says_that_it_was_fitted_to_what_it_is_measured_on(in_workplace, workplace):
    asked = ["prune", *MODEL, A, "one.txt", C, "later.txt", "--metric", "wanda"]
    for extra in ([], ["--block-by-block"]):
        folder = f"fitted{len(extra)}"
        done = in_workplace(*asked, *extra, "--output-dir", folder)
        assert "windows of the test text are also in the calibration text" in done.stderr
        assert "also in the calibration text" in (workplace / folder / "README.md").read_text()


def test_what_reads_no_text_is_fitted_to_none(in_workplace):
    asked = ["--metric", "magnitude", "--output-dir", "unfitted"]
    done = in_workplace("prune", *MODEL, A, "one.txt", C, "one.txt", *asked)
    assert "also in" not in done.stderr


@pytest.mark.parametrize("named", [(C, "one.txt"), ("--text", "later.txt")])
def test_metrics_compared_on_what_they_were_fitted_to_are_told(named, in_workplace):
    asked = ["compare", *MODEL, A, "one.txt", *named, "--json"]
    both: list[Any] = []
    for metrics in ("wanda,magnitude", "magnitude"):
        both.append(json.loads(in_workplace(*asked, "--metrics", metrics).stdout)["warnings"])
    assert any("also in the calibration text 'one.txt'" in warning for warning in both[0])
    assert not any("also in" in warning for warning in both[1])


def kept_in(file: Path) -> list[str]:
    warnings: list[str] = json.loads(file.read_text())["warnings"]
    return warnings
