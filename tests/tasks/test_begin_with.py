"""A search that is given metrics to begin with knows them, and says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prunerzero import InputError, search
from prunerzero.metrics import CATALOG, Expression, canonical
from prunerzero.tasks.begin_with import formulas
from prunerzero.tasks.options import SearchOptions

TEXTS = [x for part in ("calibration", "validation") for x in (f"--{part}", f"{part}.txt")]
SEARCH = ["search", "--model", "model", *TEXTS, "--max-seq-length", "16", "--sparsity", "0.5"]
GIVEN = "W * X ** 0.3 * G ** 0.4"


@pytest.fixture(scope="module")
def begun(here: Any) -> Any:
    more = ["--operators", "extended", "--evaluations", "6", "--output-dir", "begun"]
    return here.json(*SEARCH, *more, "--begin-with", GIVEN, "--begin-with", "fisher")


def test_it_is_measured_first_and_beside_the_known_ones(begun, workplace):
    history = json.loads((workplace / "begun" / "history.json").read_text())
    given = begun["settings"]["search"]["begin_with"]
    assert [e["expression"] for e in history[:2]] == given
    assert [e["origin"] for e in history[:2]] == ["given", "given"]
    assert begun["given"] == {given[0]: given[0], "fisher": given[1]}
    if begun["origin"] == "known":
        assert begun["name"] in begun["known"]
    else:
        assert begun["metric"] not in given


def test_a_known_one_is_measured_once_under_its_own_name(begun, workplace):
    assert {*begun["known"]} == {*CATALOG, begun["settings"]["search"]["begin_with"][0]}
    jobs = (workplace / "begun" / "journal.log").read_text()
    assert "known fisher" in jobs and "known G * W" not in jobs


def test_its_report_can_be_made(begun, in_workplace):
    assert in_workplace("report", "begun").exit_code == 0


def test_what_another_search_found_is_begun_with_under_the_name_of_its_folder(
    begun, here, in_workplace
):
    more = ["--operators", "extended", "--evaluations", "2", "--output-dir", "begun-from-begun"]
    again = here.json(*SEARCH, *more, "--begin-with", "begun")
    assert again["settings"]["search"]["begin_with"] == [
        str(canonical(Expression.parse(begun["metric"]), "row"))
    ]
    [name] = again["given"]
    assert name == ("begun" if begun["origin"] == "evolved" else begun["name"])
    assert name in again["known"] and in_workplace("report", "begun-from-begun").exit_code == 0


def test_another_beginning_is_another_search(begun, in_workplace):
    more = ["--operators", "extended", "--evaluations", "6", "--output-dir", "begun"]
    refused = in_workplace(*SEARCH, *more)
    assert refused.exit_code == 2 and "given metrics" in refused.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"begin_with": "W * D"}, "the published operators cannot write; pass `operators`"),
        ({"begin_with": "1.0"}, "the same for every weight"),
        ({"begin_with": "W", "strategy": "powerlaw"}, "`strategy` 'powerlaw' varies nothing"),
        ({"begin_with": "W", "strategy": "random"}, "`strategy` 'random' varies nothing"),
        ({"seed_metrics": "catalog", "strategy": "random"}, "`seed_metrics` is for a search that"),
        (
            {"begin_with": " + ".join(f"sqrt(W * X ** 0.{n})" for n in range(1, 9))},
            "a search takes at most 30",
        ),
    ],
)
def test_what_a_search_could_not_propose_is_refused_before_the_work(options, words):
    reads_d = "D" in options.get("begin_with", "")
    with pytest.raises(InputError, match=words):
        formulas(SearchOptions(**options), "published" if reads_d else "extended", "row")


def test_it_is_refused_before_a_model_is_read(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        search("nowhere", "0.5", tmp_path / "run", begin_with="W * D")


def test_each_is_begun_with_once():
    twice = SearchOptions(begin_with=("W * G", "fisher", "G * W"))
    assert formulas(twice, "published", "row") == {"fisher": "G * W"}


@pytest.mark.parametrize(
    "given",
    ["W * min(X, D)", "W * sqrt(max(D, X)) + W * G", "W * max(D, X * 0.001)", "max(W, D) * X"]
    + ["W * sqrt(max(X, D * 1.2))", "W * sqrt(G * sqrt(max(D, X)))", "W * max(G, 0.00001)"],
)
@pytest.mark.parametrize("group", ["row", "layer", "model"])
def test_what_ranks_as_a_known_one_on_some_scales_alone_is_not_called_so(given: str, group: Any):
    (name,) = formulas(SearchOptions(begin_with=[given]), "extended", group)
    assert Expression.parse(name) == canonical(Expression.parse(given), group)


@pytest.mark.parametrize("name", [*CATALOG])
@pytest.mark.parametrize("group", ["row", "layer", "model"])
def test_a_known_one_is_called_so_in_another_form_too(name: str, group: Any):
    other = f"sqrt(3 * ({CATALOG[name].expression}))"
    assert [*formulas(SearchOptions(begin_with=[other]), "extended", group)] == [name]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Fisher", "fisher"),
        ("sqrt(W * G)", "fisher"),
        ("power-law(0,.75)", "power-law(0,0.75)"),
        ("W * sqrt(G * sqrt(G))", "power-law(0,0.75)"),
        ("power-law(0,0.3)", "power-law(0,0.3)"),
        ("(G + X) * W", "W * (G + X)"),
        ("runs/mine", "runs/mine"),
        ("evolved", "W * (G + X)"),
    ],
)
def test_it_keeps_its_name(given: str, name: str, tmp_path: Any, monkeypatch: Any) -> None:
    """A folder that has the name of something else in tables goes by its formula."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/mine", "evolved"):
        (tmp_path / folder).mkdir(parents=True)
        tree = Expression.parse("W * (X + G)").to_json()
        (tmp_path / folder / "best.json").write_text(json.dumps({"tree": tree}))
    assert [*formulas(SearchOptions(begin_with=[given]), "extended", "row")] == [name]
