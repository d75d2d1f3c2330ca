"""The report of a run, whatever the run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prunerzero.report import run_charts, write_run_report
from prunerzero.report.ancestry import ancestry, uses

NAMES = {
    "W": {"W"},
    "X": {"X"},
    "W * X": {"mul", "W", "X"},
    "W * sqrt(X)": {"mul", "W", "sqrt", "X"},
    "W * sqrt(X) * G": {"mul", "W", "sqrt", "X", "G"},
    "exp(G)": {"exp", "G"},
}


def evaluation(number: int, expression: str, perplexity: float | None, **more: Any) -> Any:
    return {
        "number": number,
        "expression": expression,
        "state": "complete" if perplexity else "failed",
        "loss": None,
        "perplexity": perplexity,
        "chunks_read": 16 if perplexity else 0,
        "chunks": 16,
        "size": 2 * len(NAMES[expression]) - 1,
        "origin": "random",
        "parents": [],
        "seconds": 2.0 * number + 1,
        "duplicates_skipped": 1,
        **more,
    }


@pytest.fixture
def run() -> list[dict[str, Any]]:
    return [
        evaluation(0, "W", 480.0),
        evaluation(1, "X", 5e12, state="raced_out", chunks_read=1),
        evaluation(2, "W * X", 60.0, origin="crossover", parents=[0, 1]),
        evaluation(4, "exp(G)", None),
        evaluation(5, "W * sqrt(X)", 47.3, origin="insertion", parents=[2]),
        evaluation(7, "W * sqrt(X) * G", 46.1, origin="crossover", parents=[5, 5]),
    ]


@pytest.fixture
def best() -> dict[str, Any]:
    return {
        "metric": "W * sqrt(X) * G",
        "tree": {"data": "mul", "left": {"data": "W"}, "right": {"data": "G"}},
        "sparsity": "0.5",
        "group": "row",
        "seed": 3,
        "evaluations": 6,
        "duplicates_skipped": 11,
        "seconds": 75.0,
        "perplexity": {"validation": {"dense": 21.4, "evolved": 46.3}},
        "known": {"wanda": 47.3, "power-law": 46.6, "magnitude": 480.9},
        "pareto": [
            {"metric": "W", "size": 1, "perplexity": 480.0},
            {"metric": "W * sqrt(X) * G", "size": 9, "perplexity": 46.1},
        ],
        "settings": {
            "model": "model.gguf",
            "texts": {"validation": "validation.txt"},
            "windows": {"validation": 22},
            "max_seq_length": 2048,
            "search": {"strategy": "evolution", "operators": "extended"},
        },
    }


SIZES = {"wanda": 4, "power-law": 7, "magnitude": 1}


def page(path: Path, best: dict[str, Any], run: list[dict[str, Any]], **more: Any) -> str:
    write_run_report(path, best, run, NAMES, SIZES, **more)
    return path.read_text(encoding="utf-8")


def own_text(html: str) -> str:
    return re.sub(r'<script id="plotly">.*?</script>', "", html, flags=re.S)


def test_the_page_says_what_was_found_and_against_what(tmp_path, best, run):
    html = own_text(page(tmp_path / "r.html", best, run))
    heading = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert heading == (
        "At 50 % sparsity, 6 evaluations found a metric of perplexity 46.10,"
        " where the power law gives 46.60 and Wanda 47.30."
    )


def test_a_search_that_does_not_win_says_so(tmp_path, best, run):
    best["known"]["power-law"] = 40.0
    html = own_text(page(tmp_path / "r.html", best, run))
    assert "found no better metric: 46.10, where the power law gives 40.00" in html


def test_the_page_needs_no_network_and_escapes_what_it_shows(tmp_path, best, run):
    best["settings"]["model"] = "</script><img src=x>"
    html = page(tmp_path / "r.html", best, run)
    assert "default-src 'none'" in html
    assert "<img src=x>" not in html
    assert not re.search(r'(?:src|href)="https?://(?!arxiv\.org)', own_text(html))


def test_a_baseline_is_drawn_and_compared_at_equal_evaluations(tmp_path, best, run):
    html = own_text(page(tmp_path / "r.html", best, run, baseline=run[:3]))
    assert "After 3 evaluations each, random search is at 60.00, this search at 60.00." in html
    assert "random search, best so far" in html


@pytest.mark.parametrize("missing", ["known", "pareto", "settings", "perplexity"])
def test_a_run_that_lacks_something_still_has_a_page(tmp_path, best, run, missing):
    del best[missing]
    assert "<h1>" in page(tmp_path / "r.html", best, run)


def test_a_run_of_one_evaluation_has_a_page_without_ancestry(tmp_path, best, run):
    best["metric"] = "W"
    assert 'id="chart-ancestry"' not in page(tmp_path / "r.html", best, run[:1])


def test_the_family_holds_all_ancestors_and_the_main_line_the_better_parents(run):
    family = ancestry(run, "W * sqrt(X) * G")
    assert [ancestor.number for ancestor in family] == [0, 1, 2, 5, 7]
    assert [ancestor.number for ancestor in family if ancestor.in_main_line] == [0, 2, 5, 7]
    assert family[-1].place == 6


def test_a_winner_that_is_not_in_the_history_has_no_family(run):
    assert ancestry(run, "G") == []


def test_uses_are_shares_of_the_best_tenth_and_of_all_that_gave_a_number(run):
    found = {name: (best, every) for name, best, every in uses(run, NAMES)}
    assert found["G"] == (1.0, 0.2)
    assert found["W"] == (1.0, 0.8)
    assert "exp" not in found


def test_the_course_changes_between_evaluations_and_time(run, best):
    chart = run_charts.course_chart(run, best["known"])
    for trace in chart.data:
        assert len(trace.meta["seconds"]) == len(trace.meta["evaluations"]) == len(trace.x)


def test_labels_of_known_metrics_keep_apart(run):
    known = {"wanda": 47.30, "gblm": 47.31, "power-law": 47.29}
    places = sorted(note.y for note in run_charts.course_chart(run, known).layout.annotations)
    assert len(places) == 3
    assert all(b - a > 0.05 for a, b in zip(places, places[1:], strict=False))


def test_a_hopeless_known_metric_does_not_stretch_the_axis(run, best):
    axis = run_charts.course_chart(run, best["known"]).layout.yaxis
    assert 10 ** axis.range[1] < 60


def test_every_proposal_is_accounted_for(tmp_path, best, run):
    figures = re.search(r"fate: (\{.*\}),$", own_text(page(tmp_path / "r.html", best, run)), re.M)
    bars = json.loads(figures[1])["data"][0]["text"]
    assert bars == ["11", "1", "1", "4"]
