"""The Typer application, and what every command shares."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

import prunerzero
from prunerzero.errors import InputError
from prunerzero.language.source import ModelSource
from prunerzero.metrics.sparsity import Group
from prunerzero.options import same_option

app = typer.Typer(
    name="prunerzero",
    help="Make language models smaller without retraining: evolve the rule that prunes them, apply "
    "it, and show what was kept.\n\nBegin with [bold]prunerzero demo[/], which needs nothing but "
    "three minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

SparsityOption = Annotated[
    str,
    typer.Option(help="Share of weights to prune, 0.5, or keep N of each M: 2:4."),
]

_model = same_option(ModelSource, "model")
ModelsOption = Annotated[
    list[str],
    typer.Option(
        help=_model.metadata["meaning"].rstrip(".") + "; may be repeated, and metrics are then "
        "judged on all of them together.",
        rich_help_panel=_model.metadata["panel"],
    ),
]

SparsitiesOption = Annotated[
    list[str],
    typer.Option(
        help="Share of weights to prune, 0.5, or keep N of each M: 2:4; may be repeated, and "
        "metrics are then judged at all of them together.",
    ),
]

GroupOption = Annotated[
    Group,
    typer.Option(help="Scores compete within a row, a whole layer, or the whole model."),
]

OwnSparsityOption = Annotated[
    list[str],  # so that a second one can be refused
    typer.Option(
        help="Share of weights to prune, 0.5, or keep N of each M: 2:4; by default what the "
        "metric's run was for, else 0.5."
    ),
]


def own_sparsity(given: list[str]) -> str | None:
    """That of a command that takes one; the parser would take the last of several.

    Raises:
        InputError: there are several.
    """
    if len(given) > 1:
        raise InputError(f"`sparsity` is given {len(given)} times, and only search takes several.")
    return given[0] if given else None


OwnGroupOption = Annotated[
    Group | None,
    typer.Option(
        help="Scores compete within a row, a whole layer, or the whole model; by default as in the "
        "metric's run, else within a row."
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prunerzero {prunerzero.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def out() -> Console:
    return Console(highlight=False)
