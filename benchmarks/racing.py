"""How often does racing discard what a full reading would have ranked among the top 5 %?

    python -m benchmarks.racing [--output racing.json] [--sparsities 0.5] [--evaluations 400]

Runs searches whose candidates are all read to the end, while the race decides as it always does:
what it would have raced out is told to the search as raced out. Then replays the same candidates
under other settings of the race. Without options, on the bundled model.

    python -m benchmarks.racing --replay runs/*/journal.log

replays searches that were made with a wide race; what that one discarded is unknown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import optuna

from benchmarks.commands import in_one_sentence, new_file, refuse, require, sparsity_text
from prunerzero import evolution
from prunerzero.evolution.racing import Race
from prunerzero.evolution.records import Candidate, Individual
from prunerzero.evolution.variation import OperatorSet
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.statistics import probes_of
from prunerzero.tasks.cases import fitness_of
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

TOP = 0.05


class ReadToTheEnd:
    """A fitness that reads every chunk of a race and remembers the losses."""

    def __init__(self, fitness: PrunedLoss) -> None:
        self.fitness = fitness
        self.chunks, self.total_chunks = fitness.chunks, fitness.total_chunks
        self.read: list[list[float]] = []

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        losses = list(self.fitness.losses(expression, start, stop))
        if start == 0:
            self.read.append(losses)
        yield from losses


@dataclass(frozen=True)
class Outcome:
    """What a race made of the candidates of a search.

    Attributes:
        discarded: share of the top 5 % by a full reading that was raced out.
        best_discarded: whether the very best was.
        read: share of the chunks that was read.
    """

    discarded: float
    best_discarded: bool
    read: float


def replay(losses: list[list[float]], **race: Any) -> Outcome:
    """Race the candidates in their order."""
    chunks = max(map(len, losses))
    contest = Race(chunks, **race)
    read = []
    for number, known in enumerate(losses):
        prefixes = range(1, min(len(known), chunks - 1) + 1)
        read.append(next((r for r in prefixes if contest.is_hopeless(known[:r])), len(known)))
        state: Any = "complete" if read[-1] == chunks else "raced_out"
        candidate = Candidate(Expression("W"), "", "random")
        contest.add(Individual(number, candidate, state, tuple(known[: read[-1]]), 0.0))
    finished = [number for number, known in enumerate(losses) if len(known) == chunks]
    ranked = sorted(finished, key=lambda number: fmean(losses[number]))
    top = ranked[: round(TOP * len(losses))]
    return Outcome(
        fmean(read[n] < chunks for n in top), read[ranked[0]] < chunks, fmean(read) / chunks
    )


def losses_of(journal: Path) -> list[list[float]]:
    """The losses that a search read of each candidate, in order."""
    with evolution.SearchStudy.open(journal) as study:
        individuals = sorted(study.population.individuals, key=lambda i: i.number)
    return [list(i.losses) for i in individuals if i.losses]


def search(
    work: Workspace, sparsity: Sparsity, settings: evolution.SearchSettings
) -> list[list[float]]:
    """The full losses of each candidate, in order."""
    fitness = ReadToTheEnd(fitness_of(work, sparsity))
    evolution.search(
        fitness,
        study=evolution.SearchStudy.open(optuna.storages.InMemoryStorage()),
        settings=settings,
        probes=probes_of(work.layers, work.calibration.statistics("XG")),
        sparsity=sparsity,
    )
    return [losses for losses in fitness.read if len(losses) == fitness.chunks]


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=new_file, help="JSON file")
    parser.add_argument("--replay", type=Path, nargs="+", help="journals of searches")
    parser.add_argument("--sparsities", nargs="+", type=sparsity_text, default=["0.5", "2:4"])
    parser.add_argument("--operators", choices=get_args(OperatorSet), default="extended")
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="of each search")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    for field in fields(Setup):
        if field.name in ("model", "dtype", "device", "calibration", "validation"):
            parser.add_argument(f"--{field.name}", default=field.default)
    for name in ("max_seq_length", "num_validation_samples", "num_calibration_samples"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    options = vars(parser.parse_args())
    require(options["device"])
    if options["replay"]:
        if missing := [journal for journal in options["replay"] if not journal.is_file()]:
            refuse(f"there is no journal {missing[0]}: name the journal.log of a search's folder.")
        if options["output"]:
            refuse("--output is of the losses of searches made here, and --replay makes none.")
        tell({str(journal): losses_of(journal) for journal in options["replay"]})
        return
    names = {field.name for field in fields(Setup)}
    given = {k: v for k, v in options.items() if k in names and v is not None}
    given |= {k: Path(v) for k, v in given.items() if k in ("calibration", "validation")}
    work = Workspace(Setup(**given))
    matrices: dict[str, list[list[float]]] = {}
    for sparsity, seed in product(options["sparsities"], options["seeds"]):
        settings = evolution.SearchSettings(
            seed=seed,
            evaluations=options["evaluations"],
            seconds=options["seconds"],
            operators=options["operators"],
            finalists=1,
        )
        name = f"{sparsity} seed {seed}"
        matrices[name] = search(work, Sparsity.parse(sparsity), settings)
        if options["output"]:
            options["output"].write_text(json.dumps(matrices), encoding="utf-8")
        print(f"{name}: {len(matrices[name])}", flush=True)
    tell(matrices)


def tell(matrices: dict[str, list[list[float]]]) -> None:
    """A line for each setting, the mean over the searches."""
    print("places margin first factor | top 5 % discarded, best discarded, chunks read")
    for places, margin, first, factor in product((1, 2, 3, 5, 10), (1, 2, 3), (1, 2), (1.5, 2)):
        race = {"places": places, "margin": margin, "first": first, "factor": factor}
        outcomes = [replay(losses, **race) for losses in matrices.values()]
        print(
            f"{places:6} {margin:6} {first:5} {factor:6} | "
            f"{fmean(o.discarded for o in outcomes):6.1%} "
            f"{fmean(o.best_discarded for o in outcomes):6.1%} "
            f"{fmean(o.read for o in outcomes):6.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
