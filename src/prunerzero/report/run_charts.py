"""The charts of a run: how the search got where it got, and what it was made of.

Like those of ``charts``, they leave background and text colours to the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from .ancestry import Ancestor
from .charts import (
    PALETTE,
    empty_figure,
    evaluation_label,
    improvements,
    log_ticks,
    name_lines,
)
from .wording import PERPLEXITY, Measure, finite, spoken_name

ORIGINS = {
    "random": "#848b96",
    "catalog": "#0c2646",
    "given": "#0c2646",
    "power law": "#848b96",
    "crossover": "#3f7fc1",
    "node mutation": "#0a7558",
    "constant mutation": "#7a52b3",
    "subtree mutation": "#b08900",
    "insertion": "#c23b6a",
    "shrinking": "#5d6470",
}
"""A colour for each way a metric is made."""

BASELINE = "#0a7558"
KNOWN = "#7a52b3"
_LABEL_GAP = 0.052
"""Height of a label, as a share of the chart's."""


def course_chart(
    history: list[dict[str, Any]],
    known: dict[str, float],
    baseline: list[dict[str, Any]] | None = None,
    measure: Measure = PERPLEXITY,
) -> go.Figure:
    """Every evaluation, the best so far, that of a baseline, and the known metrics as lines.

    Each trace holds in ``meta`` its places by evaluations and by seconds, between which the page
    changes.
    """
    best = improvements(history)
    low, high = _window([finite(e["perplexity"]) for _, e in best[-1:]], known.values())
    figure = empty_figure(height=460)
    for state, style, symbol in (
        ("raced_out", {"color": PALETTE["raced"], "size": 5, "opacity": 0.45}, "circle-open"),
        ("complete", {"color": PALETTE["metric"], "size": 7, "opacity": 0.85}, "circle"),
    ):
        shown = [
            (number, e, value)
            for number, e in enumerate(history, start=1)
            if e.get("state") == state and (value := finite(e.get("perplexity"))) is not None
        ]
        symbols = ["triangle-up" if value > high else symbol for *_, value in shown]
        figure.add_scatter(
            mode="markers",
            **_places((number, e["seconds"]) for number, e, _ in shown),
            y=[min(value, high) for *_, value in shown],
            marker={**style, "symbol": symbols},
            hovertext=[evaluation_label(*item, measure) for item in shown],
            hoverinfo="text",
            cliponaxis=False,
        )
    if baseline:
        _add_steps(figure, baseline, high, {"color": BASELINE, "width": 2, "dash": "dot"})
    _add_steps(figure, history, high, {"color": PALETTE["evolved"], "width": 2.5})
    _add_levels(figure, {n: v for n, v in known.items() if low < v <= high}, low, high, measure)
    longest = max(len(history), len(baseline or ()), 1)
    figure.update_xaxes(
        title={"text": "evaluations"}, range=[0, 1.01 * longest], nticks=8, showgrid=False
    )
    _log_axis(figure, low, high, measure)
    return figure


def ancestry_chart(ancestors: list[Ancestor], measure: Measure = PERPLEXITY) -> go.Figure:
    """The winner's family: each ancestor with lines to its parents, the main line bold."""
    figure = empty_figure(height=440)
    by_number = {ancestor.number: ancestor for ancestor in ancestors}
    values = sorted(ancestor.perplexity for ancestor in ancestors)
    low = values[0] / 1.03
    high = max(1.2 * values[0], min(values[-1], 2.5 * values[len(values) // 2]))

    def line(pairs: Iterable[tuple[Ancestor, Ancestor]], style: dict[str, Any]) -> None:
        x: list[float | None] = []
        y: list[float | None] = []
        for parent, child in pairs:
            x += [parent.place, child.place, None]
            y += [min(parent.perplexity, high), min(child.perplexity, high), None]
        figure.add_scatter(mode="lines", x=x, y=y, line=style, hoverinfo="skip", cliponaxis=False)

    families = [(by_number[p], child) for child in ancestors for p in child.parents]
    main = [ancestor for ancestor in ancestors if ancestor.in_main_line]
    line(families, {"color": "rgba(132,139,150,.35)", "width": 1})
    line(
        zip(main, main[1:], strict=False),
        {"color": PALETTE["evolved"], "width": 3},
    )
    figure.add_scatter(
        mode="markers",
        x=[ancestor.place for ancestor in ancestors],
        y=[min(ancestor.perplexity, high) for ancestor in ancestors],
        marker={
            "color": [ORIGINS.get(ancestor.origin, PALETTE["raced"]) for ancestor in ancestors],
            "size": [13 if a is main[-1] else 9 if a.in_main_line else 6 for a in ancestors],
            "symbol": ["star" if a is main[-1] else "circle" for a in ancestors],
        },
        hovertext=[
            evaluation_label(a.place, a.evaluation, a.perplexity, measure) for a in ancestors
        ],
        hoverinfo="text",
        cliponaxis=False,
    )
    figure.update_xaxes(
        title={"text": "evaluations"},
        range=[0, 1.02 * max(ancestor.place for ancestor in ancestors)],
        nticks=8,
        showgrid=False,
    )
    _log_axis(figure, low, high, measure)
    return figure


def use_chart(uses: list[tuple[str, float, float]]) -> go.Figure:
    """How many of the best and of all metrics hold each operator and terminal, in pairs."""
    figure = empty_figure(height=70 + 34 * len(uses))
    places = list(range(len(uses)))
    for index, colour, label in ((1, PALETTE["evolved"], "best"), (2, PALETTE["raced"], "all")):
        figure.add_bar(
            orientation="h",
            y=places,
            x=[100 * use[index] for use in uses],
            marker={"color": colour, "opacity": 0.55 if index == 2 else 1},
            hovertext=[
                f"{escape(use[0])}: {100 * use[index]:.0f} % of the {label}" for use in uses
            ],
            hoverinfo="text",
        )
    figure.update_layout(bargap=0.3, bargroupgap=0.05)
    figure.update_xaxes(title={"text": "% of metrics that hold it"}, range=[0, 100], nticks=6)
    name_lines(figure, [f"<b>{escape(name)}</b>" for name, *_ in uses])
    return figure


def size_chart(
    history: list[dict[str, Any]],
    front: list[dict[str, Any]],
    known: dict[str, tuple[int, float]],
    measure: Measure = PERPLEXITY,
) -> go.Figure:
    """Nodes against perplexity: what finished, the Pareto front, and the known metrics."""
    finished = [e for e in history if e.get("state") == "complete" and finite(e["perplexity"])]
    best = [finite(point["perplexity"]) for point in front[-1:]]
    low, high = _window(best, [value for _, value in known.values()])
    high = max(high, 1.35 * low)
    figure = empty_figure(height=440)
    figure.add_scatter(
        mode="markers",
        x=[e["size"] for e in finished],
        y=[min(e["perplexity"], high) for e in finished],
        marker={
            "color": PALETTE["metric"],
            "size": 7,
            "opacity": 0.4,
            "symbol": ["triangle-up" if e["perplexity"] > high else "circle" for e in finished],
        },
        hovertext=[
            _size_label(e["expression"], e["size"], e["perplexity"], measure) for e in finished
        ],
        hoverinfo="text",
        cliponaxis=False,
    )
    named = {n: point for n, point in known.items() if point[1] <= high}
    figure.add_scatter(
        mode="markers+text",
        x=[size for size, _ in named.values()],
        y=[value for _, value in named.values()],
        marker={"color": KNOWN, "size": 10, "symbol": "diamond"},
        text=[escape(spoken_name(name)) for name in named],
        textposition="top center",
        hovertext=[_size_label(spoken_name(n), size, v, measure) for n, (size, v) in named.items()],
        hoverinfo="text",
        cliponaxis=False,
    )
    figure.add_scatter(
        mode="lines+markers",
        x=[point["size"] for point in front],
        y=[min(point["perplexity"], high) for point in front],
        line={"color": PALETTE["evolved"], "width": 2.5, "shape": "hv"},
        marker={"size": 10},
        hovertext=[_size_label(p["metric"], p["size"], p["perplexity"], measure) for p in front],
        hoverinfo="text",
        cliponaxis=False,
    )
    largest = max([e["size"] for e in finished], default=1)
    figure.update_xaxes(
        title={"text": "size in nodes"}, range=[0, largest + 1], nticks=10, showgrid=False
    )
    _log_axis(figure, low, high, measure)
    return figure


def fate_chart(fates: list[tuple[str, int, str]]) -> go.Figure:
    """(what became of it, how many, colour) of all proposals, as bars."""
    figure = empty_figure(height=60 + 34 * len(fates))
    most = max((count for _, count, _ in fates), default=1)
    figure.add_bar(
        orientation="h",
        y=list(range(len(fates))),
        x=[count for _, count, _ in fates],
        text=[f"{count:,}" for _, count, _ in fates],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [colour for *_, colour in fates]},
        hoverinfo="skip",
    )
    figure.update_layout(bargap=0.3, margin={"r": 60})
    figure.update_xaxes(range=[0, most], nticks=5)
    name_lines(figure, [escape(name) for name, *_ in fates])
    return figure


def _places(points: Iterable[tuple[int, float]]) -> dict[str, Any]:
    points = list(points)
    evaluations = [number for number, _ in points]
    return {
        "x": evaluations,
        "meta": {"evaluations": evaluations, "seconds": [seconds for _, seconds in points]},
    }


def _add_steps(
    figure: go.Figure, history: list[dict[str, Any]], high: float, line: dict[str, Any]
) -> None:
    """The best so far as a line that ends where the search does."""
    steps = [(number, e["seconds"], e["perplexity"]) for number, e in improvements(history)]
    if not steps:
        return
    last = max(e["seconds"] for e in history)
    steps.append((len(history), last, steps[-1][2]))
    figure.add_scatter(
        mode="lines",
        **_places((number, seconds) for number, seconds, _ in steps),
        y=[min(value, high) for *_, value in steps],
        line={**line, "shape": "hv"},
        hoverinfo="skip",
    )


def _add_levels(
    figure: go.Figure, levels: dict[str, float], low: float, high: float, measure: Measure
) -> None:
    """A thin line for each known metric, its name in the right margin, none over another."""
    span = math.log(_top(low, high) / low)
    place = -math.inf
    for name, value in sorted(levels.items(), key=lambda item: item[1]):
        figure.add_hline(y=value, line={"color": KNOWN, "width": 1, "dash": "dash"}, opacity=0.7)
        place = max(math.log(value / low) / span, place + _LABEL_GAP)
        figure.add_annotation(
            xref="paper",
            yref="paper",
            x=1.0,
            xshift=5,
            y=place,
            xanchor="left",
            text=f"{escape(spoken_name(name))} {measure.text(value)}",
            showarrow=False,
            font={"size": 11.5},
        )
    if levels:
        figure.update_layout(margin={"r": 118})


def _window(best: Iterable[float | None], known: Iterable[float]) -> tuple[float, float]:
    """From just under the best to just over the known metrics that are not hopeless."""
    lowest = min([v for v in best if v is not None], default=None)
    values = sorted(known)
    if lowest is None:
        lowest = values[0] if values else 1.0
    low = min([lowest, *values[:1]])
    near = [value for value in values if value < 1.6 * low]
    return low / 1.015, max([1.1 * lowest, *(1.02 * value for value in near)])


def _top(low: float, high: float) -> float:
    """Where the axis ends: what lies at the upper edge keeps its whole mark."""
    return float(high * (high / low) ** 0.02)


def _log_axis(figure: go.Figure, low: float, high: float, measure: Measure) -> None:
    ticks = log_ticks(low, high)
    figure.update_yaxes(
        type="log",
        range=[math.log10(low), math.log10(_top(low, high))],
        tickvals=ticks,
        ticktext=[f"{tick:,g}" for tick in ticks],
        title={"text": measure.name},
    )


def _size_label(formula: str, size: int, value: float, measure: Measure) -> str:
    lines = [*wrap(formula, 38), f"{measure.name} {measure.text(value)}", f"{size} nodes"]
    return "<br>".join(escape(line) for line in lines)
