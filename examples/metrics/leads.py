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
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.commands import in_one_sentence
from examples.metrics.results import COMPARISON, SEARCH, is_for_a_lead, kind_of, load
from examples.metrics.run import KNOWN, RIVALS, comparison_name, repeated
from prunerzero.errors import InputError


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", required=True, help="unread ones, as they begin")
    options = parser.parse_args()
    files = [load([path], (SEARCH, COMPARISON)) for path in options.results]
    searches = [name for results in files for name in results if kind_of(name) == SEARCH]
    if (twice := repeated(searches)) is not None:
        raise InputError(f"two of these files hold {twice!r}; name one of them.")
    print(table(load(options.results, (SEARCH, COMPARISON)), options.texts))


def table(results: dict[str, Any], texts: Sequence[str]) -> str:
    """A row for each competition and update.

    Args:
        results: of searches for a lead, and of comparisons, by name.
        texts: how the names of those begin that no search has read.

    Raises:
        InputError: no search was for a lead, or no text that was compared on is called so.
    """
    compared_on = {
        Path(text).name
        for name, one in results.items()
        if kind_of(name) == COMPARISON
        for text in one["perplexity"]
    }
    for begin in texts:
        if compared_on and not any(name.startswith(begin) for name in compared_on):
            raise InputError(
                f"no text is called {begin}; there are {', '.join(sorted(compared_on))}."
            )
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
    """ln(perplexity / the best known metric's) on these texts; None where it was not compared, or
    not with all known ones."""
    chosen = [
        found
        for text, found in compared["perplexity"].items()
        if Path(text).name.startswith(tuple(texts)) and metric in found
    ]
    rivals = {KNOWN[name] for name in RIVALS}
    if not chosen or not all(rivals <= found.keys() for found in chosen):
        return None

    def loss(name: str) -> float:
        return fmean(log(found[name]) for found in chosen)

    return loss(metric) - min(map(loss, rivals))


def _ahead(excess: float) -> str:
    return f"{100 * (exp(-excess) - 1):+.1f}"


if __name__ == "__main__":
    main()
