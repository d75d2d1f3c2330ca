"""The report of a run, whatever the run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_case import NAMES, SIZES, evaluation

from prunerzero.report import run_charts, write_run_report
from prunerzero.report.ancestry import ancestry, uses


def page(path: Path, best: dict[str, Any], run: list[dict[str, Any]], **more: Any) -> str:
    write_run_report(path, best, run, NAMES, SIZES, **more)
    return path.read_text(encoding="utf-8")


def test_the_page_says_what_was_found_and_against_what(tmp_path, best, run):
    html = page(tmp_path / "r.html", best, run)
    heading = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert heading == (
        "At 50 % sparsity, 6 evaluations found a metric of perplexity 46.10,"
        " where the power law gives 46.60 and Wanda 47.30."
    )


def test_a_search_that_does_not_win_says_so(tmp_path, best, run):
    best["known"]["power-law"] = 40.0
    html = page(tmp_path / "r.html", best, run)
    assert "found no better metric: 46.10, where the power law gives 40.00" in html


def test_the_result_and_no_other_metric_is_compared_with_the_known_ones(tmp_path, best, run):
    """One that had less in the race, and more on the whole text, is not the result."""
    [own] = {e["perplexity"] for e in run if e["expression"] == best["metric"]}
    run = [*run, evaluation(9, "exp(G)", own - 5)]
    change = f"{own / best['known']['power-law'] - 1:+.2%}".replace("%", " %").replace("-", "−")
    assert f"{change} against the power law" in page(tmp_path / "r.html", best, run)


def test_the_page_needs_no_network_and_escapes_what_it_shows(tmp_path, best, run):
    best["settings"]["model"] = "</script><img src=x>"
    html = page(tmp_path / "r.html", best, run)
    assert "default-src 'none'" in html
    assert "<img src=x>" not in html
    assert not re.search(r'(?:src|href)="https?://(?!arxiv\.org)', html)


def test_a_baseline_is_drawn_and_compared_at_equal_evaluations(tmp_path, best, run):
    html = page(tmp_path / "r.html", best, run, baseline=run[:3])
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
    figures = re.search(r"fate: (\{.*\}),$", page(tmp_path / "r.html", best, run), re.M)
    bars = json.loads(figures[1])["data"][0]["text"]
    assert bars == ["11", "1", "1", "4"]


def test_every_figure_says_which_refit_stands_behind_it(tmp_path, best, run):
    few, exact = "after least-squares in 8 steps", "(least-squares in full)"
    best |= {"refit": "least-squares", "refit_of_candidates": "least-squares in 8 steps"}
    best["perplexity"]["test"] = {"dense": 20.0, "evolved": 40.0}
    html = page(tmp_path / "r.html", best, run)
    heading = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert heading.startswith("At 50 % sparsity (least-squares), 6 evaluations found")
    assert f"perplexity 46.10 {few}, where" in heading, "as the known ones beside it"
    aside = re.search(r'<p class="aside">(.*?)</p>', html)[1]
    assert f"the search reads {few}." in aside
    assert f"On the test text, which no search reads {exact}: 40.00, dense 20.00." in aside
    assert f"placed by its perplexity {few}" in html and f"<th>perplexity {few}</th>" in html
    axes = json.loads(re.search(r"course: (\{.*\}),$", html, re.M)[1])["layout"]["yaxis"]
    assert axes["title"]["text"] == f"perplexity {few}"
    best["known_on_validation"] = {"wanda": 48.0}
    heading = re.search(r"<h1>(.*?)</h1>", page(tmp_path / "s.html", best, run))[1]
    assert "found a metric of perplexity 46.30, where Wanda gives 48.00." in heading


def test_the_headline_and_the_change_below_it_are_of_the_same_text(tmp_path, best, run):
    """The best known metric on what a race reads may be another than on the whole text."""
    best |= {"refit": "least-squares", "refit_of_candidates": "least-squares in 8 steps"}
    best |= {"origin": "evolved", "best_known": "wanda", "judged_on": "whole"}
    best["known_on_validation"] = {"power-law": 49.0, "wanda": 48.0}
    best["perplexity"]["test"] = {"dense": 20.0, "evolved": 40.0, "wanda": 41.0}
    html = page(tmp_path / "r.html", best, run)
    assert "found a metric of perplexity 46.30, where Wanda gives 48.00." in html
    aside = re.search(r'<p class="aside">(.*?)</p>', html)[1]
    assert aside.startswith(
        "−3.54 % against Wanda, the best metric known before, on the whole validation text. "
        "On the test text, which no search reads (least-squares in full): 40.00, Wanda 41.00, "
        "dense 20.00."
    )


@pytest.mark.parametrize("origin", ["evolved", "known"])
def test_the_page_of_an_interrupted_search_tells_what_its_result_was_judged_by(
    tmp_path, best, run, origin
):
    few = "least-squares in 8 steps"
    best |= {"interrupted": True, "refit": few, "refit_of_candidates": few, "origin": origin}
    best |= {"name": "power-law" if origin == "known" else "evolved", "best_known": "power-law"}
    best |= {"judged": {"power-law": 46.6, "evolved": 46.1}, "judged_on": "race"}
    best["settings"] |= {"update": "least-squares", "refine": "none"}
    best["perplexity"] = {"validation": {"dense": 20.0}, "test": {}}
    html = page(tmp_path / "r.html", best, run)
    heading = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert heading.startswith(f"At 50 % sparsity ({few}), 6 evaluations found ")
    assert f"perplexity {'46.60' if origin == 'known' else '46.10'}" in heading
    assert (
        "Interrupted before the result was measured on the whole text after least-squares in full."
    ) in html
    assert "(least-squares)" not in html


def test_figures_are_called_better_where_low_only_where_there_are_some(tmp_path, best, run):
    best |= {"origin": "known", "name": "wanda", "perplexity": {}, "known_on_validation": {}}
    assert "Lower is better." not in page(tmp_path / "r.html", best, run)


def test_where_all_evaluations_went_to_known_metrics_the_page_asks_for_more(tmp_path, best, run):
    best |= {"origin": "known", "name": "wanda", "known_on_validation": {"wanda": 48.0}}
    run = [e | {"origin": "catalog"} for e in run]
    heading = re.search(r"<h1>(.*?)</h1>", page(tmp_path / "r.html", best, run))[1]
    assert "6 evaluations went to known metrics: allow more to evolve one." in heading


def test_the_headline_of_what_was_evolved_is_of_the_result_alone(tmp_path, best, run):
    """A known metric that the search began with, and that had less, is not the result."""
    seed = evaluation(9, "W * sqrt(X)", 40.0, origin="catalog")
    html = page(tmp_path / "r.html", best, [*run, seed])
    assert "7 evaluations found a metric of perplexity 46.10" in html


def test_what_could_not_be_measured_is_no_text_left_unread(tmp_path, best, run):
    raced = [e for e in run if e["state"] != "failed"]
    assert len(raced) < len(run)
    unread = 1 - sum(e["chunks_read"] for e in raced) / sum(e["chunks"] for e in raced)
    html = page(tmp_path / "r.html", best, run)
    assert f"<dt>Text left unread</dt><dd>{unread:.0%}".replace("%", " %") in html
    assert page(tmp_path / "s.html", best, raced).count(f"{unread:.0%}".replace("%", " %")) == 2


@pytest.mark.parametrize("texts", [["test"], ["test: a.txt", "test: b.txt"]])
def test_the_headline_of_several_cases_tells_each_test_text(tmp_path, best, run, texts):
    ratio = {"validation": 1.5} | {place: 1.6 + n / 10 for n, place in enumerate(texts)}
    perplexity = {place: {"dense": 10.0, "evolved": 10 * value} for place, value in ratio.items()}
    case = {"model": "a", "sparsity": "0.5", "perplexity": perplexity, "ratio": ratio}
    best |= {"cases": [case, case | {"sparsity": "2:4"}], "ratio": ratio, "perplexity": {}}
    aside = re.search(r'<p class="aside">(.*?)</p>', page(tmp_path / "r.html", best, run))[1]
    told = {
        1: "On the test text, which no search reads: 1.600 times dense.",
        2: "On the test texts, which no search reads: a.txt 1.600 times dense; b.txt 1.700 times "
        "dense.",
    }
    assert told[len(texts)] in aside


@pytest.mark.parametrize("texts", [["validation"], ["validation: a.txt", "validation: b.txt"]])
def test_beside_an_evolved_metric_each_of_several_validation_texts_has_the_best_known_one(
    tmp_path, best, run, texts
):
    best |= {"origin": "evolved", "name": "evolved", "best_known": "wanda"}
    figures = {"dense": 20.0, "evolved": 40.0, "wanda": 41.0}
    best["perplexity"] = {place: figures for place in ["validation", *texts]}
    aside = re.search(r'<p class="aside">(.*?)</p>', page(tmp_path / "r.html", best, run))[1]
    told = {
        1: "On all of that text: 40.00, dense 20.00.",  # the headline has Wanda's figure
        2: "On each of those texts: a.txt 40.00, Wanda 41.00, dense 20.00; b.txt 40.00, Wanda "
        "41.00, dense 20.00.",
    }
    assert told[len(texts)] in aside


def test_the_page_of_several_interrupted_cases_has_the_figures_of_the_race(tmp_path, best, run):
    case = {"model": "a", "sparsity": "0.5", "perplexity": {"test": {"dense": 9.0}}, "ratio": {}}
    best |= {"cases": [case, case | {"sparsity": "2:4"}], "ratio": {}, "perplexity": {}}
    best |= {"origin": "evolved", "name": "evolved", "best_known": "wanda"}
    best |= {"judged": {"evolved": 4.5, "wanda": 5.0}, "judged_on": "race"}
    table = page(tmp_path / "r.html", best, run).split("Case by case")[1].split("</table>")[0]
    row = [cell for cell in re.split(r"<[^>]*>", table.split("<tr>")[-1]) if cell.strip()]
    assert row == ["geometric mean", "validation, in the race", "4.500", "5.000"]
