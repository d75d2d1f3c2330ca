"""The report of a finished search, tuning or bench, from its folder alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prunerzero.documents import path_of
from prunerzero.errors import InputError
from prunerzero.evolution.records import read_state
from prunerzero.files import read_own_json, writing
from prunerzero.identity import difference
from prunerzero.metrics import CATALOG, Expression, canonical, find_metric
from prunerzero.report import write_bench_report, write_run_report, write_tune_report
from prunerzero.report.phrases import Language
from prunerzero.tasks.bench import RESULTS
from prunerzero.tasks.damage import damage_told
from prunerzero.tasks.metric_sources import BEST, HISTORY
from prunerzero.tasks.search_cases import JOURNAL
from prunerzero.tasks.tune import RESULT
from prunerzero.tasks.tune_file import read_result
from prunerzero.tasks.tuning.workbench import IDENTITY, RUN

REPORT = "report.html"

_AGAIN = "the search command that made the folder writes it again from the study that it keeps"

Command = Literal["search", "tune", "bench"]

_IN_WORDS: dict[Command, str] = {"search": "search", "tune": "tuning", "bench": "bench"}


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        path: of the file.
        format: of the file.
        of: the command whose results it shows.
        language: of its words.
        baseline: folder of the search that is drawn beside, if one is.
    """

    path: Path
    of: Command
    language: Language
    baseline: Path | None = None
    format: Literal["html"] = "html"


def report(
    run: Path | str, baseline: Path | str | None = None, language: Language = "en"
) -> WrittenReport:
    """Write ``report.html`` into the folder of a run, in place of an earlier one.

    Args:
        run: folder of a search, of a tuning, or of a bench.
        baseline: folder of another search on the same model, text and sparsity, whose best so far
            is drawn beside; by default a random search in a folder beside this one's, if there is
            one.
        language: of the report of a tuning or a bench, ``"en"`` or ``"ja"``.

    Raises:
        InputError: a folder that holds none of these, or a baseline that does not compare.
    """
    folder = path_of(run)
    path = folder / REPORT
    of = _command_of(folder)
    if baseline is not None and of != "search":
        raise InputError(
            f"`baseline` is drawn beside a search, and '{folder}' is the folder of a "
            f"{_IN_WORDS[of]}; leave it out."
        )
    if of == "tune":
        result = asdict(read_result(folder / RESULT))
        with writing(path):
            write_tune_report(result, path, language)
        return WrittenReport(path, "tune", language)
    if of == "bench":
        again = "give the bench command again"
        measured = read_own_json(folder / RESULTS, again)
        with damage_told(folder / RESULTS, writer="bench", remedy=again), writing(path):
            write_bench_report(measured, path, language)
        return WrittenReport(path, "bench", language)
    if language != "en":
        raise InputError("the report of a search is in English only; that of a tuning has both.")
    found, history = _read(folder)
    other = path_of(baseline) if baseline is not None else _random_beside(folder, found)
    beside = None
    if other is not None:
        other_found, beside = _read(other)
        if different := difference(_protocol(other_found), _protocol(found)):
            raise InputError(
                f"'{other}' cannot be compared with '{folder}': it was made with {different}."
            )
    files = (folder / BEST, folder / HISTORY)
    with damage_told(*files, writer="a search", remedy=_AGAIN), writing(path):
        write_report_of(path, found, history, beside)
    return WrittenReport(path, "search", language, other)


def write_report_of(
    path: Path,
    found: dict[str, Any],
    history: list[dict[str, Any]],
    baseline: list[dict[str, Any]] | None = None,
    compared: dict[str, Any] | None = None,
) -> None:
    """Write the page of a run, which ``write_run_report`` describes, to ``path``."""
    names = {
        e["expression"]: {
            "constant" if node.value is not None else node.name
            for _, node in Expression.parse(e["expression"]).subtrees()
        }
        for e in history
    }
    known = {name: name for name in [*CATALOG, *found.get("known", {})]} | found.get("given", {})
    sizes = {
        name: canonical(find_metric(formula).expression, found["group"]).size
        for name, formula in known.items()
    }
    write_run_report(path, found, history, names, sizes, baseline, compared)


def _command_of(folder: Path) -> Command:
    """Whose results a folder holds. Raises InputError where nothing did, and says what to do."""
    if (folder / RESULT).is_file():
        return "tune"
    if (folder / RESULTS).is_file():
        return "bench"
    if (folder / BEST).is_file() and (folder / HISTORY).is_file():
        return "search"
    if not folder.is_dir():
        raise InputError(
            f"there is no folder '{folder}'; name that of a search, a tuning or a bench."
        )
    for begun, told in ((JOURNAL, "search"), (f"{RUN}/{IDENTITY}", "tuning")):
        if (folder / begun).exists():
            raise InputError(
                f"'{folder}' is the folder of a {told} that has not finished: give its command "
                "again, which goes on from there."
            )
    if (folder / REPORT).is_file():  # of a demo, which writes it once, or of files that are gone
        raise InputError(
            f"'{folder}' holds nothing to make a report of again, but one that is finished: open "
            f"'{folder / REPORT}'."
        )
    raise InputError(
        f"folder '{folder}' holds neither {BEST} and {HISTORY}, so no search has finished there, "
        f"nor {RESULT} of a tuning, nor {RESULTS} of a bench; name a folder that one of these "
        "wrote."
    )


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if (of := _command_of(folder)) != "search":
        raise InputError(
            f"'{folder}' cannot be drawn beside a search: it is the folder of a {_IN_WORDS[of]}; "
            "name that of another search."
        )
    best, history = (read_own_json(folder / name, _AGAIN) for name in (BEST, HISTORY))
    if not isinstance(best, dict) or not best.keys() >= {"metric", "sparsity", "group"}:
        raise InputError(f"'{folder / BEST}' does not hold what a search writes; {_AGAIN}.")
    is_list = isinstance(history, list)
    if not is_list or not all(isinstance(e, dict) and "expression" in e for e in history):
        raise InputError(f"'{folder / HISTORY}' does not hold what a search writes; {_AGAIN}.")
    for evaluation in history:
        if "state" in evaluation:
            evaluation["state"] = read_state(evaluation["state"])
    return best, history


def _random_beside(folder: Path, found: dict[str, Any]) -> Path | None:
    """The first folder beside this one with a random search of the same protocol."""
    for path in sorted(folder.resolve().parent.glob(f"*/{BEST}")):
        if path.parent == folder.resolve() or not (path.parent / HISTORY).is_file():
            continue
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            is_random = other["settings"]["search"]["strategy"] == "random"
        except (OSError, ValueError, KeyError, TypeError):  # the best.json of something else
            continue
        if is_random and not difference(_protocol(other), _protocol(found)):
            return path.parent
    return None


def _protocol(found: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share for their perplexities to compare."""
    settings = found.get("settings") or {}
    known = settings.get("fingerprints") or {}
    return {
        "model": known.get("model") or settings.get("model"),
        **{f"{part} text": known.get(part) for part in ("calibration", "validation")},
        **{
            f"model {number}": {"fingerprints": one.get("fingerprints"), "dtype": one.get("dtype")}
            for number, one in enumerate(settings.get("models") or [], start=1)
        },
        "dtype": settings.get("dtype"),
        "sparsity": found.get("sparsity"),
        "group": found.get("group"),
        "update": settings.get("update") or "none",
        "refine": settings.get("refine") or "none",
        "refit of candidates": found.get("refit_of_candidates") or "",
    }
