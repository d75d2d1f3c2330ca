"""How many steps of conjugate gradients tell which of two metrics is better under least squares.

    python -m benchmarks.conjugate_steps --model bundled --sparsities 0.5 2:4 --output steps.json

A hundred metrics prune the model: the known ones, what is bred of them, and random trees. After so
many steps the loss is read on a part of the validation text, and compared with the loss of weights
that are refitted in full: the rank correlation over all metrics and over the best 20, and how far
the metric that so few steps would choose is behind the best one. Seconds are those of pruning and
refitting one metric.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from random import Random
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.commands import at_least, in_one_sentence, new_file, require, sparsity_text
from prunerzero.evolution.variation import (
    Limits,
    PrimitiveSet,
    crossover,
    insert,
    mutate_node,
    random_tree,
)
from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity
from prunerzero.metrics.simplify import canonical
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import probes_of
from prunerzero.scoring.ranking import rank
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

STEPS = (0, 1, 2, 4, 8, 16, 32)
"""0 for masks alone; after these the refit in full is measured, which every result has."""

IN_FULL = "in full"
TERMINALS = "WXGD"


def metrics(work: Workspace, sparsity: Sparsity, count: int, seed: int) -> list[Expression]:
    """So many metrics of which no two rank alike: known ones, their offspring, random trees."""
    rng, primitives, limits = Random(seed), PrimitiveSet.of("extended"), Limits()
    known = [m.expression for m in CATALOG.values() if m.expression.terminals <= {*TERMINALS}]
    probes = probes_of(work.layers, work.calibration.statistics(TERMINALS))
    found: dict[str, Expression] = {}

    def take(tree: Expression) -> None:
        expression = canonical(tree, sparsity.group)
        if limits.allow(expression):
            try:
                found.setdefault(rank(expression, probes, sparsity).key, expression)
            except ScoreError:
                pass

    for expression in known:
        take(expression)
    while len(found) < count:
        parent, other = rng.choices([*found.values()], k=2)
        take(crossover(rng, parent, other, limits))
        take(insert(rng, parent, primitives, limits))
        take(mutate_node(rng, parent, primitives))
        take(random_tree(rng, primitives, limits=limits))
    return [*found.values()][:count]


def losses(
    work: Workspace, sparsity: Sparsity, refit: Refit, chosen: list[Expression], windows: int
) -> tuple[list[float], float]:
    """The loss with each metric, infinite where there is none, and the median seconds of a refit.

    On a CPU they are seconds of the process: other processes do not count.
    """
    on_gpu = work.language_model.device.type == "cuda"
    clock = time.monotonic if on_gpu else time.process_time
    text = work.texts.of("validation").windows[:windows]
    fitness = PrunedLoss(
        work.language_model.model,
        work.layers,
        work.calibration.statistics(TERMINALS),
        sparsity,
        text,
        windows_per_chunk=len(text),
        race_chunks=1,
        refit=refit,
        grams=work.calibration.grams if refit else None,
    )
    found, seconds = [], []
    for expression in chosen:
        begun = clock()
        try:
            fitness._weights.prune(expression)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(clock() - begun)
            [read] = fitness._read(0, 1)
            loss = read()
            found.append(loss if loss == loss else float("inf"))
        except ScoreError:
            found.append(float("inf"))
        finally:
            fitness._weights.restore()
    return found, median(seconds)


def correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation."""
    ranks = torch.tensor([a, b], dtype=torch.float64).argsort(1).argsort(1).double()
    return float(torch.corrcoef(ranks)[0, 1])


def table(measured: dict[str, tuple[list[float], float]], best: int) -> list[dict[str, Any]]:
    """A row for each number of steps."""
    full = measured[IN_FULL][0]
    order = sorted(range(len(full)), key=full.__getitem__)[:best]
    rows = []
    for steps, (found, seconds) in measured.items():
        usable = [n for n in range(len(full)) if max(found[n], full[n]) < float("inf")]
        top = [n for n in order if n in usable]
        chosen = min(usable, key=found.__getitem__)
        rows.append(
            {
                "steps": steps,
                "of all": correlation([found[n] for n in usable], [full[n] for n in usable]),
                "of the best": correlation([found[n] for n in top], [full[n] for n in top]),
                "chosen is behind": full[chosen] - min(full),
                "loss above": fmean(found[n] - full[n] for n in top),
                "seconds": seconds,
            }
        )
    return rows


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=new_file, help="JSON file")
    parser.add_argument("--sparsities", nargs="+", type=sparsity_text, default=["0.5", "2:4"])
    parser.add_argument("--metrics", type=at_least(3), default=100)
    parser.add_argument("--best", type=at_least(2), default=20)
    parser.add_argument("--windows", type=at_least(1), default=16, help="of the validation text")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("model", "device", "calibration", "validation", "dtype"):
        parser.add_argument(f"--{name}")
    for name in ("max-seq-length", "num-calibration-samples"):
        parser.add_argument(f"--{name}", type=int)
    options = vars(parser.parse_args())
    require(options["device"] or "auto")
    own = ("output", "sparsities", "metrics", "best", "windows", "seed")
    given = {k: v for k, v in options.items() if k not in own and v is not None}
    work = Workspace(Setup(**given))
    told: dict[str, Any] = {"settings": options, "torch": torch.__version__, "tables": {}}
    for written in options["sparsities"]:
        sparsity = Sparsity.parse(written)
        chosen = metrics(work, sparsity, options["metrics"], options["seed"])
        in_full = Refit("least-squares")
        ways = {str(n): replace(in_full, solver_steps=n) if n else Refit() for n in STEPS} | {
            IN_FULL: in_full
        }
        measured = {
            name: losses(work, sparsity, refit, chosen, options["windows"])
            for name, refit in ways.items()
        }
        rows = table(measured, options["best"])
        told["tables"][written] = {
            "rows": rows,
            "metrics": [str(expression) for expression in chosen],
            "losses": {name: found for name, (found, _) in measured.items()},
        }
        print(f"\n{written}: {len(chosen)} metrics")
        print("| steps | of all | of the best | chosen is behind | loss above | seconds |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        for row in rows:
            print(
                f"| {row['steps']} | {row['of all']:.3f} | {row['of the best']:.3f} | "
                f"{row['chosen is behind']:.4f} | {row['loss above']:.4f} | "
                f"{row['seconds']:.2f} |",
                flush=True,
            )
        if options["output"]:
            options["output"].write_text(json.dumps(told, indent=1, default=str))


if __name__ == "__main__":
    main()
