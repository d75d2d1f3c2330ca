"""``prunerzero prune``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prunerzero.cli.app import OwnGroupOption, OwnSparsityOption, app, out, own_sparsity
from prunerzero.cli.options import JsonOption, RecipeOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.language.corpora import the_text
from prunerzero.tasks.by_block import Way
from prunerzero.tasks.options import PUSH_TO_HUB, RefitOptions
from prunerzero.tasks.setup import Setup


@app.command()
@one_sentence
@with_options
def prune(
    setup: Setup,
    way: Way,
    refit: RefitOptions,
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must be absent or empty.")],
    metric: Annotated[
        str,
        typer.Option(
            help="Catalog name, formula, JSON file, or the folder of a search or tuning; a name or "
            "formula goes before a file that is called so: write ./NAME for the file."
        ),
    ] = "wanda",
    sparsity: OwnSparsityOption = [],  # noqa: B006
    group: OwnGroupOption = None,
    recipe: RecipeOption = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="ORG/NAME", help=PUSH_TO_HUB)] = None,
    json: JsonOption = False,
) -> None:
    """Prune a model with a metric and write a checkpoint that loads like any other.

    Perplexity before and after is measured on the test text, or else the validation text.

    A run block by block that was stopped goes on where it was when the same command is given again.

    Example: [bold]prunerzero prune --metric wanda --sparsity 0.5 --output-dir pruned[/],
    and to repeat it [bold]prunerzero prune --recipe pruned/recipe.yaml --output-dir again[/]

    Refitted, half of the whole model: [bold]prunerzero prune --metric fisher --sparsity 0.5
    --group model --update least-squares --refine admm --output-dir pruned[/]

    With the metric of a search, in the folder run, and the update that it was judged with, which
    has to be named again: [bold]prunerzero prune --metric run --update least-squares
    --output-dir pruned[/]

    Larger than memory: [bold]prunerzero prune --model ORG/NAME --dataset c4 --block-by-block
    --device cuda:0,cuda:1 --output-dir pruned[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.metrics import Sparsity
    from prunerzero.tasks.prune import prune as run
    from prunerzero.tasks.recipe import differences, read_recipe

    earlier = read_recipe(recipe) if recipe else None
    observer = TerminalObserver()
    with observer.shown():
        result = run(
            setup,
            metric,
            own_sparsity(sparsity),
            output_dir,
            observer,
            way,
            refit,
            group=group,
            recipe=earlier,
            push_to_hub=push_to_hub,
        )
    if json:
        print_json(asdict(result))
        return
    console = out()
    changed = f"; {refit.in_words} changed the weights that stay" if refit.in_words else ""
    console.print(
        f"Wrote {escape(result.output_dir)}: {result.sparsity:.2%} of the prunable weights "
        f"are zero{changed}."
    )
    written = read_recipe(Path(result.output_dir) / "recipe.yaml")
    asked = Sparsity.parse(written["sparsity"], written["group"])
    if asked.ratio is not None and asked.ratio - result.sparsity > 5e-4:
        of = "row" if asked.group == "row" else "group of weights that compete"
        console.print(f"{asked.ratio:.2%} were asked for: the share of each {of} is rounded down.")
    if unreached := [layer.name for layer in result.layers if layer.unreached]:
        more = f" and {len(unreached) - 1} more" if len(unreached) > 1 else ""
        console.print(
            f"No calibration token reached {unreached[0]}{more}: pruned by magnitude instead."
        )
    for place, figures in result.perplexity.items():
        console.print(
            f"Perplexity on the {escape(the_text(place))}: {_perplexity(figures['dense'])} dense, "
            f"{_perplexity(figures['pruned'])} pruned "
            f"({result.settings['windows'][place]} windows of "
            f"{result.settings['max_seq_length']} tokens)."
        )
        if (moved := result.divergence.get(place)) is not None:
            console.print(
                f"Divergence from dense there: {moved.kl:.3g} nats per token; the same likeliest "
                f"token for {moved.agreement:.1%} of {moved.tokens} tokens."
            )
    if earlier is not None and result.repeated:
        console.print(f"The weights are those of {recipe}, byte for byte.")
    elif earlier is not None:
        other = "; ".join(differences(earlier, written))
        console.print(f"The weights differ from those of {recipe}{f' ({other})' if other else ''}.")
    if result.pushed_to:
        console.print(f"Pushed to {result.pushed_to}")


def _perplexity(value: float) -> str:
    return f"{value:.3f}" if value < 1e5 else f"{value:.4g}"
