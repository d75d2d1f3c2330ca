"""What ``run`` and ``ablations`` write, read again: searches, comparisons, and arms of a search.

A result's name tells what it is of: "search | MODELS | COMPETITION | UPDATE | SEED", "comparison |
MODEL | COMPETITION | UPDATE", and of ablations "COMPETITION | ARM | SEED". Behind the model of a
comparison a comma may tell how it was calibrated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import no_command
from prunerzero.errors import InputError
from prunerzero.files import read_own_json

SEARCH, COMPARISON, ARM = "search", "comparison", "arm"
WRITTEN_BY = {SEARCH: "run", COMPARISON: "run", ARM: "ablations"}
_PARTS = {SEARCH: 5, COMPARISON: 4, ARM: 3}
_HOLDS = {
    SEARCH: {"metric", "origin", "name", "history", "finalists", "cases"},
    COMPARISON: {"perplexity"},
    ARM: {"metric", "ratio", "size"},
}


def kind_of(name: str) -> str:
    """Which kind of result has such a name."""
    first = name.split(" | ")[0]
    return first if first in (SEARCH, COMPARISON) else ARM


def load(paths: Sequence[Path], kinds: Sequence[str]) -> dict[str, Any]:
    """The results of these files together, by name.

    Where two files have a result of one name, that of the later file counts, which is told.

    Raises:
        InputError: a file cannot be read, or holds something else than these kinds of results.
    """
    found: dict[str, Any] = {}
    for path in paths:
        of_file = _checked(path, kinds)
        if changed := [name for name, one in of_file.items() if found.get(name, one) != one]:
            told = "; ".join(changed)
            print(f"of {path}, not of an earlier file, are: {told}", file=sys.stderr)
        found |= of_file
    return found


def _checked(path: Path, kinds: Sequence[str]) -> dict[str, Any]:
    scripts = " and ".join(dict.fromkeys(f"examples.metrics.{WRITTEN_BY[kind]}" for kind in kinds))
    written = read_own_json(path, f"name a file that {scripts} wrote")
    if not isinstance(written, dict):
        raise InputError(f"{path} holds no results: name files that {scripts} wrote.")
    for name, one in written.items():
        kind = kind_of(name)
        if (
            kind not in kinds
            or len(name.split(" | ")) != _PARTS[kind]
            or not isinstance(one, dict)
            or not _HOLDS[kind] <= one.keys()
        ):
            raise InputError(f"{path} has {name!r}, which is no result of {scripts}.")
    return written


def result_of(search: dict[str, Any]) -> str:
    """The metric that a search ended with, by its name where it was known before."""
    metric: str = search["metric" if search["origin"] == "evolved" else "name"]
    return metric


def is_for_a_lead(search: dict[str, Any]) -> bool:
    """Whether ``run --ahead`` made it, which keeps no figures of what the search itself chose."""
    return any("excess" in one for one in search["finalists"])


def evolved(search: dict[str, Any]) -> list[str]:
    """The finalists of a search that it was not given to begin with, the best first.

    The first of them need not be its result, which is the smallest of those that are as good
    within the noise, or a known metric that is as good.
    """
    given = {text for _, text, origin in search["history"] if origin == "catalog"}
    return [one["metric"] for one in search["finalists"] if one["metric"] not in given]


def searched(results: dict[str, Any]) -> set[str]:
    """The models, by the names that comparisons give them, that any search has read."""
    found = set()
    for name, one in results.items():
        if kind_of(name) == SEARCH:
            on = name.split(" | ")[1]
            found |= {Path(case["model"]).name for case in one["cases"]} or {on}
    return found


def model_and_how(compared: str) -> tuple[str, str]:
    """The model of a comparison, and how it was calibrated where its name tells.

    >>> model_and_how("SmolLM2-135M, calibrated on the first text")
    ('SmolLM2-135M', 'calibrated on the first text')
    """
    model, _, how = compared.partition(", ")
    return model, how


if __name__ == "__main__":
    no_command("python -m examples.metrics.one_or_many --help")
