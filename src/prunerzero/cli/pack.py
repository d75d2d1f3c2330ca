"""``prunerzero pack`` and ``prunerzero unpack``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.language.corpora import corpora_in_words
from prunerzero.tasks.options import FilesOptions, PackOptions

OutputOption = Annotated[Path, typer.Option(help="Folder to write; must be absent or empty.")]


@app.command()
@one_sentence
@with_options
def pack(
    options: PackOptions,
    model: Annotated[
        str,
        typer.Argument(
            metavar="PRUNED", help="Folder or hub id of a pruned model.", show_default=False
        ),
    ],
    output_dir: OutputOption,
    text: Annotated[
        list[Path],
        typer.Option(help="Text file to measure perplexity on before and after; may be repeated."),
    ] = [],  # noqa: B006
    dataset: Annotated[
        list[str],
        typer.Option(
            help=f"Named text to measure perplexity on, its test part: {corpora_in_words()}; may "
            "be repeated."
        ),
    ] = [],  # noqa: B006
    calibration: Annotated[
        list[Path],
        typer.Option(
            help="Text file that int4 values are rounded by, so that what layers compute on it "
            "changes least; may be repeated."
        ),
    ] = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Make a pruned model smaller: store one bit a weight, and the values of those that are kept.

    After "import prunerzero" it loads in transformers like any other model.

    Example: [bold]prunerzero pack ./pruned --output-dir packed[/]

    Example: [bold]prunerzero pack ./pruned --values int8 --text my_text.txt --output-dir packed[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.pack import pack as run

    observer = TerminalObserver()
    with observer.shown():
        result = run(
            model,
            output_dir,
            observer,
            options,
            datasets=dataset,
            texts=text,
            calibration=calibration,
        )
    if json:
        print_json(asdict(result))
    else:
        _print_packed(result)


def _print_packed(result: Any) -> None:
    from prunerzero.report.wording import bytes_text

    console = out()

    def tell(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    share = result.packed_bytes / result.bytes
    tell(
        f"Wrote {result.output_dir}: {bytes_text(result.packed_bytes)} instead of "
        f"{bytes_text(result.bytes)} ({share:.0%}); {result.matrices} matrices packed, "
        f"{result.sparsity:.1%} of their weights not kept, the others as {result.values}."
    )
    if result.error is None:
        tell("Every weight is what it was: 'prunerzero unpack' gives each bit back.")
    else:
        tell(
            f"The packed weights differ by {result.error:.2%} of their norm from what they were, "
            f"at most {result.worst_error:.2%} ({result.worst_matrix})."
        )
    if "int4" in result.values and result.rounded == "to nearest":
        tell(
            "Each weight was rounded alone. With --calibration TEXT others make its error good, "
            "which helps most models: measure both with --text."
        )
    for one in result.dense:
        more = f" and {one.matrices - 1} more" if one.matrices > 1 else ""
        tell(f"Not packed: {one.example}{more}, {bytes_text(one.bytes)} ({one.why}).")
    if result.negative_zeros:
        tell(
            f"{result.negative_zeros} weights are -0.0 and are kept, so that every bit comes back."
        )
    for name, figures in result.perplexity.items():
        tell(
            f"Perplexity on {name}: {figures['before']:.3f} before, {figures['after']:.3f} packed."
        )
    if result.error is not None and not result.perplexity:
        tell("What that does to perplexity is measured where a text is named: --text or --dataset.")


@app.command()
@one_sentence
@with_options
def unpack(
    options: FilesOptions,
    model: Annotated[
        str,
        typer.Argument(
            metavar="PACKED", help="Folder or hub id of a packed model.", show_default=False
        ),
    ],
    output_dir: OutputOption,
    json: JsonOption = False,
) -> None:
    """Give the ordinary checkpoint back that a packed model was made of.

    Example: [bold]prunerzero unpack ./packed --output-dir pruned[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.report.wording import bytes_text
    from prunerzero.tasks.unpack import unpack as run

    observer = TerminalObserver()
    with observer.shown():
        result = run(model, output_dir, observer, options)
    if json:
        print_json(asdict(result))
        return
    console = out()
    console.print(
        f"Wrote {escape(result.output_dir)}: {bytes_text(result.bytes)}, "
        f"{result.matrices} matrices unpacked.",
        soft_wrap=True,
    )
    if result.rounded:
        console.print(
            f"{result.rounded} of them were stored in another type than the checkpoint has: what "
            "packing rounded stays so, and is rounded to the checkpoint's type.",
            soft_wrap=True,
        )
