"""The answer in plain words, and the commands that repeat it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from prunerzero.language.bootstrap import LEAST_WINDOWS
from prunerzero.tasks.commands import setup_options
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.tune_result import Limit, PartFigures, TestDecision, TuneResult
from prunerzero.tasks.tuning.limit import Wish

_KEPT = {
    "row": "weights",
    "layer": "weights of each layer",
    "model": "weights of the whole model",
}


def answer(result: TuneResult) -> str:
    """One paragraph: what can be pruned, what it costs, how sure that is."""
    validation, test = result.parts["validation"], result.parts["test"]
    asked = result.pattern_asked
    amount = f"{percent(result.sparsity)} sparsity"
    if asked is not None:
        opening = f"{'Yes' if result.reached else 'No'}: in the pattern {asked} ({amount})"
    else:
        opening = f"At {amount}" if result.reached else f"No: even at {amount}"
    evolved = "evolved" if result.metric.name == "evolved" else "known"
    metric = f"{_KEPT[result.group]} being kept by the {evolved} metric {_named(result)}"
    costs = f"your text's perplexity {_change(validation)}"
    if result.task is not None:
        task = result.task
        costs = (
            f"{task.metric} on {task.task} goes from {task.dense:.4g} to {task.pruned:.4g} over "
            f"{task.examples} examples ({_allowed(result.limit)}), and {costs})"
        )
    else:
        costs = f"{costs}; {_allowed(result.limit)})"
    sentences = [f"{opening}, {metric}, {costs}.", _unused(test, result.decision)]
    if result.decision is not None and not result.decision.held:
        sentences.append(_missed(result, result.decision))
    return " ".join(sentences)


def _named(result: TuneResult) -> str:
    name, formula = result.metric.name, result.metric.formula
    return formula if name in ("evolved", formula) else f"{name}, {formula}"


def _allowed(limit: Limit) -> str:
    if limit.kind == "degradation":
        return f"at most {signed(limit.value)} was allowed"
    if limit.kind == "perplexity":
        return f"at most {limit.value:g} was allowed"
    return f"a drop of at most {limit.value:g} was allowed"


def _change(part: PartFigures) -> str:
    """Without its closing parenthesis."""
    verb = "rises" if part.rise > 0 else "falls" if part.rise < 0 else "stays the same,"
    return f"{verb} from {shown(part.dense)} to {shown(part.pruned)} ({signed(part.rise)}"


def _unused(test: PartFigures, decision: TestDecision | None) -> str:
    text = "On text that no choice has seen"
    if decision is not None and decision.stepped_back:
        text = "On the text set aside for the test"
    if test.rise_interval is None:
        sure = f"too few windows for an interval, which takes {LEAST_WINDOWS}"
    else:
        low, high = test.rise_interval
        sure = f"95 % interval {signed(low)} to {signed(high)}"
    return (
        f"{text} it {_change(test)}, {sure}; "
        f"{test.windows} windows of {test.window_length} tokens)."
    )


def _missed(result: TuneResult, decision: TestDecision) -> str:
    """What was done when the limit was missed on the test part."""
    sparsity, perplexity = decision.tried[0]
    if result.pattern_asked is not None:
        return "The limit is missed on that text."
    missed = (
        f"{percent(sparsity)} sparsity, which kept the limit on your text, missed it on the text "
        f"set aside for the test (perplexity {shown(perplexity)})"
    )
    if not decision.stepped_back:
        return f"{missed}, and so did every lower one."
    return (
        f"{missed}, so it was lowered until that text kept the limit too; that one decision was "
        "made on it, so its figure is a little flattering."
    )


def shown(perplexity: float) -> str:
    """``22.93``."""
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.4g}"


def percent(share: float) -> str:
    """``37.5 %``."""
    return f"{100 * share:.3g} %"


def signed(share: float) -> str:
    """``+4.8 %``."""
    return f"{100 * share:+.1f} %" if abs(share) < 1 else f"{100 * share:+.0f} %"


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
    ask = [*setup_options(setup), *limit]
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
