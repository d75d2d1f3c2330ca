"""The table of perplexities for a terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from .wording import change_text, comparison_rows, finite, judged_part, perplexity_text


def perplexity_table(perplexity: dict[str, Any], title: str) -> Table:
    """Dense first, then the metrics from best to worst, the evolved one in bold.

    A part that was not measured has no column, and without Wanda nothing is compared with it.
    """
    parts = [part for part in ("validation", "test") if perplexity.get(part)]
    judged = perplexity.get(judged_part(perplexity)) or {}
    with_wanda = finite(judged.get("wanda")) is not None

    # Text, not str: a formula such as [W] is no markup.
    table = Table(title=Text(title), title_justify="left", caption="perplexity, lower is better")
    table.add_column("metric", overflow="fold")
    for part in parts:
        table.add_column(part, justify="right")
    if with_wanda:
        table.add_column("vs Wanda", justify="right")

    for row in comparison_rows(perplexity):
        values = {"validation": row.validation, "test": row.test}
        cells = [Text(row.name), *(Text(perplexity_text(values[part])) for part in parts)]
        if with_wanda:
            cells.append(Text("" if row.name == "dense" else change_text(row.versus_wanda)))
        table.add_row(*cells, style="bold" if row.name == "evolved" else None)
    return table
