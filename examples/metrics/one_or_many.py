"""Is a metric better that was evolved on several models than one that was evolved on one of them?

    python -m examples.metrics.one_or_many alone.json three.json --texts python_test manual

Reads what ``run`` wrote: searches on one model and on several, of some seeds, and comparisons that
hold the best metric of each. Of each it takes ln(perplexity / dense perplexity), the mean over the
texts of a model and then over the models: 0.01 is one per cent of perplexity, lower is better. A
row has the mean over the seeds with its 95 % interval (Student); beside it stands the known metric
that is best on that average.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from examples.metrics.ablations import interval
from examples.metrics.run import KNOWN, evolved

Perplexities = dict[str, dict[str, dict[str, float]]]
"""By model, text and metric."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", required=True, help="as their files begin")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for path in options.results:
        results |= json.loads(path.read_text(encoding="utf-8"))
    print(table(results, options.texts))


def table(results: dict[str, Any], texts: Sequence[str]) -> str:
    """A row for each competition, update and kind of search.

    Args:
        results: of searches and comparisons, by name.
        texts: those that count are the ones whose names begin so.

    Raises:
        ValueError: a comparison lacks these texts, or the best metric of a search.
    """
    grouped = compared(results)
    models = list(dict.fromkeys(model for found in grouped.values() for model in found))
    lines = [
        f"| competition, update | metric | seeds | all models | {' | '.join(models)} |",
        "| --- | --- | ---: |" + " ---: |" * (len(models) + 1),
    ]
    for (competition, update), found in grouped.items():
        title = f"{competition}, {update}"
        logs = {model: losses(perplexities, texts) for model, perplexities in found.items()}
        for what, metrics in rows(results, competition, update, logs):
            for metric in metrics:
                if missing := [model for model in logs if metric not in logs[model]]:
                    raise ValueError(f"{title}: {metric} was not compared on {missing[0]}")
            over_all = [fmean(of_one[metric] for of_one in logs.values()) for metric in metrics]
            columns = [interval(over_all)]
            for model in models:
                of_one = logs.get(model, {})
                columns.append(interval([of_one[m] for m in metrics]) if of_one else "")
            lines.append(f"| {title} | {what} | {len(metrics)} | {' | '.join(columns)} |")
    return "\n".join(lines)


def compared(results: dict[str, Any]) -> dict[tuple[str, str], Perplexities]:
    """The comparisons of each competition and update."""
    grouped: dict[tuple[str, str], Perplexities] = {}
    for name, found in results.items():
        if name.startswith("comparison"):
            _, model, competition, update = name.split(" | ")
            grouped.setdefault((competition, update), {})[model] = found["perplexity"]
    return grouped


def losses(perplexities: dict[str, dict[str, float]], texts: Sequence[str]) -> dict[str, float]:
    """Of each metric that was measured on all these texts, ln(perplexity / dense), their mean."""
    chosen = [
        found
        for text, found in perplexities.items()
        if any(Path(text).name.startswith(begin) for begin in texts)
    ]
    if len(chosen) < len(texts):
        raise ValueError(f"{' and '.join(texts)} are not all among {', '.join(perplexities)}")
    shared = [metric for metric in chosen[0] if all(metric in found for found in chosen)]
    return {metric: fmean(log(f[metric] / f["dense"]) for f in chosen) for metric in shared}


def rows(
    results: dict[str, Any], competition: str, update: str, logs: dict[str, dict[str, float]]
) -> Iterator[tuple[str, list[str]]]:
    """What a row is called, and its metrics: the best known one, or one of each seed."""
    known = [m for m in KNOWN.values() if all(m in of_one for of_one in logs.values())]
    if known:
        best = min(known, key=lambda m: fmean(of_one[m] for of_one in logs.values()))
        yield f"best known: `{best}`", [best]
    winners: dict[str, list[str]] = {}
    for name, found in results.items():
        kind, on, *rest = name.split(" | ")
        if kind == "search" and rest[:2] == [competition, update] and rest[2].isdigit():
            for best in evolved(found)[:1]:
                winners.setdefault(on, []).append(best)
    for on, metrics in winners.items():
        yield f"evolved on {on}", metrics


if __name__ == "__main__":
    main()
