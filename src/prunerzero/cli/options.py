"""The options that commands share, and what they have in common when something goes wrong."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from rich.console import Console
from rich.markup import escape

from prunerzero.cli.flags import in_flags
from prunerzero.cli.plain_output import give_up_printing, print_all
from prunerzero.cli.stopping import Stoppable
from prunerzero.documents import path_of, read_yaml
from prunerzero.errors import InputError
from prunerzero.metrics import MetricError
from prunerzero.options import Options, options_of
from prunerzero.tasks.recipe import RESULTS
from prunerzero.tasks.setup import Setup


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options."""
    if path is None:
        return None
    try:
        content = read_yaml(path_of(path), f"'{path}'")
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"'{path}' must hold lines such as 'sparsity: 0.5'.")
    options = {p.name: p for p in context.command.params if p.name}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in RESULTS:
            continue
        name = str(key).replace("-", "_")
        if name in values:
            raise typer.BadParameter(f"'{path}' sets {name!r} twice; leave one of them.")
        if name not in options:
            near = difflib.get_close_matches(name, list(options), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise typer.BadParameter(f"'{path}' sets {name!r}, which no option is called{hint}")
        values[name] = _as_option(value, options[name], f"'{path}' sets {name!r}")
    given = {name: value for name, value in values.items() if value is not None}
    context.default_map = {**(context.default_map or {}), **given}
    return path


_SEPARATED = ("methods", "metrics", "rivals", "tasks")
"""Options that hold several with commas between, for which a list is natural in YAML."""


def _as_option(value: Any, option: Any, told: str) -> Any:
    """A value of a YAML file as the option takes it; ``told`` begins the sentence of an error."""
    repeated = getattr(option, "multiple", False)
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    ):
        raise typer.BadParameter(f"{told} to a mapping or to lists in a list; write a plain value.")
    if isinstance(value, list) and None in value:
        raise typer.BadParameter(f"{told} to a list with an empty entry; leave that out.")
    if isinstance(value, bool) and not getattr(option, "is_flag", False):
        word = str(value).lower()
        raise typer.BadParameter(f"{told} to {word}; if that is its value, write '{word}'.")
    if isinstance(value, list):
        if option.name in _SEPARATED:
            return ",".join(map(str, value))
        if not repeated:
            raise typer.BadParameter(f"{told} to a list; write a single value.")
        return value
    return [value] if repeated and value is not None else value


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        callback=_read_config,
        is_eager=True,
        help="YAML file with any of these options; those on the command line go before.",
    ),
]
RecipeOption = Annotated[
    Path | None,
    typer.Option(
        callback=_read_config,
        is_eager=True,
        help="The recipe.yaml of an earlier pruning, to repeat it: as --config, but model and "
        "texts must be what they were, and it tells whether the weights are the same to the byte.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output.")
]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of its options as flags, and ``--config``.

    Each parameter of the command that is annotated with a class of options is replaced by that
    class's fields; the command gets the instance. A field that the command has as a parameter of
    its own stays the command's. Its own flags come first in ``--help``, behind the model.
    """
    own = inspect.signature(command, eval_str=True).parameters
    groups = {name: p.annotation for name, p in own.items() if _is_options(p.annotation)}
    fields = {
        name: [one for one in options_of(cls) if one.name not in own]
        for name, cls in groups.items()
    }
    flags = {one.name: _parameter(one) for of_group in fields.values() for one in of_group}
    flags |= {name: _keyword(own[name]) for name in own if name == "model"}  # it stands first too

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        given.pop("config")
        for name, cls in groups.items():
            values = {one.name: given.pop(one.name) for one in fields[name]}
            if "model" in values:
                values["model"] = _only(values["model"])
            given[name] = cls(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            )
        command(**given)

    shared = {one.name for one in options_of(Setup)}
    named = sorted(flags.values(), key=lambda p: (p.name != "model", p.name in shared))
    mine = [_keyword(own[name]) for name in own if name not in groups and name not in flags]
    config = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption
    )
    mine.sort(key=lambda p: p.name == "json")
    count = sum(p.name not in shared for p in named)
    first, rest = named[: 1 + count], named[1 + count :]
    parameters = [*first[:1], *mine[:-1], *first[1:], *mine[-1:], config, *rest]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _only(models: list[str]) -> str:
    """The model of a command that takes one; the parser would take the last of several."""
    if len(models) != 1:
        raise InputError(f"`model` names {len(models)} models, and only search takes several.")
    return models[0]


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _is_options(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _parameter(one: Field[Any]) -> inspect.Parameter:
    """The flag of an option."""
    about = one.metadata
    kind: Any = about["kind"].on_command_line
    default: Any = one.default
    if one.name == "model":  # a list, so that `_only` can refuse a second one
        kind, default = list[str], [default]
    flag = [f"--{one.name.replace('_', '-')}"] if kind is bool else []
    if default is None:
        kind = kind | None
    elif get_origin(kind) is list:
        default = list(default)
    told = typer.Option(
        *flag,
        help=escape(in_flags(about["meaning"])),
        rich_help_panel=about["panel"],
        metavar=about["metavar"],
    )
    annotation = Annotated[kind, told]
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Tell what the user can mend in one sentence, exit code 2; a command that is stopped says so.

    Then the exit code is 130 after Ctrl-C, 143 after SIGTERM. Each paragraph of the docstring
    becomes one line: help is folded to the terminal's width, and lines of its own would be torn.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        with Stoppable() as stoppable:
            try:
                command(*args, **options)
                print_all()
            except OSError as error:
                if (reason := give_up_printing(error)) is None:
                    raise
                errors.print(f"[bold red]Error:[/] {reason}")
                raise typer.Exit(2) from None
            except (InputError, MetricError) as error:
                errors.print(f"[bold red]Error:[/] {escape(in_flags(str(error)))}")
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                errors.print(stoppable.message)
                raise typer.Exit(stoppable.exit_code) from None

    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    guarded.__doc__ = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    return guarded
