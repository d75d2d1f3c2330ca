"""Search, prune, compare, evaluate: through the command line, on a tiny model."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from installed_command import CommandLine
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero import Expression
from prunerzero.metrics import CATALOG


@pytest.fixture(scope="module")
def pruned(here: CommandLine, texts: list[str], found: dict) -> dict:
    return here.json("prune", *texts, "--metric", "run", "--output-dir", "pruned")


def test_a_search_prints_what_it_leaves_in_best_json(workplace, found):
    best = json.loads((workplace / "run" / "best.json").read_text())
    assert best == found
    assert Expression.from_json(best["tree"]) == Expression.parse(best["metric"])
    assert best["evaluations"] == 12
    assert best["sparsity"] == "0.5"
    assert best["seed"] == 0
    assert set(best["perplexity"]) == {"validation", "test"}
    assert all(set(p) == {"dense", best["origin"]} for p in best["perplexity"].values())
    assert best["settings"]["windows"] == {"calibration": 31, "validation": 31, "test": 31}


def test_the_finalists_are_in_order(found):
    perplexities = [finalist["perplexity"] for finalist in found["finalists"]]
    assert perplexities == sorted(perplexities)


def test_no_known_metric_is_better_on_the_whole_validation_text(here, texts, found):
    """Brute force: each is pruned with and measured as ``compare`` does it."""
    measured = here.json("compare", *texts)["perplexity"]["validation"]
    dense = measured.pop("dense")
    best = min(measured, key=measured.get)
    result = found["perplexity"]["validation"]
    assert result["dense"] == pytest.approx(dense, rel=1e-6)
    assert result[found["origin"]] <= measured[best] * (1 + 1e-6)
    if found["origin"] == "known":
        assert found["name"] == best
        assert found["metric"] == str(CATALOG[best].expression)
        assert (
            "No evolved metric beats the known ones" in found["answer"] and best in found["answer"]
        )


def test_the_front_of_size_against_loss_and_the_known_metrics_are_told(found):
    sizes = [point["size"] for point in found["pareto"]]
    assert sizes == sorted(set(sizes))
    perplexities = [point["perplexity"] for point in found["pareto"]]
    assert perplexities == sorted(perplexities, reverse=True)
    assert {"magnitude", "wanda", "ria", "power-law"} <= set(found["known"])


def test_a_report_of_the_run_opens_without_a_network(here, workplace, found):
    done = here.run("report", "run")
    assert done.returncode == 0 and "report.html" in done.stdout
    html = (workplace / "run" / "report.html").read_text(encoding="utf-8")
    assert ("found no metric better than" in html) == (found["origin"] == "known")
    assert "12 evaluations" in html and "default-src 'none'" in html


def test_the_same_command_again_goes_on_where_it_was(here, texts, found):
    begun = ["search", *texts, "--output-dir", "longer", "--evaluations"]
    first = here.json(*begun, "6")
    second = here.json(*begun, "12")
    assert first["evaluations"] == 6
    assert {k: second[k] for k in ("metric", "finalists", "perplexity", "duplicates_skipped")} == {
        k: found[k] for k in ("metric", "finalists", "perplexity", "duplicates_skipped")
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [(["--seed", "1"], "seed"), (["--sparsity", "2:4"], "sparsity")],
)
def test_a_run_is_not_resumed_as_another(here, texts, found, changed, named):
    done = here.run("search", *texts, "--evaluations", "12", "--output-dir", "run", *changed)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("stop", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_stopped_keeps_what_was_evaluated(
    forked, here, workplace, texts, stop, exit_code
):
    """A new process that is stopped: ``test_new_process``."""
    folder = f"stopped-by-{stop.name}"
    command = ["search", *texts, "--output-dir", folder, "--evaluations"]
    with forked.start(*command, "100000") as process:
        journal = workplace / folder / "journal.log"
        while not journal.exists() or journal.read_text().count('"complete"') < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(stop)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    by = " by SIGTERM" if stop == signal.SIGTERM else ""
    assert "Traceback" not in errors and f"Interrupted{by}." in errors
    kept = json.loads((workplace / folder / "best.json").read_text())
    assert kept["interrupted"]
    assert kept["metric"] in printed
    resumed = here.json(*command, str(kept["evaluations"] + 1))
    assert resumed["evaluations"] == kept["evaluations"] + 1


def test_a_pruned_model_loads_like_any_other(workplace, pruned):
    model = AutoModelForCausalLM.from_pretrained(workplace / "pruned")
    AutoTokenizer.from_pretrained(workplace / "pruned")
    dense = AutoModelForCausalLM.from_pretrained(workplace / "model")
    for (name, weight), original in zip(model.named_parameters(), dense.parameters(), strict=True):
        if "_proj" in name:
            zeros = (weight == 0).sum(1)
            assert torch.all(zeros == weight.shape[1] // 2), name
            assert torch.equal(weight[weight != 0], original[weight != 0]), name
        else:
            assert torch.equal(weight, original), name


def test_a_pruned_model_has_the_perplexity_that_was_reported(forked, pruned):
    again = forked.json("eval", "--model", "pruned", "--text", "test.txt")
    assert again["perplexity"] == pytest.approx(pruned["perplexity"]["test"]["pruned"], rel=1e-5)
    assert (again["windows"], again["window_length"]) == (31, 64)


def test_a_pruned_folder_tells_how_it_was_made(here, workplace, found, pruned):
    folder = workplace / "pruned"
    assert json.loads((folder / "metric.json").read_text())["tree"] == found["tree"]
    assert json.loads((folder / "figures.json").read_text())["perplexity"] == pruned["perplexity"]
    card = (folder / "README.md").read_text()
    assert found["metric"] in card
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["metric"] == found["metric"]
    again = here.json(
        "prune", "--config", str(folder / "recipe.yaml"), "--output-dir", "from-recipe"
    )
    assert again["perplexity"] == pruned["perplexity"]
    weights = "model.safetensors"
    assert (workplace / "from-recipe" / weights).read_bytes() == (folder / weights).read_bytes()


def test_compare_gives_each_metric_under_the_text_by_which_it_was_given(here, texts, found, pruned):
    metrics = ["wanda", "div(W, X + G)", "pruned/metric.json", "run"]
    result = here.json("compare", *texts, "--metrics", ",".join(metrics))
    for part in ("validation", "test"):
        assert list(result["perplexity"][part]) == ["dense", *metrics]
        assert all(math.isfinite(value) for value in result["perplexity"][part].values())
        expected = found["perplexity"][part]
        assert result["perplexity"][part]["run"] == pytest.approx(
            expected[found["origin"]], rel=1e-6
        )
        assert result["perplexity"][part]["dense"] == pytest.approx(expected["dense"], rel=1e-6)


def test_a_pattern_is_kept_in_every_run_of_inputs(here, workplace, texts):
    here.json("prune", *texts, "--sparsity", "2:4", "--output-dir", "pattern")
    model = AutoModelForCausalLM.from_pretrained(workplace / "pattern")
    for name, weight in model.named_parameters():
        if "_proj" in name:
            assert torch.all((weight.reshape(-1, 4) == 0).sum(1) == 2), name


def test_a_table_is_what_a_person_sees(here, texts):
    done = here.run("compare", *texts, "--metrics", "magnitude,wanda")
    assert done.returncode == 0, done.stderr
    for word in ("dense", "magnitude", "wanda", "validation", "test"):
        assert word in done.stdout


def test_every_command_teaches_by_example(in_workplace):
    for command in ("demo", "search", "report", "prune", "eval", "compare", "explain"):
        shown = in_workplace(command, "--help").output
        assert "Example" in shown, command
        assert "--json" in shown, command


def test_metrics_and_explain_speak_of_the_catalog(in_workplace):
    listed = json.loads(in_workplace("metrics", "--json").output)
    names = {row["name"] for row in listed}
    assert {
        "magnitude",
        "wanda",
        "ria",
        "gblm",
        "fisher",
        "obs",
        "pruner-zero",
        "fisher-obs",
        "power-law",
    } == names
    assert all(row["source"] for row in listed)
    told = json.loads(in_workplace("explain", "exp(W * W * X)", "--json").output)
    assert "wanda" in told["same_as"]


def test_a_demo_leaves_summary_report_and_model(in_workplace, workplace, monkeypatch):
    """On the bundled model; two known metrics tell as much of it as all do."""
    from dataclasses import replace

    from prunerzero.tasks import demo

    small = replace(
        demo.DEMO_SETUP,
        max_seq_length=128,
        num_calibration_samples=4,
        num_validation_samples=4,
        num_test_samples=4,
    )
    monkeypatch.setattr(demo, "DEMO_SETUP", small)
    two = {name: CATALOG[name] for name in ("magnitude", "wanda")}
    monkeypatch.setattr(demo, "CATALOG", two)
    done = in_workplace("demo", "--evaluations", "12", "--output-dir", "shown", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads((workplace / "shown" / "summary.json").read_text())
    assert json.loads(done.stdout) == summary
    assert summary["sparsity"] == "0.5"
    assert summary["seed"] == 0
    assert summary["evaluations"] == 12
    assert summary["duplicates_skipped"] >= 0
    assert summary["seconds"] > 0
    Expression.parse(summary["metric"])
    names = {"dense", "magnitude", "wanda", "evolved"}
    for part in ("validation", "test"):
        assert set(summary["perplexity"][part]) == names
    assert set(summary["patterns"]["2:4"]["test"]) == names
    page = (workplace / "shown" / "report.html").read_text()
    assert summary["metric"] in page.replace("&#39;", "'")
    AutoModelForCausalLM.from_pretrained(workplace / "shown" / "model")
    again = in_workplace("demo", "--evaluations", "12", "--output-dir", "shown")
    assert again.exit_code == 2
    assert not Path(workplace / "shown.partial").exists()


def test_scores_may_compete_within_a_layer_or_the_whole_model(in_workplace, texts):
    def compare(*options):
        options = [*texts, "--metrics", "magnitude", "--json", *options]
        return json.loads(in_workplace("compare", *options).stdout)

    found = [compare("--group", group) for group in ("row", "layer", "model")]
    assert [result["group"] for result in found] == ["row", "layer", "model"]
    perplexities = [result["perplexity"]["test"] for result in found]
    assert len({values["dense"] for values in perplexities}) == 1
    assert len({values["magnitude"] for values in perplexities}) == 3
    done = in_workplace("compare", *texts, "--group", "layer", "--sparsity", "2:4")
    assert done.exit_code == 2 and "within runs of a row only" in done.stderr
