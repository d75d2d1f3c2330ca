"""The answer in plain words, and the commands that repeat it."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from prunerzero.tasks.tune_result import Limit, PartFigures, TestDecision, TuneResult
from prunerzero.tasks.tuning.limit import Wish
from prunerzero.tasks.workspace import Setup


def answer(result: TuneResult) -> str:
    """One paragraph: what can be pruned, what it costs, how sure that is."""
    validation, test = result.parts["validation"], result.parts["test"]
    amount = f"{percent(result.sparsity)} sparsity"
    if result.pattern_asked is not None:
        amount = f"the pattern {result.pattern_asked} ({amount})"
    allowed = _allowed(result.limit)
    metric = (
        f"when weights are kept by the {'evolved' if result.metric.name == 'evolved' else 'known'} "
        f"metric {_named(result)}"
    )
    if result.reached:
        opening = f"Yes: in {amount}" if result.pattern_asked else f"At {amount}"
    else:
        opening = f"No: in {amount}" if result.pattern_asked else f"No: even at {amount}"
    if result.task is not None:
        task = result.task
        costs = (
            f"{task.metric} on {task.task} goes from {task.dense:.4g} to {task.pruned:.4g} over "
            f"{task.examples} examples ({allowed}), and your text's perplexity from "
            f"{_change(validation)}"
        )
    else:
        costs = f"your text's perplexity goes from {_change(validation)}; {allowed}"
    sentences = [f"{opening} {costs}, {metric}.", _unused(test, result.decision)]
    if result.decision is not None:
        sentences.append(_decided(result, result.decision))
    return " ".join(sentence for sentence in sentences if sentence)


def _named(result: TuneResult) -> str:
    name, formula = result.metric.name, result.metric.formula
    return formula if name in ("evolved", formula) else f"{name}, {formula}"


def _allowed(limit: Limit) -> str:
    if limit.kind == "degradation":
        return f"at most {percent(limit.value)} more was allowed"
    if limit.kind == "perplexity":
        return f"at most {limit.value:g} was allowed"
    return f"a drop of at most {limit.value:g} was allowed"


def _change(part: PartFigures) -> str:
    return f"{part.dense:.4g} to {part.pruned:.4g} ({signed(part.rise)})"


def _unused(test: PartFigures, decision: TestDecision | None) -> str:
    low, high = test.rise_interval
    text = "On text set aside for the test"
    if decision is None or not decision.stepped_back:
        text = "On text that was not used for any choice"
    return (
        f"{text} it goes from {_change(test)}; 95 % interval {signed(low)} to {signed(high)}, "
        f"{test.windows} windows of {test.window_length} tokens."
    )


def _decided(result: TuneResult, decision: TestDecision) -> str:
    if decision.held:
        return ""
    first_sparsity, first = decision.tried[0]
    missed = (
        f"{percent(first_sparsity)}, which kept the limit on the validation text, missed it on "
        f"the test text (perplexity {first:.4g})"
    )
    if result.pattern_asked is not None:
        return "" if result.reached else f"So the limit is missed on the test text: {first:.4g}."
    if not decision.stepped_back:
        return f"{missed}, and so did every lower one."
    return (
        f"{missed}, so the sparsity was lowered until the test text kept it too; that one decision "
        "was made on the test text, whose figure is a little flattering for it."
    )


def percent(share: float) -> str:
    """``37.5 %``."""
    return f"{100 * share:.3g} %"


def signed(share: float) -> str:
    """``+4.8 %``."""
    return f"{100 * share:+.2g} %" if abs(share) < 0.1 else f"{100 * share:+.3g} %"


def commands(
    setup: Setup, measured: dict[str, Any], folder: Path, wish: Wish, asked: dict[str, Any]
) -> tuple[str, ...]:
    """To ask again, to prune so again, and to measure the result again.

    Args:
        setup: as the user gave it.
        measured: the settings as they came out.
        folder: of the answer.
        wish: the limit.
        asked: the other options.
    """
    limit = {
        "degradation": ("--max-degradation", f"{100 * wish.value:.10g}%"),
        "perplexity": ("--max-perplexity", repr(wish.value)),
        "task": ("--task-metric", f"{wish.task}:{wish.task_metric}:{wish.value:g}"),
    }[wish.kind]
    ask = [*_options(setup), *limit]
    for name, value in asked.items():
        ask += [] if value is None else [f"--{name}", str(value)]
    measure = ["--model", str(folder / "model")]
    measure += ["--max-seq-length", str(measured["max_seq_length"])]
    measure += ["--num-test-samples", str(measured["num_test_samples"])]
    if measured["test"] is not None:
        measure += ["--text", measured["test"]]
    else:
        measure += ["--dataset", setup.corpus() or ""]
    return (
        shlex.join(["prunerzero", "tune", *ask, "--output-dir", str(folder)]),
        shlex.join(
            ["prunerzero", "prune", "--recipe", str(folder / "model" / "recipe.yaml")]
            + ["--output-dir", "again"]
        ),
        shlex.join(["prunerzero", "eval", *measure]),
    )


def _options(setup: Setup) -> list[str]:
    """The options that make this setup."""
    options = ["--model", setup.model]
    for field in fields(setup):
        value = getattr(setup, field.name)
        if field.name == "model" or value == field.default:
            continue
        name = f"--{field.name.replace('_', '-')}"
        if value is True:
            options.append(name)
        elif isinstance(value, tuple):
            options += [word for item in value for word in (name, item)]
        else:
            options += [name, str(value)]
    return options
