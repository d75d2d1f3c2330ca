"""Pruning with a refit as a whole: what is measured is what is saved."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_model import tiny_model, tiny_tokenizer

from prunerzero import Expression, Setup, Sparsity, evaluate, prune, score_mask, search
from prunerzero.evolution import SearchSettings
from prunerzero.language.perplexity import perplexity
from prunerzero.metrics import CATALOG
from prunerzero.pruning import gram
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.refit import Refit, budgets_of, refit_layer
from prunerzero.tasks.cases import RANKING_STEPS, Cases, fitness_of
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.workspace import Workspace


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_weights_are_measured_as_the_checkpoint_rounds_them(workplace: Path, tmp_path, steps):
    tiny_model(tie_word_embeddings=False).bfloat16().save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    texts = {"calibration": workplace / "calibration.txt", "test": workplace / "test.txt"}
    setup = Setup(str(tmp_path / "dense"), num_calibration_samples=4, num_test_samples=4, **texts)
    result = prune(setup, "wanda", "0.5", tmp_path / "out", update="least-squares", steps=steps)
    again = evaluate(Setup(str(tmp_path / "out"), num_test_samples=4, **texts))
    assert again.perplexity == result.perplexity["test"]["pruned"]
    assert all(row.error < row.error_of_mask for row in result.layers)


SETUP = ["--max-seq-length", "32", "--num-calibration-samples", "16", "--num-test-samples", "16"]
FEW = {"max_seq_length": 32, "num_calibration_samples": 16, "num_test_samples": 16}
REFIT = ["--update", "least-squares", "--refine", "admm"]


def by_hand(workplace: Path, sparsity: str, refit: Refit) -> float:
    """The test perplexity of the tiny model, pruned by Wanda and refitted step by step here."""
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "test")}
    work = Workspace(Setup(str(workplace / "model"), **FEW, **texts))
    model, windows = work.language_model.model, work.texts.of("calibration").windows
    grams = collect_grams(model, work.layers, windows)
    for name, layer in work.layers.items():
        X = grams[name].diagonal() / len(windows)
        asked = Sparsity.parse(sparsity)
        wanda = Expression.parse("W * sqrt(X)")
        mask = score_mask(wanda, asked, W=layer.weight.abs(), X=X, G=None)
        budgets = budgets_of(asked)
        layer.weight.copy_(refit_layer(layer.weight.clone(), grams[name], mask, refit, budgets)[0])
    return perplexity(model, work.texts.of("test").windows).value


@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_a_search_judges_candidates_after_a_few_steps_that_are_nearly_exact(workplace, sparsity):
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    work = Workspace(Setup(str(workplace / "model"), **FEW, **texts))
    asked, how = Sparsity.parse(sparsity), RefitOptions("least-squares")
    few = fitness_of(work, asked, refit=how)
    windows = work.texts.of("validation").windows
    per_chunk = len(windows) // few.total_chunks
    statistics, grams = work.calibration.statistics("WXG"), work.calibration.grams
    exact = PrunedLoss(
        work.language_model.model, work.layers, statistics, asked, windows,
        windows_per_chunk=per_chunk, race_chunks=few.chunks, refit=how.refit, grams=grams,
    )  # fmt: skip
    for name in ("wanda", "fisher", "magnitude"):
        expression = CATALOG[name].expression
        assert list(few.losses(expression)) == pytest.approx([*exact.losses(expression)], rel=5e-4)


@pytest.mark.parametrize("refine", ["none", "admm"])
def test_a_search_with_gram_matrices_in_host_memory_finds_the_same(
    workplace, refine, tmp_path, monkeypatch
):
    parts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    setup = Setup(str(workplace / "model"), **FEW, **parts)
    monkeypatch.setattr(gram, "AT_ONCE", 1 << 12)

    def found(folder: str) -> tuple[list[float], str, dict[str, float]]:
        result = search(
            setup, "0.5", tmp_path / folder, evaluations=6, update="least-squares", refine=refine
        )
        tried = json.loads((tmp_path / folder / "history.json").read_text())
        return [one["perplexity"] for one in tried], result.metric, result.known_on_validation

    def on_host(works: Sequence[Workspace], *_: object) -> None:
        placed.extend(works)
        for work in works:
            work.calibration.grams_on_host = True

    placed: list[Workspace] = []
    there = found("there")
    monkeypatch.setattr("prunerzero.tasks.cases.place_grams", on_host)
    assert found("elsewhere") == there
    assert len(placed) == 1


def test_with_other_steps_of_the_refit_it_is_another_search(workplace):
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    cases = Cases((Workspace(Setup(str(workplace / "model"), **texts)),), (Sparsity(ratio=0.5),))
    settings = SearchSettings()
    steps = {
        update + refine: cases.identity(settings, RefitOptions(update, refine)).get(
            "steps of the refit"
        )
        for update in ("none", "least-squares")
        for refine in ("none", "admm")
    }
    assert steps == {
        "nonenone": None,
        "noneadmm": None,
        "least-squaresnone": RANKING_STEPS,
        "least-squaresadmm": None,
    }


@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
@pytest.mark.parametrize("refine", ["none", "admm"])
def test_compare_measures_what_is_pruned_and_refitted_by_hand(
    in_workplace, workplace, texts, sparsity, refine
):
    asked = ["compare", *texts, *SETUP, "--metrics", "wanda,magnitude", "--sparsity", sparsity]
    done = in_workplace(*asked, "--update", "least-squares", "--refine", refine, "--json")
    found = json.loads(done.stdout)
    expected = by_hand(workplace, sparsity, Refit("least-squares", refine))
    assert found["perplexity"]["test"]["wanda"] == pytest.approx(expected, rel=1e-4)
    assert found["settings"]["update"] == "least-squares"
    assert any("refitted to one text" in doubt for doubt in found["warnings"])


def test_whole_model_masks_may_be_refitted_layer_after_layer(in_workplace, workplace, texts):
    asked = ["prune", *texts, *SETUP, "--metric", "fisher", "--group", "model", *REFIT]
    dense = in_workplace(*asked, "--output-dir", "dense-inputs", "--json")
    done = in_workplace(*asked, "--propagate", "pruned", "--output-dir", "in-order", "--json")
    before, after = json.loads(dense.stdout), json.loads(done.stdout)
    assert after["settings"]["propagate"] == "pruned"
    assert after["sparsity"] == before["sparsity"]
    first, second = before["layers"][0], after["layers"][0]
    assert first["error"] == pytest.approx(second["error"], rel=1e-3), "it reads what it read"
    assert [a["zeros"] for a in after["layers"]] == [b["zeros"] for b in before["layers"]]
    assert any(
        a["error"] != pytest.approx(b["error"], rel=1e-3)
        for a, b in zip(after["layers"], before["layers"], strict=True)
    )
    recipe = str(workplace / "in-order" / "recipe.yaml")
    again = in_workplace("prune", "--recipe", recipe, "--output-dir", "in-order-again", "--json")
    assert json.loads(again.stdout)["repeated"]


def test_a_recipe_repeats_a_refit_to_the_byte(in_workplace, workplace, texts):
    asked = ["prune", *texts, *SETUP, "--metric", "fisher", "--group", "model", *REFIT]
    in_workplace(*asked, "--steps", "2", "--output-dir", "refitted")
    recipe = str(workplace / "refitted" / "recipe.yaml")
    again = in_workplace("prune", "--recipe", recipe, "--output-dir", "refitted-again", "--json")
    assert json.loads(again.stdout)["repeated"]
    card = (workplace / "refitted" / "README.md").read_text()
    assert "refitted to the calibration text by least squares" in card


def test_a_search_under_an_update_gives_what_prune_with_its_command_gives(
    in_workplace, workplace, texts
):
    asked = ["search", *texts, *SETUP, "--evaluations", "6", *REFIT, "--output-dir", "under-update"]
    done = in_workplace(*asked)
    result = json.loads((workplace / "under-update" / "best.json").read_text())
    told = "refitted to one text, calibration.txt"
    assert any(told in warning for warning in result["warnings"]) and told in done.stderr
    command = shlex.split(done.stdout.split("Prune with it: ")[1])
    assert command[command.index("--update") + 1] == "least-squares"
    pruned = in_workplace(*command[1:], "--json")
    [figures] = json.loads(pruned.stdout)["perplexity"].values()
    assert figures["pruned"] == pytest.approx(result["perplexity"]["test"][result["origin"]])
    run = str(workplace / "under-update")
    alone = in_workplace("prune", *texts, *SETUP, "--metric", run, "--output-dir", "masks-alone")
    assert "was judged with admm, least-squares, and is used here with masks alone" in alone.stderr
    other = [word for word in asked if word not in REFIT]
    refused = in_workplace(*other)
    assert refused.exit_code == 2
    assert "another search" in refused.stderr


def test_a_search_tells_after_which_refit_each_figure_was_measured(in_workplace, workplace, texts):
    asked = ["search", *texts, *SETUP, "--evaluations", "4", "--update", "least-squares"]
    done = in_workplace(*asked, "--output-dir", "in-8-steps")
    few = f"least-squares in {RANKING_STEPS} steps"
    assert f"Candidates are judged after {few}; the result is measured after" in done.stderr
    told = f"Candidates were judged after {few}; the figures above are after least-squares in full"
    assert told in " ".join(done.stdout.split())
    assert "s of search" in done.stdout and "s for the whole command." in done.stdout
    best = json.loads((workplace / "in-8-steps" / "best.json").read_text())
    assert (best["refit"], best["refit_of_candidates"]) == ("least-squares", few)
    in_full = in_workplace(*asked, "--refine", "admm", "--output-dir", "in-full")
    best = json.loads((workplace / "in-full" / "best.json").read_text())
    assert best["refit"] == best["refit_of_candidates"] == "admm, least-squares"
    assert "Candidates are judged" not in in_full.stderr and "were judged" not in in_full.stdout


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["search", "--steps", "2"], "No such option"),
        (["search", "--reconstruct", "2"], "No such option"),
        (["prune", "--steps", "2", "--block-by-block"], "--steps"),
        (["prune", "--update", "sideways"], "least-squares"),
        (["prune", "--steps", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(in_workplace, workplace, texts, asked, words):
    command = [asked[0], *texts, *asked[1:], "--output-dir", "refused"]
    refused = in_workplace(*command)
    assert refused.exit_code == 2
    assert words in refused.stderr
    assert not (workplace / "refused").exists()
