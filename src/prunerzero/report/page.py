"""The report of a search: one HTML file that needs no network, now or in ten years."""

from pathlib import Path
from typing import Any

from . import charts, layer_charts
from .rendering import render, write_page
from .tree_drawing import draw_tree
from .wording import (
    MISSING,
    change_text,
    comparison_rows,
    finite,
    in_a_sentence,
    judged_part,
    percent_text,
    perplexity_text,
    share_unread,
    sparsity_text,
    spoken_name,
    what_others_give,
)

# What the page tells elsewhere; any other plain value of the summary is listed as a setting.
_TOLD_ELSEWHERE = {"metric", "command", "answer", "origin", "name", "evolved"}


def write_report(
    path: Path,
    summary: dict[str, Any],
    history: list[dict[str, Any]],
    layers: list[dict[str, Any]],
) -> None:
    """Write the page to ``path``, whole or not at all: it is made beside it, then renamed."""
    write_page(path, _render(summary, history, layers))


def _render(
    summary: dict[str, Any], history: list[dict[str, Any]], layers: list[dict[str, Any]]
) -> str:
    perplexity = summary.get("perplexity") or {}
    metric = str(summary.get("metric", ""))
    tree = summary.get("tree")
    figures = {
        "perplexity": charts.perplexity_chart(perplexity),
        "search": charts.search_chart(history),
        "sparsity": layer_charts.sparsity_chart(layers),
    }
    return render(
        "report.html.j2",
        {"perplexity": perplexity_text, "change": change_text, "spoken": spoken_name},
        answer=_answer(summary),
        aside=_aside(perplexity),
        key_figures=_key_figures(summary),
        metric=metric,
        tree=draw_tree(tree, f"Tree of {metric}") if tree else None,
        has_perplexity=bool(perplexity),
        has_validation=bool(perplexity.get("validation") and perplexity.get("test")),
        judged=judged_part(perplexity),
        search=_search_words(history),
        has_history=bool(history),
        improvements=charts.improvements(history),
        comparisons=_comparisons(summary),
        layers=_layer_words(layers),
        settings=_settings(summary),
        command=summary.get("command"),
        palette=charts.PALETTE,
        heat=charts.HEAT,
        # plotly writes "<" inside JSON as \u003c, so that no name can end the script.
        figures={name: figure.to_json() for name, figure in figures.items()},
    )


def _answer(summary: dict[str, Any]) -> str:
    """The result in one sentence, and no better than it is."""
    perplexity = summary.get("perplexity") or {}
    part = judged_part(perplexity)
    rows = {row.name: row for row in comparison_rows(perplexity) if row.judged is not None}
    sparsity = sparsity_text(summary.get("sparsity", MISSING))
    dense, evolved = rows.pop("dense", None), rows.pop("evolved", None)
    if evolved is None or evolved.judged is None:
        return f"At {sparsity} sparsity there is no perplexity of an evolved metric to report."
    best = next(iter(rows.values()), None)
    # The best rival leads; Wanda and magnitude are the yardsticks everybody knows.
    named = dict.fromkeys([*list(rows)[:1], *(n for n in ("wanda", "magnitude") if n in rows)])
    reached = perplexity_text(evolved.judged)
    if best is None or best.judged is None:
        sentence = f"the evolved metric gives {part} perplexity {reached}"
    elif evolved.judged < best.judged:
        sentence = f"the evolved metric keeps {part} perplexity at {reached}"
    else:
        sentence = f"the evolved metric does not win: it gives {part} perplexity {reached}"
    if named:
        sentence += f", where {what_others_give({name: rows[name].judged for name in named})}"
    ending = f"; dense is {perplexity_text(dense.judged)}." if dense else "."
    return f"At {sparsity} sparsity {sentence}{ending}"


def _aside(perplexity: dict[str, Any]) -> str:
    """By how much, against Wanda and against the best metric known before."""
    rows = {row.name: row for row in comparison_rows(perplexity) if row.judged}
    evolved = rows.get("evolved")
    rivals = [row for row in rows.values() if row.name not in ("dense", "evolved")]
    compared = {row.name: row for row in [*rivals[:1], *(r for r in rivals if r.name == "wanda")]}
    if evolved is None or evolved.judged is None:
        return ""
    changes = [
        f"{change_text(evolved.judged / row.judged)} against {in_a_sentence(row.name)}"
        + (", the best metric known before" if row is rivals[0] else "")
        for row in compared.values()
        if row.judged
    ]
    return f"{'; '.join(changes)}. Lower is better." if changes else "Lower is better."


def _key_figures(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figure, remark) for the row of tiles."""
    evaluations, skipped = finite(summary.get("evaluations")), summary.get("duplicates_skipped")
    seconds = finite(summary.get("seconds"))
    windows = summary.get("windows") or {}
    pace = f"{evaluations / seconds:.1f} evaluations a second" if evaluations and seconds else ""
    return [
        ("Evaluations", _plain(summary.get("evaluations")), "metrics tried on the model"),
        ("Duplicates skipped", _plain(skipped), "known by text or by ranking"),
        ("Time", f"{seconds:.0f} s" if seconds is not None else MISSING, pace),
        ("Seed", _plain(summary.get("seed")), "of the random choices of the search"),
        ("Model", _plain(summary.get("model")), _plain(summary.get("machine", ""))),
        ("Text", _plain(summary.get("text")), "search: validation part; answer: test part"),
        ("Window", f"{_plain(summary.get('window_length'))} tokens", _windows_text(windows)),
    ]


def _windows_text(windows: dict[str, Any]) -> str:
    return ", ".join(f"{_plain(count)} {part}" for part, count in windows.items())


def _search_words(history: list[dict[str, Any]]) -> str:
    states = [evaluation.get("state") for evaluation in history]
    words = (
        f"{states.count('complete'):,} evaluations finished,"
        f" {states.count('raced_out'):,} were raced out early as hopeless"
    )
    if failed := states.count("failed"):
        words += f", {failed:,} failed"
    unread = share_unread(history)
    if unread is not None:
        words += f"; racing left {percent_text(round(unread, 3))} of the text unread"
    return words + "."


def _comparisons(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A table for the sparsity of the search and one for every further pattern."""
    sparsity = str(summary.get("sparsity", MISSING))
    formulas = {
        **(summary.get("catalog") or {}),
        "evolved": summary.get("evolved") or summary.get("metric", ""),
    }
    refitted = (summary.get("refitted") or {}).get("test") or {}
    measured = [(sparsity, summary.get("perplexity") or {})]
    measured += list((summary.get("patterns") or {}).items())
    return [
        {
            "sparsity": sparsity_text(pattern),
            "evolved_for": sparsity_text(sparsity) if place else None,
            "parts": [part for part in ("validation", "test") if perplexity.get(part)],
            "rows": [
                {
                    "row": row,
                    "formula": formulas.get(row.name, ""),
                    "refitted": None if place else refitted.get(row.name),
                }
                for row in comparison_rows(perplexity)
            ],
            "with_refitted": bool(refitted) and not place,
            "with_wanda": any(row.versus_wanda is not None for row in comparison_rows(perplexity)),
        }
        for place, (pattern, perplexity) in enumerate(measured)
        if perplexity
    ]


def _layer_words(layers: list[dict[str, Any]]) -> str:
    shares = [share for layer in layers if (share := finite(layer.get("sparsity"))) is not None]
    if not shares:
        return ""
    overall = percent_text(layer_charts.overall_sparsity(layers))
    if percent_text(min(shares)) == percent_text(max(shares)):
        return f"Each of the {len(shares)} pruned layers has {overall} of its weights at zero."
    return (
        f"{overall} of the weights in {len(shares)} pruned layers are zero, between"
        f" {percent_text(min(shares))} and {percent_text(max(shares))} in a single layer."
    )


def _settings(summary: dict[str, Any]) -> list[tuple[str, str]]:
    settings = [
        (name.replace("_", " "), _plain(value))
        for name, value in summary.items()
        if name not in _TOLD_ELSEWHERE and not isinstance(value, dict | list)
    ]
    windows = summary.get("windows") or {}
    settings += [(f"{part} windows", _plain(count)) for part, count in windows.items()]
    return settings + [
        (name, str(version)) for name, version in (summary.get("versions") or {}).items()
    ]


def _plain(value: object) -> str:
    """A value as people write it: no trailing zeros, a dash for what is missing."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return MISSING if finite(value) is None else f"{value:,.10g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
