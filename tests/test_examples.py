"""What the scripts in ``examples/metrics`` make of results."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Generator, Iterator
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from examples.metrics import ablations, ahead, common, leads, one_or_many, pool, results, run
from examples.smollm2 import run as smollm2
from prunerzero import evolution
from prunerzero.errors import InputError
from prunerzero.metrics import CATALOG, Expression

RESULTS = Path(run.__file__).parent / "results.json"
MODELS = ("A", "B")
ONE, SEVERAL = ("W * X", "W + X", "W - X"), ("W * G", "W + G", "W - G")
FIGURES = {"dense": 10.0, "wanda": 20.0, "obs": 19.0} | {
    metric: 15.0 + 2 * place for place, metric in enumerate(ONE + SEVERAL)
}


def search(metric: str, *models: str, result: str = "") -> dict[str, Any]:
    """One that began with Wanda, whose best finalist is another one, and perhaps its result too."""
    return {
        "metric": result or metric,
        "origin": "evolved",
        "name": "evolved",
        "history": [[0.5, "wanda", "catalog"], [0.4, metric, "crossover"]],
        "finalists": [{"metric": "wanda"}, {"metric": metric}, {"metric": "abs(W)"}],
        "cases": [
            {"model": f"/models/{model}", "ratio": {"validation": 1.0 + place}}
            for place, model in enumerate(models, 1)
        ],
        "perplexity": {} if models else {"validation": {"dense": 10.0, "evolved": 15.0}},
    }


def three_seeds() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed, (one, several) in enumerate(zip(ONE, SEVERAL, strict=True)):
        found[f"search | A | rows | none | {seed}"] = search(one)
        found[f"search | all | rows | none | {seed}"] = search(several, *MODELS)
    found["search | all | rows | none | laws"] = search("W * X ** 0.1", *MODELS)
    for times, model in enumerate(MODELS, 1):
        figures = {m: 10 * (p / 10) ** times for m, p in FIGURES.items()}
        found[f"comparison | {model} | rows | none"] = {
            "perplexity": {"/t/valid.txt": {"dense": 1.0}, "/t/test.txt": figures}
        }
    return found


def rows(found: dict[str, Any], *texts: str) -> list[list[str]]:
    lines = one_or_many.table(found, texts).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_metrics_of_three_seeds_have_a_mean_and_an_interval_on_all_models_and_on_each() -> None:
    known, one, several = rows(three_seeds(), "test")
    assert known[:3] == ["rows, none", "best known: `obs`", "1"]
    assert known[3] == f"{1.5 * log(1.9):.4f}"
    assert one[1:3] == ["evolved on A, results", "3"]
    assert several[1:3] == ["evolved on all, results", "3"]
    for row, metrics in ((one, ONE), (several, SEVERAL)):
        for cell, times in zip(row[3:], (1.5, 1, 2), strict=True):
            logs = [times * log(FIGURES[metric] / 10) for metric in metrics]
            half = 4.303 * stdev(logs) / sqrt(3)
            assert cell == f"{fmean(logs):.4f} ± {half:.4f}"


def test_a_second_table_tells_results_on_the_text_that_their_searches_read() -> None:
    found = three_seeds()
    found["search | A | rows | none | 0"]["perplexity"]["validation"]["evolved"] = 20.0
    head, _, one, several = one_or_many.on_validation(found).splitlines()
    assert head == "| on validation text | evolved on | seeds | A | B |"
    logs = [log(2), log(1.5), log(1.5)]
    half = 4.303 * stdev(logs) / sqrt(3)
    assert one == f"| rows, none | A | 3 | {fmean(logs):.4f} ± {half:.4f} |  |"
    assert several == f"| rows, none | all | 3 | {log(2):.4f} ± 0.0000 | {log(3):.4f} ± 0.0000 |"


def test_what_was_not_compared_is_an_error() -> None:
    found = three_seeds()
    with pytest.raises(InputError, match="manual are not all among"):
        one_or_many.table(found, ["test", "manual"])
    del found["comparison | B | rows | none"]["perplexity"]["/t/test.txt"]["W + G"]
    with pytest.raises(InputError, match=r"rows, none: W \+ G was not compared on B"):
        one_or_many.table(found, ["test"])
    searches = {name: one for name, one in found.items() if name.startswith("search")}
    with pytest.raises(InputError, match="hold no comparison on a model"):
        one_or_many.table(searches, ["test"])


def test_a_model_that_no_search_has_read_is_told_apart_from_the_mean() -> None:
    before = three_seeds()
    unseen = {m: 3 * p for m, p in FIGURES.items() if m != "W + G"} | {"dense": 10.0}
    after = before | {"comparison | C | rows | none": {"perplexity": {"/t/test.txt": unseen}}}
    head = one_or_many.table(after, ["test"]).splitlines()[0]
    assert head.endswith("| mean of the models searched on | A | B | C (unseen) |")
    known, one, several = rows(after, "test")
    assert [row[:-1] for row in (known, one, several)] == rows(before, "test")
    assert known[-1] == f"{log(3 * 1.9):.4f}" and "±" in one[-1]
    assert several[-1] == ""  # one of its three metrics was not measured there


def test_one_model_calibrated_in_two_ways_is_not_counted_as_two() -> None:
    found = three_seeds()
    for model in MODELS:
        found[f"comparison | {model}, both texts | rows | none"] = found.pop(
            f"comparison | {model} | rows | none"
        )
    plain = [row[1:] for row in rows(found, "test")]
    other = {"perplexity": {"/t/test.txt": {m: 2 * p for m, p in FIGURES.items()}}}
    found["comparison | A, one text | rows | none"] = other
    table = rows(found, "test")
    assert [row[1:] for row in table[:3]] == plain
    assert {row[0] for row in table[:3]} == {"rows, none, both texts"}
    assert {row[0] for row in table[3:]} == {"rows, none, one text"}
    assert all(row[3].endswith(" (1 of 2 models)") and row[5] == "" for row in table[3:])


def test_a_row_is_of_results_where_all_were_compared_and_of_first_finalists_otherwise() -> None:
    found = three_seeds()
    found["search | A | rows | none | 0"] = search(ONE[0], result="W - X")
    _, one, _ = rows(found, "test")
    assert one[1] == "evolved on A, results"
    logs = [1.5 * log(FIGURES[metric] / 10) for metric in ("W - X", *ONE[1:])]
    assert one[3].startswith(f"{fmean(logs):.4f} ± ")
    found["search | A | rows | none | 0"] = search(ONE[0], result="tanh(W)")
    _, one, _ = rows(found, "test")
    assert one[1] == "evolved on A, first finalists"
    known = search(ONE[0]) | {"metric": "W * X", "origin": "known", "name": "wanda"}
    assert results.result_of(known) == "wanda"


def test_results_of_one_seed_are_told_without_an_interval() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    texts = ("python_test", "manual_test")
    table = rows(found, *texts)
    assert len(table) == 18 and not any("±" in cell for row in table for cell in row)
    [whole] = [
        row for row in table if row[:2] == ["model, none, all texts", "evolved on all, results"]
    ]
    best = results.result_of(found["search | all | model | none | 0"])
    on_bundled = found["comparison | bundled, all texts | model | none"]["perplexity"]
    logs = [log(on_bundled[text][best] / on_bundled[text]["dense"]) for text in texts]
    assert whole[4] == f"{fmean(logs):.4f}"


PARTS = ("calibration", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in, with a text for each part."""
    monkeypatch.chdir(tmp_path)
    for part in PARTS:
        Path(f"{part}.txt").write_text("Once upon a time.\n")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """What ``run`` finds on its command line."""
    texts = [f"--{part}={part}.txt" for part in PARTS]
    arguments = ["--models", *MODELS, *texts, "--output", "none.json", *more]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])


def options(monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    command(monkeypatch, *more)
    return run.parse_options()


def test_a_comparison_may_be_of_winners_under_their_own_update(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    own = {"search | all | rows | none | 0": search("W * G", *MODELS)}
    others = {
        "search | all | rows | least-squares | 0": search("W * D", *MODELS),
        "search | A | model | none | 0": search("W * X"),
    }
    few = ["--known", "obs", "W · G^¾", "W * D ** 0.5", "--finalists", "1", "--own-update"]
    chosen = {
        (one.competition, one.update, one.model): one.metrics  # type: ignore[attr-defined]
        for one in run.comparisons(options(monkeypatch, *few), own, others)
    }
    assert len(chosen) == 12
    known = ("obs", "W * G ** 0.75", "W * D ** 0.5")
    assert chosen["rows", "none", "A"] == (*known, "W * G")
    assert chosen["rows", "least-squares", "B"] == (*known, "W * D")
    assert chosen["model", "none", "A"] == (*known, "W * X")
    assert chosen["2:4", "none", "A"] == known


def test_a_searchs_own_result_is_compared_beside_its_finalists(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    own = {"search | all | rows | none | 0": search("W * G", *MODELS, result="W + G")}
    others = {"search | A | rows | none | 1": search("W * X", result="W + X")}
    few = ["--known", "obs", "--finalists", "1", "--updates", "none", "--competitions", "rows"]
    asked = options(monkeypatch, *few)
    for one in run.comparisons(asked, own, others):
        assert set(one.metrics) == {"obs", "W + X", "W + G", "W * G"}  # type: ignore[attr-defined]
    figures = {"obs": 20.0, "W + X": 19.0, "W + G": 16.0, "W * G": 15.0, "dense": 9.0}
    own |= {
        f"comparison | {model} | rows | none": {"perplexity": {"test": figures}}
        for model in (*MODELS, "C")
    }
    own["comparison | C | rows | none"] = {"perplexity": {"test": {"obs": 1.0, "W + X": 9.0}}}
    lines = [line.split(" | ") for line in run.tables(own, others).splitlines() if "`" in line]
    assert [line[:3] for line in lines] == [
        ["| `dense`", "", "+122.2%, +122.2%"],
        ["| `W * G`", "finalist 1 of all, rows, none, 0", "+33.3%, +33.3%"],
        ["| `W + G`", "result of all, rows, none, 0", "+25.0%, +25.0%"],
        ["| `W + X`", "result of A, rows, none, 1", "+5.3%, +5.3%"],
        ["| `obs`", "known", ""],
    ]
    assert "C (unseen): test" in run.tables(own, others)


def test_searches_go_update_by_update(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    asked = options(
        monkeypatch,
        "--work",
        str(tmp_path),
        "--updates",
        "least-squares",
        "none",
        "--seeds",
        "0",
        "1",
    )
    names = [task.name.split(" | ") for task in run.searches(asked)]
    assert [name[3] for name in names] == ["least-squares"] * 6 + ["none"] * 6


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--updates", "least-square"], "invalid choice: 'least-square'"),
        (["--competitions", "row"], "invalid choice: 'row'"),
        (["--dtype", "bf16"], "invalid choice: 'bf16'"),
        (["--known", "wander"], "there is no metric named 'wander'"),
        (["--jobs", "0"], "0 is less than 1"),
        (["--foreign", "C"], "--foreign C is none of --models"),
        (["--foreign", "A"], "needs two of calibration and validation"),
        (["--ahead", "--models", "A"], "--ahead is for several --models"),
        (["--unseen", "elsewhere/A"], "two models are called A"),
        (["--test", "none.txt"], "there is no text none.txt"),
        (["--test", "other/validation.txt"], "two texts are called validation"),
        (["--also", "none.json"], "'none.json' cannot be read: no such file"),
        (["--also", "test.txt"], "line 1 of 'test.txt' is damaged"),
        (["--also", "arms.json"], "arms.json has 'rows | from scratch | 0', which is no result of"),
    ],
)
def test_what_is_misspelled_is_refused_before_any_search(
    more: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("other").mkdir()
    Path("other/validation.txt").write_text("Once more.\n")
    Path("arms.json").write_text(json.dumps({"rows | from scratch | 0": {}}))
    command(monkeypatch, "--work", str(folder / "work"), *more)
    monkeypatch.setattr(run, "run_all", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_where_every_search_fails_nothing_is_compared_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--competitions", "rows", "--updates", "none", "--seconds", "5", "--jobs", "1"]
    command(monkeypatch, "--work", str(folder / "work"), *few)  # there are no models A and B
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert str(ended.value.code).startswith("Error: what failed is told above, 1 in all")
    out = capsys.readouterr().out
    assert "search | all | rows | none | 0: ModelError: " in out and "comparison" not in out


def test_where_some_task_fails_the_others_are_told_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(tasks: Any, jobs: int, found: dict[str, Any], output: Path) -> list[str]:
        names = [task.name for task in tasks]
        found |= {name: search("W * G", *MODELS) for name in names[1:] if "search" in name}
        found |= {
            name: {"perplexity": {"validation": {"dense": 2.0, "wanda": 4.0, "W * G": 3.0}}}
            for name in names
            if "comparison" in name
        }
        return [name for name in names[:1] if "search" in name]

    monkeypatch.setattr(run, "run_all", fake)
    command(monkeypatch, "--work", str(folder / "work"), "--updates", "none")
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert str(ended.value.code).startswith("Error: what failed is told above, 1 in all")
    assert "| `W * G` | result of all, model, none, 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "script, arguments, sentence",
    [
        (one_or_many, ["none.json", "--texts", "test"], "'none.json' cannot be read"),
        (one_or_many, ["test.txt", "--texts", "test"], "line 1 of 'test.txt' is damaged"),
        (one_or_many, ["list.json", "--texts", "test"], "list.json holds no results"),
        (one_or_many, ["other.json", "--texts", "test"], "which is no result of"),
        (one_or_many, ["seen.json", "--texts", "manual"], "manual are not all among /t/valid.txt"),
        (common, ["none.json"], "'none.json' cannot be read"),
        (common, ["other.json"], "which is no result of"),
        (common, ["compared.json"], "these files hold comparisons alone"),
        (ablations, ["--output", "seen.json"], "which is no result of examples.metrics.ablations"),
        (ablations, ["--output", "a.json", "--seeds", "9"], "invalid choice: 9"),
        (smollm2, ["--model", "m", "--text", "texts", "--output-dir", "out"], "there is no text"),
    ],
)
def test_wrong_or_missing_files_are_told_in_one_sentence(
    script: Any, arguments: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen = three_seeds()
    written = {
        "list": [1],
        "other": {"perplexity": {"dense": 1.0}},
        "seen": seen,
        "compared": {name: one for name, one in seen.items() if name.startswith("comparison")},
    }
    for name, value in written.items():
        Path(f"{name}.json").write_text(json.dumps(value))
    monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_where_two_files_have_one_result_the_later_one_counts_and_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "comparison | A | rows | none"
    for file, value in (("a", 1.0), ("b", 2.0), ("c", 2.0)):
        figures = {"perplexity": {"test": {"dense": value}}}
        Path(f"{file}.json").write_text(json.dumps({name: figures}))
    found = results.load([Path("a.json"), Path("b.json"), Path("c.json")], ["comparison"])
    assert found[name]["perplexity"]["test"]["dense"] == 2.0
    assert capsys.readouterr().err == f"of b.json, not of an earlier file, are: {name}\n"


def test_the_committed_results_can_be_read() -> None:
    every = (results.SEARCH, results.COMPARISON, results.ARM)
    for file in ("results", "three", "alone", "ablations"):
        assert results.load([RESULTS.with_name(f"{file}.json")], every)


def test_more_seeds_than_students_distribution_is_kept_for_are_refused() -> None:
    with pytest.raises(InputError, match="of 9 seeds no interval is known here: at most 8"):
        ablations.interval([0.1] * 9)


def test_an_arm_whose_search_has_no_finalist_asks_for_more_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = SimpleNamespace(finalists=(), evaluations=3)
    monkeypatch.setattr(ablations.prunerzero, "search", lambda *asked, **more: nothing)
    run = ablations.Run("from the known metrics", "rows", 0, 3, tmp_path)
    with pytest.raises(InputError, match="none of 3 evaluations gave a finalist; allow more"):
        run.run("cpu")


def test_an_arm_begins_with_nothing_that_searches_on_its_model_found() -> None:
    with ablations.changed(ablations.ARMS["from the known metrics"]):
        assert "fisher-obs" not in CATALOG and "fisher" in CATALOG
    assert "fisher-obs" in CATALOG


def test_tasks_that_failed_are_counted() -> None:
    pool.end([])
    with pytest.raises(SystemExit, match="2 in all"):
        pool.end(["one", "another"])


@pytest.mark.parametrize("module", ["pool", "results"])
@pytest.mark.filterwarnings("ignore:'examples:RuntimeWarning")  # it was imported before
def test_a_module_that_is_no_command_says_what_to_run_instead(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"examples.metrics.{module}", run_name="__main__")
    assert ended.value.code == 2
    assert "run `python -m examples.metrics." in capsys.readouterr().err


def test_the_exponents_of_what_was_found_are_a_table() -> None:
    found = {"search | all | model | none | 0": search("W * X ** 0.5 * G", *MODELS)}
    head, _, row = common.exponents(found, 1).splitlines()
    assert row.count(" | ") == head.count(" | ")
    assert row == "| all, model, none, 0 | 0.50 | 1.00 |  | `W * X ** 0.5 * G` |"


class Table:
    """A fitness whose losses are written down: of each metric those of its chunks."""

    def __init__(self, losses: dict[str, list[float]]) -> None:
        self._losses = {str(Expression.parse(metric)): one for metric, one in losses.items()}
        self.chunks = self.total_chunks = len(next(iter(losses.values())))

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        yield from self._losses[str(expression)][start:stop]


def ahead_of(tmp_path: Path, *tables: dict[str, list[float]]) -> ahead.Ahead:
    """How far metrics are ahead of Wanda and W · G on each of these."""
    cases = [evolution.Case(Table(one), [0.0] * len(next(iter(one.values())))) for one in tables]
    known = [Expression.parse(text) for text in ("W * X", "W * G")]
    return ahead.Ahead(cases, known, tmp_path / "excess.jsonl")


def test_a_metric_is_judged_by_the_model_on_which_it_is_ahead_by_least(tmp_path: Path) -> None:
    known = {"W * X": [3.0, 3.0], "W * G": [2.5, 2.9]}
    of_two = ahead_of(
        tmp_path,
        known | {"W": [2.4, 2.8], "X": [2.0, 2.0], "G": [2.49, 2.89]},
        {"W * X": [1.0, 2.0], "W * G": [1.5, 2.5], "W": [0.9, 1.9], "X": [1.1, 2.1], "G": [1, 1.9]},
    )
    found = {metric: fmean(of_two.losses(Expression.parse(metric))) for metric in ("W", "X", "G")}
    assert found["W"] == pytest.approx(-0.1)  # ahead by as much on both
    assert 0.1 - log(2) / ahead.STEEPNESS <= found["X"] <= 0.1
    assert -0.01 - log(2) / ahead.STEEPNESS <= found["G"] < 0
    assert [one["metric"] for one in ahead.ranking(tmp_path / "excess.jsonl")] == ["W", "G", "X"]


def test_metrics_that_were_raced_out_are_not_ranked(tmp_path: Path) -> None:
    losses = {"W * X": [1.0, 1.0, 1.0], "W * G": [1.5, 1.5, 1.5], "W": [0.5, 0.7, 0.9]}
    of_one = ahead_of(tmp_path, losses | {"X": [0.1, 0.1, 0.1]})
    raced = of_one.losses(Expression.parse("X"))
    next(raced)
    assert isinstance(raced, Generator)
    raced.close()
    list(of_one.losses(Expression.parse("W"), 0, 2))
    list(of_one.losses(Expression.parse("W"), 2, 3))  # as a finalist
    assert ahead.ranking(tmp_path / "excess.jsonl") == [{"metric": "W", "excess": [-0.3]}]


def test_a_search_begins_with_what_others_found_for_the_same() -> None:
    before = [
        {
            "search | all | rows | none | 0": search("W * G", result="W + G"),
            "search | all | rows | least-squares | 0": search("W * D"),
        },
        {"search | all | rows | none | 0": search("W * sqrt(X)", result="sqrt(2)")},
    ]
    assert run.found_before(before, "rows", "none") == ("W + G", "W * G", "W * sqrt(X)")
    assert run.found_before(before, "rows", "least-squares") == ("W * D",)
    assert run.found_before(before, "2:4", "none") == ()


def test_the_metric_that_is_ahead_on_each_model_is_told_with_its_lead_on_unread_text() -> None:
    def of_seed(*found: tuple[str, float, float]) -> dict[str, Any]:
        finalists = [{"metric": metric, "excess": [a, b]} for metric, a, b in found]
        return search("W", *MODELS) | {"finalists": finalists}

    known = {run.KNOWN[name]: 30.0 for name in run.RIVALS} | {"wanda": 20.0, "obs": 25.0}
    compared = known | {"dense": 10.0, "W + X": 16.0, "W * G": 10.0}
    found = {
        "search | all | 2:4 | none | 0": of_seed(("W * G", -0.5, 0.1), ("W + G", -0.01, -0.01)),
        "search | all | 2:4 | none | 1": of_seed(("W + X", -0.1, -0.2)),
        "comparison | B | 2:4 | none": {
            "perplexity": {"/t/test_1.txt": compared, "/t/validation.txt": {"dense": 1.0}}
        },
    }
    title, _, row = leads.table(found, ["test"]).splitlines()
    heads = [cell.strip() for cell in title.strip("|").split("|")]
    assert heads[3:] == ["A: read", "unread", "B: read", "unread"]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["2:4, none", "2", "`W + X`", "+10.5", "", "+22.1", "+25.0"]
    with pytest.raises(InputError, match="no text is called manual; there are test_1.txt, val"):
        leads.table(found, ["manual"])
    del compared["gblm"]  # where one of the known ones is missing nobody knows which is best
    assert leads.table(found, ["test"]).splitlines()[-1].split("|")[7].strip() == ""
    with pytest.raises(InputError, match="no search for a lead; name one"):
        leads.table(three_seeds(), [])


def test_the_committed_leads_are_those_of_the_page() -> None:
    page = (RESULTS.parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    committed = results.load([RESULTS.with_name("ahead.json")], ("search", "comparison"))
    for row in leads.table(committed, ["python_test", "manual_test"]).splitlines()[2:]:
        _, _, metric, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        (line,) = (line for line in page.splitlines() if f"| {metric} |" in line)
        told = [
            w.strip(" *").replace("−", "-") for w in line.split(metric)[1].strip(" |").split("|")
        ]
        told = [word.strip(" *") for cell in told for word in cell.split(",")]
        assert [float(c) if c else None for c in cells] == [
            None if word == "not measured" else float(word) for word in told
        ]
