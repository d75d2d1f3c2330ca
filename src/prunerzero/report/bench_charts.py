"""The pictures of ``bench``: perplexity against bytes, and against tokens a second."""

import math
from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go

from .bench_words import Figures, short_names, speed_of
from .charts import PALETTE, empty_figure, log_ticks
from .wording import bytes_text, finite, perplexity_text, speed_text

_MUCH = 3
"""Where the highest perplexity is so many times the lowest, the axis is logarithmic."""


def bytes_chart(models: Sequence[Figures], axis: str, perplexity: str) -> go.Figure:
    """Perplexity against the bytes of the files: best at the lower left."""
    return _chart(models, lambda model: finite(model["file_bytes"]), bytes_text, axis, perplexity)


def speed_chart(models: Sequence[Figures], axis: str, perplexity: str) -> go.Figure:
    """Perplexity against tokens a second at batch 1: best at the lower right."""
    return _chart(models, speed_of, speed_text, axis, perplexity)


def _chart(
    models: Sequence[Figures],
    value: Callable[[Figures], float | None],
    told: Callable[[object], str],
    axis: str,
    perplexity: str,
) -> go.Figure:
    known = (
        (x, y, model)
        for model in models
        if (x := value(model)) is not None and (y := finite(model["perplexity"])) is not None
    )
    points = sorted(known, key=lambda point: point[:2])
    short = short_names(models)
    figure = empty_figure(height=430)
    figure.add_scatter(
        mode="markers+text",
        x=[x for x, _, _ in points],
        y=[y for _, y, _ in points],
        text=[_label(short[model["model"]]) for _, _, model in points],
        textposition=_sides([(x, y) for x, y, _ in points]),
        textfont={"size": 12},
        marker={
            "color": [PALETTE["metric" if m["is_rival"] else "evolved"] for _, _, m in points],
            "size": 12,
            "symbol": ["square" if m["is_rival"] else "circle" for _, _, m in points],
        },
        hovertext=[
            f"{escape(model['model'])}<br>{told(x)}<br>{perplexity} {perplexity_text(y)}"
            for x, y, model in points
        ],
        hoverinfo="text",
        cliponaxis=False,
    )
    right = max((x for x, _, _ in points), default=1.0)
    figure.update_layout(margin={"r": 40, "t": 24})
    figure.update_xaxes(title={"text": axis}, range=[0, 1.12 * right], nticks=7, tickformat="~s")
    lowest = min((y for _, y, _ in points), default=1.0)
    highest = max((y for _, y, _ in points), default=2.0)
    if highest > _MUCH * lowest > 0:
        low, high = lowest / 1.15, highest * 1.15
        ticks = log_ticks(low, high)
        figure.update_yaxes(
            type="log",
            range=[math.log10(low), math.log10(high)],
            tickvals=ticks,
            ticktext=[f"{tick:,g}" for tick in ticks],
        )
    else:
        room = 0.15 * (highest - lowest) or 0.05 * highest
        figure.update_yaxes(range=[lowest - room, highest + room])
    figure.update_yaxes(title={"text": perplexity, "standoff": 12})
    return figure


def _sides(points: Sequence[tuple[float, float]]) -> list[str]:
    """Above each point, or below it where another's label would be in the way."""
    width = max((x for x, _ in points), default=1.0)
    heights = [y for _, y in points]
    height = max(heights, default=1.0) - min(heights, default=0.0)
    sides: list[str] = []
    for place, (x, y) in enumerate(points):
        near = {
            side
            for side, (other, level) in zip(sides, points[:place], strict=True)
            if x - other < 0.25 * width and abs(y - level) <= 0.1 * height
        }
        sides.append("bottom center" if "top center" in near else "top center")
    return sides


def _label(name: str) -> str:
    """A name short enough to stand beside a point."""
    return escape(name if len(name) <= 24 else name[:23] + "…")
