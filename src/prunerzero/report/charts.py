"""What the charts of all reports share, and the bars of metrics side by side.

They carry no background and no text colour of their own: the page's style sheet colours them, so
that they follow the reader's light or dark setting. Names and formulas are escaped because plotly
reads a little HTML in labels.
"""

import math
import statistics
from html import escape
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from .wording import (
    MISSING,
    PERPLEXITY,
    Measure,
    comparison_rows,
    finite,
    judged_part,
    perplexity_text,
    spoken_name,
)

# Each is at least 3 : 1 against a white and against a nearly black page.
PALETTE = {"evolved": "#dc5a1c", "metric": "#3f7fc1", "dense": "#848b96", "raced": "#848b96"}
HEAT = ["#dfe9f3", "#8fb8dc", "#3f7fc1", "#1d4f86", "#0c2646"]

_HOVER = {"bgcolor": "#20242b", "bordercolor": "#20242b", "font": {"color": "#fff"}}


def perplexity_chart(perplexity: dict[str, Any]) -> go.Figure:
    """A pair of bars for each metric, best on top: the judged part solid, validation pale."""
    rows = comparison_rows(perplexity)
    judged = judged_part(perplexity)
    parts = [part for part in ("test", "validation") if perplexity.get(part)]
    values = {
        part: [row.test if part == "test" else row.validation for row in rows] for part in parts
    }
    known = [value for column in values.values() for value in column if value is not None]
    # One hopeless metric would press all others together, so its bars end early and say so.
    cut = min(max(known), 3 * statistics.median(known)) if known else 1.0

    figure = empty_figure(height=70 + len(rows) * (22 * len(parts) + 14))
    places = list(range(len(rows)))
    colours = [PALETTE.get(row.name, PALETTE["metric"]) for row in rows]
    for part in parts:
        figure.add_bar(
            orientation="h",
            y=places,
            x=[min(value or 0.0, cut) for value in values[part]],
            text=[_bar_label(value, cut) for value in values[part]],
            textposition="outside",
            cliponaxis=False,
            marker={"color": colours, "opacity": 1.0 if part == judged else 0.45},
            hovertext=[
                f"{escape(spoken_name(row.name))}<br>{part} {perplexity_text(value)}"
                for row, value in zip(rows, values[part], strict=True)
            ],
            hoverinfo="text",
        )
    # The labels stand to the right of the bars: a fixed margin holds them on any width.
    figure.update_layout(bargap=0.25, bargroupgap=0.06, margin={"r": 76})
    some_cut = any(value > cut for value in known)
    figure.update_xaxes(
        range=[0, cut],
        nticks=6,
        title={"text": "perplexity (▸ bar cut)" if some_cut else "perplexity"},
    )
    name_lines(figure, [tick_name(row.name) for row in rows])
    return figure


def improvements(history: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The complete evaluations that beat all before them, with their place in the search.

    One that was raced out read only part of the text: its perplexity does not compare.
    """
    best: list[tuple[int, dict[str, Any]]] = []
    lowest = math.inf
    for number, evaluation in enumerate(history, start=1):
        value = finite(evaluation.get("perplexity"))
        if evaluation.get("state") == "complete" and value is not None and value < lowest:
            lowest = value
            best.append((number, evaluation))
    return best


def empty_figure(height: int) -> go.Figure:
    return go.Figure(
        layout={
            # The default template is 7 kB of colours for charts that are not here.
            "template": "none",
            "height": height,
            "margin": {"l": 8, "r": 10, "t": 10, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "hoverlabel": {**_HOVER, "align": "left", "namelength": -1},
            "hovermode": "closest",
            "dragmode": False,
            "showlegend": False,
            "xaxis": {"automargin": True, "fixedrange": True, "zeroline": False},
            "yaxis": {"automargin": True, "fixedrange": True, "zeroline": False},
        }
    )


def name_lines(figure: go.Figure, names: list[str]) -> None:
    """Name the lines of a chart, the first on top."""
    figure.update_yaxes(
        range=[len(names) - 0.5, -0.5],
        tickvals=list(range(len(names))),
        ticktext=names,
        showgrid=False,
        ticklabelstandoff=6,
    )


def _bar_label(value: float | None, cut: float) -> str:
    if value is None:
        return MISSING
    return perplexity_text(value) if value <= cut else f"▸ {perplexity_text(value)}"


def tick_name(name: str) -> str:
    """Short enough to leave a phone some room for the chart; the tables have it in full."""
    name = spoken_name(name)
    short = escape(name if len(name) <= 13 else name[:12] + "…")
    return f"<b>{short}</b>" if name == "evolved" else short


def evaluation_label(
    number: int, evaluation: dict[str, Any], value: float, measure: Measure = PERPLEXITY
) -> str:
    lines = wrap(str(evaluation.get("expression", "")), 38)
    read, chunks = evaluation.get("chunks_read"), evaluation.get("chunks")
    finished = "finished" if evaluation.get("state") == "complete" else "raced out"
    if read is not None and chunks is not None:
        finished += f" after {read} of {chunks} chunks"
    lines += [f"{measure.name} {measure.text(value)}", finished]
    lines += [f"evaluation {number}, from {evaluation.get('origin', 'unknown')}"]
    return "<br>".join(escape(line) for line in lines)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside the range: plotly's own on a short log axis read 9 100 2 3."""
    if high / low < 4:
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [round(step * n, 10) for n in range(math.ceil(low / step), int(high / step) + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 3, 5, 7)]
    return [tick for tick in ticks if low <= tick <= high]
