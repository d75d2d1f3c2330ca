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
import yaml
from rich.console import Console

from prunerzero.cli.stopping import MESSAGE, Stoppable
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
        Literal["full", "block"],
        typer.Option(
            help="G is the gradient of the model's loss, or of the norm of each block's output, "
            "which takes no more memory than one block.",
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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"'{path}' cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise typer.BadParameter(f"'{path}' is no valid YAML.") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"'{path}' must hold lines such as 'sparsity: 0.5'.")
    known = [p.name for p in context.command.params if p.name]
    values = {str(k).replace("-", "_"): v for k, v in content.items() if k not in RESULTS}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise typer.BadParameter(f"'{path}' sets {name!r}, which no option is called{hint}")
    repeated = {p.name for p in context.command.params if getattr(p, "multiple", False)}
    context.default_map = {
        **(context.default_map or {}),
        **{
            k: [v] if k in repeated and isinstance(v, str) else v
            for k, v in values.items()
            if v is not None
        },
    }
    return path


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
                errors.print(f"[bold red]Error:[/] {_plain(str(error))}")
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                errors.print(MESSAGE)
                raise typer.Exit(stoppable.exit_code) from None

    return guarded


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
