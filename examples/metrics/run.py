"""Evolve metrics for one model or for several at once, alone and under least squares; judge them.

    python -m examples.metrics.run --models A B bundled --foreign bundled --unseen C --laws \\
        --calibration wiki.txt python.txt --validation wiki_valid.txt python_valid.txt \\
        --test python_test.txt manual.txt --seconds 440 --jobs 5 --output three.json

Three competitions, half of each row, half of the model, 2:4, each with and without the update, from
the known metrics on. With ``--laws`` the power laws W · X^a · G^b · D^c are searched beside each.
Then the known metrics and what was found prune every model in turn, those of ``--unseen`` too, and
are measured on every text. Of each search that is its result, and beside it the best of its
finalists: the result is the smallest of those that are as good within the noise. The tables say
which is which. A found one is ahead only where it beats each known one on each model and on each
text that no search has read.

``--ahead`` judges candidates in another way: by how far they are ahead of every known metric on the
model where that is least, so that what is found is ahead on each.

Where a task fails the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import fmean
from tempfile import mkdtemp
from typing import Any, get_args

import prunerzero
from benchmarks.commands import at_least, in_one_sentence, new_file
from examples.metrics.ahead import judged_by_lead, ranking
from examples.metrics.pool import Task, end, run_all
from examples.metrics.results import (
    COMPARISON,
    SEARCH,
    evolved,
    kind_of,
    load,
    model_and_how,
    result_of,
    searched,
)
from prunerzero import InputError, Setup
from prunerzero.metrics import Expression, MetricError, Sparsity
from prunerzero.metrics.catalog import find_metric
from prunerzero.metrics.sparsity import Group
from prunerzero.pruning.refit import Update
from prunerzero.scoring.ranking import mixed_probes
from prunerzero.tasks.begin_with import formulas
from prunerzero.tasks.options import RefitOptions, SearchOptions, SearchRefitOptions
from prunerzero.tasks.twins import Twins

COMPETITIONS: dict[str, tuple[str, Group]] = {
    "rows": ("0.5", "row"),
    "model": ("0.5", "model"),
    "2:4": ("2:4", "row"),
}
UPDATES: tuple[Update, ...] = get_args(Update)
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
RIVALS = ("wanda", "ria", "gblm", "fisher", "obs", "pruner-zero", "power-law", "W · G^¾")
"""Of the known ones those that some model prefers, which a metric has to be ahead of."""
LEADING = 40
"""How many metrics are kept of a search for a lead, where others keep their finalists."""

KEPT = (
    *("answer", "metric", "origin", "name", "evaluations", "seconds", "perplexity", "ratio"),
    *("cases", "known", "known_on_validation", "finalists"),
)
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

    setups: tuple[Setup, ...]
    competition: str
    update: Update
    seed: int | str
    budget: SearchOptions
    folder: Path
    begin_with: tuple[str, ...] = ()
    ahead: bool = False

    @property
    def name(self) -> str:
        on = "all" if len(self.setups) > 1 else Path(self.setups[0].model).name
        return f"search | {on} | {self.competition} | {self.update} | {self.seed}"

    @property
    def options(self) -> SearchOptions:
        """The budget, the strategy, and where it begins."""
        asked = replace(self.budget, operators="extended")
        if isinstance(self.seed, str):  # LAWS
            return replace(asked, strategy="powerlaw")
        return replace(asked, seed_metrics="catalog", seed=self.seed, begin_with=self.begin_with)

    def run(self, device: str) -> Any:
        folder = self.folder / self.name.replace(" | ", "_").replace(":", "of")
        return self.search_ahead(folder, device) if self.ahead else self.search(folder, device)

    def search_ahead(self, folder: Path, device: str) -> dict[str, Any]:
        """The same, and the metrics that are ahead of the known ones by most as its finalists."""
        folder.mkdir()
        log = folder / "excess.jsonl"
        with judged_by_lead([KNOWN[name] for name in RIVALS], log):
            found = self.search(folder / "run", device)
        group = COMPETITIONS[self.competition][1]
        known = {name: find_metric(formula).expression for name, formula in KNOWN.items()}
        half = Sparsity(ratio=0.5, group=group)
        twins = Twins(known, [([probe], half) for probe in mixed_probes()])
        leading = (one for one in ranking(log) if twins.of(Expression.parse(one["metric"])) is None)
        finalists = [*islice(leading, LEADING)]
        if not finalists:
            raise InputError("no metric but known ones was read to the end; allow more evaluations")
        cases = [{name: case[name] for name in ("model", "sparsity")} for case in found["cases"]]
        # what the search itself chose, by another measure, and its figures are left out
        kept = {name: found[name] for name in ("evaluations", "seconds", "known", "history")}
        best = {"metric": finalists[0]["metric"], "origin": "evolved", "name": "evolved"}
        return best | kept | {"cases": cases, "finalists": finalists}

    def search(self, folder: Path, device: str) -> dict[str, Any]:
        """What the search found, as it is kept."""
        sparsity, group = COMPETITIONS[self.competition]
        found = prunerzero.search(
            [replace(setup, device=device) for setup in self.setups],
            sparsity,
            folder,
            self.options,
            SearchRefitOptions(update=self.update),
            group=group,
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

    setup: Setup
    texts: tuple[Path, ...]
    competition: str
    update: Update
    metrics: tuple[str, ...]

    @property
    def model(self) -> str:
        return self.setup.model

    @property
    def name(self) -> str:
        return comparison_name(self.model, self.competition, self.update)

    def run(self, device: str) -> Any:
        sparsity, group = COMPETITIONS[self.competition]
        compared = prunerzero.compare(
            replace(self.setup, device=device),
            self.metrics,
            sparsity,
            group=group,
            refit=RefitOptions(update=self.update),
            texts=self.texts,
        )
        perplexity = {Path(text).stem: each for text, each in compared.perplexity.items()}
        return {"perplexity": perplexity}


def comparison_name(model: str, competition: str, update: str) -> str:
    """What the result is kept under."""
    return f"comparison | {Path(model).name} | {competition} | {update}"


@in_one_sentence()
def main() -> None:
    options = parse_options()
    kinds = (SEARCH, COMPARISON)
    results = load([options.output], kinds) if options.output.is_file() else {}
    others = load(options.also, kinds)
    if options.again:
        results = {name: one for name, one in results.items() if kind_of(name) != COMPARISON}
    failed: list[str] = []

    def run(tasks: Iterator[Task]) -> None:
        failed.extend(run_all([*tasks], options.jobs, results, options.output))

    if not options.no_search:
        asked = [*searches(options)]
        run(iter(asked))
        if asked and len(failed) == len(asked):
            end(failed)
    if not options.no_comparison:
        run(comparisons(options, results, others))
        run(on_unseen(options, results))
    print(tables(results, others))
    end(failed)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="to search on, together")
    parser.add_argument("--foreign", nargs="*", default=[], help="of these, not for the first text")
    parser.add_argument("--unseen", nargs="*", default=[], help="models to compare on alone")
    for part in ("calibration", "validation", "test"):
        parser.add_argument(f"--{part}", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=new_file, required=True)
    parser.add_argument(
        "--also", nargs="*", type=Path, default=[], help="results of other searches, to compare too"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/prunerzero-metrics"))
    parser.add_argument(
        "--competitions", nargs="+", choices=[*COMPETITIONS], default=[*COMPETITIONS]
    )
    parser.add_argument("--updates", nargs="+", choices=UPDATES, default=[*UPDATES])
    parser.add_argument("--seconds", type=at_least(1), default=300, help="of each search")
    parser.add_argument("--evaluations", type=at_least(1), default=100_000, help="of each search")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument(
        "--begin-with",
        nargs="*",
        type=Path,
        default=[],
        help="results of other searches: theirs of the same competition and update come first",
    )
    parser.add_argument(
        "--ahead",
        action="store_true",
        help="judge candidates by how far they are ahead of every known metric on each model",
    )
    parser.add_argument("--laws", action="store_true", help="search power laws too")
    parser.add_argument("--fitted", type=at_least(1), default=128, help="windows of calibration")
    parser.add_argument(
        "--windows", type=at_least(1), help="of validation, for a search; all by default"
    )
    parser.add_argument("--measured", type=at_least(1), help="windows of each text; all by default")
    parser.add_argument(
        "--finalists", type=int, default=2, help="of each search, to compare beside its result"
    )
    parser.add_argument(
        "--known", nargs="*", type=known_metric, default=[*KNOWN], help="metrics to compare with"
    )
    parser.add_argument(
        "--own-update", action="store_true", help="compare under an update what it evolved, alone"
    )
    parser.add_argument("--fewer", type=int, default=6, help="metrics on unseen models, refitted")
    parser.add_argument(
        "--jobs", type=at_least(1), default=3, help="at once on each GPU, or in all"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto"
    )
    parser.add_argument("--no-search", action="store_true", help="compare what was found before")
    parser.add_argument("--no-comparison", action="store_true", help="search alone")
    parser.add_argument("--again", action="store_true", help="compare anew")
    options = parser.parse_args()
    if (wrong := disagreement(options)) is not None:
        parser.error(wrong)
    return options


def known_metric(text: str) -> str:
    """An argument's type: a metric by its name here or in the catalog, or a formula."""
    try:
        find_metric(KNOWN.get(text, text))
    except MetricError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def disagreement(options: argparse.Namespace) -> str | None:
    """What would fail, or overwrite a result of another name, after the first searches."""
    if options.ahead and len(options.models) < 2:
        return "--ahead is for several --models, on each of which a metric has to be ahead"
    if foreign := set(options.foreign) - set(options.models):
        return f"--foreign {min(foreign)} is none of --models"
    if twice := repeated([Path(model).name for model in (*options.models, *options.unseen)]):
        return f"two models are called {twice}: results go by that name"
    texts = (*options.calibration, *options.validation, *options.test)
    if missing := [path for path in texts if not path.is_file()]:
        return f"there is no text {missing[0]}"
    if twice := repeated([path.stem for path in (*options.validation, *options.test)]):
        return f"two texts are called {twice}: figures go by that name"
    if options.foreign and min(len(options.calibration), len(options.validation)) < 2:
        return "--foreign leaves out the first text, so it needs two of calibration and validation"
    return None


def repeated(names: Sequence[str]) -> str | None:
    """The first of the names that is there before."""
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def texts_of(options: argparse.Namespace, model: str) -> Texts:
    """The texts that a model is searched and judged on."""
    texts = Texts(*(tuple(getattr(options, p)) for p in ("calibration", "validation", "test")))
    return texts.familiar if model in options.foreign else texts


def searches(options: argparse.Namespace) -> Iterator[Task]:
    """The models together in each competition; under the update that was named first, first."""
    options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="runs-", dir=options.work))
    budget = SearchOptions(time=f"{options.seconds}s", evaluations=options.evaluations)
    setups = tuple(
        Setup(
            model=model,
            dtype=options.dtype,
            calibration=texts.calibration,
            validation=texts.validation,
            num_calibration_samples=options.fitted,
            num_validation_samples=options.windows,
        )
        for model in options.models
        for texts in [texts_of(options, model)]
    )
    seeds = [*([LAWS] if options.laws else []), *options.seeds]
    before = [load([path], (SEARCH, COMPARISON)) for path in options.begin_with]
    for update, seed, competition in product(options.updates, seeds, options.competitions):
        begin_with = found_before(before, competition, update)
        yield Search(setups, competition, update, seed, budget, folder, begin_with, options.ahead)


def found_before(
    before: Sequence[dict[str, Any]], competition: str, update: str
) -> tuple[str, ...]:
    """What other searches found for the same, of each its result and first finalist, as far as a
    search can propose it.

    Args:
        before: the results of each file, in which searches of one name are not the same.
        competition, update: what they have to be for.
    """
    found = []
    for name, one in (item for of_file in before for item in of_file.items()):
        if kind_of(name) == SEARCH and name.split(" | ")[2:4] == [competition, update]:
            found += [one["metric"], *evolved(one)[:1]]
    proposable = []
    for metric in dict.fromkeys(found):
        try:
            asked = SearchOptions(operators="extended", begin_with=(metric,))
            formulas(asked, "extended", COMPETITIONS[competition][1])
        except InputError:
            continue
        proposable.append(metric)
    return tuple(proposable)


def comparisons(
    options: argparse.Namespace, results: dict[str, Any], others: dict[str, Any]
) -> Iterator[Task]:
    """Every model in each competition, with the known metrics and what searches found.

    Of each search that is its result, and of those in ``results`` under the same update the first
    finalists beside it.
    """
    found = others | results
    for update, competition in product(options.updates, options.competitions):
        metrics = [KNOWN.get(name, name) for name in options.known]
        for name, one in found.items():
            kind, *_, where, under, _ = name.split(" | ")
            alike = under == update or not options.own_update
            if kind == "search" and where == competition and alike:
                own = under == update and name in results
                metrics += [result_of(one), *evolved(one)[: options.finalists if own else 0]]
        for model in options.models:
            yield comparison(options, model, competition, update, metrics)


def comparison(
    options: argparse.Namespace, model: str, competition: str, update: Update, metrics: list[str]
) -> Comparison:
    texts = texts_of(options, model)
    setup = Setup(
        model=model,
        dtype=options.dtype,
        calibration=texts.calibration,
        num_calibration_samples=options.fitted,
        num_test_samples=options.measured,
    )
    kept = tuple(dict.fromkeys(metrics))
    measured = (*texts.validation, *texts.test)
    return Comparison(setup, measured, competition, update, kept)


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
        shared = set.intersection(*(set(perplexity) for perplexity in validated)) - {"dense"}
        metrics = sorted(
            (name for name in validated[0] if name in shared),
            key=lambda name: sum(math.log(perplexity[name]) for perplexity in validated),
        )
        if update != "none":
            known = [name for name in metrics if name in KNOWN.values()]
            new = [name for name in metrics if name not in known]
            half = options.fewer // 2
            metrics = [*known[:half], *new[: options.fewer - half]]
        for model in options.unseen:
            yield comparison(options, model, competition, update, metrics)


def tables(results: dict[str, Any], others: dict[str, Any]) -> str:
    """Perplexity by competition and update: a row a metric, a column a model and text.

    The second column tells where a metric comes from, the third by how many per cent it is ahead
    of the best known one, on the average of the columns and on the worst of them. A model that no
    search has read does not count in that.
    """
    lines = []
    inside = searched(others | results)
    come_from = origins(others | results)
    grouped: dict[str, dict[str, Any]] = {}
    for name, found in results.items():
        if kind_of(name) == COMPARISON:
            _, model, competition, update = name.split(" | ")
            grouped.setdefault(f"{competition}, {update}", {})[model] = found["perplexity"]
    for title, models in sorted(grouped.items()):
        columns = [(model, text) for model, texts in models.items() for text in texts]
        counted = [(m, t) for m, t in columns if model_and_how(m)[0] in inside] or columns
        heads = " | ".join(
            f"{m}: {t}" if (m, t) in counted else f"{m} (unseen): {t}" for m, t in columns
        )
        lines += ["", title, "", f"| metric | from | ahead on average, at worst | {heads} |"]
        lines += ["| --- | --- | --- |" + " ---: |" * len(columns)]
        ahead = {
            metric: [
                lead(models[m][t], metric) if metric in models[m][t] else -math.inf
                for m, t in counted
            ]
            for metric in {m for figures in models.values() for t in figures.values() for m in t}
        }
        for metric, leads in sorted(ahead.items(), key=lambda item: -fmean(item[1])):
            row = [models[m][t].get(metric) for m, t in columns]
            figures = " | ".join("" if value is None else f"{value:.2f}" for value in row)
            told = f"{fmean(leads):+.1%}, {min(leads):+.1%}" if math.isfinite(min(leads)) else ""
            source = "; ".join(come_from.get(metric, ()))
            lines.append(f"| `{metric}` | {source} | {told} | {figures} |")
    return "\n".join(lines)


def origins(results: dict[str, Any]) -> dict[str, list[str]]:
    """Where each metric comes from, in words."""
    found = {metric: ["known"] for metric in KNOWN.values()}
    for name, one in results.items():
        if kind_of(name) == SEARCH:
            of = ", ".join(name.split(" | ")[1:])
            found.setdefault(result_of(one), []).append(f"result of {of}")
            for place, metric in enumerate(evolved(one), 1):
                if metric != result_of(one):
                    found.setdefault(metric, []).append(f"finalist {place} of {of}")
    return found


def lead(perplexity: dict[str, float], metric: str) -> float:
    """By what share a metric is ahead of the best other known one; −∞ where there is none."""
    known = [perplexity[name] for name in KNOWN.values() if name in perplexity and name != metric]
    return min(known) / perplexity[metric] - 1 if known else -math.inf


if __name__ == "__main__":
    main()
