"""The charts of the report of ``tune``: quality against sparsity, and how sure the rise is."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from .charts import PALETTE, empty_figure, name_lines
from .tune_words import columns
from .wording import change_text, percent_text, perplexity_text, spoken_name

LIMIT_COLOUR = "#c0392b"
WITHIN_COLOUR = "rgba(46, 160, 100, 0.10)"

Point = dict[str, Any]


def quality_chart(result: dict[str, Any], strings: dict[str, str]) -> go.Figure:
    """Rise of perplexity on the validation text against sparsity, with limit and choice."""
    curve: list[Point] = result["curve"]
    whole = max(point["windows"] for point in curve)
    full = [point for point in curve if point["windows"] == whole]
    rough = [point for point in curve if point["windows"] != whole]
    limit = limit_rise(result)
    chosen = worst(result["parts"]["validation"])
    top = _upper_edge([point["rise"] for point in full], limit)

    figure = empty_figure(height=430)
    figure.add_scatter(**_markers(rough, top, PALETTE["raced"], 6, "circle-open", strings))
    chosen_series = (result["metric"]["name"], result["group"], result.get("refit", ""))
    for series in sorted(_series(full), key=lambda series: series[0] == "evolved"):
        name, is_chosen = series[0], series == chosen_series
        of_it = [point for point in full if _series_of(point) == series]
        points = sorted(
            {point["sparsity"]: point for point in of_it}.values(),
            key=lambda point: float(point["sparsity"]),
        )
        colour = PALETTE["evolved" if name == "evolved" else "metric"]
        if result["pattern_asked"] is None and (is_chosen or len(points) > 1):
            # nothing pruned costs nothing, where the curve of the chosen metric begins; that of
            # another, measured at the far end alone, would seem to be straight
            begin = [0] if is_chosen else []
            figure.add_scatter(
                mode="lines",
                x=[*begin, *(point["sparsity"] for point in points)],
                y=[*begin, *(min(point["rise"], top) for point in points)],
                line={"color": colour, "width": 2.5 if is_chosen else 1.5},
                hoverinfo="skip",
            )
        figure.add_scatter(**_markers(points, top, colour, 9, "circle", strings))
    if result["reached"]:
        figure.add_scatter(
            mode="markers+text",
            x=[result["sparsity"]],
            y=[min(chosen["rise"], top)],
            text=[f"<b>{escape(percent_text(result['sparsity']))}</b>"],
            textposition="bottom center",
            textfont={"size": 16},
            marker={
                "color": PALETTE["evolved" if result["metric"]["name"] == "evolved" else "metric"],
                "size": 17,
                "symbol": "diamond",
                "line": {"color": "#fff", "width": 2},
            },
            hovertext=[f"{strings['legend_chosen']}: {_point_label(result, chosen)}"],
            hoverinfo="text",
            cliponaxis=False,
        )
    low = min([0.0, *(point["rise"] for point in curve)])
    bottom = low - 0.04 * (top - low)
    if limit is not None:
        _draw_limit(figure, limit, bottom, strings["legend_limit"])
    right = max([0.1, *(point["sparsity"] for point in curve)])
    figure.update_xaxes(
        title={"text": strings["axis_sparsity"]},
        range=[0, min(1.0, 1.08 * right)],
        tickformat=".0%",
        nticks=9,
        showgrid=False,
    )
    figure.update_yaxes(
        title={"text": strings["axis_rise"], "standoff": 12},
        range=[bottom, 1.03 * top],
        tickformat="+.0%",
    )
    return figure


def worst(part: dict[str, Any]) -> dict[str, Any]:
    """The figures of the text whose perplexity rises most, of a part that has one text or more."""
    return max([part] if not part.get("texts") else part["texts"], key=lambda text: text["rise"])


def rise_chart(result: dict[str, Any], strings: dict[str, str]) -> go.Figure:
    """The rise on each text as a point on its interval, with the limit."""
    parts = dict(columns(result, lambda key, **values: strings[key].format(**values)))
    figure = empty_figure(height=70 + 52 * len(parts))
    for place, figures in enumerate(parts.values()):
        figure.add_scatter(
            mode="lines",
            x=list(figures["rise_interval"] or []),
            y=[place, place] if figures["rise_interval"] else [],
            line={"color": PALETTE["metric"], "width": 7},
            opacity=0.45,
            hoverinfo="skip",
        )
        ends = " … ".join(change_text(1 + bound) for bound in figures["rise_interval"] or [])
        figure.add_scatter(
            mode="markers",
            x=[figures["rise"]],
            y=[place],
            marker={"color": PALETTE["metric"], "size": 13},
            hovertext=[f"{change_text(1 + figures['rise'])}<br>{ends}"],
            hoverinfo="text",
        )
    bounds = [
        bound
        for figures in parts.values()
        for bound in figures["rise_interval"] or [figures["rise"]]
    ]
    limit = result["limit"]["value"] if result["limit"]["kind"] == "degradation" else None
    if limit is not None:
        bounds.append(limit)
        figure.add_vline(
            x=limit,
            line={"color": LIMIT_COLOUR, "dash": "dash", "width": 1.5},
            annotation={"text": strings["legend_limit"], "font": {"size": 12}, "yshift": 6},
            annotation_position="top left",
        )
    low, high = min(bounds), max(bounds)
    pad = 0.2 * (high - low) or 0.01
    figure.update_layout(margin={"t": 24})
    figure.update_xaxes(
        title={"text": strings["axis_rise"]},
        range=[low - pad, high + pad],
        tickformat="+.1%" if high - low < 0.1 else "+.0%",
        nticks=5,
        tickangle=0,
    )
    name_lines(figure, [escape(name) for name in parts])
    return figure


def limit_rise(result: dict[str, Any]) -> float | None:
    """The limit on the validation text as a rise of perplexity.

    None where it is a task's, or a perplexity, which on several texts is not the same rise.
    """
    limit = result["limit"]
    if limit["kind"] == "degradation":
        return float(limit["value"])
    if limit["max_perplexity"] is None or result["parts"]["validation"].get("texts"):
        return None
    return float(limit["max_perplexity"]) / float(result["dense"]) - 1


def metric_name(name: str, strings: dict[str, str]) -> str:
    """A metric's name as people say it."""
    return strings["evolved"] if name == "evolved" else spoken_name(name)


def _draw_limit(figure: go.Figure, limit: float, bottom: float, label: str) -> None:
    figure.add_hrect(y0=bottom, y1=limit, fillcolor=WITHIN_COLOUR, line_width=0, layer="below")
    figure.add_hline(
        y=limit,
        line={"color": LIMIT_COLOUR, "dash": "dash", "width": 1.5},
        annotation={"text": f"{label} {change_text(1 + limit)}", "font": {"size": 13}},
        annotation_position="top left",
    )


def _markers(
    points: list[Point], top: float, colour: str, size: int, symbol: str, strings: dict[str, str]
) -> dict[str, Any]:
    return {
        "mode": "markers",
        "x": [point["sparsity"] for point in points],
        "y": [min(point["rise"], top) for point in points],
        "marker": {
            "color": colour,
            "size": size,
            "symbol": ["triangle-up" if point["rise"] > top else symbol for point in points],
        },
        "hovertext": [
            f"{escape(metric_name(point['metric'], strings))}, "
            + f"{strings['group_' + point['group']]}<br>"
            + _point_label(point, point)
            + f"<br>{point['windows']} {strings['column_windows']}"
            for point in points
        ],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def _point_label(where: dict[str, Any], figures: dict[str, Any]) -> str:
    value = figures.get("perplexity", figures.get("pruned"))
    sparsity = escape(percent_text(where["sparsity"]))
    return f"{sparsity}: {change_text(1 + figures['rise'])}, {perplexity_text(value)}"


def _series(points: list[Point]) -> list[tuple[str, str, str]]:
    """Each metric within each group, and how it was refitted, in the order of the first points."""
    return list(dict.fromkeys(map(_series_of, points)))


def _series_of(point: Point) -> tuple[str, str, str]:
    return point["metric"], point["group"], point.get("refit", "")


def _upper_edge(rises: list[float], limit: float | None) -> float:
    """High enough for the limit and most points; a hopeless one is drawn at the edge."""
    highest = max([0.01, *rises])
    return highest if limit is None else max(1.35 * limit, min(highest * 1.05, 2.5 * limit))
