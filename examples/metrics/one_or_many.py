"""Is a metric better that was evolved on several models than one that was evolved on one of them?

    python -m examples.metrics.one_or_many alone.json three.json --texts python_test manual

Reads what ``run`` wrote: searches on one model and on several, of some seeds, and comparisons that
hold a metric of each. Of each it takes ln(perplexity / dense perplexity), the mean over the texts
of a model and then over the models that any of the searches has read: 0.01 is one per cent of
perplexity, lower is better. Each model has a column too, also one that no search has read, which is
not in the mean; comparisons that were calibrated in another way have rows of their own.

A row has the mean over the seeds with its 95 % interval (Student). It is of the searches' results
where all of them were compared, and of their first finalists otherwise, and says which. Beside it
stands the known metric that is best on that average.

A second table has the same of each search's result on the validation text, which the search read:
what a metric gives up on one model, as it had to serve several.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.commands import in_one_sentence
from examples.metrics.ablations import interval
from examples.metrics.results import (
    COMPARISON,
    SEARCH,
    evolved,
    is_for_a_lead,
    kind_of,
    load,
    model_and_how,
    result_of,
    searched,
)
from examples.metrics.run import KNOWN
from prunerzero.errors import InputError

Perplexities = dict[str, dict[str, dict[str, float]]]
"""By model, text and metric."""
Losses = dict[str, dict[str, float]]
"""By model and metric: ln(perplexity / dense perplexity)."""


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", required=True, help="as their files begin")
    options = parser.parse_args()
    results = load(options.results, (SEARCH, COMPARISON))
    print(f"{table(results, options.texts)}\n\n{on_validation(results)}")


def on_validation(results: dict[str, Any]) -> str:
    """A row for each competition, update and kind of search: its results on each of its models."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for name, one in results.items():
        kind, on, competition, update, seed = (*name.split(" | "), "")[:5]
        if kind == SEARCH and seed.isdigit() and not is_for_a_lead(one):
            of_models = found.setdefault((f"{competition}, {update}", on), {})
            for model, ratio in validated(one, on).items():
                of_models.setdefault(model, []).append(log(ratio))
    models = list(dict.fromkeys(model for of_models in found.values() for model in of_models))
    lines = [
        f"| on validation text | evolved on | seeds | {' | '.join(models)} |",
        "| --- | --- | ---: |" + " ---: |" * len(models),
    ]
    for (title, on), of_models in sorted(found.items()):
        seeds = len(next(iter(of_models.values())))
        columns = [interval(of_models[m]) if m in of_models else "" for m in models]
        lines.append(f"| {title} | {on} | {seeds} | {' | '.join(columns)} |")
    return "\n".join(lines)


def validated(search: dict[str, Any], on: str) -> dict[str, float]:
    """Perplexity of a search's result over that of the dense model, by model."""
    if search["cases"]:
        return {Path(c["model"]).name: c["ratio"]["validation"] for c in search["cases"]}
    perplexity = search["perplexity"]["validation"]
    return {on: perplexity[search["origin"]] / perplexity["dense"]}


def table(results: dict[str, Any], texts: Sequence[str]) -> str:
    """A row for each competition, update, way of calibrating, and kind of search.

    Args:
        results: of searches and comparisons, by name.
        texts: those that count are the ones whose names begin so.

    Raises:
        InputError: there is no comparison, or one lacks these texts, or what searches found.
    """
    grouped = compared(results)
    models = list(dict.fromkeys(model for found in grouped.values() for model in found))
    inside = [model for model in models if model in searched(results)]
    if not inside:
        raise InputError(
            "these files hold no comparison on a model that their searches have read: name the "
            "files of both."
        )
    outside = [model for model in models if model not in inside]
    heads = [*inside, *(f"{model} (unseen)" for model in outside)]
    lines = [
        "| competition, update | metric | seeds | mean of the models searched on | "
        f"{' | '.join(heads)} |",
        "| --- | --- | ---: |" + " ---: |" * (len(models) + 1),
    ]
    for (title, competition, update), found in grouped.items():
        logs = {model: losses(perplexities, texts) for model, perplexities in found.items()}
        counted = {model: logs[model] for model in inside if model in logs}
        if not counted:
            raise InputError(f"{title}: no model that was searched on was compared.")
        for what, metrics in rows(results, title, competition, update, counted):
            mean = interval([fmean(of[metric] for of in counted.values()) for metric in metrics])
            if len(counted) < len(inside):
                mean += f" ({len(counted)} of {len(inside)} models)"
            columns = [
                interval([logs[model][metric] for metric in metrics])
                if all(metric in logs.get(model, ()) for metric in metrics)
                else ""
                for model in (*inside, *outside)
            ]
            lines.append(f"| {title} | {what} | {len(metrics)} | {mean} | {' | '.join(columns)} |")
    return "\n".join(lines)


def compared(results: dict[str, Any]) -> dict[tuple[str, str, str], Perplexities]:
    """The comparisons by title, competition and update."""
    grouped: dict[tuple[str, str, str], Perplexities] = {}
    for name, found in results.items():
        if kind_of(name) == COMPARISON:
            _, on, competition, update = name.split(" | ")
            model, how = model_and_how(on)
            title = ", ".join(filter(None, (competition, update, how)))
            grouped.setdefault((title, competition, update), {})[model] = found["perplexity"]
    return grouped


def losses(perplexities: dict[str, dict[str, float]], texts: Sequence[str]) -> dict[str, float]:
    """Of each metric that was measured on all these texts, ln(perplexity / dense), their mean."""
    names = {text: Path(text).name for text in perplexities}
    chosen = [
        found
        for text, found in perplexities.items()
        if any(names[text].startswith(begin) for begin in texts)
    ]
    if any(not any(name.startswith(begin) for name in names.values()) for begin in texts):
        raise InputError(f"{' and '.join(texts)} are not all among {', '.join(perplexities)}.")
    shared = [metric for metric in chosen[0] if all(metric in found for found in chosen)]
    return {metric: fmean(log(f[metric] / f["dense"]) for f in chosen) for metric in shared}


def rows(
    results: dict[str, Any], title: str, competition: str, update: str, logs: Losses
) -> Iterator[tuple[str, list[str]]]:
    """What a row is called, and its metrics: the best known one, or one of each seed."""
    shared = set.intersection(*(set(of_one) for of_one in logs.values()))
    if known := [m for m in KNOWN.values() if m in shared]:
        best = min(known, key=lambda m: fmean(of_one[m] for of_one in logs.values()))
        yield f"best known: `{best}`", [best]
    searches: dict[str, list[Any]] = {}
    for name, found in results.items():
        kind, on, *rest = name.split(" | ")
        if kind == SEARCH and rest[:2] == [competition, update] and rest[2].isdigit():
            searches.setdefault(on, []).append(found)
    for on, founds in searches.items():
        choices = {
            "results": [result_of(found) for found in founds],
            "first finalists": [metric for found in founds for metric in evolved(found)[:1]],
        }
        for which, metrics in choices.items():
            if len(metrics) == len(founds) and shared.issuperset(metrics):
                yield f"evolved on {on}, {which}", metrics
                break
        else:
            metric = next(m for m in choices["results"] if m not in shared)
            model = next(model for model in logs if metric not in logs[model])
            raise InputError(f"{title}: {metric} was not compared on {model}.")


if __name__ == "__main__":
    main()
