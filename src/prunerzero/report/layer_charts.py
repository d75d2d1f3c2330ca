"""Heat maps of a model's layers: a column for each block, a line for each kind of layer."""

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

from .charts import HEAT, empty_figure, tick_name
from .wording import MISSING, finite, nats_text, percent_text

Layers = list[dict[str, Any]]


def sparsity_chart(layers: Layers, axis: str = "block") -> go.Figure:
    """The share of zeros; layers that share a cell are taken together."""

    def label(cell: Layers) -> str:
        others = f" and {len(cell) - 1} more" if len(cell) > 1 else ""
        name = escape(str(cell[0]["name"]))
        return f"{name}{others}<br>{percent_text(overall_sparsity(cell))} zeros"

    def text(share: float) -> str:
        return f"{100 * share:.0f}"

    return _heat_map(layers, overall_sparsity, label, text, 1.0, axis)


def sensitivity_chart(layers: Layers, axis: str = "block") -> go.Figure:
    """The rise of the loss, nats per token; of layers that share a cell the most sensitive."""

    def most(cell: Layers) -> dict[str, Any]:
        return max(cell, key=lambda layer: float(layer["sensitivity"]))

    def value(cell: Layers) -> float | None:
        return finite(most(cell)["sensitivity"]) if cell else None

    def label(cell: Layers) -> str:
        worst = most(cell)
        return f"{escape(str(worst['name']))}<br>{nats_text(worst['sensitivity'])}"

    highest = max((float(layer["sensitivity"]) for layer in layers), default=0.0)
    return _heat_map(layers, value, label, lambda value: "", max(highest, 1e-9), axis)


def overall_sparsity(layers: Iterable[dict[str, Any]]) -> float | None:
    """The share of zeros in these layers together, each counted by its weights."""
    weights = zeros = 0.0
    for layer in layers:
        share = finite(layer.get("sparsity"))
        if share is not None:
            weights += math.prod(layer["shape"])
            zeros += share * math.prod(layer["shape"])
    return zeros / weights if weights else None


def _heat_map(
    layers: Layers,
    value: Callable[[Layers], float | None],
    label: Callable[[Layers], str],
    text: Callable[[float], str],
    highest: float,
    axis: str,
) -> go.Figure:
    cells: dict[tuple[str, str], Layers] = {}
    for layer in layers:
        cells.setdefault(_block_and_kind(str(layer["name"])), []).append(layer)
    blocks = list(dict.fromkeys(block for block, _ in cells))
    kinds = list(dict.fromkeys(kind for _, kind in cells))
    grid = [[cells.get((block, kind), []) for block in blocks] for kind in kinds]
    values = [[value(cell) for cell in line] for line in grid]
    # More columns than this leave no room for a number on a phone.
    texts = [
        ["" if number is None or len(blocks) > 10 else text(number) for number in line]
        for line in values
    ]

    figure = empty_figure(height=80 + 30 * len(kinds))
    figure.add_heatmap(
        z=values,
        zmin=0,
        zmax=highest,
        x=list(range(len(blocks))),
        y=list(range(len(kinds))),
        text=texts,
        texttemplate="%{text}",
        hovertext=[[label(cell) if cell else "" for cell in line] for line in grid],
        hoverinfo="text",
        colorscale=HEAT,
        showscale=False,
        xgap=2 if len(blocks) <= 24 else 0,
        ygap=2,
    )
    shown = range(0, len(blocks), max(1, math.ceil(len(blocks) / 12)))
    figure.update_xaxes(
        title={"text": axis},
        showgrid=False,
        tickvals=list(shown),
        ticktext=[escape(blocks[place]) for place in shown],
    )
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        tickvals=list(range(len(kinds))),
        ticktext=[tick_name(kind.rpartition(".")[2]) for kind in kinds],
        ticklabelstandoff=6,
    )
    return figure


def _block_and_kind(name: str) -> tuple[str, str]:
    """``model.layers.3.mlp.experts.7.w1`` is of block 3 and of the kind ``mlp.experts.*.w1``."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit() and place + 1 < len(parts):
            rest = ("*" if later.isdigit() else later for later in parts[place + 1 :])
            return part, ".".join(rest)
    return MISSING, name
