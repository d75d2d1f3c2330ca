"""What the page of ``bench`` promises: every figure, in both languages, and nothing better."""

from __future__ import annotations

import copy
import re
import string
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prunerzero.report import bench_answer, bench_tables, bench_words, write_bench_report
from prunerzero.report.bench_charts import bytes_chart, speed_chart
from prunerzero.report.bench_words import best, frontier
from prunerzero.report.phrases import strings_of
from prunerzero.report.wording import bytes_text, perplexity_text, seconds_text, speed_text

HOSTILE = "</script><script>alert('&')</script><img src=x onerror=alert(1)>"
LANGUAGES = ("en", "ja")


def figures(name: str, size: int, speed: float, perplexity: float | None, **more: Any) -> Any:
    return {
        "model": name,
        "file_bytes": size,
        "memory_bytes": size + 11_000_000,
        "load_seconds": 1.23,
        "prefill_tokens_per_second": {"512": 20 * speed},
        "decode_tokens_per_second": {"1": speed, "4": 3 * speed, "16": 9 * speed},
        "perplexity": perplexity,
        "peak_memory_bytes": 2 * size,
        "mapped_bytes": size,
        "libraries_bytes": 400_000_000,
        "spread": {
            "prefill": {"512": [19 * speed, 21 * speed]},
            "decode": {"1": [0.98 * speed, 1.03 * speed], "4": [1, 2], "16": [3, 4]},
        },
        "runs": {"load_seconds": [1.23], "prefill": {}, "decode": {"1": [speed]}},
        "runtime": "transformers",
        "dtype": "bfloat16",
        "kernel": None,
        "is_rival": False,
        "notes": [],
        "without_graphs": None,
    } | more


@pytest.fixture
def result() -> dict[str, Any]:
    rival = {"is_rival": True, "runtime": "torch int8"}
    return {
        "models": [
            figures("dense", 269_060_552, 27.4, 21.31),
            figures("runs/packed", 176_000_000, 51.2, 22.44, kernel="avx512"),
            figures("torch int8", 163_000_000, 44.1, 21.39, **rival),
            figures("slower and worse", 270_000_000, 20.0, 30.5, **rival),
        ],
        "text": "my_text.txt",
        "protocol": {
            "threads": 2,
            "repeats": 5,
            "windows": 16,
            "window_length": 2048,
            "device": "cpu",
            "in_graphs": False,
            "prefill_tokens": [512],
            "prompt_tokens": 15,
            "new_tokens": 32,
            "batches": [1, 4, 16],
            "words": "as it was measured",
        },
        "machine": {
            "cpu": "A processor",
            "instruction_sets": ["avx2", "avx512f"],
            "torch_uses": "AVX512",
            "cores": 2,
            "logical_cores": 2,
            "memory_bytes": 25_276_502_016,
            "platform": "Linux",
        },
        "versions": {"prunerzero": "0.2.0", "torch": "2.13.0"},
        "settings": {"models": ["dense"]},
        "interrupted": False,
    }


def page_of(folder: Path, result: dict[str, Any], language: Any = "en") -> str:
    path = folder / "report.html"
    write_bench_report(result, path, language)
    return path.read_text(encoding="utf-8")


def visible(html: str) -> str:
    """What a reader sees without JavaScript."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_figure_can_be_read_without_javascript(tmp_path, result, language):
    text = visible(page_of(tmp_path, result, language))
    for model in result["models"]:
        assert model["model"] in text
        for name in ("file_bytes", "memory_bytes", "peak_memory_bytes"):
            assert bytes_text(model[name]) in text
        speeds = [
            *model["prefill_tokens_per_second"].values(),
            *model["decode_tokens_per_second"].values(),
        ]
        speeds += [*model["spread"]["prefill"]["512"], *model["spread"]["decode"]["1"]]
        assert all(speed_text(speed) in text for speed in speeds)
        assert seconds_text(model["load_seconds"]) in text
        assert perplexity_text(model["perplexity"]) in text
    for value in (
        "avx512)" if language == "en" else "avx512）",
        "A processor",
        "avx2, avx512f",
        "2.13.0",
        "my_text.txt",
        "512",
        "2048",
    ):
        assert value in text


def test_the_headline_says_which_is_best_in_what(tmp_path, result):
    assert (
        "Of these models, the smallest is torch int8 (163 MB), the fastest is packed "
        "(51.2 tokens a second, one text), dense has the lowest perplexity (21.31)."
    ) in visible(page_of(tmp_path, result))


def quartiles(result: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The result with these quartiles of writing one text, by the model's short name."""
    for model in result["models"]:
        name = model["model"].rpartition("/")[2].replace(" ", "_")
        model["spread"]["decode"]["1"] = given.get(name, model["spread"]["decode"]["1"])
    return result


def test_models_whose_quartiles_touch_are_not_told_apart(tmp_path, result):
    apart = quartiles(result, packed=[47.0, 52.0], torch_int8=[43.0, 46.9])
    assert "the fastest is packed (51.2 tokens" in bench_answer(apart)
    touching = quartiles(result, packed=[47.0, 52.0], torch_int8=[43.0, 47.0])
    told = (
        "the smallest is torch int8 (163 MB), packed and torch int8 cannot be told apart as the "
        "fastest (51.2 and 44.1 tokens a second, one text; their quartiles overlap), dense has"
    )
    assert told in bench_answer(touching)
    assert told in visible(page_of(tmp_path, touching))
    japanese = visible(page_of(tmp_path, touching, "ja"))
    assert "packed と torch int8 が最も速く、互いに差があるとは言えません" in japanese


def test_whoever_reaches_the_quartiles_of_the_fastest_is_named_whatever_lies_between(result):
    wide = quartiles(result, packed=[47.0, 52.0], torch_int8=[44.0, 44.2], dense=[20.0, 48.0])
    assert "packed and dense cannot be told apart" in bench_answer(wide)
    wide = quartiles(result, packed=[26.0, 52.0])
    assert "packed and torch int8 and dense cannot be told apart" in bench_answer(wide)


def test_what_was_measured_once_is_called_so(result):
    once = quartiles(result, packed=None, torch_int8=None, dense=None, slower_and_worse=None)
    assert "fastest is packed (51.2 tokens a second, one text, measured once)" in bench_answer(once)


@pytest.mark.parametrize("language", LANGUAGES)
def test_on_a_gpu_the_answer_is_of_speeds_in_graphs(on_gpu, language):
    touching = quartiles(on_gpu, packed=[44.0, 52.0])
    assert "CUDA" in bench_answer(touching, language)


def test_a_model_by_itself_is_not_called_the_best(tmp_path, result):
    result["models"] = result["models"][:1]
    text = visible(page_of(tmp_path, result))
    assert "nothing beside it" in text and "fastest" not in text


def test_what_another_surpasses_is_not_on_the_frontier(result):
    def names(value: str, **how: bool) -> list[str]:
        found = frontier(result["models"], lambda model: model[value], **how)
        return [model["model"] for model in found]

    assert names("file_bytes") == ["dense", "torch int8"]
    assert names("load_seconds") == ["dense"]  # all load alike, so perplexity decides
    fast = frontier(result["models"], bench_words.speed_of, highest=True)
    assert [model["model"] for model in fast] == ["dense", "runs/packed", "torch int8"]


def test_what_was_not_measured_is_a_dash_and_takes_no_part(tmp_path, result):
    nothing = dict.fromkeys(("file_bytes", "memory_bytes", "peak_memory_bytes", "load_seconds"))
    nothing |= {"prefill_tokens_per_second": {}, "decode_tokens_per_second": {}}
    nothing |= {"spread": {"prefill": {}, "decode": {}}, "dtype": None, "is_rival": True}
    failed = figures("llama.cpp Q8_0", 1, 1.0, None, notes=["Not measured to the end: no."])
    result["models"].append(failed | nothing)
    result["interrupted"] = True
    text = visible(page_of(tmp_path, result))
    assert "— — — — — — — — —" in text
    assert "llama.cpp Q8_0: Not measured to the end: no." in text
    assert "stopped before everything was measured" in text
    assert "the smallest is torch int8" in text
    assert best(result["models"], lambda model: model["file_bytes"])["model"] == "torch int8"


def test_the_charts_hold_what_the_table_does(result):
    models = result["models"]
    sizes, speeds = bytes_chart(models, "x", "y").data[0], speed_chart(models, "x", "y").data[0]
    points = sorted((m["file_bytes"], m["perplexity"]) for m in models)
    assert list(zip(sizes.x, sizes.y, strict=True)) == points
    points = sorted((m["decode_tokens_per_second"]["1"], m["perplexity"]) for m in models)
    assert list(zip(speeds.x, speeds.y, strict=True)) == points
    assert "packed" in sizes.text


def test_charts_of_nothing_are_empty(result):
    for model in result["models"]:
        model["perplexity"] = None
    assert len(bytes_chart(result["models"], "x", "y").data[0].x) == 0


def test_no_name_ends_the_script_or_becomes_markup(tmp_path, result):
    hostile = copy.deepcopy(result)
    hostile["models"][0]["model"] = hostile["text"] = HOSTILE
    hostile["models"][0]["notes"] = [HOSTILE]
    html = page_of(tmp_path, hostile)
    assert "<script>alert" not in html and "<img src=x" not in html
    assert html.count("</script>") == page_of(tmp_path, result).count("</script>")


def test_nothing_is_fetched(tmp_path, result):
    html = page_of(tmp_path, result)
    assert "default-src 'none'" in html
    assert not re.search(r"<(link|iframe)\b|\bsrc=|https?://", html)


def test_both_languages_say_the_same_things_and_every_phrase_is_used(result):
    english, japanese = strings_of("en", "bench_"), strings_of("ja", "bench_")
    assert english.keys() == japanese.keys()

    def placeholders(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    report = Path(bench_words.__file__).parent
    code = (report / "bench_page.py").read_text() + (report / "bench_words.py").read_text()
    code += (report / "templates" / "bench.html.j2").read_text()
    columns = {f"column_{name}" for name, _ in bench_words.columns_of(result)}
    for key, text in english.items():
        assert placeholders(text) == placeholders(japanese[key]), key
        made = key.startswith(("chart_", "frontier_")) or key in columns
        assert made or re.search(rf"[\"']{key}[\"']", code), key


def test_the_tables_of_a_terminal_fit_its_width_and_hold_every_figure(result):
    console = Console(width=80, record=True)
    console.print(*bench_tables(result), sep="\n")
    text = console.export_text()
    for model in result["models"]:
        assert bytes_text(model["file_bytes"]) in text
        assert speed_text(model["decode_tokens_per_second"]["16"]) in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("count", "text"),
    [(269_060_552, "269 MB"), (1_234_000_000, "1.23 GB"), (12_300, "12.3 kB"), (None, "—")],
)
def test_bytes_read_in_three_figures(count, text):
    assert bytes_text(count) == text


@pytest.fixture
def on_gpu(result: dict[str, Any]) -> dict[str, Any]:
    """As measured on a GPU: without graphs the order of the models is another."""
    result["protocol"] |= {"device": "cuda:0", "in_graphs": True, "prefill_tokens": [512, 2048]}
    card = {"name": "A card", "memory_bytes": 85_000_000_000, "compute_capability": "9.0"}
    result["machine"]["gpu"] = card | {"driver": "580.1", "cuda": "13.0", "torch": "2.13.0"}
    for number, model in enumerate(result["models"], start=1):
        speeds = {"prefill": {"512": 7001.0 + number, "2048": 8001.0 + number}}
        speeds["decode"] = {"1": 91.0 + number, "4": 301.0 + number, "16": 901.0 + number}
        model["without_graphs"] = speeds
        model["spread"]["without_graphs"] = {"prefill": {"512": None}, "decode": {}}
        model["prefill_tokens_per_second"]["2048"] = 9001.0 + number
    return result


@pytest.mark.parametrize("language", LANGUAGES)
def test_on_a_gpu_every_speed_stands_there_in_graphs_and_without(tmp_path, on_gpu, language):
    text = visible(page_of(tmp_path, on_gpu, language))
    for model in on_gpu["models"]:
        inside = (model["prefill_tokens_per_second"], model["decode_tokens_per_second"])
        for speeds in (*inside, *model["without_graphs"].values()):
            assert all(speed_text(speed) in text for speed in speeds.values())
    assert "A card (driver 580.1, CUDA 13.0, torch 2.13.0)" in text
    assert "85.0 GB" in text


def test_on_a_gpu_the_page_says_which_figures_are_in_graphs(tmp_path, on_gpu):
    text = visible(page_of(tmp_path, on_gpu))
    assert "Speeds are those within CUDA graphs" in text
    assert "the fastest in CUDA graphs is packed" in text
    assert "Whoever does not record graphs gets these." in text
    assert "Memory is the GPU's." in text and "that Python and its libraries take" not in text
    assert "tokens a second, one text, in CUDA graphs" in page_of(tmp_path, on_gpu)


def test_on_a_cpu_nothing_is_said_of_graphs(tmp_path, result):
    assert "CUDA" not in page_of(tmp_path, result).replace("plotly", "")


def test_a_model_without_graphs_has_dashes_in_their_place_alone(tmp_path, on_gpu):
    model = on_gpu["models"][1]
    model |= {"prefill_tokens_per_second": {}, "decode_tokens_per_second": {}}
    model["spread"] |= {"prefill": {}, "decode": {}}
    text = visible(page_of(tmp_path, on_gpu))
    assert "1.23 s — — — — —" in text
    assert speed_text(model["without_graphs"]["decode"]["1"]) in text


def test_on_a_gpu_a_terminal_has_a_table_without_graphs(on_gpu):
    console = Console(width=80, record=True)
    console.print(*bench_tables(on_gpu), sep="\n")
    text = console.export_text()
    inside, outside = text.split("Tokens a second without CUDA graphs")
    for model in on_gpu["models"]:
        assert speed_text(model["decode_tokens_per_second"]["16"]) in inside
        assert speed_text(model["without_graphs"]["decode"]["16"]) in outside
    assert max(map(len, text.splitlines())) <= 80
