"""A search that is given metrics to begin with knows them, and says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prunerzero import InputError, search
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
    assert {*given} < {*begun["known"]}
    if begun["origin"] == "known":
        assert begun["name"] in begun["known"]
    else:
        assert begun["metric"] not in given


def test_its_report_can_be_made(begun, in_workplace):
    assert in_workplace("report", "begun").exit_code == 0


def test_what_another_search_found_is_begun_with(begun, here, workplace):
    more = ["--operators", "extended", "--evaluations", "2", "--output-dir", "begun-from-begun"]
    again = here.json(*SEARCH, *more, "--begin-with", "begun")
    assert again["settings"]["search"]["begin_with"] == [begun["metric"]]


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
    assert formulas(twice, "published", "row") == ("G * W",)
