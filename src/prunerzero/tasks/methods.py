"""Published methods beside metrics: named by users, and used on an open workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from prunerzero.arguments import texts
from prunerzero.errors import ModelError
from prunerzero.metrics import Sparsity
from prunerzero.pruning.blocks import find_blocks
from prunerzero.pruning.by_block.block_calls import NotOneByOneError
from prunerzero.pruning.by_block.block_passes import Resources
from prunerzero.pruning.by_block.by_method import check_one_by_one, prune_by_method
from prunerzero.pruning.methods import Method, find_method
from prunerzero.tasks.workspace import Workspace

HIDDEN_STATES = 4 << 30
"""Bytes of memory for hidden states between two blocks; more than that goes to files."""


def read_methods(named: str | Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names, each once.

    Raises:
        InputError: a name that no method has, or something else than names.
    """
    found = {method.name: method for method in map(find_method, texts("methods", named))}
    return tuple(found.values())


def check_methods(work: Workspace) -> None:
    """Raise ModelError where the model's blocks cannot be run one by one, as methods need it."""
    windows = work.text("calibration").windows
    try:
        with resources_of(work) as resources:
            check_one_by_one(work.language_model.model, work.layers, windows, resources)
    except NotOneByOneError as error:
        raise ModelError(
            f"{error.reason}, so they cannot be pruned one after the other, as methods do; leave "
            "out `methods`."
        ) from None


def prune_by(work: Workspace, method: Method, sparsity: Sparsity) -> None:
    """Prune the model in place with a method, each layer by the same share."""
    model, windows = work.language_model.model, work.text("calibration").windows
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


@contextmanager
def resources_of(work: Workspace) -> Iterator[Resources]:
    """What passes through the blocks of the loaded model may use."""
    with TemporaryDirectory(prefix="prunerzero-") as folder:
        yield Resources((work.language_model.device,), HIDDEN_STATES, Path(folder))
