"""Evolve metrics for one model or for several at once, alone and under least squares; judge them.

    python -m examples.metrics.run --models A B bundled --foreign bundled --unseen C --laws \\
        --calibration wiki.txt python.txt --validation wiki_valid.txt python_valid.txt \\
        --test python_test.txt manual.txt --seconds 440 --jobs 5 --output three.json

Three competitions, half of each row, half of the model, 2:4, each with and without the update, from
the known metrics on. With ``--laws`` the power laws W · X^a · G^b · D^c are searched beside each.
Then the known metrics and what was found prune every model in turn, those of ``--unseen`` too, and
are measured on every text. A found one is ahead only where it beats each known one on each model
and on each text that no search has read.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import prunerzero
from examples.metrics.pool import Task, read, run_all
from prunerzero import Setup

COMPETITIONS = {"rows": ("0.5", "row"), "model": ("0.5", "model"), "2:4": ("2:4", "row")}
UPDATES = ("none", "least-squares")
LAWS = "laws"
"""What stands for the seed of a search of power laws, which draws nothing at random."""

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


KEPT = ("answer", "metric", "origin", "name", "evaluations", "seconds", "perplexity", "ratio")
KEPT += ("cases", "known", "known_on_validation", "finalists")
"""What is kept of a search's result beside its history."""


@dataclass(frozen=True)
class Texts:
    """What metrics are evolved and judged on."""

    calibration: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]

    @property
    def familiar(self) -> Texts:
        """Without the first of those that a metric is evolved on."""
        return Texts(self.calibration[1:], self.validation[1:], self.test)


@dataclass(frozen=True)
class Search:
    """One search on some models together."""

    models: tuple[str, ...]
    texts: tuple[Texts, ...]
    competition: str
    update: str
    seed: int | str
    options: dict[str, Any]
    setup: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        on = "all" if len(self.models) > 1 else Path(self.models[0]).name
        return f"search | {on} | {self.competition} | {self.update} | {self.seed}"

    @property
    def how(self) -> dict[str, Any]:
        """The strategy, and where it begins."""
        if self.seed == LAWS:
            return {"strategy": "powerlaw"}
        return {"seed_metrics": "catalog", "seed": self.seed}

    def run(self, device: str) -> Any:
        sparsity, group = COMPETITIONS[self.competition]
        folder = self.folder / self.name.replace(" | ", "_").replace(":", "of")
        setups = [
            Setup(
                model=model,
                device=device,
                calibration=texts.calibration,
                validation=texts.validation,
                **self.setup,
            )
            for model, texts in zip(self.models, self.texts, strict=True)
        ]
        found = prunerzero.search(
            setups,
            sparsity,
            folder,
            group=group,
            update=self.update,
            operators="extended",
            **self.how,
            **self.options,
        )
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        told = asdict(found)
        return {name: told[name] for name in KEPT} | {
            "history": [
                [
                    round(one["loss"], 5) if one["state"] == "complete" else None,
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
    competition: str
    update: str
    metrics: tuple[str, ...]
    setup: dict[str, Any]

    @property
    def name(self) -> str:
        return comparison_name(self.model, self.competition, self.update)

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
        perplexity = {Path(text).stem: each for text, each in compared.perplexity.items()}
        return {"perplexity": perplexity}


def comparison_name(model: str, competition: str, update: str) -> str:
    """What the result is kept under."""
    return f"comparison | {Path(model).name} | {competition} | {update}"


def main() -> None:
    options = parse_options()
    results = read(options.output)
    if options.again:
        results = {name: one for name, one in results.items() if not name.startswith("comparison")}
    if not options.no_search:
        run_all([*searches(options)], options.jobs, results, options.output)
    if not options.no_comparison:
        run_all([*comparisons(options, results)], options.jobs, results, options.output)
        run_all([*on_unseen(options, results)], options.jobs, results, options.output)
    print(tables(results))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="to search on, together")
    parser.add_argument("--foreign", nargs="*", default=[], help="of these, not for the first text")
    parser.add_argument("--unseen", nargs="*", default=[], help="models to compare on alone")
    for part in ("calibration", "validation", "test"):
        parser.add_argument(f"--{part}", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--also", nargs="*", type=Path, default=[], help="results of other searches, to compare too"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/prunerzero-metrics"))
    parser.add_argument("--competitions", nargs="+", default=[*COMPETITIONS])
    parser.add_argument("--updates", nargs="+", default=[*UPDATES])
    parser.add_argument("--seconds", type=int, default=300, help="of each search")
    parser.add_argument("--evaluations", type=int, default=100_000, help="of each search")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--laws", action="store_true", help="search power laws too")
    parser.add_argument("--fitted", type=int, default=128, help="windows of calibration")
    parser.add_argument("--windows", type=int, help="of validation, for a search; all by default")
    parser.add_argument("--measured", type=int, help="windows of each text; all by default")
    parser.add_argument("--finalists", type=int, default=2, help="of each search, to compare")
    parser.add_argument("--known", nargs="*", default=[*KNOWN], help="metrics to compare with")
    parser.add_argument(
        "--own-update", action="store_true", help="compare under an update what it evolved, alone"
    )
    parser.add_argument("--fewer", type=int, default=6, help="metrics on unseen models, refitted")
    parser.add_argument("--jobs", type=int, default=3, help="at once on each GPU, or in all")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-search", action="store_true", help="compare what was found before")
    parser.add_argument("--no-comparison", action="store_true", help="search alone")
    parser.add_argument("--again", action="store_true", help="compare anew")
    return parser.parse_args()


def texts_of(options: argparse.Namespace, model: str) -> Texts:
    """The texts that a model is searched and judged on."""
    texts = Texts(*(tuple(getattr(options, p)) for p in ("calibration", "validation", "test")))
    return texts.familiar if model in options.foreign else texts


def searches(options: argparse.Namespace) -> Iterator[Task]:
    """The models together in each competition; under the update that was named first, first."""
    folder = options.work / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    budget = {"time": f"{options.seconds}s", "evaluations": options.evaluations}
    setup = {
        "dtype": options.dtype,
        "num_calibration_samples": options.fitted,
        "num_validation_samples": options.windows,
    }
    models = tuple(options.models)
    texts = tuple(texts_of(options, model) for model in models)
    seeds = [*([LAWS] if options.laws else []), *options.seeds]
    for update, seed, competition in product(options.updates, seeds, options.competitions):
        yield Search(models, texts, competition, update, seed, budget, setup, folder)


def comparisons(options: argparse.Namespace, results: dict[str, Any]) -> Iterator[Task]:
    """Every model in each competition, with the known metrics and the finalists of searches."""
    found = dict(results)
    for path in options.also:
        found |= read(path)
    for update, competition in product(options.updates, options.competitions):
        metrics = [KNOWN.get(name, name) for name in options.known]
        for name, one in found.items():
            kind, *_, where, under, _ = name.split(" | ")
            alike = under == update or not options.own_update
            if kind == "search" and where == competition and alike:
                own = under == update and name in results
                metrics += evolved(one)[: options.finalists if own else 1]
        for model in options.models:
            yield comparison(options, model, competition, update, metrics)


def comparison(
    options: argparse.Namespace, model: str, competition: str, update: str, metrics: list[str]
) -> Comparison:
    setup = {
        "dtype": options.dtype,
        "num_calibration_samples": options.fitted,
        "num_test_samples": options.measured,
    }
    kept = tuple(dict.fromkeys(metrics))
    return Comparison(model, texts_of(options, model), competition, update, kept, setup)


def on_unseen(options: argparse.Namespace, results: dict[str, Any]) -> Iterator[Task]:
    """The models that no search has read; under an update, which takes long on a large one, with
    the metrics that were best on the validation texts of the others."""
    for competition, update in product(options.competitions, options.updates):
        validated = [
            perplexity
            for model in options.models
            if (found := results.get(comparison_name(model, competition, update)))
            for text, perplexity in found["perplexity"].items()
            if text in {path.stem for path in texts_of(options, model).validation}
        ]
        if not validated:
            continue
        metrics = sorted(
            (name for name in validated[0] if name != "dense"),
            key=lambda name: sum(math.log(perplexity[name]) for perplexity in validated),
        )
        if update != "none":
            known = [name for name in metrics if name in KNOWN.values()]
            new = [name for name in metrics if name not in known]
            half = options.fewer // 2
            metrics = [*known[:half], *new[: options.fewer - half]]
        for model in options.unseen:
            yield comparison(options, model, competition, update, metrics)


def evolved(found: dict[str, Any]) -> list[str]:
    """The finalists of a search that it was not given to begin with, the best first."""
    given = {text for _, text, origin in found["history"] if origin == "catalog"}
    return [one["metric"] for one in found["finalists"] if one["metric"] not in given]


def tables(results: dict[str, Any]) -> str:
    """Perplexity by competition and update: a row a metric, a column a model and text.

    The second column tells by how many per cent a metric is ahead of the best known one, on the
    average of the columns and on the worst of them.
    """
    lines = []
    grouped: dict[str, dict[str, Any]] = {}
    for name, found in results.items():
        if name.startswith("comparison"):
            _, model, competition, update = name.split(" | ")
            grouped.setdefault(f"{competition}, {update}", {})[model] = found["perplexity"]
    for title, models in sorted(grouped.items()):
        columns = [(model, text) for model, texts in models.items() for text in texts]
        heads = " | ".join(f"{m}: {t}" for m, t in columns)
        lines += ["", title, "", f"| metric | ahead on average, at worst | {heads} |"]
        lines += ["| --- | --- |" + " ---: |" * len(columns)]
        ahead = {}
        for metric in {name for figures in models.values() for t in figures.values() for name in t}:
            leads = [lead(models[m][t], metric) for m, t in columns if metric in models[m][t]]
            ahead[metric] = (fmean(leads), min(leads))
        for metric, (average, worst) in sorted(ahead.items(), key=lambda item: -item[1][0]):
            row = [models[m][t].get(metric) for m, t in columns]
            figures = " | ".join("" if value is None else f"{value:.2f}" for value in row)
            lines.append(f"| `{metric}` | {average:+.1%}, {worst:+.1%} | {figures} |")
    return "\n".join(lines)


def lead(perplexity: dict[str, float], metric: str) -> float:
    """By what share a metric is ahead of the best of the known ones, itself left out."""
    known = [perplexity[name] for name in KNOWN.values() if name in perplexity and name != metric]
    return min(known) / perplexity[metric] - 1


if __name__ == "__main__":
    main()
