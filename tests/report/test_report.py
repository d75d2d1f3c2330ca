"""What the page promises to whoever opens it."""

import copy
import os
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prunerzero.report import rendering, write_report
from prunerzero.report.wording import perplexity_text

HOSTILE = "</script><script>alert('&')</script><img src=x onerror=alert(1)>"


def written(folder: Path, summary: dict[str, Any], history: list[Any], layers: list[Any]) -> str:
    """The page without plotly's own code, which is the same in every report."""
    path = folder / "report.html"
    write_report(path, summary, history, layers)
    text = path.read_text(encoding="utf-8")
    return re.sub(r'(<script id="plotly">).*?(</script>)', r"\1\2", text, count=1, flags=re.DOTALL)


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


def test_nothing_is_fetched_from_anywhere(tmp_path, summary, history, layers):
    html = written(tmp_path, summary, history, layers)
    for tag, attributes in Tags(html).found:
        assert tag != "link" and "src" not in attributes
        if "href" in attributes:
            assert tag == "a"
    assert "@import" not in html and "url(" not in html and "import(" not in html
    assert "default-src 'none'" in html


def test_plotly_is_inside_exactly_once(tmp_path, summary, history, layers):
    path = tmp_path / "report.html"
    write_report(path, summary, history, layers)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
    assert sum(len(script) > 1_000_000 for script in scripts) == 1


def test_the_headline_is_the_answer_in_plain_words(tmp_path, summary, history, layers):
    html = written(tmp_path, summary, history, layers)
    headline = re.search(r"<h1>(.*?)</h1>", html)
    assert headline is not None
    assert headline[1] == (
        "At 50 % sparsity the evolved metric keeps test perplexity at 31.24, where the power law"
        " gives 31.58, Wanda 33.04 and magnitude 40.72; dense is 18.91."
    )


def test_the_headline_does_not_claim_a_win_that_is_none(tmp_path, summary, history, layers):
    summary["perplexity"]["test"]["evolved"] = summary["perplexity"]["test"]["power-law"]
    html = written(tmp_path, summary, history, layers)
    assert "does not win" in html and "keeps test perplexity" not in html


def test_without_an_evolved_figure_the_headline_says_so(tmp_path, summary, history, layers):
    summary["perplexity"]["test"]["evolved"] = None
    assert "no perplexity of an evolved metric" in written(tmp_path, summary, history, layers)


def test_every_figure_of_the_summary_can_be_read(tmp_path, summary, history, layers):
    text = visible(written(tmp_path, summary, history, layers))
    measured = [*summary["perplexity"].values(), summary["patterns"]["2:4"]["test"]]
    for value in (value for part in measured for value in part.values()):
        assert perplexity_text(value) in text
    for key in ("seed", "evaluations", "duplicates_skipped", "seconds", "window_length"):
        assert str(summary[key]) in text
    for key in ("metric", "model", "text", "command", "machine"):
        assert summary[key] in text
    for group in ("windows", "versions"):
        for value in summary[group].values():
            assert str(value) in text
    for formula in summary["catalog"].values():
        assert formula in text


def test_settings_nobody_foresaw_are_listed_too(tmp_path, summary, history, layers):
    summary["tournament_size"] = 5
    assert "tournament size 5" in visible(written(tmp_path, summary, history, layers))


def test_the_parts_come_in_the_order_of_interest(tmp_path, summary, history, layers):
    html = written(tmp_path, summary, history, layers)
    landmarks = [
        "<h1>",
        "Duplicates skipped",
        'class="tree"',
        'id="chart-perplexity"',
        'id="chart-search"',
        "2:4 sparsity",
        'id="chart-sparsity"',
        "To repeat it",
    ]
    places = [html.index(landmark) for landmark in landmarks]
    assert places == sorted(places)


def test_hostile_names_stay_text(tmp_path, summary, history, layers):
    summary |= {key: HOSTILE for key in ("metric", "model", "text", "command", "machine")}
    summary["perplexity"]["test"][HOSTILE] = 36.0
    summary["catalog"]["wanda"] = HOSTILE
    summary["patterns"][HOSTILE] = summary["patterns"]["2:4"]
    summary["tree"]["data"] = HOSTILE
    summary[HOSTILE] = HOSTILE
    for evaluation in history:
        evaluation |= {"expression": HOSTILE, "origin": HOSTILE}
    layers[0]["name"] = f"model.layers.{HOSTILE}.0.{HOSTILE}"
    html = written(tmp_path, summary, history, layers)

    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 2
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in tags)
    assert "alert('&')" in visible(html)


def test_a_number_that_is_missing_is_a_dash(tmp_path, summary, history, layers):
    summary["perplexity"]["test"]["ria"] = None
    summary["perplexity"]["validation"]["ria"] = float("nan")
    summary["seconds"] = None
    text = visible(written(tmp_path, summary, history, layers))
    assert "RIA — — —" in text and "Time —" in text
    assert "nan" not in text.lower() and "None" not in text


@pytest.mark.parametrize(
    "absent", ["patterns", "catalog", "tree", "versions", "machine", "windows", "perplexity"]
)
def test_an_optional_part_may_be_absent(tmp_path, summary, history, layers, absent):
    del summary[absent]
    assert "</html>" in written(tmp_path, summary, history, layers)


def test_a_search_that_has_only_begun_has_a_page(tmp_path, summary):
    html = written(tmp_path, summary, [], [])
    assert "No evaluations are recorded." in html
    assert 'id="chart-search"' not in html and 'id="chart-sparsity"' not in html


def test_an_existing_report_is_replaced_only_whole(tmp_path, summary, history, layers, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old report")

    def full_disk(source: Path, target: Path) -> None:
        assert Path(source).read_text(encoding="utf-8").rstrip().endswith("</html>")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rendering.os, "replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_report(path, summary, history, layers)
    assert path.read_text() == "the old report"
    assert os.listdir(tmp_path) == ["report.html"]

    write_report(path, summary, history, layers)
    assert "31.24" in path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_results_are_left_as_they_were(tmp_path, summary, history, layers):
    before = copy.deepcopy((summary, history, layers))
    written(tmp_path, summary, history, layers)
    assert (summary, history, layers) == before
