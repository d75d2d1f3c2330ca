"""Evaluation that people trust: several texts, the protocol told, damage beside perplexity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import some_text, tiny_gemma, tiny_model, tiny_tokenizer

from prunerzero.language.corpora import cut_windows
from prunerzero.language.perplexity import perplexity

COMPARE = ["compare", "--model", "model", "--calibration", "calibration.txt"]
TEXTS = ["--text", "test.txt", "--text", "other.txt"]


@pytest.fixture(scope="module", autouse=True)
def other(workplace: Path) -> None:
    (workplace / "other.txt").write_text(some_text(9, 1000))


@pytest.fixture
def printed(in_workplace: Callable[..., Any]) -> Callable[..., Any]:
    """What a command prints with --json."""

    def run(*arguments: str) -> Any:
        done = in_workplace(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def pruned(printed, workplace) -> str:
    if not (workplace / "half").exists():
        texts = ["--calibration", "calibration.txt", "--test", "test.txt"]
        printed("prune", "--model", "model", *texts, "--output-dir", "half")
    return "half"


def test_several_texts_are_measured_as_each_alone(printed):
    both = printed("eval", "--model", "model", *TEXTS)
    assert [figures["text"] for figures in both["texts"]] == ["test.txt", "other.txt"]
    for figures in both["texts"]:
        alone = printed("eval", "--model", "model", "--text", figures["text"])
        assert alone["texts"] == [figures]
        assert {k: alone[k] for k in ("text", "perplexity", "loss", "windows")} == {
            k: figures[k] for k in ("text", "perplexity", "loss", "windows")
        }
        assert figures["tokens"] == figures["windows"] * 63


def test_the_protocol_is_always_told(printed, in_workplace):
    protocol = printed("eval", "--model", "model", "--text", "test.txt")["protocol"]
    assert protocol["window_length"] == protocol["stride"] == 64
    assert protocol["vocabulary"] == len(tiny_tokenizer())
    assert (protocol["dtype"], protocol["device"]) == ("float32", "cpu")
    shown = in_workplace("eval", "--model", "model", "--text", "test.txt").stdout
    assert protocol["words"] in shown
    shown = in_workplace(*COMPARE, "--test", "test.txt", "--metrics", "wanda").stdout
    assert protocol["words"] in shown
    assert "31 on test" in shown


def test_a_stride_slides_the_windows(printed, workplace):
    found = printed("eval", "--model", "model", "--text", "other.txt", "--stride", "16")
    text = cut_windows([some_text(9, 1000)], tiny_tokenizer(), 64, "other", 16)
    starts = [text.windows[i, 0] for i in range(3)]
    ids = tiny_tokenizer()(some_text(9, 1000))["input_ids"]
    assert starts == [ids[0], ids[16], ids[32]]
    expected = perplexity(tiny_model(), text.windows, stride=16)
    assert found["perplexity"] == pytest.approx(expected.value, rel=1e-5)
    assert found["texts"][0]["tokens"] == 63 + 16 * (len(text.windows) - 1)
    assert found["protocol"]["stride"] == 16
    assert "slide by 16" in found["protocol"]["words"]


def test_windows_of_a_gemma_model_begin_with_its_token(printed, workplace):
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "?"
    model = tiny_gemma()
    for part in (model, tokenizer):
        part.save_pretrained(workplace / "gemma")
    length = ["--max-seq-length", "16"]
    found = printed("eval", "--model", "gemma", "--text", "other.txt", *length)
    windows = cut_windows([some_text(9, 1000)], tokenizer, 16, "other", begin=1).windows
    assert found["perplexity"] == pytest.approx(perplexity(model, windows).value, rel=1e-5)
    assert found["texts"][0]["tokens"] == 15 * (1000 // 15)
    assert "special tokens: ? before each window" in found["protocol"]["words"]
    compared = printed(
        *["compare", "--model", "gemma", "--calibration", "calibration.txt"],
        *["--validation", "other.txt", "--metrics", "wanda", *length],
    )
    assert compared["perplexity"]["validation"]["dense"] == pytest.approx(found["perplexity"])


def test_beside_its_reference_a_model_shows_what_perplexity_hides(printed, pruned):
    alone = printed("eval", "--model", "model", *TEXTS)
    found = printed("eval", "--model", pruned, "--reference", "model", *TEXTS, "--samples", "2")
    for figures, dense in zip(found["texts"], alone["texts"], strict=True):
        assert figures["reference"] == dense["perplexity"]
        assert figures["divergence"]["kl"] > 0.01
        assert 0 < figures["divergence"]["agreement"] < 1
        assert figures["divergence"]["tokens"] == figures["tokens"]
    assert len(found["samples"]) == 2
    assert any(sample["dense"] != sample["pruned"] for sample in found["samples"])


def test_a_model_is_no_distance_from_itself(printed):
    found = printed("eval", "--model", "model", "--reference", "model", "--text", "test.txt")
    assert found["texts"][0]["divergence"] == {
        "kl": pytest.approx(0, abs=1e-6),
        "agreement": 1,
        "tokens": 31 * 63,
    }


def test_compare_measures_on_texts_instead_of_parts(printed):
    parts = printed(*COMPARE, "--test", "test.txt", "--metrics", "wanda,magnitude")
    texts = printed(*COMPARE, *TEXTS, "--metrics", "wanda,magnitude")
    assert list(parts["perplexity"]) == ["test"]
    assert list(texts["perplexity"]) == ["test.txt", "other.txt"]
    assert texts["perplexity"]["test.txt"] == parts["perplexity"]["test"]
    assert texts["divergence"]["test.txt"] == parts["divergence"]["test"]
    for figures in texts["divergence"].values():
        assert set(figures) == {"wanda", "magnitude"}
        assert all(moved["kl"] > 0 and moved["agreement"] < 1 for moved in figures.values())
    assert texts["settings"]["windows"] == {"calibration": 31, "test.txt": 31, "other.txt": 15}


def test_the_divergence_of_compare_is_that_of_eval(printed, pruned):
    compared = printed(*COMPARE, "--test", "test.txt", "--metrics", "wanda")
    measured = printed("eval", "--model", pruned, "--reference", "model", "--text", "test.txt")
    expected = measured["texts"][0]["divergence"]["kl"]
    assert compared["divergence"]["test"]["wanda"]["kl"] == pytest.approx(expected, rel=1e-3)


def test_compare_shows_continuations_side_by_side(printed):
    asked = [*COMPARE, "--test", "test.txt", "--metrics", "wanda,magnitude"]
    found = printed(*asked, "--samples", "3")
    assert len(found["samples"]) == 3
    for sample in found["samples"]:
        assert len(sample["prompt"]) == 32
        assert set(sample["continuations"]) == {"dense", "wanda", "magnitude"}
    none = printed(*asked)
    assert none["samples"] == []


def test_a_table_is_what_a_person_sees(in_workplace, pruned):
    shown = in_workplace("eval", "--model", pruned, "--reference", "model", *TEXTS).stdout
    for word in ("test.txt", "other.txt", "dense", "KL to dense", "same top-1", "vs dense"):
        assert word in shown
    shown = in_workplace(*COMPARE, *TEXTS, "--metrics", "wanda", "--samples", "1").stdout
    for word in ("test.txt", "other.txt", "wanda", "KL to dense", "15 on other.txt"):
        assert word in shown


def test_prune_tells_the_divergence_too(printed, workplace):
    texts = ["--calibration", "calibration.txt", "--test", "test.txt"]
    result = printed("prune", "--model", "model", *texts, "--output-dir", "half-again")
    compared = printed(*COMPARE, "--test", "test.txt", "--metrics", "wanda")
    expected = compared["divergence"]["test"]["wanda"]
    assert result["divergence"]["test"]["kl"] == pytest.approx(expected["kl"], rel=1e-4)
    figures = json.loads((workplace / "half-again" / "figures.json").read_text())
    assert figures["divergence"] == result["divergence"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "test.txt", "--stride", "65"], ["--stride 65", "64"]),
        (["--text", "test.txt", "--stride", "0"], ["--stride 0"]),
        (["--text", "test.txt", "--text", "test.txt"], ["test.txt", "twice"]),
        (["--text", "test.txt", "--samples", "1"], ["--reference"]),
        (["--text", "test.txt", "--text", "nowhere.txt"], ["nowhere.txt"]),
        (["--text", "test.txt", "--reference", "./nowhere"], ["./nowhere"]),
    ],
)
def test_bad_input_is_refused_in_one_sentence(in_workplace, arguments, words):
    done = in_workplace("eval", "--model", "model", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr


def test_a_text_that_is_named_for_a_part_that_is_not_measured_is_told(printed):
    few = ["--model", "bundled", "--num-test-samples", "1", "--num-validation-samples", "1"]
    few += ["--validation", "other.txt"]  # which is of no language
    (word,) = printed("eval", *few)["warnings"]
    assert word.startswith("what is measured is python-docs (test), and not other.txt")
    assert 'pass `part="validation"` to measure that.' in word
    for more in (["--test", "test.txt"], ["--text", "test.txt"], ["--part", "validation"]):
        assert not any("what is measured" in w for w in printed("eval", *few, *more)["warnings"])


def test_a_text_that_is_named_for_the_part_beside_those_to_measure_is_told(in_workplace):
    few = ["--model", "bundled", "--num-test-samples", "1", "--text", "test.txt"]
    told = in_workplace("eval", *few, "--test", "other.txt").stderr
    assert "is measured is what --text and --dataset name, and not other.txt" in told
    compared = ["compare", *few, "--num-calibration-samples", "2", "--metrics", "magnitude"]
    assert "and not other.txt" in in_workplace(*compared, "--test", "other.txt").stderr
    assert "and not other.txt" not in in_workplace(*compared).stderr


def test_models_of_different_tokenizers_are_not_compared(in_workplace, workplace):
    if not (workplace / "stranger").exists():
        tiny_model().save_pretrained(workplace / "stranger")
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["new"])
        tokenizer.save_pretrained(workplace / "stranger")
    done = in_workplace(
        *["eval", "--model", "model", "--reference", "stranger", "--text", "test.txt"]
    )
    assert done.exit_code == 2
    assert "different tokenizers" in done.stderr


def test_a_perplexity_is_finite_or_null_but_never_nan(printed):
    found = printed("eval", "--model", "model", *TEXTS)
    assert all(math.isfinite(figures["perplexity"]) for figures in found["texts"])


def test_windows_that_slide_cover_the_text():
    text = cut_windows(["".join("abcdefgh")], tiny_tokenizer(), 4, "x", 2)
    ids = torch.tensor(tiny_tokenizer()("abcdefgh")["input_ids"])
    assert torch.equal(text.windows, torch.stack([ids[0:4], ids[2:6], ids[4:8]]))


def test_what_may_be_repeated_is_one_or_several_in_a_file(printed, workplace):
    (workplace / "one.yaml").write_text("model: model\ntext: test.txt\n")
    (workplace / "several.yaml").write_text("model: model\ntext: [test.txt, other.txt]\n")
    one = printed("eval", "--config", "one.yaml")
    several = printed("eval", "--config", "several.yaml")
    assert [figures["text"] for figures in one["texts"]] == ["test.txt"]
    assert [figures["text"] for figures in several["texts"]] == ["test.txt", "other.txt"]
