"""What each part of a search buys, at equal evaluations: means and 95 % intervals over seeds.

    python -m examples.metrics.ablations --output ablations.json --jobs 16 --evaluations 300

On the bundled model, each search from scratch unless its arm says otherwise, judged on test text
that it has not read. What is judged is the first finalist of each search, the best on the
validation text of what it evolved, even where a known metric is ahead. An interval is Student's, of
the mean over the seeds. Where a task fails the others go on, and the exit code is 1.

- ``from the known metrics``: the population begins with the catalog, but for what searches on this
  model and others found.
- ``without simplification``: neither Opposing Operation Simplification nor the canonical form.
- ``... nor recognition``: besides, a metric that ranks as one before it is measured again.
- ``update in the loop``: candidates are judged after least squares. Its rows and those of ``update
  left out`` are measured after least squares.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from unittest.mock import patch

import prunerzero
from benchmarks.commands import at_least, in_one_sentence, new_file
from examples.metrics.pool import Task, end, run_all
from examples.metrics.results import ARM, load
from examples.metrics.run import COMPETITIONS, KNOWN, UPDATES
from prunerzero import Setup
from prunerzero.errors import InputError
from prunerzero.evolution import breeding
from prunerzero.metrics import Expression
from prunerzero.metrics.catalog import CATALOG, find_metric
from prunerzero.pruning.refit import Update
from prunerzero.scoring.ranking import rank_on
from prunerzero.tasks.options import RefitOptions, SearchOptions, SearchRefitOptions

SETUP = Setup(
    model="bundled",
    dtype="float32",
    num_calibration_samples=32,
    num_validation_samples=32,
    num_test_samples=64,
)
EVOLVED = ("fisher-obs",)
"""What the catalog has from searches on this model too: an arm that began with it would show what
they found."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""The 97.5 % point of Student's distribution for so many seeds."""


@dataclass(frozen=True)
class Arm:
    """A way to search.

    Attributes:
        options: of the search.
        update: that candidates are judged after.
        under: the update that the result is measured after.
        simplified, recognised: as the module's description says.
    """

    options: SearchOptions = SearchOptions()
    update: Update = "none"
    under: Update = "none"
    simplified: bool = True
    recognised: bool = True


ARMS = {
    "from scratch": Arm(),
    "from scratch, extended operators": Arm(SearchOptions(operators="extended")),
    "from the known metrics": Arm(SearchOptions(seed_metrics="catalog")),
    "from the known metrics, extended operators": Arm(
        SearchOptions(seed_metrics="catalog", operators="extended")
    ),
    "without simplification": Arm(simplified=False),
    "without simplification nor recognition": Arm(simplified=False, recognised=False),
    "random trees": Arm(SearchOptions(strategy="random")),
    "update left out": Arm(
        SearchOptions(operators="extended", seed_metrics="catalog"), under="least-squares"
    ),
    "update in the loop": Arm(
        SearchOptions(operators="extended", seed_metrics="catalog"),
        update="least-squares",
        under="least-squares",
    ),
}


@dataclass(frozen=True)
class Run:
    """One search and what its result is worth."""

    arm: str
    competition: str
    seed: int
    evaluations: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.competition} | {self.arm} | {self.seed}"

    def run(self, device: str) -> Any:
        arm = ARMS[self.arm]
        sparsity, group = COMPETITIONS[self.competition]
        folder = self.folder / self.name.replace(" | ", "_").replace(":", "of").replace(" ", "-")
        setup = replace(SETUP, device=device)
        with changed(arm):
            found = prunerzero.search(
                setup,
                sparsity,
                folder,
                replace(arm.options, seed=self.seed, evaluations=self.evaluations),
                SearchRefitOptions(update=arm.update),
                group=group,
            )
        if not found.finalists:
            raise InputError(
                f"none of {found.evaluations} evaluations gave a finalist; allow more with "
                "--evaluations."
            )
        metric = found.finalists[0]["metric"]
        compared = prunerzero.compare(
            setup,
            [metric],
            sparsity,
            parts=("validation", "test"),
            group=group,
            refit=RefitOptions(update=arm.under),
        )
        figures = {
            part: next(v for k, v in of.items() if k != "dense") / of["dense"]
            for part, of in compared.perplexity.items()
        }
        return {
            "metric": metric,
            "size": Expression.parse(metric).size,
            "ratio": figures,
            "evaluations": found.evaluations,
            "duplicates skipped": found.duplicates_skipped,
            "seconds": found.seconds,
        }


@dataclass(frozen=True)
class Known:
    """What the known metric is worth that is best on the validation text."""

    competition: str
    under: Update

    @property
    def name(self) -> str:
        after = "" if self.under == "none" else f", {self.under}"
        return f"{self.competition} | best known{after} | 0"

    def run(self, device: str) -> Any:
        sparsity, group = COMPETITIONS[self.competition]
        compared = prunerzero.compare(
            replace(SETUP, device=device),
            [*KNOWN.values()],
            sparsity,
            parts=("validation", "test"),
            group=group,
            refit=RefitOptions(update=self.under),
        ).perplexity
        best = min(KNOWN.values(), key=compared["validation"].__getitem__)
        return {
            "metric": best,
            "size": find_metric(best).expression.size,
            "ratio": {part: of[best] / of["dense"] for part, of in compared.items()},
            "duplicates skipped": 0,
        }


@contextmanager
def changed(arm: Arm) -> Iterator[None]:
    """What an arm leaves out is left out inside this context."""
    left_out: dict[str, Callable[..., object]] = {}
    if not arm.simplified:
        left_out["canonical"] = lambda tree, group: tree
        left_out["remove_opposing"] = lambda tree: tree
    if not arm.recognised:
        left_out["rank_on"] = lambda tree, samples: replace(rank_on(tree, samples), key=str(tree))
    with ExitStack() as stack:
        stack.enter_context(patch.dict(CATALOG))
        for name in EVOLVED:
            del CATALOG[name]
        for name, instead in left_out.items():
            stack.enter_context(patch.object(breeding, name, instead))
        yield


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=new_file, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/prunerzero-ablations"))
    parser.add_argument("--jobs", type=at_least(1), default=2, help="at once")
    parser.add_argument("--evaluations", type=at_least(1), default=300, help="of each search")
    parser.add_argument(
        "--seeds", type=int, choices=range(1, max(STUDENT) + 1), default=3, help="so many"
    )
    parser.add_argument(
        "--competitions", nargs="+", default=["rows", "2:4"], choices=[*COMPETITIONS]
    )
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    options = parser.parse_args()
    results = load([options.output], (ARM,)) if options.output.is_file() else {}
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    failed = run_all([*runs(options)], options.jobs, results, options.output)
    print(table(results))
    end(failed)


def runs(options: argparse.Namespace) -> Iterator[Task]:
    """The known metrics, then seed by seed, so that what is there when time runs out compares."""
    for competition in options.competitions:
        yield from (Known(competition, under) for under in UPDATES)
    for seed in range(options.seeds):
        for competition in options.competitions:
            for arm in options.arms:
                yield Run(arm, competition, seed, options.evaluations, options.work)


def table(results: dict[str, Any]) -> str:
    """How much worse than the dense model, in percent of perplexity, for each arm."""
    lines = [
        "| competition | arm | seeds | test, over dense | validation | size | duplicates skipped |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    grouped: dict[tuple[str, str], list[Any]] = {}
    for name, one in results.items():
        competition, arm, _ = name.split(" | ")
        grouped.setdefault((competition, arm), []).append(one)
    for (competition, arm), ones in grouped.items():
        figures = " | ".join(
            interval([log(one["ratio"][part]) for one in ones]) for part in ("test", "validation")
        )
        size, skipped = (fmean(one[key] for one in ones) for key in ("size", "duplicates skipped"))
        lines.append(
            f"| {competition} | {arm} | {len(ones)} | {figures} | {size:.0f} | {skipped:.0f} |"
        )
    return "\n".join(lines)


def interval(logs: list[float]) -> str:
    """The mean of some ln(perplexity / dense perplexity) with its interval."""
    if len(logs) < 2:
        return f"{fmean(logs):.4f}"
    if len(logs) not in STUDENT:
        raise InputError(f"of {len(logs)} seeds no interval is known here: at most {max(STUDENT)}.")
    half = STUDENT[len(logs)] * stdev(logs) / sqrt(len(logs))
    return f"{fmean(logs):.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
