"""A search under an update builds metrics that may read D, unless the user wants the paper's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prunerzero.tasks.operators import operators_told, operators_under

SEARCH = ["search", "--model", "model", "--max-seq-length", "32", "--evaluations", "2"]
TEXTS = ["--calibration", "calibration.txt", "--validation", "validation.txt"]
FEW = ["--num-calibration-samples", "16", "--num-validation-samples", "16"]
UPDATE = ["--update", "least-squares"]


@pytest.fixture
def searched(in_workplace: Any, tmp_path: Any) -> Any:
    """Options of a search → what ``best.json`` holds, and what was said."""

    def run(*options: str) -> tuple[dict[str, Any], str]:
        folder = tmp_path / "run"
        done = in_workplace(*SEARCH, *TEXTS, *FEW, *options, "--output-dir", str(folder))
        assert done.exit_code == 0, done.stderr
        best = json.loads((folder / "best.json").read_text())
        assert in_workplace("report", str(folder)).exit_code == 0
        operators = best["settings"]["search"]["operators"]
        assert f"{operators} operators" in (folder / "report.html").read_text()
        return best, done.stderr

    return run


def test_without_an_update_they_are_the_papers_and_nothing_is_said(searched: Any) -> None:
    best, said = searched()
    assert best["settings"]["search"]["operators"] == "published"
    assert "obs" not in best["known"] and "operators" not in said


def test_under_an_update_they_are_extended_so_that_obs_is_among_the_known(searched: Any) -> None:
    best, said = searched(*UPDATE)
    assert best["settings"]["search"]["operators"] == "extended"
    assert "obs" in best["known"]
    assert "may read D" in said and "pass --operators published for those of the paper" in said


def test_asked_for_the_papers_it_says_what_is_left_out(searched: Any) -> None:
    best, said = searched(*UPDATE, "--operators", "published")
    assert best["settings"]["search"]["operators"] == "published"
    assert "obs" not in best["known"]
    assert "the published operators cannot read D: obs (W * D), fisher-obs (W * G ** 0.75" in said
    assert said.index("fisher-obs") < said.index("pass --operators extended to have them")


def test_what_was_asked_for_is_taken() -> None:
    for update in ("none", "least-squares"):
        for asked in ("published", "extended"):
            assert operators_under(update, asked) == asked  # type: ignore[arg-type]
        assert operators_told(update, "extended") is None  # type: ignore[arg-type]
