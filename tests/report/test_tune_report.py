"""What the page of a tuning promises to whoever opens it, in either language."""

from __future__ import annotations

import copy
import json
import os
import re
import string
from collections.abc import Iterator
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tune_case import CASES, tuned

from prunerzero.metrics.operators import OPERATORS, TERMINALS, TERMINALS_JA
from prunerzero.report import tune_words, write_tune_report
from prunerzero.report.phrases import strings_of
from prunerzero.report.tune_charts import quality_chart, rise_chart
from prunerzero.report.wording import (
    bytes_text,
    change_text,
    nats_text,
    percent_text,
    perplexity_text,
    sparsity_text,
    speed_text,
)

HOSTILE = "</script><script>alert('&')</script><img src=x onerror=alert(1)>"
LANGUAGES = ("en", "ja")
FIGURE = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def page_of(folder: Path, result: dict[str, Any], language: Any = "en") -> str:
    path = folder / "report.html"
    write_tune_report(result, path, language)
    return path.read_text(encoding="utf-8")


@cache
def case_page(case: str, language: str = "en") -> str:
    """The page of a case; made once for all tests."""
    with TemporaryDirectory() as folder:
        return page_of(Path(folder), CASES[case](), language)


def visible(html: str) -> str:
    """What a reader sees without JavaScript: text without tags and scripts."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def headline(html: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", html, re.DOTALL)
    assert found is not None
    return unescape(found[1]).replace("\N{NO-BREAK SPACE}", " ")


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def values_in(value: Any) -> Iterator[Any]:
    """Every number and text of a JSON value; its keys too."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from values_in(item)
    else:
        yield value


def figures_of_json(result: dict[str, Any]) -> set[str]:
    """Every figure that JSON holds, in all ways in which one is written."""
    allowed: set[str] = set()
    for value in values_in(result):
        if isinstance(value, int | float) and not isinstance(value, bool):
            ways = [perplexity_text(value), percent_text(value), percent_text(round(value, 3))]
            ways += [change_text(1 + value), nats_text(value), f"{value:,.0f}", f"{value:,}"]
            ways += [f"{value:g}", f"{value:.4f}", f"{value:.2f}", f"{value:.4g}"]
            ways += [f"{100 * value:+.1f} %", f"{100 * value:.3g} %"]
            ways += [bytes_text(value), speed_text(value)]
            allowed.update(*(FIGURE.findall(way) for way in ways))
        elif isinstance(value, str):
            allowed.update(FIGURE.findall(value), FIGURE.findall(sparsity_text(value)))
    return allowed


def figures_of_words(language: str) -> set[str]:
    """Figures in the page's own words: ``95 % interval``, ``arXiv:2406.02924``, the scale."""
    phrases = (operator.meaning_ja for operator in OPERATORS.values())
    words = [*strings_of(language).values(), *phrases]
    return {*FIGURE.findall(" ".join(words)), "0", "100", "2406.02924"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES)
def test_every_figure_on_the_page_is_found_again_in_json(case, language):
    result = json.loads(json.dumps(CASES[case]()))
    shown = FIGURE.findall(visible(case_page(case, language)))
    assert not set(shown) - figures_of_json(result) - figures_of_words(language)


@pytest.mark.parametrize("case", CASES)
def test_every_figure_in_the_charts_is_found_again_in_json(case):
    result = CASES[case]()
    places = {0, 1, 2, 3}  # of a text in the chart of the rise
    numbers = {v for v in values_in(result) if isinstance(v, int | float)} | places
    strings = strings_of("en")
    cut = {change_text(1 + point["rise"]) for point in result["curve"]}
    for chart in (quality_chart(result, strings), rise_chart(result, strings)):
        for trace in chart.data:
            assert set(trace.x or ()) <= numbers
            for value, label in zip(trace.y or (), trace.hovertext or (), strict=False):
                at_the_edge = any(told in label for told in cut)
                assert value in numbers or at_the_edge


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_figures_of_json_can_be_read_without_javascript(language):
    result = tuned()
    text = visible(case_page("kept", language))
    for figures in result["parts"].values():
        for name in ("dense", "pruned", "allowed"):
            assert perplexity_text(figures[name]) in text
        for bound in figures["rise_interval"]:
            assert change_text(1 + bound) in text.replace("\N{NO-BREAK SPACE}", " ")
        for told in (nats_text(figures["divergence"]), "77.4 %", "94.3 %", "8,192"):
            assert told in text
    for point in result["curve"]:
        assert perplexity_text(point["perplexity"]) in text
        assert change_text(1 + point["rise"]) in text
    for layer in result["layers"]:
        assert layer["name"] in text and nats_text(layer["sensitivity"]) in text
        assert percent_text(layer["sparsity"]) in text
    for sample in result["samples"]:
        assert sample["prompt"] in text and sample["dense"].strip() in text
    for command in result["commands"]:
        assert command in text
    for version in result["settings"]["versions"].values():
        assert version in text


def test_the_headline_is_the_answer_in_plain_words():
    assert headline(case_page("kept")) == (
        "43 % of the weights can go within your limit of 25 % more perplexity. On the test text, "
        "perplexity moves from 14.75 to 18.31 (+24.12 %)."
    )
    assert "limit of perplexity 18.50." in headline(case_page("a limit of perplexity"))


@pytest.mark.parametrize("case", ["not reached", "missed on the test text"])
def test_a_limit_that_cannot_be_kept_is_told_so(case):
    html = case_page(case)
    assert headline(html).startswith(
        "No: even with no more than 0.5 % of the weights gone, your limit of 25 % more "
        "perplexity is not kept."
    )
    assert 'class="verdict missed"' in html and 'class="verdict kept"' not in html


def test_what_the_test_text_was_used_for_is_told():
    assert "which no choice has seen" in visible(case_page("kept"))
    assert "a little flattering" in visible(case_page("stepped back"))
    assert "is not kept on the test text" in visible(case_page("missed on the test text"))


def test_each_of_several_texts_is_shown_by_itself():
    html = case_page("several texts")
    assert headline(html).endswith(
        "On the test texts, perplexity moves from 21.31 to 25.77 on wiki.txt (+20.9 %), "
        "from 9.88 to 12.34 on code.txt (+24.9 %)."
    )
    seen = visible(html).replace("\N{NO-BREAK SPACE}", " ")
    for name in ("wiki.txt", "code.txt"):
        assert f"validation text {name}" in seen and f"test text {name}" in seen
    assert "Highest rise of perplexity +24.89 %" in seen
    assert "perplexity, mixed" in seen and "each test text too" in seen
    assert "those of the datasets wiki, docs" in seen


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (
            "packed",
            "Packed, the model is smaller and faster: 1.91 GB on the disk instead of 2.71 GB, "
            "2.03 GB of memory instead of 2.82 GB, 31.4 tokens a second instead of 24.1 (one text "
            "at a time on this machine's CPU, AMD EPYC 9R14; threads: 2).",
        ),
        (
            "packed, slower for want of a compiler",
            "Packing saves space here, but no time: 1.91 GB on the disk instead of 2.71 GB, "
            "2.03 GB of memory instead of 2.82 GB, 3.20 tokens a second instead of 24.1 (one text "
            "at a time on this machine's CPU, AMD EPYC 9R14; threads: 2). The speed has a reason: "
            "there is no compiler.",
        ),
        ("packed, rounded before", "The files of the model that was tuned have 5.42 GB."),
        (
            "packed, rounded before",
            "Both models were rounded to bfloat16 for this; the figures of ",
        ),
        ("packed, some of it rounded", "Wider weights were rounded to bfloat16 in the packed mod"),
        ("packed, of a smaller file", "Packing saves time here, but no space: "),
        ("packed in vain", "Packing does not pay here: 2.90 GB on the disk instead of 2.71 GB"),
        (
            "packed, not measured",
            "Packed, the model has 1.91 GB instead of 2.71 GB; what that brings in memory and "
            "speed could not be measured: 3.1 GB of memory are free. The same command tries again.",
        ),
        ("not packed", "Packing does not pay here: 'tuned/model' would not become smaller: 3.2%"),
        (
            "packing failed",
            "The model could not be packed: the disk is full. The same command tries again.",
        ),
    ],
)
def test_what_packing_saves_is_told_in_the_answer_and_by_itself(case, told):
    result = CASES[case]()
    assert told in tune_words.answer(result)
    seen = visible(case_page(case)).replace("\N{NO-BREAK SPACE}", " ")
    assert seen.count(told) == 2
    has_packed = result["packing"]["folder"] is not None
    assert ("the packed model stores what is kept" in seen) == has_packed
    assert ("No speed was measured here" in seen) == (not has_packed)


def test_what_packing_saves_stands_in_a_table():
    seen = visible(case_page("packed")).replace("\N{NO-BREAK SPACE}", " ")
    assert "on the disk 2.71 GB 1.91 GB memory in use 2.82 GB 2.03 GB" in seen
    assert "24.1 (23.8 – 24.7) 31.4 (31.0 – 32.0)" in seen
    assert "Values are stored as bfloat16; products by avx512." in seen
    seen = visible(case_page("packed, measured once"))
    assert "one text at a time 24.1 31.4 Values" in seen
    assert "31.4" not in visible(case_page("kept")) and "products by" not in case_page("kept")


def test_packing_is_told_in_japanese_too():
    words = tune_words.packed(CASES["packed"]()["packing"], "ja")
    assert words == (
        "圧縮形式にすると、モデルは小さく、速くなります：ディスク上では 2.71 GB が 1.91 GB に、"
        "メモリ使用量は 2.82 GB が 2.03 GB に、速度は毎秒 24.1 トークンが 31.4 トークンになります"
        "（この計算機の CPU でテキストを一つずつ生成。AMD EPYC 9R14、スレッド数 2）。"
    )
    page = visible(case_page("packed in vain", "ja"))
    assert "この計算機では圧縮形式にする利点がありません" in page


def test_a_limit_of_perplexity_is_no_line_where_it_is_another_rise_on_each_text():
    strings = strings_of("en")
    for case, lines in (("a limit of perplexity", 1), ("several texts, a limit of perplexity", 0)):
        chart = quality_chart(CASES[case](), strings)
        assert sum(shape.type == "line" for shape in chart.layout.shapes) == lines


def test_a_pattern_is_answered_with_yes_or_no():
    assert headline(case_page("a pattern that keeps it")).startswith("Yes: the 2:4 pattern keeps")
    assert headline(case_page("a pattern that does not")).startswith("No: the 2:4 pattern does")


@pytest.mark.parametrize(
    ("case", "language", "words"),
    [
        ("a share that keeps it", "en", "Yes: 50 % of the weights can go within your limit"),
        ("a share that does not", "en", "No: with 50 % of the weights gone, your limit of"),
        ("a share that keeps it", "ja", "可能です。重みの 50 % を削除しても、許容範囲"),
        ("a share that does not", "ja", "できません。重みの 50 % を削除すると、許容範囲"),
    ],
)
def test_a_share_that_was_asked_about_is_answered_with_yes_or_no_and_is_no_pattern(
    case, language, words
):
    html = case_page(case, language)
    assert headline(html).startswith(words)
    assert not re.search("pattern|パターン", visible(html))
    tile = {"en": "of the weights of all layers together", "ja": "全層を通した重みのうち"}
    assert tile[language] in visible(html)


def test_a_task_is_answered_with_its_score():
    html = case_page("a limit of a task")
    assert headline(html) == (
        "43 % of the weights can go within your limit of 0.02 less acc on arc_easy. "
        "acc on arc_easy moves from 0.6335 to 0.6204."
    )
    assert "0.6204 ± 0.0101" in visible(html)


def test_the_japanese_page_is_japanese_but_for_names_and_code():
    html = case_page("kept", "ja")
    assert '<html lang="ja">' in html
    assert headline(html) == (
        "許容範囲（パープレキシティの上昇 25 % 以内）に収めたまま、重みの 43 % を削除できます。"
        "テスト用テキストのパープレキシティは 14.75 から 18.31（+24.12 %）になります。"
    )
    assert "「重みの絶対値と「入力特徴量の二乗ノルムの 0.5 乗」の積」と" in visible(html)
    assert tuned()["answer"] not in html and tuned()["metric"]["words"] not in html
    assert tuned()["metric"]["formula"] in html


def test_both_languages_say_the_same_things_with_the_same_figures():
    english, japanese = strings_of("en"), strings_of("ja")
    assert english.keys() == japanese.keys()

    def placeholders(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, text in english.items():
        assert placeholders(text) == placeholders(japanese[key]), key


def test_every_string_is_used():
    sources = Path(tune_words.__file__).parent
    files = [*sources.glob("tune_*.py"), sources / "templates" / "tune.html.j2"]
    code = " ".join(path.read_text() for path in files)
    built = (
        "allowed",
        "group_",
        "kept_",
        "kind_",
        "limit_",
        "opening_",
        "pattern_",
        "step_",
        "share_",
        "packed_pays_",
        "packed_rounded_",
        "part_",
        "row_",
        "sensitivity_",
        "split_",
        "terminal_",
        "term_",
        "text_",
        "tile_",
    )
    for key in strings_of("en"):
        assert re.search(rf"[\"']{key}[\"']", code) or key.startswith(built), key


def test_japanese_has_words_for_the_whole_metric_language():
    assert TERMINALS_JA.keys() == TERMINALS.keys()
    for name, operator in OPERATORS.items():
        for place in range(operator.arity):
            assert f"{{{place}}}" in OPERATORS[name].meaning_ja


CUT = {
    "kind": "cut",
    "text": "mine.txt",
    "blocks": 16,
    "turns": ["calibration", "validation", "test", "validation"],
    "folder": "tuned/texts",
}


@pytest.mark.parametrize(
    ("facts", "english", "japanese"),
    [
        (
            {"kind": "own"},
            "Each part is a text of its own.",
            "各パートには別々のテキストを使用しています。",
        ),
        (
            {"kind": "dataset", "dataset": "c4"},
            "The parts are those of the dataset c4, or the files named.",
            "データセット c4 の各パート、または指定されたファイルを使用しています。",
        ),
        (
            CUT,
            "mine.txt was cut into 16 consecutive blocks, taken in turns: 1 of every 4 for "
            "calibration (statistics), 2 of every 4 for validation (choosing), 1 of every 4 for "
            "test (the final check). The parts share no text and are in tuned/texts.",
            "mine.txt を連続する 16 ブロックに分け、順番に割り当てました：4 ブロックごとに"
            " 1 ブロックを calibration（統計量の計算）、4 ブロックごとに 2 ブロックを"
            " validation（選択）、4 ブロックごとに 1 ブロックを test（最終確認）。"
            "パート間でテキストの重複はありません。保存先：tuned/texts",
        ),
        (
            {"kind": "dataset", "dataset": ["c4", "wikitext2"]},
            "The parts are those of the datasets c4, wikitext2, in equal numbers of windows, or "
            "the files named.",
            "データセット c4、wikitext2 の各パートを同数のウィンドウずつ、"
            "または指定されたファイルを使用しています。",
        ),
        (
            CUT | {"text": ["a.txt", "b.txt"], "turns": ["validation", "validation", "test"]},
            "Each of a.txt, b.txt was cut into 16 consecutive blocks, taken in turns: 2 of every 3 "
            "for validation (choosing), 1 of every 3 for test (the final check). The parts share "
            "no text and are in tuned/texts.",
            "a.txt、b.txt をそれぞれ連続する 16 ブロックに分け、順番に割り当てました："
            "3 ブロックごとに 2 ブロックを validation（選択）、"
            "3 ブロックごとに 1 ブロックを test（最終確認）。"
            "パート間でテキストの重複はありません。保存先：tuned/texts",
        ),
    ],
)
def test_both_languages_say_how_the_texts_were_set_apart(facts, english, japanese):
    assert tune_words.split(facts, "en") == english
    assert tune_words.split(facts, "ja") == japanese


@pytest.mark.parametrize("case", CASES)
def test_both_languages_answer_with_the_same_figures(case):
    result = json.loads(json.dumps(CASES[case]()))
    english, japanese = (
        sorted(FIGURE.findall(tune_words.answer(result, language))) for language in LANGUAGES
    )
    assert english == japanese


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_fetched_from_anywhere(case):
    html = case_page(case)
    for tag, attributes in Tags(html).found:
        assert tag != "link" and "src" not in attributes
        if "href" in attributes:
            assert tag == "a"
    assert "@import" not in html and "url(" not in html and "import(" not in html
    assert "default-src 'none'" in html


def test_charts_and_tables_speak_to_those_who_do_not_see_them():
    for tag, attributes in Tags(case_page("kept", "ja")).found:
        if attributes.get("class") == "chart":
            assert attributes["role"] == "img" and attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "section":
            assert attributes.keys() & {"aria-label", "aria-labelledby"}


def test_what_the_pruned_model_says_otherwise_is_marked():
    html = case_page("kept")
    assert " dark <mark>day of 1984</mark>" in html
    assert html.count("<mark>") == 1


def test_of_blocks_that_were_pruned_whole_each_is_listed_once():
    text = visible(case_page("sensitivity of blocks"))
    assert "The most sensitive block sensitivity block 0 0.0312 block 1 0.0212" in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_names_stay_text(tmp_path, language):
    result = tuned(
        model=HOSTILE,
        answer=HOSTILE,
        split={"kind": "dataset", "dataset": HOSTILE},
        commands=[HOSTILE],
    )
    result["metric"] |= {"name": HOSTILE, "formula": HOSTILE, "words": HOSTILE}
    result["metric"]["tree"]["data"] = HOSTILE
    for point in result["curve"]:
        point |= {"metric": HOSTILE, "formula": HOSTILE}
    for layer in result["layers"]:
        layer["name"] = f"model.layers.{HOSTILE}.0.{HOSTILE}"
    for sample in result["samples"]:
        sample |= {"prompt": HOSTILE, "dense": HOSTILE, "pruned": f"a{HOSTILE}"}
    result["parts"]["test"]["text"] = HOSTILE
    result["settings"][HOSTILE] = HOSTILE
    html = page_of(tmp_path, result, language)
    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 2
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in tags)


def test_an_existing_report_is_replaced_only_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old report")

    def full_disk(*_: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("prunerzero.report.rendering.os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tune_report(tuned(), path)
    assert path.read_text() == "the old report"
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_result_is_left_as_it_was(tmp_path):
    result = tuned()
    before = copy.deepcopy(result)
    page_of(tmp_path, result)
    assert result == before


@pytest.mark.parametrize("language", ["en", "ja"])
def test_too_few_windows_give_no_interval_anywhere(tmp_path, language):
    result = copy.deepcopy(tuned())
    for figures in result["parts"].values():
        for name in ("dense", "pruned", "rise"):
            figures[f"{name}_interval"] = None
        figures["confidence"] = None
    seen = visible(page_of(tmp_path, result, language))
    assert {"en": "too few windows", "ja": "ウィンドウが少なすぎる"}[language] in seen
    assert rise_chart(result, strings_of(language)).data
