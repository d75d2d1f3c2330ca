"""The report of a run, from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunerzero.errors import InputError
from prunerzero.metrics import CATALOG
from prunerzero.tasks.bench import RESULTS
from prunerzero.tasks.report import report


def write_run(folder: Path, strategy: str, perplexity: float = 47.3, **settings: Any) -> Path:
    """A run of one evaluation."""
    folder.mkdir(parents=True)
    evaluation = {
        "number": 0,
        "expression": "W * sqrt(X)",
        "state": "complete",
        "perplexity": perplexity,
        "chunks_read": 16,
        "chunks": 16,
        "size": 4,
        "origin": "random",
        "parents": [],
        "seconds": 1.5,
    }
    best = {
        "metric": "W * sqrt(X)",
        "tree": CATALOG["wanda"].expression.to_json(),
        "sparsity": "0.5",
        "group": "row",
        "seconds": 1.5,
        "known": {"wanda": 47.3},
        "pareto": [],
        "settings": {"model": "m", "search": {"strategy": strategy}, **settings},
    }
    (folder / "history.json").write_text(json.dumps([evaluation]))
    (folder / "best.json").write_text(json.dumps(best))
    return folder


def test_the_report_lies_in_the_folder_of_the_run(tmp_path: Path) -> None:
    path = report(write_run(tmp_path / "run", "evolution")).path
    assert path == tmp_path / "run" / "report.html"
    assert "found a metric" in path.read_text() or "found no better metric" in path.read_text()


def test_as_json_the_command_tells_what_it_wrote(in_workplace, tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run", "evolution"), write_run(tmp_path / "other", "random")
    told = json.loads(in_workplace("report", str(run), "--json").stdout)
    assert told == {
        "path": str(run / "report.html"),
        "format": "html",
        "of": "search",
        "language": "en",
        "baseline": str(other),
    }
    assert (run / "report.html").is_file()
    assert in_workplace("report", str(run), "--json", "--language", "ja").exit_code == 2


def test_a_random_search_beside_the_run_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "evolution")
    assert "random search is at" not in report(run).path.read_text()
    write_run(tmp_path / "another model", "random", 1.0, model="other")
    assert "random search is at" not in report(run).path.read_text()
    write_run(tmp_path / "random", "random", 60.0)
    assert "random search is at 60.00" in report(run).path.read_text()


def test_a_history_that_calls_raced_out_pruned_gives_the_same_report(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it."""
    run = write_run(tmp_path / "run", "evolution")
    history = json.loads((run / "history.json").read_text())
    (run / "history.json").write_text(json.dumps([{**e, "state": "raced_out"} for e in history]))
    now = report(run).path.read_text()
    (run / "history.json").write_text(json.dumps([{**e, "state": "pruned"} for e in history]))
    assert report(run).path.read_text() == now


def test_a_baseline_of_another_protocol_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "evolution")
    other = write_run(tmp_path / "other", "random", model="other")
    with pytest.raises(InputError, match="made with model 'other', not 'm'"):
        report(run, other)


def refusal(*folders: Path) -> str:
    with pytest.raises(InputError) as refused:
        report(*folders)
    return str(refused.value)


def test_a_folder_in_which_nothing_finished_is_refused_with_what_each_command_leaves(
    tmp_path: Path,
) -> None:
    words = refusal(tmp_path)
    assert "neither best.json and history.json, so no search has finished there" in words
    assert "nor tune.json of a tuning, nor results.json of a bench" in words
    assert refusal(tmp_path / "nowhere").startswith(f"there is no folder '{tmp_path / 'nowhere'}'")


def test_a_folder_whose_command_has_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    begun = {"search": ("journal.log",), "tuning": ("run", "identity.json")}
    for of, file in begun.items():
        path = (tmp_path / of).joinpath(*file)
        path.parent.mkdir(parents=True)
        path.touch()
        assert refusal(tmp_path / of) == (
            f"'{tmp_path / of}' is the folder of a {of} that has not finished: give its command "
            "again, which goes on from there."
        )


def test_where_a_page_is_all_there_is_it_is_named(tmp_path: Path) -> None:
    """As in the folder of a demo, or of a bench whose figures are gone."""
    (tmp_path / "report.html").touch()
    (tmp_path / "summary.json").touch()
    assert refusal(tmp_path).endswith(f"one that is finished: open '{tmp_path / 'report.html'}'.")


def test_nothing_but_a_search_is_drawn_beside_a_search(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "evolution")
    for file, of in ((RESULTS, "bench"), ("tune.json", "tuning")):
        (tmp_path / of).mkdir()
        (tmp_path / of / file).write_text("{}")
        assert f"it is the folder of a {of}; name that of another search" in refusal(
            run, tmp_path / of
        )
        assert f"is the folder of a {of}; leave it out" in refusal(tmp_path / of, run)


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "evolution")
    (run / "history.json").write_text("{")
    with pytest.raises(InputError, match="no valid JSON"):
        report(run)


def test_a_damaged_result_of_bench_names_the_command_that_writes_it(tmp_path):
    (tmp_path / RESULTS).write_text("{}")
    with pytest.raises(InputError, match="does not hold what bench writes.*the bench command"):
        report(tmp_path)


def test_a_search_after_another_refit_is_no_baseline(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "evolution", update="least-squares")
    alone = write_run(tmp_path / "alone", "random", perplexity=60.0)
    assert report(run).baseline is None
    with pytest.raises(InputError, match="it was made with update 'none'"):
        report(run, baseline=alone)
    refitted = write_run(tmp_path / "refitted", "random", update="least-squares")
    assert report(run).baseline == refitted
