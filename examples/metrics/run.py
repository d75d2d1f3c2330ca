"""Evolve metrics for several models at once, alone and under least squares, and judge them.

    python -m examples.metrics.run --models A B C --calibration wiki.txt python.txt \\
        --validation wiki_valid.txt python_valid.txt --test python_test.txt manual.txt \\
        --seconds 300 --jobs 5 --output results.json

Three competitions, half of each row, half of the model, 2:4, each with and without the update, from
the known metrics on. Then the known metrics and what was found prune every model in turn, and are
measured on every text: a found one is ahead only where it beats each known one on each model and on
each text that no search has read. With ``--alone`` the first model is searched by itself too, with
the first calibration and validation text, which is what its own tables are made with.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import prunerzero
from examples.metrics.pool import Task, read, run_all
from prunerzero import Setup

COMPETITIONS = {"rows": ("0.5", "row"), "model": ("0.5", "model"), "2:4": ("2:4", "row")}
UPDATES = ("none", "least-squares")
KNOWN = {
    "magnitude": "magnitude",
    "wanda": "wanda",
    "ria": "ria",
    "gblm": "gblm",
    "fisher": "fisher",
    "obs": "obs",
    "pruner-zero": "pruner-zero",
    "power-law": "power-law",
    "W · G^¾": "W * G ** 0.75",
    "W · √X · G": "W * sqrt(X) * G",
}


@dataclass(frozen=True)
class Texts:
    """What metrics are evolved and judged on."""

    calibration: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Search:
    """One search on some models together."""

    models: tuple[str, ...]
    texts: Texts
    competition: str
    update: str
    seed: int
    options: dict[str, Any]
    setup: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        on = "all" if len(self.models) > 1 else Path(self.models[0]).name
        return f"search | {on} | {self.competition} | {self.update} | {self.seed}"

    def run(self, device: str) -> Any:
        sparsity, group = COMPETITIONS[self.competition]
        folder = self.folder / self.name.replace(" | ", "_").replace(":", "of")
        setups = [
            Setup(
                model=model,
                device=device,
                calibration=self.texts.calibration,
                validation=self.texts.validation,
                **self.setup,
            )
            for model in self.models
        ]
        found = prunerzero.search(
            setups,
            sparsity,
            folder,
            group=group,
            update=self.update,
            operators="extended",
            seed_metrics="catalog",
            seed=self.seed,
            **self.options,
        )
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        return asdict(found) | {
            "history": [
                [
                    one["loss"] if one["state"] == "complete" else None,
                    one["expression"],
                    one["origin"],
                ]
                for one in history
            ]
        }


@dataclass(frozen=True)
class Comparison:
    """Known and found metrics on one model."""

    model: str
    texts: Texts
    called: str
    competition: str
    update: str
    metrics: tuple[str, ...]
    setup: dict[str, Any]

    @property
    def name(self) -> str:
        of = f"{Path(self.model).name}, {self.called}"
        return f"comparison | {of} | {self.competition} | {self.update}"

    def run(self, device: str) -> Any:
        sparsity, group = COMPETITIONS[self.competition]
        compared = prunerzero.compare(
            Setup(
                model=self.model, device=device, calibration=self.texts.calibration, **self.setup
            ),
            self.metrics,
            sparsity,
            group=group,
            update=self.update,
            texts=(*self.texts.validation, *self.texts.test),
        )
        return asdict(compared)


def main() -> None:
    options = parse_options()
    results = read(options.output)
    if options.again:
        results = {name: one for name, one in results.items() if not name.startswith("comparison")}
    together = Texts(options.calibration, options.validation, options.test)
    run_all([*searches(options, together)], options.jobs, results, options.output)
    run_all([*comparisons(options, together, results)], options.jobs, results, options.output)
    print(tables(results))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True)
    for part in ("calibration", "validation", "test"):
        parser.add_argument(f"--{part}", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/prunerzero-metrics"))
    parser.add_argument("--competitions", nargs="+", default=[*COMPETITIONS])
    parser.add_argument("--updates", nargs="+", default=[*UPDATES])
    parser.add_argument("--seconds", type=int, default=300, help="of each search")
    parser.add_argument("--evaluations", type=int, default=100_000, help="of each search")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--fitted", type=int, default=48, help="windows of calibration")
    parser.add_argument("--windows", type=int, default=16, help="of validation, for a search")
    parser.add_argument("--measured", type=int, default=32, help="windows, of all texts together")
    parser.add_argument("--finalists", type=int, default=3, help="of each search, to compare")
    parser.add_argument("--jobs", type=int, default=3, help="at once on each GPU, or in all")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--alone", action="store_true", help="search the first model alone too")
    parser.add_argument("--again", action="store_true", help="compare anew")
    options = parser.parse_args()
    for part in ("calibration", "validation", "test"):
        setattr(options, part, tuple(getattr(options, part)))
    return options


def searches(options: argparse.Namespace, together: Texts) -> Iterator[Task]:
    """The models together in each competition, and the first one alone."""
    folder = options.work / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    budget = {"time": f"{options.seconds}s", "evaluations": options.evaluations}
    setup = {
        "dtype": options.dtype,
        "num_calibration_samples": options.fitted,
        "num_validation_samples": options.windows,
    }
    first = Texts(together.calibration[:1], together.validation[:1])
    groups = [(tuple(options.models), together)]
    groups += [((options.models[0],), first)] if options.alone else []
    every = product(options.seeds, options.competitions, options.updates, groups)
    for seed, competition, update, (models, texts) in every:
        yield Search(models, texts, competition, update, seed, budget, setup, folder)


def comparisons(
    options: argparse.Namespace, together: Texts, results: dict[str, Any]
) -> Iterator[Task]:
    """Every model in each competition; the first one also with the first text alone."""
    setup = {
        "dtype": options.dtype,
        "num_calibration_samples": options.fitted,
        "num_test_samples": options.measured,
    }
    for competition, update in product(options.competitions, options.updates):
        metrics = [*KNOWN.values()]
        for name, found in results.items():
            kind, *_, where, under, _ = name.split(" | ")
            if kind == "search" and where == competition:
                count = options.finalists if under == update else 1
                metrics += evolved(found)[:count]
        kept = tuple(dict.fromkeys(metrics))
        for model in options.models:
            yield Comparison(model, together, "all texts", competition, update, kept, setup)
        if options.alone:
            first = Texts(together.calibration[:1], together.validation, together.test)
            called = "calibrated on the first text"
            exact = setup | {"dtype": "float32"}
            yield Comparison(options.models[0], first, called, competition, update, kept, exact)


def evolved(found: dict[str, Any]) -> list[str]:
    """The finalists of a search that it was not given to begin with, the best first."""
    given = {text for _, text, origin in found["history"] if origin == "catalog"}
    return [one["metric"] for one in found["finalists"] if one["metric"] not in given]


def tables(results: dict[str, Any]) -> str:
    """Perplexity by competition and update: a row a metric, a column a model and text."""
    lines = []
    grouped: dict[str, dict[str, Any]] = {}
    for name, found in results.items():
        if name.startswith("comparison"):
            _, model, competition, update = name.split(" | ")
            grouped.setdefault(f"{competition}, {update}", {})[model] = found["perplexity"]
    for title, models in sorted(grouped.items()):
        columns = [(model, text) for model, texts in models.items() for text in texts]
        lines += ["", title, "", "| metric | " + " | ".join(f"{m}: {t}" for m, t in columns) + " |"]
        lines += ["| --- |" + " ---: |" * len(columns)]
        model, text = columns[0]
        for metric in sorted(models[model][text], key=models[model][text].__getitem__):
            figures = " | ".join(f"{models[m][t][metric]:.2f}" for m, t in columns)
            lines.append(f"| `{metric}` | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
