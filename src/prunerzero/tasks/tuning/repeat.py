"""The commands that repeat a tuning."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from prunerzero.tasks.commands import setup_options
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.tuning.limit import Wish


def commands(
    setup: Setup,
    measured: dict[str, Any],
    folder: Path,
    wish: Wish,
    asked: dict[str, Any],
    *,
    reached: bool,
) -> tuple[str, ...]:
    """To ask again, and where there is a pruned model, to prune and to measure it again.

    Args:
        setup: as the user gave it.
        measured: the settings as they came out.
        folder: of the answer.
        wish: the limit.
        asked: the other options.
        reached: whether a pruned model was written.
    """
    limit = {
        "degradation": ("--max-degradation", f"{100 * wish.value:.10g}%"),
        "perplexity": ("--max-perplexity", repr(wish.value)),
        "task": ("--task-metric", f"{wish.task}:{wish.task_metric}:{wish.value:g}"),
    }[wish.kind]
    ask = [*setup_options(setup), *limit]
    for name, value in asked.items():
        ask += [] if value is None else [f"--{name}", str(value)]
    again = shlex.join(["prunerzero", "tune", *ask, "--output-dir", str(folder)])
    if not reached:
        return (again,)
    measure = ["--model", str(folder / "model")]
    measure += ["--max-seq-length", str(measured["max_seq_length"])]
    measure += ["--num-test-samples", str(measured["num_test_samples"])]
    if isinstance(measured["test"], str):
        measure += ["--text", measured["test"]]
    elif measured["test"]:
        measure += [word for file in measured["test"] for word in ("--test", file)]
    else:
        measure += [word for name in setup.corpora for word in ("--dataset", name)]
    return (
        again,
        shlex.join(
            ["prunerzero", "prune", "--recipe", str(folder / "model" / "recipe.yaml")]
            + ["--output-dir", "again"]
        ),
        shlex.join(["prunerzero", "eval", *measure]),
    )
