"""The options that commands share, and what they have in common when something goes wrong."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from prunerzero.cli.flags import in_flags
from prunerzero.cli.stopping import MESSAGE, Stoppable
from prunerzero.documents import path_of, read_yaml
from prunerzero.errors import InputError
from prunerzero.metrics import MetricError
from prunerzero.tasks.recipe import RESULTS
from prunerzero.tasks.workspace import Setup

_MODEL, _TEXT, _LIMITS = "Model", "Text", "Amounts"

_SETUP_OPTIONS: dict[str, Any] = {
    "model": Annotated[
        str,
        typer.Option(
            help="Hub id ORG/NAME, folder, .gguf file, or 'bundled'.",
            rich_help_panel=_MODEL,
        ),
    ],
    "revision": Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL),
    ],
    "dtype": Annotated[
        str,
        typer.Option(
            help="Compute in: auto (float32 on a CPU, the checkpoint's on a GPU), float32, "
            "bfloat16, float16.",
            rich_help_panel=_MODEL,
        ),
    ],
    "device": Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, cuda:1; several GPUs: cuda:0,cuda:1.", rich_help_panel=_MODEL
        ),
    ],
    "trust_remote_code": Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code that the model's repository carries.",
            rich_help_panel=_MODEL,
        ),
    ],
    "allow_pickle": Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pickled weights (.bin) where there are no safetensors.",
            rich_help_panel=_MODEL,
        ),
    ],
    "ignore": Annotated[
        list[str],
        typer.Option(
            help="Leave layers of this name alone, e.g. '*.down_proj'; may be repeated.",
            rich_help_panel=_MODEL,
        ),
    ],
    "target": Annotated[
        list[str],
        typer.Option(
            help="Prune layers of this name alone, e.g. '*.mlp.*'; may be repeated.",
            rich_help_panel=_MODEL,
        ),
    ],
    "dataset": Annotated[
        str | None,
        typer.Option(
            help="Named text with all three parts: wikitext2, c4 (from the hub), python-docs "
            "(from this Python; the bundled model's own).",
            rich_help_panel=_TEXT,
        ),
    ],
    "calibration": Annotated[
        Path | None,
        typer.Option(help="Text file for activations and gradients.", rich_help_panel=_TEXT),
    ],
    "gradient": Annotated[
        Literal["full", "block"] | None,
        typer.Option(
            help="G is the gradient of the model's loss (full), or of the norm of each block's "
            "output, which takes no more memory than one block; by default as in the metric's run, "
            "else full.",
            rich_help_panel=_TEXT,
        ),
    ],
    "validation": Annotated[
        Path | None,
        typer.Option(help="Text file that a search is judged by.", rich_help_panel=_TEXT),
    ],
    "test": Annotated[
        Path | None,
        typer.Option(help="Text file that no search reads.", rich_help_panel=_TEXT),
    ],
    "max_seq_length": Annotated[
        int | None,
        typer.Option(
            help="Window length in tokens; by default 2048, or the model's limit if smaller.",
            rich_help_panel=_LIMITS,
        ),
    ],
    "num_calibration_samples": Annotated[
        int | None,
        typer.Option(help="Calibration windows at most.", rich_help_panel=_LIMITS),
    ],
    "num_validation_samples": Annotated[
        int | None,
        typer.Option(help="Validation windows at most; all by default.", rich_help_panel=_LIMITS),
    ],
    "num_test_samples": Annotated[
        int | None,
        typer.Option(help="Test windows at most; all by default.", rich_help_panel=_LIMITS),
    ],
    "batch_size": Annotated[
        int | None,
        typer.Option(help="Windows read at once.", rich_help_panel=_LIMITS),
    ],
}


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


_SEPARATED = ("metrics", "tasks")
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
PushOption = Annotated[
    str | None,
    typer.Option(
        metavar="ORG/NAME",
        help="Push the finished folder to the Hugging Face hub, in one commit. The repository must "
        "be new or empty; a new one is private until you publish it there. Needs 'hf auth login' "
        "or HF_TOKEN.",
    ),
]
LanguageOption = Annotated[
    Literal["en", "ja"],
    typer.Option(help="Language of the report of a tuning: English or Japanese."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output.")
]


def with_setup(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``Setup``, which it takes as one, and ``--config``."""

    own = inspect.signature(command, eval_str=True).parameters
    defaults = {f.name: f.default for f in fields(Setup)} | {"ignore": [], "target": []}
    shared = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=annotation,
        )
        for name, annotation in _SETUP_OPTIONS.items()
        if name not in own  # a command may read one in its own way
    }

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        options.pop("config")
        given = {name: options.pop(name) for name in shared}
        for patterns in ("ignore", "target"):
            given[patterns] = tuple(given.get(patterns) or ())
        command(setup=Setup(**given), **options)

    config = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption
    )
    parameters = [
        shared["model"],
        *(
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in own.values()
            if p.name != "setup"
        ),
        config,
        *(p for name, p in shared.items() if name != "model"),
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Tell what the user can mend in one sentence, exit code 2; a command that is stopped says so.

    Then the exit code is 130 after Ctrl-C, 143 after SIGTERM.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        with Stoppable() as stoppable:
            try:
                command(*args, **options)
            except (InputError, MetricError) as error:
                errors.print(f"[bold red]Error:[/] {escape(in_flags(str(error)))}")
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                errors.print(MESSAGE)
                raise typer.Exit(stoppable.exit_code) from None

    return guarded
