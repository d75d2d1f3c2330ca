"""The table in the terminal."""

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from prunerzero.report import cases_table, perplexity_table, texts_table


def lines(table: Table) -> list[list[str]]:
    """The cells of each row, the header first."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_dense_comes_first_then_metrics_by_test_perplexity(summary):
    table = lines(perplexity_table(summary["perplexity"], "50 %"))
    assert table[0] == ["metric", "validation", "test", "vs Wanda"]
    assert table[1] == ["dense", "18.43", "18.91", ""]
    assert table[2] == ["evolved", "30.87", "31.24", "−5.45 %"]
    assert [row[0] for row in table[3:]] == [
        "power-law",
        "gblm",
        "wanda",
        "ria",
        "pruner-zero",
        "magnitude",
    ]
    assert table[5] == ["wanda", "32.62", "33.04", "0.00 %"]


def test_only_the_evolved_metric_is_bold(summary):
    table = perplexity_table(summary["perplexity"], "50 %")
    assert [row.style for row in table.rows] == [None, "bold", *[None] * 6]


def test_a_part_that_was_not_measured_has_no_column(summary):
    test_only = summary["patterns"]["2:4"]
    assert lines(perplexity_table(test_only, "2:4"))[0] == ["metric", "test", "vs Wanda"]
    validation_only = {"validation": summary["perplexity"]["validation"]}
    table = lines(perplexity_table(validation_only, "50 %"))
    assert table[0] == ["metric", "validation", "vs Wanda"]
    assert table[2] == ["evolved", "30.87", "−5.36 %"]


def test_what_a_race_read_has_a_column_of_its_own_from_the_best_to_the_worst():
    measured = {"validation": {"dense": 18.43}, "test": {}}
    table = perplexity_table(measured, "2:4", in_race={"wanda": 32.6, "evolved": 30.9})
    assert lines(table) == [
        ["metric", "validation", "validation, in the race"],
        ["dense", "18.43", "—"],
        ["evolved", "—", "30.90"],
        ["wanda", "—", "32.60"],
    ]


def case(sparsity: str, **figures: float) -> dict[str, Any]:
    ratio = {"test": figures["evolved"] / figures["dense"]}
    return {"model": "a", "sparsity": sparsity, "perplexity": {"test": figures}, "ratio": ratio}


def test_of_several_cases_the_best_known_metric_stands_beside_what_was_evolved():
    found = {
        "origin": "evolved",
        "name": "evolved",
        "best_known": "ria",
        "cases": [
            case("0.5", dense=10.0, evolved=20.0, ria=40.0),
            case("2:4", dense=10.0, evolved=80.0, ria=90.0),
        ],
        "ratio": {"test": 4.0},
    }
    table = lines(cases_table(found, "two"))
    assert table[0] == ["model", "sparsity", "text", "dense", "evolved", "ratio", "ratio of ria"]
    assert table[1][3:] == ["10.00", "20.00", "2.000", "4.000"]
    assert table[3][2:] == ["test", "", "", "4.000", "6.000"], "the root of 4 · 9"
    interrupted = found | {
        "cases": [one | {"perplexity": {"test": {}}, "ratio": {}} for one in found["cases"]],
        "ratio": {},
        "judged": {"evolved": 4.5, "ria": 5.0},
        "judged_on": "race",
    }
    last = lines(cases_table(interrupted, "two"))[-1]
    assert last[2:] == ["validation, in the race", "", "", "4.500", "5.000"]


def test_enormous_figures_stay_short():
    table = lines(perplexity_table({"test": {"wanda": 33.0, "magnitude": 3.14e9}}, "90 %"))
    assert table[2] == ["magnitude", "3.1e+09", "+9.5e+09 %"]


def test_without_wanda_nothing_is_compared_with_it():
    table = perplexity_table({"test": {"magnitude": 40.7, "dense": 18.9}}, "50 %")
    assert lines(table) == [["metric", "test"], ["dense", "18.90"], ["magnitude", "40.70"]]


def test_what_gave_no_number_comes_last_as_a_dash():
    values: dict[str, Any] = {"a": None, "b": float("inf"), "wanda": 33.0}
    table = lines(perplexity_table({"test": values}, "50 %"))
    assert table[1:] == [["wanda", "33.00", "0.00 %"], ["a", "—", "—"], ["b", "—", "—"]]


def test_wanda_alone_is_not_compared_with_itself():
    alone: dict[str, Any] = {"test": {"dense": 20.0, "wanda": 33.0}}
    assert lines(perplexity_table(alone, "50 %"))[0] == ["metric", "test"]
    alone["test"]["fisher"] = 32.0
    assert lines(perplexity_table(alone, "50 %"))[0] == ["metric", "test", "vs Wanda"]


def test_a_formula_with_brackets_is_printed_as_it_is():
    console = Console(width=80, record=True, file=StringIO())
    console.print(perplexity_table({"test": {"[bold]W[/bold]": 40.0}}, "[red]title[/red]"))
    printed = console.export_text()
    assert "[bold]W[/bold]" in printed and "[red]title[/red]" in printed


def test_several_texts_stand_under_one_another_each_from_dense_to_worst():
    table = texts_table(
        {"a.txt": {"wanda": 30.0, "dense": 20.0, "w": 25.0}, "b.txt": {"dense": 10.0, "w": 10.5}},
        {"a.txt": {"w": {"kl": 0.12345, "agreement": 0.7, "tokens": 9}}},
        "50 %",
    )
    assert lines(table) == [
        ["text", "metric", "perplexity", "vs dense", "KL to dense", "same top-1"],
        ["a.txt", "dense", "20.00", "", "", ""],
        ["", "w", "25.00", "+25.00 %", "0.123", "70.0%"],
        ["", "wanda", "30.00", "+50.00 %", "", ""],
        ["b.txt", "dense", "10.00", "", "", ""],
        ["", "w", "10.50", "+5.00 %", "", ""],
    ]


def test_divergence_is_shown_on_the_part_that_metrics_are_compared_on():
    values = {"validation": {"dense": 18.0, "w": 39.0}, "test": {"dense": 18.9, "w": 40.7}}
    moved = {
        "validation": {"w": {"kl": 0.9, "agreement": 0.1}},
        "test": {"w": {"kl": 0.5, "agreement": 0.25}},
    }
    table = lines(perplexity_table(values, "50 %", moved))
    assert table[0] == ["metric", "validation", "test", "KL to dense", "same top-1"]
    assert table[1] == ["dense", "18.00", "18.90", "", ""]
    assert table[2] == ["w", "39.00", "40.70", "0.5", "25.0%"]
