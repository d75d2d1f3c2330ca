"""One search on several models and sparsities: each case has figures, and none decides alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import psutil
import pytest
from installed_command import copy_workers
from tiny_model import save_tiny_model, tiny_gemma, tiny_model, tiny_tokenizer

from prunerzero import InputError, Setup, Sparsity, search
from prunerzero.metrics import CATALOG, Expression
from prunerzero.pruning.pruner import prune_model
from prunerzero.tasks.cases import Cases, fitness_of
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.workspace import Workspace

TEXTS = [x for part in ("calibration", "validation", "test") for x in (f"--{part}", f"{part}.txt")]
TEXTS += ["--max-seq-length", "16", "--num-calibration-samples", "16"]
BOTH = ["--model", "model", "--model", "gemma"]
AT_TWO = ["--sparsity", "0.5", "--sparsity", "2:4"]
CASES = [("model", "0.5"), ("model", "2:4"), ("gemma", "0.5"), ("gemma", "2:4")]


@pytest.fixture(scope="module", autouse=True)
def models(workplace: Path) -> None:
    """Beside ``model`` one that begins windows with a token, ``gemma``, and ``same``, a copy."""
    gemma, tokenizer = tiny_gemma(), tiny_tokenizer()
    for parameter in gemma.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(8)
    gemma.save_pretrained(workplace / "gemma")
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.save_pretrained(workplace / "gemma")
    save_tiny_model(workplace / "same")
    broken = tiny_model(3)
    broken.model.norm.weight.data.fill_(math.nan)
    broken.save_pretrained(workplace / "nan")
    tiny_tokenizer().save_pretrained(workplace / "nan")


@pytest.fixture(scope="module")
def together(here: Any) -> Any:
    """What a search of twelve evaluations on both models at two sparsities printed."""
    return here.json(
        "search", *BOTH, *AT_TWO, *TEXTS, "--evaluations", "12", "--output-dir", "together"
    )


def opened(workplace: Path, model: str, length: int = 16) -> Workspace:
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    few = {"max_seq_length": length, "num_calibration_samples": 16}
    return Workspace(Setup(model=str(workplace / model), **few, **texts))


def test_every_case_has_its_own_figures_which_are_those_of_the_model_alone(together, workplace):
    assert [(case["model"], case["sparsity"]) for case in together["cases"]] == CASES
    metric, origin = Expression.from_json(together["tree"]), together["origin"]
    for model in ("model", "gemma"):
        work = opened(workplace, model)
        for case in (case for case in together["cases"] if case["model"] == model):
            for place in ("validation", "test"):
                figures = case["perplexity"][place]
                assert figures["dense"] == pytest.approx(work.dense(place), rel=1e-5)
                with work.pruned_for_now():
                    pattern = Sparsity.parse(case["sparsity"])
                    prune_model(work.layers, work.calibration.statistics("XG"), metric, pattern)
                    pruned = work.measure(place, "").value
                assert figures[origin] == pytest.approx(pruned, rel=1e-5)
                ratio = pytest.approx(pruned / work.dense(place), rel=1e-5)
                assert case["ratio"][place] == ratio
                beside = {together["best_known"]} if origin == "evolved" else set()
                assert set(figures) == {"dense", origin} | beside


def test_the_result_is_judged_by_the_geometric_mean_of_the_ratios(together):
    for place in ("validation", "test"):
        ratios = [case["ratio"][place] for case in together["cases"]]
        assert together["ratio"][place] == pytest.approx(geometric_mean(ratios))
    assert together["perplexity"] == {}
    known = together["known_on_validation"]
    if together["origin"] == "evolved":
        assert together["ratio"]["validation"] < min(known.values())
    else:
        assert together["ratio"]["validation"] == pytest.approx(min(known.values()))
    assert set(together["known"]) == set(CATALOG) - {"obs", "fisher-obs"}
    shown = f"{together['ratio']['validation']:.3f} times the dense perplexity"
    assert shown in together["answer"] and "in the geometric mean of 4 cases" in together["answer"]


def test_a_model_with_more_windows_has_longer_chunks_and_reads_all_its_text(workplace, monkeypatch):
    monkeypatch.setattr("prunerzero.tasks.cases._CHUNK_TOKENS", 16)  # as if the texts were longer
    few, many = (opened(workplace, name, length) for name, length in (("model", 32), ("gemma", 8)))
    half, count = Sparsity(ratio=0.5), len(many.texts.of("validation").windows)
    alone = fitness_of(few, half).total_chunks
    assert fitness_of(many, half).total_chunks > alone > 1
    cut = fitness_of(many, half, chunks=alone)
    per_chunk = count // alone
    assert alone <= cut.total_chunks == count // per_chunk
    together = Cases((few, many), (half,)).fitness("WXG", RefitOptions())
    assert together.total_chunks == alone


def test_what_is_no_perplexity_is_not_called_one(together, workplace):
    history = json.loads((workplace / "together" / "history.json").read_text())
    for entries in (together["finalists"], together["pareto"], history):
        assert entries and all("ratio" in e and "perplexity" not in e for e in entries)
    for e in history:
        if e["state"] != "failed":
            assert e["ratio"] == pytest.approx(math.exp(e["loss"]))


def test_every_model_s_settings_are_kept(together):
    settings = together["settings"]
    assert settings["model"] == ["model", "gemma"]
    weights = [one["fingerprints"]["model"]["weights"] for one in settings["models"]]
    assert len(set(weights)) == 2 and settings["gradient"] == "full"
    dense, begun = (one["windows"]["validation"] for one in settings["models"])
    assert begun > dense, "each window of the second begins with a token of its own"


def test_the_terminal_and_the_report_tell_every_case(together, in_workplace, workplace):
    again = ["search", *BOTH, *AT_TWO, *TEXTS, "--evaluations", "12", "--output-dir", "together"]
    shown = in_workplace(*again).stdout
    for case in together["cases"]:
        figures = case["perplexity"]["test"]
        numbers = [f"{figures['dense']:.2f}", f"{figures[together['origin']]:.2f}"]
        row = [case["model"], case["sparsity"], "test", *numbers, f"{case['ratio']['test']:.3f}"]
        assert re.search(r"\s+│\s+".join(map(re.escape, row)), shown), row
    assert "geometric mean" in shown
    commands = re.findall(
        r"prunerzero prune --model (\S+) .*--sparsity (\S+) --output-dir (\S+)", shown
    )
    assert [command[:2] for command in commands] == CASES
    assert len({folder for *_, folder in commands}) == 4
    assert in_workplace("report", "together").exit_code == 0
    page = (workplace / "together" / "report.html").read_text()
    heading = re.search(r"<h1>(.*?)</h1>", page)
    assert heading and heading[1].startswith(
        "On 2 models, at 50 % and 2:4 sparsity, 12 evaluations"
    )
    assert "times the dense perplexity in the geometric mean of 4 cases" in heading[1]
    assert "Case by case" in page and '"text":"perplexity \\u002f dense perplexity"' in page
    for case in together["cases"]:
        assert f"<td>{case['ratio']['validation']:.3f}</td>" in page


def test_prune_asks_for_which_of_the_sparsities_and_tells_what_is_another(together, in_workplace):
    prune = ["prune", "--model", "gemma", *TEXTS, "--metric", "together"]
    refused = in_workplace(*prune, "--output-dir", "never")
    assert refused.exit_code == 2
    assert "for several sparsities, 0.5 per row and 2:4; pass --sparsity" in refused.stderr
    done = in_workplace(*prune, "--sparsity", "2:4", "--output-dir", "one-of-two")
    assert done.exit_code == 0 and "was searched for" not in done.stderr
    done = in_workplace(*prune, "--sparsity", "0.7", "--output-dir", "neither")
    assert "was searched for at sparsity 0.5 per row and 2:4; it is used for" in done.stderr


def test_a_search_on_one_model_says_that_its_metric_is_good_for_that_model_alone(
    here, texts, workplace
):
    asked = ["search", *texts, "--strategy", "powerlaw", "--evaluations", "40"]
    found = here.json(*asked, "--max-seq-length", "16", "--output-dir", "alone")
    assert found["cases"] == [] and found["ratio"] == {}
    best = json.loads((workplace / "alone" / "best.json").read_text())
    (workplace / "alone" / "best.json").write_text(json.dumps({**best, "origin": "evolved"}))
    here.run("report", "alone")
    page = (workplace / "alone" / "report.html").read_text()
    assert "fitted to one model is good for that model alone" in page


def test_another_set_of_cases_is_another_search(together, in_workplace):
    few = [*TEXTS, "--evaluations", "12", "--output-dir", "together"]
    gemma_first = ["--model", "gemma", "--model", "model"]
    for asked, what in [
        (["--model", "model", *AT_TWO], "an unknown model 2 with its texts"),
        ([*gemma_first, *AT_TWO], "other model weights"),
        ([*BOTH, "--sparsity", "0.5"], "sparsity '0.5, 2:4', not '0.5'"),
        ([*BOTH, *AT_TWO, "--num-validation-samples", "9"], "other model 2 with its texts"),
        ([*BOTH, *AT_TWO, "--update", "least-squares"], "refit left out, not 'least-squares'"),
    ]:
        done = in_workplace("search", *asked, *few)
        assert done.exit_code == 2 and "Traceback" not in done.stderr
        assert "holds another search" in done.stderr and what in done.stderr


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--model", "model", "--model", "model"], "--model names 'model' twice"),
        (["--model", "model", "--model", "same"], "'model' and 'same' are the same model"),
        (["--sparsity", "0.5", "--sparsity", "50%"], "--sparsity names '0.5' twice"),
        (["--sparsity", "0.5", "--sparsity", "2:4", "--group", "model"], "runs of a row only"),
        (["--model", "model", "--model", "nan"], "'nan' has no finite loss"),
        (["--model", "model", "--model", "nowhere"], "there is no model folder 'nowhere'"),
    ],
)
def test_what_cannot_be_judged_together_is_refused_in_a_sentence(
    asked, words, in_workplace, workplace
):
    done = in_workplace("search", *asked, *TEXTS, "--output-dir", "refused")
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    assert words in " ".join(done.stderr.split())
    assert not (workplace / "refused").exists()


def test_models_that_do_not_fit_together_are_refused_before_any_is_loaded(
    in_workplace, monkeypatch
):
    from types import SimpleNamespace

    monkeypatch.setattr("prunerzero.tasks.workspace.load_model", lambda *_, **__: pytest.fail())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20_000))
    done = in_workplace("search", *BOTH, *TEXTS, "--workers", "1", "--output-dir", "too-large")
    assert done.exit_code == 2 and "the 2 models together need about" in done.stderr
    done = in_workplace("search", *BOTH, *TEXTS, "--workers", "2", "--output-dir", "too-large")
    assert "2 workers with 2 models each need about" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["prune", "--metric", "wanda", "--output-dir", "never"],
        ["tune", "--output-dir", "never"],
        ["compare", "--metrics", "wanda"],
        ["eval"],
    ],
)
def test_other_commands_take_one_model_and_say_so(command, in_workplace, workplace):
    (workplace / "two.yaml").write_text("model: [model, gemma]\n")
    for asked in (BOTH, ["--config", "two.yaml"]):
        done = in_workplace(*command, *asked, "--test", "test.txt")
        assert done.exit_code == 2
        assert "--model names 2 models, and only search takes several" in done.stderr


def test_workers_share_a_search_on_several_models(forked):
    asked = [*BOTH, *AT_TWO, *TEXTS, "--evaluations", "8", "--output-dir", "shared", "--json"]
    done = forked.run("search", *asked, "--workers", "2", first=copy_workers)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["evaluations"] == 8
    assert [(case["model"], case["sparsity"]) for case in found["cases"]] == CASES
    assert all(set(case["ratio"]) == {"validation", "test"} for case in found["cases"])


def test_with_refitted_weights_candidates_are_judged_after_the_refit(here):
    asked = ["search", *BOTH, *TEXTS, "--update", "least-squares", "--evaluations", "6"]
    found = here.json(*asked, "--output-dir", "refitted-together")
    assert found["settings"]["update"] == "least-squares"
    name, judged = min(found["known_on_validation"].items(), key=lambda item: item[1])
    ratios = []
    for model in ("model", "gemma"):
        asked = ["compare", "--model", model, *TEXTS, "--metrics", name]
        measured = here.json(*asked, "--update", "least-squares")["perplexity"]["validation"]
        ratios.append(measured[name] / measured["dense"])
    assert judged == pytest.approx(geometric_mean(ratios), rel=1e-3)


def test_a_file_of_options_lists_models_and_sparsities(in_workplace, workplace, together):
    (workplace / "several.yaml").write_text(
        "model: [model, gemma]\nsparsity: [0.5, 2:4]\nevaluations: 12\n"
        + "max-seq-length: 16\nnum-calibration-samples: 16\n"
        + "".join(f"{part}: {part}.txt\n" for part in ("calibration", "validation", "test"))
    )
    asked = ["search", "--config", "several.yaml", "--output-dir", "together", "--json"]
    again = in_workplace(*asked)
    assert again.exit_code == 0 and "resumed: 12 evaluations" in again.stderr
    same = json.loads(again.stdout)
    assert (same["metric"], same["cases"]) == (together["metric"], together["cases"])


@pytest.fixture
def setups(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Setup]]:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    few = {"max_seq_length": 16, "num_calibration_samples": 16}
    return lambda *names, **more: [
        Setup(model=str(workplace / name), **few, **texts, **more) for name in names
    ]


def test_from_python_setups_and_sparsities_are_lists(setups, tmp_path):
    found = search(setups("model", "gemma"), [0.5, "2:4"], tmp_path / "run", evaluations=4)
    assert [case["sparsity"] for case in found.cases] == ["0.5", "2:4", "0.5", "2:4"]
    assert set(found.ratio) == {"validation"}
    one = search(setups("model"), ["0.5"], tmp_path / "one", evaluations=4)
    same = search(setups("model")[0], 0.5, tmp_path / "same", evaluations=4)
    assert one.cases == () and one.metric == same.metric and one.perplexity == same.perplexity


def test_from_python_too_what_cannot_be_is_refused(setups, tmp_path):
    on_cpu, on_another = setups("model", device="cpu") + setups("gemma", device="cuda:7")
    rows, layers = Sparsity(ratio=0.5), Sparsity(ratio=0.4, group="layer")
    for models, sparsity, words in [
        ([], 0.5, "`setup` names no model"),
        (setups("model"), [], "`sparsity` names none"),
        ([on_cpu, on_another], 0.5, "share one `device`"),
        (setups("model"), [rows, layers], "one `group`"),
        ([3], 0.5, "`setup` must be a Setup or a model, not an int"),
    ]:
        with pytest.raises(InputError, match=words):
            search(models, sparsity, tmp_path / "run", evaluations=4)
    assert not (tmp_path / "run").exists()
