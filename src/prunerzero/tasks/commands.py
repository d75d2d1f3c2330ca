"""Commands that can be pasted: they repeat, or continue, what was done with a setup."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

from prunerzero.metrics import Sparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup

_ALL = 10**9
"""More windows than any text has, where a default limit was taken away: no option says so."""


def setup_options(setup: Setup) -> list[str]:
    """The options that make this setup."""
    options = ["--model", setup.model]
    for field in fields(setup):
        value = getattr(setup, field.name)
        if field.name == "model" or value == field.default:
            continue
        name = f"--{field.name.replace('_', '-')}"
        if value is True:
            options.append(name)
        elif value is None:
            options += [name, str(_ALL)]
        elif isinstance(value, tuple):
            options += [word for item in value for word in (name, str(item))]
        else:
            options += [name, str(value)]
    return options


def prune_command(
    setup: Setup,
    run: Path | str,
    sparsity: Sparsity,
    refit: RefitOptions = RefitOptions(),
    ending: str = "pruned",
) -> str:
    """To prune with the metric of a run, as it was evolved, into a folder beside the run's.

    The folder is called as the run with that ``ending``.
    """
    options = [*setup_options(setup), "--metric", _as_path(run), "--sparsity", str(sparsity)]
    if sparsity.group != "row":
        options += ["--group", sparsity.group]
    for field in fields(refit):
        if (value := getattr(refit, field.name)) != field.default:
            options += [f"--{field.name.replace('_', '-')}", str(value)]
    output = str(run).rstrip("/") + f"-{ending}"
    return shlex.join(["prunerzero", "prune", *options, "--output-dir", output])


def _as_path(run: Path | str) -> str:
    """The folder's name, so written that no metric or formula can be meant."""
    text = str(run)
    return text if "/" in text else f"./{text}"
