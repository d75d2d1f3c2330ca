"""By how much is a metric ahead that was evolved to be ahead on each model?

    python -m examples.metrics.leads ahead.json --texts python_test manual_test

Reads what ``run --ahead`` wrote. Of each competition and update it takes the metric, of all seeds,
that is ahead by most on the model where it is ahead by least, on the text that the searches read.
Each model has two columns: by how many per cent of perplexity the metric is ahead of the known one
that is best on that model, on the text that was read, and, where it was compared, on those that no
search has read (of several the geometric mean). A negative one is behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import exp, inf, log
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.commands import in_one_sentence
from examples.metrics.results import COMPARISON, SEARCH, is_for_a_lead, kind_of, load
from examples.metrics.run import KNOWN, RIVALS, comparison_name
from prunerzero.errors import InputError


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", required=True, help="unread ones, as they begin")
    options = parser.parse_args()
    print(table(load(options.results, (SEARCH, COMPARISON)), options.texts))


def table(results: dict[str, Any], texts: Sequence[str]) -> str:
    """A row for each competition and update.

    Args:
        results: of searches for a lead, and of comparisons, by name.
        texts: how the names of those begin that no search has read.

    Raises:
        InputError: no search was for a lead.
    """
    searches: dict[tuple[str, str], list[Any]] = {}
    for name, one in results.items():
        if kind_of(name) == SEARCH and is_for_a_lead(one):
            _, _, competition, update, _ = name.split(" | ")
            searches.setdefault((competition, update), []).append(one)
    if not searches:
        raise InputError(
            "these files hold no search for a lead; name one that `run --ahead` wrote."
        )
    models = [Path(case["model"]).name for case in next(iter(searches.values()))[0]["cases"]]
    heads = " | ".join(f"{model}: read | unread" for model in models)
    lines = [
        f"| competition, update | seeds | metric | {heads} |",
        "| --- | ---: | --- |" + " ---: | ---: |" * len(models),
    ]
    for (competition, update), found in searches.items():
        best = min((f for one in found for f in one["finalists"]), key=lambda f: max(f["excess"]))
        cells = []
        for model, excess in zip(models, best["excess"], strict=True):
            compared = results.get(comparison_name(model, competition, update))
            unread = None if compared is None else excess_on(compared, texts, best["metric"])
            cells += [_ahead(excess), "" if unread is None else _ahead(unread)]
        row = " | ".join(cells)
        title = f"{competition}, {update}"
        lines.append(f"| {title} | {len(found)} | `{best['metric']}` | {row} |")
    return "\n".join(lines)


def excess_on(compared: dict[str, Any], texts: Sequence[str], metric: str) -> float | None:
    """ln(perplexity / the best known metric's) on these texts; None where it was not compared."""
    chosen = [
        found
        for text, found in compared["perplexity"].items()
        if Path(text).name.startswith(tuple(texts)) and metric in found
    ]
    if not chosen:
        return None

    def loss(name: str) -> float:
        return fmean(log(found[name]) if name in found else inf for found in chosen)

    return loss(metric) - min(loss(KNOWN[name]) for name in RIVALS)


def _ahead(excess: float) -> str:
    return f"{100 * (exp(-excess) - 1):+.1f}"


if __name__ == "__main__":
    main()
