"""Metrics side by side on one text, and what became of the layers: the demo adds this to the page
of its run."""

from typing import Any

from . import charts, layer_charts
from .wording import comparison_rows, judged_part, percent_text, sparsity_text


def comparison(summary: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``comparison.html.j2`` shows of the demo's summary and of the layers it pruned."""
    perplexity = summary["perplexity"]
    return {
        "judged": judged_part(perplexity),
        "has_validation": bool(perplexity.get("validation") and perplexity.get("test")),
        "tables": _tables(summary),
        "layers": _layer_words(layers),
        "command": summary["command"],
        "machine": summary["machine"],
        "figures": {
            "perplexity": charts.perplexity_chart(perplexity),
            "sparsity": layer_charts.sparsity_chart(layers),
        },
    }


def _tables(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One for the sparsity of the search and one for every further pattern."""
    sparsity = summary["sparsity"]
    formulas = {**summary["catalog"], "evolved": summary["evolved"] or summary["metric"]}
    refitted = summary["refitted"]["test"]
    measured = [(sparsity, summary["perplexity"]), *summary["patterns"].items()]
    return [
        {
            "sparsity": sparsity_text(pattern),
            "evolved_for": sparsity_text(sparsity) if place else None,
            "parts": [part for part in ("validation", "test") if figures.get(part)],
            "rows": [
                {
                    "row": row,
                    "formula": formulas.get(row.name, ""),
                    "refitted": refitted.get(row.name),
                }
                for row in comparison_rows(figures)
            ],
            "with_refitted": place == 0,
        }
        for place, (pattern, figures) in enumerate(measured)
    ]


def _layer_words(layers: list[dict[str, Any]]) -> str:
    shares = [layer["sparsity"] for layer in layers]
    overall = percent_text(layer_charts.overall_sparsity(layers))
    if percent_text(min(shares)) == percent_text(max(shares)):
        return f"Each of the {len(shares)} pruned layers has {overall} of its weights at zero."
    return (
        f"{overall} of the weights in {len(shares)} pruned layers are zero, between"
        f" {percent_text(min(shares))} and {percent_text(max(shares))} in a single layer."
    )
