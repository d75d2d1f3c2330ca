"""From a text and an acceptable loss to an answer: through the command line, on a tiny model."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import some_text
from transformers import AutoModelForCausalLM

import prunerzero
from prunerzero.files import to_json
from prunerzero.language.perplexity import window_losses
from prunerzero.tasks.tune_file import read_result
from prunerzero.tasks.tuning.workbench import is_tuning
from prunerzero.tasks.workspace import Workspace

MINE = ["--model", "model", "--validation", "mine.txt"]
FEW = ["--evaluations", "12", "--samples", "2"]
FEW_WINDOWS = [
    word
    for part in ("calibration", "validation", "test")
    for word in (f"--num-{part}-samples", "16")
]


@pytest.fixture(scope="module", autouse=True)
def mine(workplace: Path) -> None:
    (workplace / "mine.txt").write_text(some_text(7, 8000))


@pytest.fixture(scope="module")
def tuned(here: Any, mine: None) -> Any:
    return here.json("tune", *MINE, *FEW, "--max-degradation", "2%", "--output-dir", "tuned")


def test_the_answer_is_the_highest_sparsity_that_was_found_within_the_limit(tuned):
    assert tuned["reached"]
    assert tuned["limit"]["max_perplexity"] == pytest.approx(1.02 * tuned["dense"])
    chosen = [
        p
        for p in tuned["curve"]
        if (p["sparsity"], p["group"]) == (tuned["sparsity"], tuned["group"]) and p["windows"] > 16
    ]
    assert all(point["within"] for point in chosen if point["metric"] == tuned["metric"]["name"])
    for point in tuned["curve"]:
        assert point["within"] == (point["rise"] <= 0.02)
    validation = tuned["parts"]["validation"]
    assert validation["pruned"] == pytest.approx(
        next(p["perplexity"] for p in chosen if p["metric"] == tuned["metric"]["name"])
    )
    assert validation["within"]


def test_the_limit_holds_on_the_test_part_or_the_sparsity_was_lowered(tuned):
    test, decision = tuned["parts"]["test"], tuned["decision"]
    assert test["within"]
    assert test["pruned"] <= 1.02 * test["dense"]
    assert decision["stepped_back"] == (not decision["held"])
    assert decision["tried"][0][0] >= tuned["sparsity"]
    assert [tuned["sparsity"], pytest.approx(test["pruned"])] in decision["tried"]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_intervals_hold_the_figures(tuned, part):
    figures = tuned["parts"][part]
    for name in ("dense", "pruned", "rise"):
        low, high = figures[f"{name}_interval"]
        assert low <= figures[name] <= high
    assert 0 <= figures["confidence"] <= 1
    assert figures["rise"] == pytest.approx(figures["pruned"] / figures["dense"] - 1)
    assert figures["divergence"] > 0
    assert 0 < figures["agreement"] <= 1
    assert figures["compared_tokens"] == figures["windows"] * (figures["window_length"] - 1)


def test_every_layer_has_its_sparsity_and_sensitivity(tuned, workplace):
    model = AutoModelForCausalLM.from_pretrained(workplace / "tuned" / "model")
    weights = {n.removesuffix(".weight"): w for n, w in model.named_parameters()}
    assert len(tuned["layers"]) == 14
    for layer in tuned["layers"]:
        weight = weights[layer["name"]]
        assert list(weight.shape) == layer["shape"]
        assert float((weight == 0).float().mean()) == pytest.approx(layer["sparsity"])
        assert f"layers.{layer['block']}." in layer["name"]
    assert any(layer["sensitivity"] != 0 for layer in tuned["layers"])


@pytest.mark.parametrize("group", ["row", "layer", "model"])
def test_so_many_are_pruned_of_what_competes(group, in_workplace, workplace):
    place = f"within-{group}"
    asked = ["tune", *MINE, *FEW_WINDOWS, "--evaluations", "0", "--samples", "0"]
    asked += ["--max-degradation", "2%"]
    done = in_workplace(*asked, "--group", group, "--output-dir", place, "--json")
    result = json.loads(done.stdout)
    assert {point["group"] for point in result["curve"]} == {result["group"]} == {group}
    model = AutoModelForCausalLM.from_pretrained(workplace / place / "model")
    zeros = [w == 0 for name, w in model.named_parameters() if "_proj" in name]
    competing = {
        "row": [row for layer in zeros for row in layer],
        "layer": zeros,
        "model": [torch.cat([layer.flatten() for layer in zeros])],
    }
    for weights in competing[group]:
        assert weights.sum() == int(weights.numel() * result["sparsity"])


def test_sensitivity_is_what_the_loss_rises_by_when_a_layer_alone_is_pruned(tuned, workplace):
    settings, layer = tuned["settings"], tuned["layers"][3]
    model = str(workplace / "model")
    text, length = workplace / "tuned" / "texts" / "validation.txt", settings["max_seq_length"]
    work = Workspace(prunerzero.Setup(model=model, validation=text, max_seq_length=length))
    windows = work.texts.of("validation").spread(tuned["sensitivity_windows"]).windows
    dense = AutoModelForCausalLM.from_pretrained(model)
    before = window_losses(dense, windows).mean()
    pruned = AutoModelForCausalLM.from_pretrained(workplace / "tuned" / "model")
    weight = f"{layer['name']}.weight"
    dense.get_parameter(weight).data.copy_(pruned.get_parameter(weight).data)
    rise = float(window_losses(dense, windows).mean() - before)
    assert rise == pytest.approx(layer["sensitivity"], rel=1e-3, abs=1e-6)


def test_left_the_choice_it_takes_what_keeps_most(tuned):
    choice = [p for p in tuned["curve"] if p["step"] == "choice"]
    assert {point["group"] for point in choice} == {"row", "layer", "model"}
    most = max(point["windows"] for point in choice)
    best = min((p for p in choice if p["windows"] == most), key=lambda p: p["perplexity"])
    assert best["group"] == tuned["group"]


def test_the_answer_says_in_words_what_the_figures_say(tuned):
    answer = tuned["answer"]
    test = tuned["parts"]["test"]
    for told in (
        f"{100 * tuned['sparsity']:.3g} %",
        f"{tuned['parts']['validation']['pruned']:.2f}",
        f"{test['pruned']:.2f}",
        tuned["metric"]["formula"],
        f"{test['windows']} windows",
    ):
        assert told in answer


def test_the_folder_holds_what_was_printed_and_reads_back(tuned, workplace):
    path = workplace / "tuned" / "tune.json"
    assert json.loads(path.read_text()) == tuned
    assert json.loads(to_json(asdict(read_result(path)))) == tuned


def test_parts_are_files_that_share_no_text(tuned, workplace):
    whole = (workplace / "mine.txt").read_text()
    parts = [p.read_text() for p in sorted((workplace / "tuned" / "texts").iterdir())]
    assert len(parts) == 3
    assert sum(len("".join(part.split())) for part in parts) == len("".join(whole.split()))
    assert (tuned["split"]["kind"], tuned["split"]["blocks"]) == ("cut", 16)


def test_samples_stand_side_by_side(tuned):
    assert len(tuned["samples"]) == 2
    for sample in tuned["samples"]:
        assert sample["prompt"] and sample["dense"]
    assert any(sample["pruned"] for sample in tuned["samples"])  # one may end at once


def test_the_commands_told_give_the_same_again(in_workplace, workplace, tuned):
    def told(command):
        return json.loads(in_workplace(*command.split()[1:], "--json").stdout)

    ask, prune, measure = tuned["commands"]
    weights = "model.safetensors"
    before = (workplace / "tuned" / "model" / weights).read_bytes()
    assert told(ask) == tuned, "what is finished is not done again"
    told(prune)
    assert (workplace / "again" / weights).read_bytes() == before
    expected = tuned["parts"]["test"]["pruned"]
    assert told(measure)["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_python_gives_what_the_command_prints(tuned, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    setup = prunerzero.Setup(model="model", validation=Path("mine.txt"))
    result = prunerzero.tune(setup, "in-python", max_degradation=0.02, evaluations=12, samples=2)
    assert isinstance(result, prunerzero.TuneResult)
    again = json.loads(to_json(asdict(result)))
    for name in ("sparsity", "metric", "curve", "decision", "layers", "samples"):
        assert again[name] == tuned[name]


def test_after_an_interruption_the_same_command_goes_on(forked, in_workplace, workplace, tuned):
    command = ["tune", *MINE, *FEW, "--max-degradation", "2%", "--output-dir", "cut-short"]
    ledger = workplace / "cut-short" / "run" / "measured.jsonl"
    with forked.start(*command) as process:
        while not ledger.exists() or ledger.read_text().count("\n") < 8:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "is kept: the same command again goes on." in " ".join(errors.split())
    kept = ledger.read_text()
    with ledger.open("a") as file:  # as a power cut leaves it
        file.write('{"key": "torn')
    result = json.loads(in_workplace(*command, "--json").stdout)
    assert ledger.read_text().startswith(kept), "nothing is measured again"
    for name in ("sparsity", "metric", "curve", "decision", "layers"):
        assert result[name] == tuned[name]


def leave(folder: Path, names: list[str]) -> None:
    """Make those files, and a folder for each name without a dot."""
    for place in map(folder.joinpath, names):
        (place.parent if place.suffix else place).mkdir(exist_ok=True)
        if place.suffix:
            place.touch()


@pytest.mark.parametrize(
    "left", [["run"], ["run", "texts/test.txt"], ["run/.identity.json.0.partial"]]
)
def test_a_tuning_that_stopped_before_its_question_was_written_is_known(left, tmp_path):
    leave(tmp_path, left)
    assert is_tuning(tmp_path)


@pytest.mark.parametrize("left", [["texts/mine.txt"], ["run/mine.txt"], ["run", "mine.txt"], []])
def test_a_folder_of_other_things_is_no_tuning(left, tmp_path):
    leave(tmp_path, left)
    assert not is_tuning(tmp_path)


def test_a_pattern_is_answered_yes_or_no(in_workplace, workplace):
    asked = ["tune", *MINE, *FEW_WINDOWS, "--evaluations", "0", "--samples", "0"]
    asked += ["--pattern", "2:4", "--json"]
    yes = in_workplace(*asked, "--max-degradation", "900%", "--output-dir", "pattern-yes")
    no = in_workplace(*asked, "--max-degradation", "0.01%", "--output-dir", "pattern-no")
    assert (yes.exit_code, no.exit_code) == (0, 0)
    yes, no = json.loads(yes.stdout), json.loads(no.stdout)
    assert yes["reached"] and yes["answer"].startswith("Yes")
    assert not no["reached"] and no["answer"].startswith("No")
    assert yes["pattern"] == no["pattern"] == "2:4"
    model = AutoModelForCausalLM.from_pretrained(workplace / "pattern-yes" / "model")
    for name, weight in model.named_parameters():
        if "_proj" in name:
            assert torch.all((weight.reshape(-1, 4) == 0).sum(1) == 2), name
    assert not (workplace / "pattern-no" / "model").exists()
    assert no["parts"]["test"]["pruned"] > 0 and no["layers"]


def test_a_share_is_answered_yes_or_no_within_the_group_that_keeps_most(in_workplace, workplace):
    asked = ["tune", *MINE, *FEW_WINDOWS, "--evaluations", "0", "--samples", "0", "--json"]
    asked += ["--max-degradation", "900%", "--pattern", "30%"]
    best = json.loads(in_workplace(*asked, "--output-dir", "share").stdout)
    assert best["answer"].startswith("Yes: at 30 % sparsity")
    assert best["pattern_asked"] == "30%" and best["pattern"] == "0.3"
    choices = [p for p in best["curve"] if p["step"] == "choice"]
    assert {p["group"] for p in choices} == {"row", "layer", "model"}
    model = AutoModelForCausalLM.from_pretrained(workplace / "share" / "model")
    weights = [w for name, w in model.named_parameters() if "_proj" in name]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros / sum(w.numel() for w in weights) == pytest.approx(0.3, abs=0.05)
    again = in_workplace(*asked, "--group", "layer", "--output-dir", "share-of-layers")
    layers = json.loads(again.stdout)
    assert {p["group"] for p in layers["curve"]} == {layers["group"]} == {"layer"}


def test_a_sparsity_that_says_where_scores_compete_is_asked_about_there(in_workplace, workplace):
    setup = prunerzero.Setup(
        "model", validation="mine.txt", num_validation_samples=4, num_test_samples=4
    )
    how = {"max_degradation": "900%", "evaluations": 0, "samples": 0, "update": "none"}
    of_layers = prunerzero.Sparsity(ratio=0.3, group="layer")
    found = prunerzero.tune(setup, "share-that-says", pattern=of_layers, **how)
    assert found.group == "layer" and "--group layer" in found.commands[0]
    with pytest.raises(prunerzero.InputError, match="group"):
        prunerzero.tune(setup, "share-that-says", pattern="0.3", **how)


def test_a_limit_that_nothing_keeps_is_answered_with_no(in_workplace, workplace, tuned):
    limit = str(tuned["dense"] * 1.000001)
    done = in_workplace(
        *["tune", *MINE, "--evaluations", "0", "--samples", "0", "--max-perplexity", limit],
        *["--output-dir", "none", "--json"],
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["reached"] == (workplace / "none" / "model").exists()
    if not result["reached"]:
        assert result["answer"].startswith("No")


REFUSED = {
    "two limits": (["--max-degradation", "5%", "--max-perplexity", "9"], ["only one"]),
    "a degradation of 5 without %": (["--max-degradation", "5"], ["5%"]),
    "a degradation that is none": (["--max-degradation", "little"], ["little", "5%"]),
    "no degradation": (["--max-degradation", "0"], ["above 0"]),
    "a perplexity below the dense": (["--max-perplexity", "2"], ["already"]),
    "a task metric that is none": (["--task-metric", "arc_easy"], ["arc_easy:acc:0.02"]),
    "a pattern within a model": (["--pattern", "2:4", "--group", "model"], ["within runs"]),
    "a pattern that does not fit": (["--pattern", "3:7"], ["multiple of 7"]),
    "the folder of the model": (["--output-dir", "model"], ["model folder", "name another"]),
    "a full folder": (["--output-dir", "."], ["not empty"]),
    "a short text": (["--validation", "model/config.json", "--max-seq-length", "64"], []),
}


@pytest.mark.parametrize("case", [name for name in REFUSED if name != "a short text"])
def test_bad_input_is_refused_in_one_sentence(case, in_workplace, workplace):
    arguments, words = REFUSED[case]
    before = sorted(path.name for path in workplace.iterdir())
    done = in_workplace("tune", *MINE, "--output-dir", "new", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    if case == "a perplexity below the dense":  # which is measured first
        shutil.rmtree(workplace / "new")
    assert sorted(path.name for path in workplace.iterdir()) == before


def test_another_question_is_not_answered_into_the_same_folder(in_workplace, tuned):
    done = in_workplace("tune", *MINE, *FEW, "--max-degradation", "3%", "--output-dir", "tuned")
    assert done.exit_code == 2
    assert "limit" in done.stderr and "--output-dir" in done.stderr


def test_help_teaches_by_example(in_workplace: Callable[..., Any]):
    shown = in_workplace("tune", "--help").output
    assert shown.count("Example") == 2
    assert "--pattern" in shown and "--json" in shown
