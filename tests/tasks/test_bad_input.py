"""What cannot be done is refused in one sentence, with exit code 2, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file


def nested(depth: int) -> str:
    """The JSON of a chain of ``depth`` operators, written by hand: json would not."""
    return '{"data": "sqrt", "left": ' * depth + '{"data": "W"}' + "}" * depth


@pytest.fixture(scope="module")
def broken(workplace: Path) -> Path:
    """Files and folders that are wrong, each in its own way, under ``broken/``."""
    folder = workplace / "broken"
    folder.mkdir()
    (folder / "empty.txt").write_text(" \n")
    (folder / "short.txt").write_text("twenty characters ..")
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 100)
    (folder / "deep.json").write_text(nested(10_000))
    (folder / "deeper.json").write_text(nested(200_000))
    (folder / "half.json").write_text('{"data": "mul", "left": {"data": "W"}}')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "text.json").write_text("W * X")
    (folder / "no-search").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "letter").write_text("keep me")
    (folder / "settings.yaml").write_text("sparsty: 0.5\n")
    (folder / "no-model").mkdir()
    model = workplace / "model"
    for name in ("no-weights", "truncated", "missing-tensor"):
        shutil.copytree(model, folder / name)
    weights = "model.safetensors"
    (folder / "no-weights" / weights).unlink()
    whole = (model / weights).read_bytes()
    (folder / "truncated" / weights).write_bytes(whole[: len(whole) // 2])
    tensors = load_file(model / weights)
    tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / "missing-tensor" / weights, metadata={"format": "pt"})
    return folder


def everything_in(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if "cache" not in path.parts
    }


COMPARE = ["compare", "--model", "model", "--calibration", "calibration.txt"]
COMPARE += ["--validation", "validation.txt"]
PRUNE = ["prune", "--model", "model", "--calibration", "calibration.txt", "--output-dir", "new"]
SEARCH = ["search", "--model", "model", "--calibration", "calibration.txt", "--output-dir", "new"]
SEARCH += ["--validation", "validation.txt"]

REFUSED = {
    "a formula that does not parse": ([*PRUNE, "--metric", "W * (X"], ["W * (X", "^"]),
    "an unknown operator": ([*PRUNE, "--metric", "sqrrt(W)"], ["sqrrt", "sqrt"]),
    "an unknown metric": ([*PRUNE, "--metric", "wnada"], ["wnada", "wanda"]),
    "a sparsity of 1": ([*PRUNE, "--sparsity", "1"], ["1", "below 1"]),
    "a negative sparsity": ([*PRUNE, "--sparsity", "-0.1"], ["-0.1", "at least 0"]),
    "a sparsity that is none": ([*PRUNE, "--sparsity", "half"], ["half", "0.5", "2:4"]),
    "a sparsity that is not a number": ([*PRUNE, "--sparsity", "nan"], ["nan"]),
    "a pattern that keeps all": ([*PRUNE, "--sparsity", "4:4"], ["4:4", "2:4"]),
    "a pattern that keeps more": ([*SEARCH, "--sparsity", "5:4"], ["5:4"]),
    "a width that is no multiple": ([*PRUNE, "--sparsity", "3:7"], ["multiple of 7", "16"]),
    "a missing text": ([*COMPARE, "--test", "nowhere.txt"], ["nowhere.txt", "no such file"]),
    "an empty text": ([*COMPARE, "--test", "broken/empty.txt"], ["broken/empty.txt", "empty"]),
    "a short text": ([*COMPARE, "--test", "broken/short.txt"], ["20 tokens", "64"]),
    "a text that is not UTF-8": ([*COMPARE, "--test", "broken/latin.txt"], ["UTF-8"]),
    "no text at all": (["compare", "--model", "model"], ["--calibration FILE"]),
    "a search without texts": (
        ["search", "--model", "model", "--output-dir", "new"],
        ["--calibration FILE"],
    ),
    "an unknown corpus": ([*COMPARE, "--dataset", "wikipedia"], []),
    "a corpus that is not here": (
        ["eval", "--model", "model", "--dataset", "wikitext2"],
        ["wikitext2"],
    ),
    "a missing model folder": (
        ["eval", "--model", "./nowhere", "--text", "test.txt"],
        ["./nowhere"],
    ),
    "a model that the hub does not give": (
        ["eval", "--model", "nobody/nothing", "--text", "test.txt"],
        ["nobody/nothing", "pass a model folder"],
    ),
    "a folder that is no model": (
        ["eval", "--model", "broken/no-model", "--text", "test.txt"],
        ["config.json"],
    ),
    "a model without weights": (
        ["eval", "--model", "broken/no-weights", "--text", "test.txt"],
        ["broken/no-weights", "no safetensors weights"],
    ),
    "truncated weights": (
        ["eval", "--model", "broken/truncated", "--text", "test.txt"],
        ["model.safetensors", "truncated"],
    ),
    "weights that lack a tensor": (
        ["eval", "--model", "broken/missing-tensor", "--text", "test.txt"],
        ["broken/missing-tensor", "model.layers.0.mlp.up_proj.weight"],
    ),
    "a window longer than the model's": (
        ["eval", "--model", "model", "--text", "test.txt", "--max-seq-length", "128"],
        ["128", "64"],
    ),
    "a full output folder": (
        ["prune", "--model", "model", "--metric", "magnitude", "--output-dir", "broken/full"],
        ["broken/full", "not empty"],
    ),
    "a search into a full folder": (
        [*SEARCH, "--output-dir", "broken/full"],
        ["broken/full", "not empty"],
    ),
    "a demo into a full folder": (
        ["demo", "--output-dir", "broken/full", "--overwrite"],
        ["broken/full", "not empty"],
    ),
    "a tree of depth 10,000": (["explain", "broken/deep.json"], ["broken/deep.json", "deep"]),
    "a tree of depth 200,000": (["explain", "broken/deeper.json"], ["deep"]),
    "a tree that lacks a child": (["explain", "broken/half.json"], ["mul"]),
    "JSON that is no tree": (["explain", "broken/list.json"], ["broken/list.json"]),
    "a file that is no JSON": (["explain", "broken/text.json"], ["broken/text.json", "JSON"]),
    "a metric file that is missing": (["explain", "nowhere.json"], ["nowhere.json"]),
    "a folder without a search": (["explain", "broken/no-search"], ["best.json"]),
    "no metric": ([*COMPARE, "--metrics", " , "], ["--metrics"]),
    "an unknown setting": ([*PRUNE, "--config", "broken/settings.yaml"], ["sparsty", "sparsity"]),
    "a search at nothing": ([*SEARCH, "--sparsity", "0"], ["--sparsity is 0"]),
    "a pruning at two sparsities": (
        [*PRUNE, "--sparsity", "0.4", "--sparsity", "0.6"],
        ["--sparsity is given 2 times, and only search takes several"],
    ),
    "a limit of 1 without a percent sign": (
        ["tune", *SEARCH[1:], "--max-degradation", "1"],
        ["--max-degradation 1 must be a share above 0 such as 5% or 0.05", "did you mean 1%?"],
    ),
    "a search of no time": ([*SEARCH, "--time", "0s"], ["0s", "no time at all"]),
    "a tuning at nothing": (
        ["tune", *SEARCH[1:], "--max-degradation", "5%", "--pattern", "0"],
        ["--pattern is 0"],
    ),
    "no evaluations": ([*SEARCH, "--evaluations", "0"], ["evaluations", "at least 1"]),
    "a demo without evaluations": (["demo", "--evaluations", "0"], ["--evaluations", "at least 1"]),
    "fewer samples than none": (
        ["eval", "--model", "model", "--text", "test.txt", "--samples", "-1"],
        ["--samples must be at least 0"],
    ),
    "a device that holds nothing": (
        ["eval", "--model", "model", "--text", "test.txt", "--device", "meta"],
        ["meta", "--device cpu"],
    ),
    "a folder whose name is too long": (["report", "a" * 300], ["too long"]),
    "a perplexity that is none": (
        ["tune", *SEARCH[1:], "--max-perplexity", "nan"],
        ["--max-perplexity", "nan"],
    ),
    "a share in per cent": ([*PRUNE, "--sparsity", "50"], ["did you mean 50%?"]),
    "a metric that is constant": ([*PRUNE, "--metric", "X - X"], ["constant"]),
    "a device that is not here": (
        ["eval", "--model", "model", "--text", "test.txt", "--device", "qpu"],
        ["no device is called 'qpu'", "pass --device 'auto'"],
    ),
    "a dtype that is none": (
        ["eval", "--model", "model", "--text", "test.txt", "--dtype", "int8"],
        ["int8", "float32"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case, broken, workplace, in_workplace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, words = REFUSED[case]
    before = everything_in(workplace)
    done = in_workplace(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.index("Error") :]
    assert told.rstrip().endswith((".", "?", "^", "╯")), told
    assert everything_in(workplace) == before


TUNE = ["tune", "--model", "model", "--validation", "validation.txt", "--output-dir", "new"]


@pytest.mark.parametrize("command", [PRUNE, SEARCH, COMPARE, TUNE], ids=lambda command: command[0])
@pytest.mark.parametrize("fault", ["width", "length"])
def test_what_the_config_tells_is_refused_before_the_weights_are_read(
    command, fault, in_workplace, monkeypatch
):
    monkeypatch.setattr("prunerzero.tasks.workspace.load_model", lambda *_: pytest.fail("loaded"))
    pattern = "--pattern" if command == TUNE else "--sparsity"
    given = {"width": [pattern, "3:7"], "length": ["--max-seq-length", "65"]}[fault]
    words = {"width": "multiple of 7", "length": "the model's limit of 64 tokens"}[fault]
    done = in_workplace(*command, *given)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_a_metric_that_gives_nan_names_the_layer_and_leaves_nothing(in_workplace, workplace):
    before = everything_in(workplace)
    done = in_workplace(*PRUNE, "--metric", "exp(W * 1000) - exp(W * 1000) + W")
    assert done.exit_code == 2
    assert "model.layers.0" in done.stderr and "NaN" in done.stderr
    assert everything_in(workplace) == before


def test_json_output_is_json_even_where_a_number_is_not_finite(in_workplace):
    done = in_workplace("explain", "wanda", "--json")
    json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
