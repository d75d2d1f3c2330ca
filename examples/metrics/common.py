"""What good metrics have in common: what they read, and how weights trade for activations.

    python -m examples.metrics.common examples/metrics/three.json examples/metrics/ablations.json

Reads what ``run`` and ``ablations`` wrote. Of each search's evaluations that finished, the better
tenth is compared with all: the share that reads X, G, D, and the operators that are more frequent.

Then, for each metric that a search ended with, its exponents: by how many per cent |W| must grow to
make up for one per cent less of X, G or D, for weights whose scores are close to the median of
their competition. W · √X · G has ½ and 1, whatever increasing function is put around it. They are
measured by moving one entry in a hundred at a time, on the bundled model's layers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.commands import at_least, in_one_sentence
from examples.metrics.results import ARM, COMPARISON, SEARCH, kind_of, load, result_of
from prunerzero.errors import InputError
from prunerzero.metrics import Expression
from prunerzero.metrics.catalog import find_metric
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

MOVED = 1.01
"""Times as large is an entry that is moved."""


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--layers", type=at_least(1), default=6, help="so many of the model")
    options = parser.parse_args()
    results = load(options.results, (SEARCH, COMPARISON, ARM))
    if all(kind_of(name) == COMPARISON for name in results):
        raise InputError("these files hold comparisons alone: name those of searches.")
    print(frequencies([load([path], (SEARCH, COMPARISON, ARM)) for path in options.results]))
    print(exponents(results, options.layers))


def frequencies(files: Sequence[dict[str, Any]]) -> str:
    """What the better tenth of each kind of search reads and applies, beside all of it.

    Args:
        files: the results of each file, in which searches of one name are not the same.
    """
    lines = [
        "| models, competition, update | finished | reads X | G | D | more frequent in the best |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    kinds: dict[str, list[list[Any]]] = {}
    for name, found in (item for of_file in files for item in of_file.items()):
        if kind_of(name) == SEARCH:
            _, on, competition, update, _ = name.split(" | ")
            kinds.setdefault(f"{on}, {competition}, {update}", []).append(found["history"])
    for kind, searches in sorted(kinds.items()):
        every: list[Expression] = []
        better: list[Expression] = []
        for evaluations in searches:
            done = sorted((loss, text) for loss, text, _ in evaluations if loss is not None)
            trees = [Expression.parse(text) for _, text in done]
            every += trees
            better += trees[: max(1, len(trees) // 10)]
        if not every:
            lines.append(f"| {kind} | 0 | | | | |")
            continue
        reads = [
            f"{share(t, better):.0%} of {share(t, every):.0%}".replace(" of ", " (all: ") + ")"
            for t in "XGD"
        ]
        lines.append(
            f"| {kind} | {len(every)} | {' | '.join(reads)} | {', '.join(lifted(better, every))} |"
        )
    return "\n".join(lines) + "\n"


def share(terminal: str, trees: Iterable[Expression]) -> float:
    found = [terminal in tree.terminals for tree in trees]
    return sum(found) / len(found)


def lifted(better: list[Expression], every: list[Expression], least: float = 1.5) -> Iterator[str]:
    """Operators that are in so many times as large a share of the better metrics as of all."""
    of_better, of_every = counted(better), counted(every)
    for name, count in of_better.most_common():
        ratio = count / len(better) / (of_every[name] / len(every))
        if count >= len(better) / 5 and ratio >= least:
            yield f"`{name}` {ratio:.1f} ×"


def counted(trees: Iterable[Expression]) -> Counter[str]:
    return Counter(name for tree in trees for name in operators(tree))


def operators(tree: Expression) -> set[str]:
    return {node.name for _, node in tree.subtrees() if node.arguments}


def exponents(results: dict[str, Any], count: int) -> str:
    """The exponents of what each search ended with."""
    lines = ["| search | X | G | D | metric |", "| --- | ---: | ---: | ---: | --- |"]
    layers = [*sample(count)]
    for name, found in results.items():
        if (kind := kind_of(name)) == COMPARISON:
            continue
        ended_with = result_of(found) if kind == SEARCH else found["metric"]
        tree = find_metric(ended_with).expression
        group = "model" if " | model | " in name else "row"
        figures = " | ".join(
            "" if (e := exponent(tree, t, layers, group)) is None else f"{e:.2f}" for t in "XGD"
        )
        what = name.removeprefix(f"{SEARCH} | ").replace(" | ", ", ")
        lines.append(f"| {what} | {figures} | `{ended_with}` |")
    return "\n".join(lines)


def sample(count: int) -> Iterator[dict[str, Tensor]]:
    """|W|, X, G and D of so many layers of the bundled model."""
    work = Workspace(Setup(model="bundled", dtype="float32", num_calibration_samples=32))
    statistics = work.calibration.statistics("WXGD")
    names = [*work.layers]
    for name in names[:: max(1, len(names) // count)][:count]:
        known = statistics[name]
        assert known.X is not None and known.G is not None and known.D is not None
        W = work.layers[name].weight.detach().abs()
        yield {"W": W, "X": known.X[None], "G": known.G, "D": known.D[None]}


def exponent(
    tree: Expression, terminal: str, layers: list[dict[str, Tensor]], group: str
) -> float | None:
    """The median over layers of how |W| trades for a terminal; None where it is not read."""
    if terminal not in tree.terminals or "W" not in tree.terminals:
        return None
    found = []
    for values in layers:
        score = scored(tree, values)
        whole = score if group == "row" else score.reshape(1, -1)
        low, high = (whole.quantile(q, 1, keepdim=True) for q in (0.4, 0.6))
        near = ((whole >= low) & (whole <= high)).reshape(score.shape)
        by_weight = moved(tree, values, "W", score)
        by_other = moved(tree, values, terminal, score)
        ratio = (by_other / by_weight)[near & (by_weight != 0) & by_other.isfinite()]
        if len(ratio):
            found.append(float(ratio.nanmedian()))
    return median(found) if found else None


def scored(tree: Expression, values: dict[str, Tensor]) -> Tensor:
    return tree.score(**values).double()


def moved(tree: Expression, values: dict[str, Tensor], terminal: str, score: Tensor) -> Tensor:
    """How each score changes when its own entry of a terminal grows; NaN where none was moved.

    One entry in a hundred is moved at a time, so that norms of rows and columns hardly change.
    """
    result = torch.full_like(score, torch.nan)
    place = torch.arange(values[terminal].numel()).reshape(values[terminal].shape)
    turns = 20 if terminal in "XD" else 10
    for turn in range(turns):
        chosen = (place * 7919 + turn * 104729) % 97 == turn
        other = torch.where(chosen, values[terminal] * MOVED, values[terminal])
        change = scored(tree, values | {terminal: other}) - score
        result = torch.where(chosen.expand(score.shape), change, result)
    return result


if __name__ == "__main__":
    main()
