"""Published methods beside metrics: named by users, and used on an open workspace."""

from __future__ import annotations

from collections.abc import Sequence

from prunerzero.arguments import texts
from prunerzero.metrics import Sparsity
from prunerzero.pruning.blocks import find_blocks
from prunerzero.pruning.by_block.by_method import prune_by_method
from prunerzero.pruning.methods import Method, find_method
from prunerzero.tasks.prune_loaded import resources_of
from prunerzero.tasks.workspace import Workspace


def read_methods(named: str | Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names, each once.

    Raises:
        InputError: a name that no method has, or something else than names.
    """
    found = {method.name: method for method in map(find_method, texts("methods", named))}
    return tuple(found.values())


def prune_by(work: Workspace, method: Method, sparsity: Sparsity) -> None:
    """Prune the model in place with a method, each layer by the same share."""
    model, windows = work.language_model.model, work.texts.of("calibration").windows
    count = len(find_blocks(model)[1])
    with (
        resources_of(work) as resources,
        work.observer.count(f"{method.name}, pruning", count, "blocks") as advance,
    ):
        unreached = prune_by_method(
            model, work.layers, windows, method, sparsity, resources, advance
        )
    if unreached:
        work.observer.note(
            f"{method.name}: no calibration token reached {len(unreached)} layers, such as "
            f"{unreached[0]}; they were pruned by magnitude."
        )
