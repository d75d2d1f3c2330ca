"""What ``tune`` says of the packed model beside the pruned one: what it saves, or why nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from copied_models import copied_models
from sparse_model import files_of
from tiny_model import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from prunerzero import unpack
from prunerzero.packed.linear import packed_layers
from prunerzero.report import tune_words
from prunerzero.tasks.benching.measure import measure_models
from prunerzero.tasks.benching.process import ModelFailedError
from prunerzero.tasks.tuning import packing

PARTS = ("calibration", "validation", "test")


def ask(model: str, folder: str, pattern: str = "0.5") -> list[str]:
    texts = [word for part in PARTS for word in (f"--{part}", f"{part}.txt")]
    few = [word for part in PARTS for word in (f"--num-{part}-samples", "2")]
    asked = ["--pattern", pattern, "--max-degradation", "900%", "--evaluations", "0"]
    options = [*texts, *few, *asked, "--samples", "0", "--update", "none", "--refine", "none"]
    return ["tune", "--model", model, *options, "--output-dir", folder]


@pytest.fixture(scope="module")
def models(workplace: Path) -> None:
    """Models whose matrices are large enough for packing: in bfloat16, and in float32."""
    for dtype in (torch.bfloat16, torch.float32):
        folder = workplace / str(dtype).removeprefix("torch.")
        tiny_model(hidden_size=64, intermediate_size=96).to(dtype).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)


@pytest.fixture(scope="module")
def tuned(here: Any, models: None) -> Any:
    return here.json(*ask("bfloat16", "packs"))


def result_in(folder: Path) -> Any:
    return json.loads((folder / "tune.json").read_text())


def test_the_packed_model_is_the_pruned_one_bit_for_bit(tuned, workplace, tmp_path):
    folder = workplace / "packs"
    assert tuned["packing"]["folder"] == "packs/packed"
    assert packed_layers(AutoModelForCausalLM.from_pretrained(folder / "packed"))
    unpack(folder / "packed", tmp_path / "again")
    card = tmp_path / "again" / "README.md"
    assert "Packed, the model is" not in card.read_text(), "the card of before measuring"
    card.write_bytes((folder / "model" / "README.md").read_bytes())
    assert files_of(tmp_path / "again") == files_of(folder / "model")


def test_the_answer_says_what_packing_saves(tuned, workplace):
    found = tuned["packing"]
    assert found["packed_bytes"] == (workplace / "packs/packed/model.safetensors").stat().st_size
    assert found["original_bytes"] == (workplace / "bfloat16/model.safetensors").stat().st_size
    assert found["packed_bytes"] < found["dense_bytes"]
    assert found["dense_bytes"] == pytest.approx(found["original_bytes"], rel=0.05)
    assert (found["rounded"], found["failed"], found["why_not"]) == ("nothing", "", "")
    assert tuned["answer"].endswith(tune_words.packed(found))
    assert "48.0 tokens a second instead of 24.0" in tuned["answer"]
    assert "40.0 MB of memory instead of 80.0 MB" in tuned["answer"]
    page = (workplace / "packs" / "report.html").read_text()
    assert "48.0 tokens a second instead of 24.0" in page and "What packing saves" in page


def test_both_cards_tell_it_and_that_of_the_packed_one_how_to_load_it(tuned, workplace):
    pruned, packed = (
        (workplace / "packs" / name / "README.md").read_text() for name in ("model", "packed")
    )
    for card in (pruned, packed):
        assert "48.0 tokens a second instead of 24.0" in card
        assert "No speed was measured" not in card
        assert "import prunerzero" in card
    assert "import prunerzero  # makes" in packed and "README.unpacked.md" in packed
    assert "`prunerzero pack`" in pruned


def test_what_is_packed_and_measured_is_not_done_again(tuned, in_workplace, monkeypatch):
    monkeypatch.setattr(packing, "pack", None)
    monkeypatch.setattr(packing, "measure_models", None)
    done = in_workplace(*ask("bfloat16", "packs"))
    assert done.exit_code == 0, done.output
    assert "Packed model: packs/packed" in done.stdout
    assert result_in(Path("packs")) == tuned


@pytest.mark.parametrize("left", ["nothing", "the packed model"])
def test_a_tuning_that_was_cut_before_packing_ended_goes_on(left, tuned, in_workplace, workplace):
    folder = workplace / "cut"
    shutil.copytree(workplace / "packs", folder)
    (folder / "tune.json").write_text(json.dumps({**tuned, "packing": None}))
    if left == "nothing":
        shutil.rmtree(folder / "packed")
    ledger = (folder / "run" / "measured.jsonl").read_bytes()
    done = in_workplace(*ask("bfloat16", "cut"))
    assert done.exit_code == 0, done.output
    assert result_in(folder)["packing"] == {**tuned["packing"], "folder": "cut/packed"}
    assert (folder / "run" / "measured.jsonl").read_bytes() == ledger
    shutil.rmtree(folder)


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_an_interruption_while_it_is_measured_loses_nothing(in_workplace, models, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(packing, "measure_models", interrupted)
        assert in_workplace(*ask("bfloat16", "stopped")).exit_code == 130
    assert result_in(Path("stopped"))["packing"] is None
    assert in_workplace(*ask("bfloat16", "stopped")).exit_code == 0
    assert result_in(Path("stopped"))["packing"]["packed"] is not None
    assert not list(Path("stopped").glob(".*"))


def broken(*_: Any) -> Any:
    raise ModelFailedError("its process was ended by SIGKILL")


@pytest.mark.parametrize("what", ["pack", "measure_models"])
def test_a_failure_costs_no_answer_and_the_same_command_tries_again(
    what, in_workplace, models, monkeypatch
):
    order = ask("bfloat16", f"fails-{what}")
    with monkeypatch.context() as patch:
        patch.setattr(packing, what, broken)
        done = in_workplace(*order)
    assert done.exit_code == 0, done.output
    assert "its process was ended by SIGKILL. The same command tries again." in done.stdout
    folder = Path(f"fails-{what}")
    assert (folder / "report.html").is_file()
    assert "No speed was measured" in (folder / "model" / "README.md").read_text()
    done = in_workplace(*order)
    assert "48.0 tokens a second instead of 24.0" in done.stdout
    for name in ("model", "packed"):
        card = (folder / name / "README.md").read_text()
        assert "48.0 tokens a second instead of 24.0" in card


def test_float32_is_rounded_before_it_is_compared_and_that_is_told(
    in_workplace, models, workplace, packed_is_faster, monkeypatch
):
    seen: list[str] = []

    def measure(subjects: Any, *more: Any) -> Any:
        for subject in subjects:
            model = AutoModelForCausalLM.from_pretrained(subject.source.model)
            seen.append(str(model.dtype))
        return packed_is_faster(subjects, *more)

    monkeypatch.setattr(packing, "measure_models", measure)
    done = in_workplace(*ask("float32", "wide"))
    assert done.exit_code == 0, done.output
    assert seen == ["torch.bfloat16", "torch.bfloat16"]
    found = result_in(workplace / "wide")["packing"]
    assert (found["rounded"], found["values"]) == ("both", "bfloat16")
    assert found["original_bytes"] > 1.9 * found["dense_bytes"]
    assert "Both models were rounded to bfloat16" in done.stdout
    assert "The files of the model that was tuned have" in done.stdout
    card = (workplace / "wide" / "packed" / "README.md").read_text()
    assert "`wide/model, rounded to bfloat16`" in card and ".rounded-" not in card
    assert (workplace / "wide" / "packed" / "recipe.yaml").is_file()


def test_a_model_that_would_not_become_smaller_is_not_packed(in_workplace, models, workplace):
    done = in_workplace(*ask("bfloat16", "dense", "0.01"))
    assert done.exit_code == 0, done.output
    assert "Packing does not pay here: 'dense/model' would not become smaller" in done.stdout
    assert "Packed model" not in done.stdout
    assert not (workplace / "dense" / "packed").exists()
    card = (workplace / "dense" / "model" / "README.md").read_text()
    assert "Packing does not pay here" in card


def test_a_limit_that_is_not_kept_packs_nothing(in_workplace, models):
    order = ask("bfloat16", "missed")
    order[order.index("900%")] = "0.001%"
    assert in_workplace(*order).exit_code == 0
    assert result_in(Path("missed"))["packing"] is None


@pytest.mark.parametrize(
    ("times", "smaller", "told"),
    [
        (2.0, True, "smaller and faster: "),
        (1.0, True, "saves space here, but no time: "),
        (0.5, True, "saves space here, but no time: "),
        (2.0, False, "saves time here, but no space: "),
        (0.5, False, "does not pay here: "),
    ],
)
def test_it_is_told_plainly_where_packing_does_not_pay(times, smaller, told, tuned):
    facts = tuned["packing"] | {"no_kernel": "this machine has no compiler"}
    facts["packed"] = facts["packed"] | {"tokens_per_second": 24.0 * times}
    facts |= {} if smaller else {"packed_bytes": facts["original_bytes"] + 1}
    words = tune_words.packed(facts)
    assert told in words
    assert ("this machine has no compiler" in words) == (times <= 1)


def test_measured_in_earnest_every_figure_is_there(
    in_workplace: Callable[..., Any], models: None, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plain torch, as on a machine without a compiler: why it is slow is told."""
    monkeypatch.setenv("PRUNERZERO_KERNEL", "torch")
    monkeypatch.setattr(packing, "REPEATS", 1)
    monkeypatch.setattr(
        packing,
        "measure_models",
        lambda subjects, plan, *more: measure_models(subjects, replace(plan, new_tokens=2), *more),
    )
    monkeypatch.setattr(packing.kernels, "why_torch", lambda: "there is no compiler")
    with copied_models():
        done = in_workplace(*ask("bfloat16", "earnest"))
    assert done.exit_code == 0, done.output
    found = result_in(workplace / "earnest")["packing"]
    assert found["failed"] == "" and found["kernel"] == "torch"
    assert found["no_kernel"] == "there is no compiler"
    for cost in (found["dense"], found["packed"]):
        assert cost["memory_bytes"] > 0 and cost["tokens_per_second"] > 0
