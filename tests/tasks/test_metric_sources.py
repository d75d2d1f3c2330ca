"""What a metric's name means, what goes with a run's metric, and metrics that rank nothing."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero import Expression, InputError, MetricError, Setup, Sparsity
from prunerzero.metrics import CATALOG, NotationError
from prunerzero.scoring.ranking import check_ranks
from prunerzero.tasks.metric_sources import (
    read_metric,
    read_metric_and_origin,
    settle,
    split_metrics,
)
from prunerzero.tasks.observer import Observer

TEXTS = ["--calibration", "calibration.txt", "--validation", "validation.txt"]
AMOUNTS = ["--num-calibration-samples", "2", "--num-validation-samples", "2"]
MODEL = ["--model", "model", *TEXTS, *AMOUNTS, "--max-seq-length", "32"]
WANDA = {"data": "mul", "left": {"data": "W"}, "right": {"data": "sqrt", "left": {"data": "X"}}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What the name means


@pytest.mark.parametrize("name", ["wanda", "Wanda", "W", "X", "W * X", "power-law(1,0)", "fisher"])
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_known_name_and_a_formula_go_before_a_file_of_that_name(here, name, make):
    expected = read_metric(name).expression
    make(here / name)
    assert read_metric(name).expression == expected
    with pytest.raises(InputError):
        read_metric(f"./{name}")
    with pytest.raises(InputError):
        read_metric(Path(name))


def test_a_path_with_a_separator_is_a_path_where_it_exists(here):
    assert str(read_metric("W/X").expression) == "W / X"
    (here / "W").mkdir()
    (here / "W" / "X").mkdir()
    (here / "W" / "X" / "best.json").write_text(json.dumps({"tree": WANDA}))
    assert str(read_metric("W/X").expression) == "W * sqrt(X)"
    assert str(read_metric("W / X").expression) == "W / X"


@pytest.mark.parametrize("terms", [30, 300, 3000])
def test_formulas_of_any_length_are_read(terms):
    formula = " + ".join(["W * X"] * terms)
    try:
        assert read_metric(formula).expression.size >= terms
    except MetricError as refusal:  # past the depth that a tree may have
        assert "nested" in str(refusal) or "deep" in str(refusal)


@settings(max_examples=200)
@given(st.text(max_size=400))
def test_any_text_is_a_metric_or_refused(text):
    try:
        read_metric(text)
    except (InputError, MetricError):
        pass


@pytest.mark.parametrize("file", ["best.json", "tune.json", "metric.json"])
def test_the_folder_of_a_search_a_tuning_or_a_pruned_model_names_its_metric(here, file):
    content = {"metric": {"tree": WANDA}} if file == "tune.json" else {"tree": WANDA}
    (here / "run").mkdir()
    (here / "run" / file).write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    assert str(read_metric("run").expression) == "W * sqrt(X)"


@pytest.mark.parametrize(
    "content",
    ['{"data": "W", "data": "G"}',
     '{"data": "mul", "left": {"data": "W"}, "left": {"data": "G"}, "right": {"data": "X"}}',
     '{"tree": {"data": "W"}, "settings": {"a": 1, "a": 2}}',
     '{"tree": {"data": "W"}, "tree": {"data": "W"}}'],
)  # fmt: skip
def test_a_key_twice_is_refused(here, content):
    (here / "m.json").write_text(content)
    with pytest.raises(InputError, match="twice"):
        read_metric("m.json")


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "null", "5", '""', '{"tree": null}', '{"tree": 5}', '{"metric": {}}',
     '{"tree": {"data": "W"}, "settings": []}', '{"tree": {"data": "W"}, "sparsity": {"a": 1}}',
     '{"tree": {"data": "W"}, "sparsity": "0.5", "group": ["row"]}',
     '{"tree": {"data": "W"}, "settings": {"gradient": ["full"]}}'],
)  # fmt: skip
@pytest.mark.parametrize("file", ["best.json", "tune.json", "metric.json"])
def test_a_minimal_or_foreign_result_is_read_or_refused(here, file, content):
    (here / file).write_text(content)
    for name in (".", f"./{file}"):
        try:
            assert str(read_metric(name).expression) == "W"
        except InputError as refusal:
            assert file in str(refusal)


# What goes with it


def best(folder: Path, sparsity: str = "0.7", group: str = "model", gradient: str = "block") -> str:
    tree = {"data": "mul", "left": {"data": "W"}, "right": {"data": "G"}}
    content = {"tree": tree, "sparsity": sparsity, "group": group}
    folder.mkdir()
    (folder / "best.json").write_text(
        json.dumps(content | {"settings": {"gradient": gradient, "group": "row"}})
    )
    return str(folder)


class Told(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def settled(*names: str, sparsity: Any = None, group: Any = None, **setup: Any) -> Any:
    told = Told()
    read = [read_metric_and_origin(name) for name in names]
    result, amount = settle(Setup(**setup), sparsity, group, read, told)
    return amount, result.gradient, " / ".join(told.notes)


def test_a_runs_sparsity_group_and_gradient_are_the_defaults(tmp_path):
    run = best(tmp_path / "run")
    amount, gradient, told = settled(run)
    assert (str(amount), amount.group, gradient) == ("0.7", "model", "block")
    assert "0.7 of the model" in told and run in told


@pytest.mark.parametrize(
    ("asked", "expected", "told"),
    [
        ({"sparsity": "0.5"}, Sparsity(ratio=0.5, group="model"), "0.5 of the model"),
        ({"group": "row"}, Sparsity(ratio=0.7), "0.7 per row"),
        ({"sparsity": 0.7, "group": "layer"}, Sparsity(ratio=0.7, group="layer"), "per layer"),
        ({"sparsity": "2:4"}, Sparsity(keep=2, of=4), "used for 2:4"),
        ({"sparsity": Sparsity(ratio=0.7)}, Sparsity(ratio=0.7), "0.7 per row"),
    ],
)
def test_what_is_asked_for_goes_before_the_run_and_is_told(tmp_path, asked, expected, told):
    amount, gradient, notes = settled(best(tmp_path / "run"), **asked)
    assert (amount, gradient) == (expected, "block")
    assert "searched for at sparsity 0.7 of the model" in notes and told in notes


def test_another_gradient_than_the_runs_is_told(tmp_path):
    _, gradient, told = settled(best(tmp_path / "run"), gradient="full")
    assert gradient == "full"
    assert "made with `gradient='block'`" in told


def test_runs_that_differ_need_to_be_told_apart(tmp_path):
    runs = [best(tmp_path / "a"), best(tmp_path / "b", "2:4", "row", "full")]
    with pytest.raises(InputError, match="pass `sparsity`"):
        settled(*runs)
    with pytest.raises(InputError, match="pass `group`"):
        settled(*runs, sparsity="0.5")
    with pytest.raises(InputError, match="pass `gradient`"):
        settled(*runs, sparsity="0.5", group="row")
    amount, _, _ = settled(*runs, sparsity="0.5", group="row", gradient="full")
    assert amount == Sparsity(ratio=0.5)


def test_without_a_run_half_of_each_row_is_pruned():
    assert settled("wanda") == (Sparsity(ratio=0.5), None, "")


def test_the_command_that_search_prints_prunes_as_was_meant(in_workplace, workplace):
    run = ["--group", "model", "--sparsity", "0.7", "--gradient", "block", "--ignore", "*.q_proj"]
    done = in_workplace("search", *MODEL, *run, "--evaluations", "4", "--output-dir", "a run")
    assert done.exit_code == 0, done.output
    [line] = [x for x in done.stdout.splitlines() if x.startswith("Prune with it: ")]
    program, *arguments = shlex.split(line.removeprefix("Prune with it: "))
    assert program == "prunerzero"
    again = in_workplace(*arguments)
    assert again.exit_code == 0, again.output
    recipe = yaml.safe_load((workplace / "a run-pruned" / "recipe.yaml").read_text())
    assert (recipe["sparsity"], recipe["group"], recipe["ignore"]) == ("0.7", "model", ["*.q_proj"])
    assert recipe["gradient"] == "block"
    assert recipe["num_calibration_samples"] == 2
    briefly = in_workplace("prune", *MODEL, "--metric", "a run", "--output-dir", "brief")
    assert "sparsity 0.7 of the model, for which 'a run' was made" in briefly.stderr
    figures = json.loads((workplace / "brief" / "figures.json").read_text())
    assert figures["sparsity"] == pytest.approx(0.7, abs=1e-3)


# What ranks nothing

CONSTANT = ["5", "X - X", "W / W", "0 * G", "W ** 0", "exp(W - W)", "sqrt(W) * sqrt(W) / W", "-2"]
PER_ROW = Sparsity(ratio=0.5)


@pytest.mark.parametrize("formula", CONSTANT)
@pytest.mark.parametrize(
    "amount",
    [
        PER_ROW,
        Sparsity(ratio=0.5, group="layer"),
        Sparsity(ratio=0.5, group="model"),
        Sparsity(keep=2, of=4),
    ],
)
def test_a_metric_that_is_constant_where_it_is_compared_is_refused(formula, amount):
    with pytest.raises(MetricError, match="constant"):
        check_ranks(Expression.parse(formula), amount)


@pytest.mark.parametrize("formula", ["X", "X * X", "G", "W", "mms(G)", "exp(X * 100)", "log(W)"])
@pytest.mark.parametrize("amount", [PER_ROW, Sparsity(keep=2, of=4)])
def test_a_metric_of_one_statistic_ranks(formula, amount):
    check_ranks(Expression.parse(formula), amount)
    for metric in CATALOG.values():
        check_ranks(metric.expression, amount)


@pytest.mark.parametrize("command", ["prune", "compare"])
@pytest.mark.parametrize("formula", CONSTANT[:3])
def test_a_constant_metric_is_refused_before_a_model_is_loaded(in_workplace, command, formula):
    wanted = {"prune": ["--output-dir", "new", "--metric"], "compare": ["--metrics"]}[command]
    done = in_workplace(command, "--model", "./nowhere", *MODEL[2:], *wanted, formula)
    assert done.exit_code == 2
    assert "constant" in done.stderr and "nowhere" not in done.stderr


def test_a_metric_that_float32_makes_constant_is_refused(in_workplace, workplace):
    done = in_workplace("prune", *MODEL, "--metric", "(W / 10000) ** 20", "--output-dir", "new")
    assert done.exit_code == 2, done.output
    assert "constant" in done.stderr
    assert not (workplace / "new").exists()


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_empty_metric_is_no_folder(nothing):
    with pytest.raises(NotationError, match="the formula is empty"):
        read_metric(nothing)


@pytest.mark.parametrize("named", ["nowhere/run", "./nowhere", "/nonexist/dir", "W/Y"])
def test_a_path_where_nothing_is_and_no_formula_is_told_as_such(here, named):
    with pytest.raises(NotationError, match=re.escape(f"there is no file or folder '{named}'")):
        read_metric(named)


@pytest.mark.parametrize("formula", ["W/X", "W / Y", "(W/Y)"])
def test_a_formula_that_divides_is_told_as_a_formula(here, formula):
    try:
        read_metric(formula)
    except NotationError as refusal:
        assert "file" not in str(refusal)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("wanda,fisher", ["wanda", "fisher"]),
        (" wanda , max(D, X) ", ["wanda", "max(D, X)"]),
        ("power-law(0.5,0.25),run", ["power-law(0.5,0.25)", "run"]),
        (",,", []),
    ],
)
def test_commas_outside_parentheses_part_metrics(text, named):
    assert split_metrics(text) == named
