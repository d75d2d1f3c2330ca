"""Which operators a search builds metrics from, where that hangs on what is done with masks.

Without an update they are the paper's, as published. Under an update metrics that read D are the
best that is known (``docs/metrics.md``), and the paper's operators cannot read it.
"""

from __future__ import annotations

from prunerzero.evolution.variation import OperatorSet, PrimitiveSet
from prunerzero.metrics import CATALOG
from prunerzero.pruning.refit import Update
from prunerzero.tasks.options import OperatorChoice


def operators_under(update: Update, asked: OperatorChoice = "auto") -> OperatorSet:
    """What was asked for; of ``"auto"`` what suits the update."""
    if asked != "auto":
        return asked
    return "published" if update == "none" else "extended"


def operators_told(update: Update, asked: OperatorChoice) -> str | None:
    """What a user should hear of it: under an update what was chosen, or what choice leaves out."""
    if update == "none" or asked == "extended":
        return None
    if asked == "auto":
        return (
            "Metrics are built from the extended operators, with which they may read D, since the "
            'weights that stay are refitted; pass `operators="published"` for those of the paper.'
        )
    terminals = {*PrimitiveSet.of(asked).terminals}
    out = [
        f"{m.name} ({m.expression})" for m in CATALOG.values() if m.expression.terminals - terminals
    ]
    return (
        f"Left out of the known metrics, since the {asked} operators cannot read D: "
        f'{", ".join(out)}; pass `operators="extended"` to have them.'
    )
