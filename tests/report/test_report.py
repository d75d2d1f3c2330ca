"""What the page of a run promises to whoever opens it, with all that the demo adds to it."""

import copy
import os
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_case import NAMES, SIZES

from prunerzero.report import comparison, rendering, write_run_report
from prunerzero.report.wording import perplexity_text

HOSTILE = "</script><script>alert('&')</script><img src=x onerror=alert(1)>"
Results = dict[str, Any]


@pytest.fixture
def results(best: Any, run: Any, summary: Any, layers: Any) -> Results:
    return {"best": best, "run": run, "summary": summary, "layers": layers}


def written(folder: Path, results: Results) -> str:
    path = folder / "report.html"
    names = {e["expression"]: NAMES.get(e["expression"], set()) for e in results["run"]}
    compared = comparison(results["summary"], results["layers"])
    write_run_report(path, results["best"], results["run"], names, SIZES, compared=compared)
    return path.read_text(encoding="utf-8")


def visible(html: str) -> str:
    """What a reader sees: text without tags and scripts."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_is_fetched_from_anywhere(tmp_path, results):
    html = written(tmp_path, results)
    for tag, attributes in Tags(html).found:
        assert tag != "link" and "src" not in attributes
        if "href" in attributes:
            assert tag == "a"
    assert "@import" not in html and "url(" not in html and "import(" not in html
    assert "default-src 'none'" in html


def test_plotly_is_inside_exactly_once(tmp_path, results, with_plotly):
    page = written(tmp_path, results)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert sum(len(script) > 1_000_000 for script in scripts) == 1


def test_every_figure_of_a_comparison_can_be_read(tmp_path, results):
    text, summary = visible(written(tmp_path, results)), results["summary"]
    measured = [*summary["perplexity"].values(), *summary["refitted"].values()]
    measured.append(summary["patterns"]["2:4"]["test"])
    for value in (value for part in measured for value in part.values()):
        assert perplexity_text(value) in text
    for key in ("metric", "command", "machine"):
        assert summary[key] in text
    for formula in summary["catalog"].values():
        assert formula in text


def test_the_parts_come_in_the_order_of_interest(tmp_path, results):
    html = written(tmp_path, results)
    landmarks = [
        "<h1>",
        "Duplicates skipped",
        'id="chart-course"',
        'class="tree"',
        'id="chart-perplexity"',
        "2:4 sparsity",
        'id="chart-sparsity"',
        'id="chart-size"',
        "To repeat it",
    ]
    places = [html.index(landmark) for landmark in landmarks]
    assert places == sorted(places)


def test_hostile_names_stay_text(tmp_path, results):
    best, summary = results["best"], results["summary"]
    best |= {"metric": HOSTILE, "seed": HOSTILE}
    best["tree"]["data"] = HOSTILE
    best["settings"] |= {"model": HOSTILE, "texts": {"validation": HOSTILE}}
    best["known"][HOSTILE] = 47.0
    best["pareto"][0]["metric"] = HOSTILE
    summary |= {key: HOSTILE for key in ("metric", "command", "machine")}
    summary["perplexity"]["test"][HOSTILE] = 36.0
    summary["catalog"]["wanda"] = HOSTILE
    summary["patterns"][HOSTILE] = summary["patterns"]["2:4"]
    for evaluation in results["run"]:
        evaluation |= {"expression": HOSTILE, "origin": HOSTILE}
    results["layers"][0]["name"] = f"model.layers.{HOSTILE}.0.{HOSTILE}"
    html = written(tmp_path, results)

    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 2
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in tags)
    assert "alert('&')" in visible(html)


def test_a_number_that_is_missing_is_a_dash(tmp_path, results):
    perplexity = results["summary"]["perplexity"]
    perplexity["test"]["ria"] = None
    perplexity["validation"]["ria"] = float("nan")
    text = visible(written(tmp_path, results))
    assert "RIA — — —" in text
    assert "nan" not in text.lower() and "None" not in text


def test_an_existing_report_is_replaced_only_whole(tmp_path, results, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old report")

    def full_disk(source: Path, target: Path) -> None:
        assert Path(source).read_text(encoding="utf-8").rstrip().endswith("</html>")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rendering.os, "replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            written(tmp_path, results)
    assert path.read_text() == "the old report"
    assert os.listdir(tmp_path) == ["report.html"]

    assert "31.24" in written(tmp_path, results)
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_results_are_left_as_they_were(tmp_path, results):
    before = copy.deepcopy(results)
    written(tmp_path, results)
    assert results == before
