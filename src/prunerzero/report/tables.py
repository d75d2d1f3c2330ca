"""Tables for a terminal: perplexities, cases, texts, and models side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from .bench_words import Column, cells, columns_of, in_graphs, speeds_of, without_graphs
from .wording import (
    change_text,
    comparison_rows,
    finite,
    judged_in_race,
    judged_part,
    known_beside,
    mean_ratios,
    perplexity_text,
    places_of,
    ratio_of,
    ratio_text,
)


def perplexity_table(
    perplexity: dict[str, Any],
    title: str,
    divergence: dict[str, Any] | None = None,
    refitted: dict[str, float] | None = None,
    in_race: dict[str, float] | None = None,
) -> Table:
    """Dense first, then the metrics from best to worst, the evolved one in bold.

    A part that was not measured has no column, and one with several texts has one for each, behind
    that of their mixture if there is one. Without Wanda, and another metric beside it,
    nothing is compared with it.
    ``divergence`` from dense is shown on the part that metrics are compared on; ``refitted`` is by
    name the perplexity there of models whose weights that stay were refitted. ``in_race`` is by
    name what an interrupted search had read of metrics.
    """
    if in_race:
        order = sorted(in_race, key=in_race.__getitem__)
        of_validation = dict.fromkeys(order) | (perplexity.get("validation") or {})
        perplexity = {**perplexity, "validation": of_validation}
    parts = [p for part in ("validation", "test") for p in _columns(perplexity, part)]
    rows = comparison_rows(perplexity)
    others = {row.name for row in rows} - {"dense", "wanda"}
    with_wanda = others and any(row.name == "wanda" and row.judged is not None for row in rows)

    # Text, not str: a formula such as [W] is no markup.
    table = Table(title=Text(title), title_justify="left", caption="perplexity, lower is better")
    table.add_column("metric", overflow="fold")
    for part in parts:
        is_mixture = perplexity.get(part) and places_of(perplexity, part) not in ([part], [])
        table.add_column(Text(f"{part}, mixed" if is_mixture else part), justify="right")
    if with_wanda:
        table.add_column("vs Wanda", justify="right")
    if in_race:
        table.add_column("validation, in the race", justify="right")
    if refitted:
        table.add_column(f"{judged_part(perplexity)}, weights refitted", justify="right")
    moved = (divergence or {}).get(judged_part(perplexity)) or {}
    if moved:
        table.add_column("KL to dense", justify="right")
        table.add_column("same top-1", justify="right")

    for row in rows:
        cells = [Text(row.name), *(Text(perplexity_text(row.places[part])) for part in parts)]
        if with_wanda:
            cells.append(Text("" if row.name == "dense" else change_text(row.versus_wanda)))
        if in_race:
            cells.append(Text(perplexity_text(in_race.get(row.name))))
        if refitted:
            cells.append(Text(perplexity_text(refitted.get(row.name))))
        if moved:
            cells += map(Text, _divergence_cells(moved.get(row.name)))
        table.add_row(*cells, style="bold" if row.name == "evolved" else None)
    return table


def cases_table(found: dict[str, Any], title: str) -> Table:
    """What a search on several cases found: a line for each, and the geometric mean of the ratios.

    Of the best known metric beside an evolved one there is the ratio alone, for want of room.

    Args:
        found: ``best.json`` of the run.
        title: above the table.
    """
    table = Table(title=Text(title), title_justify="left", caption="perplexity, lower is better")
    for column in ("model", "sparsity", "text"):
        table.add_column(column, overflow="fold")
    metric = found["name"] if found["origin"] == "known" else found["origin"]
    known = known_beside(found)
    for column in ("dense", metric, "ratio", *([f"ratio of {known}"] if known else [])):
        table.add_column(Text(column), justify="right")
    for case in found["cases"]:
        for place, figures in case["perplexity"].items():
            cells = [case["model"], case["sparsity"], place]
            cells += [perplexity_text(figures.get(n)) for n in ("dense", found["origin"])]
            cells.append(ratio_text(case["ratio"].get(place)))
            if known:
                cells.append(ratio_text(ratio_of(figures, known)))
            table.add_row(*map(Text, cells))
    of_known = mean_ratios(found["cases"], known) if known else {}
    means = [(place, ratio, of_known.get(place)) for place, ratio in found["ratio"].items()]
    if judged := judged_in_race(found):
        means.append(("validation, in the race", judged[found["name"]], judged.get(known)))
    for place, ratio, beside in means:
        cells = ["geometric mean", "", place, "", "", ratio_text(ratio)]
        if known:
            cells.append(ratio_text(beside))
        table.add_row(*map(Text, cells), style="bold")
    return table


def _columns(perplexity: dict[str, Any], part: str) -> list[str]:
    """A part's mixture, where it was measured, and its texts."""
    return list(dict.fromkeys([part] * bool(perplexity.get(part)) + places_of(perplexity, part)))


def texts_table(perplexity: dict[str, Any], divergence: dict[str, Any], title: str) -> Table:
    """Several texts: a line for each text and metric, the metrics of a text from best to worst.

    Args:
        perplexity: text → metric → perplexity; a metric called ``dense`` comes first.
        divergence: text → metric → its ``kl`` and ``agreement``.
        title: above the table.
    """
    table = Table(title=Text(title), title_justify="left", caption="perplexity, lower is better")
    for column in ("text", "metric"):
        table.add_column(column, overflow="fold")
    for column in ("perplexity", "vs dense", "KL to dense", "same top-1"):
        table.add_column(column, justify="right")
    for text, figures in perplexity.items():
        values = {name: finite(value) for name, value in figures.items()}
        dense = values.get("dense")
        order = sorted(values.items(), key=lambda v: (v[0] != "dense", v[1] is None, v[1] or 0.0))
        for index, (name, value) in enumerate(order):
            change = change_text(value / dense) if dense and value and name != "dense" else ""
            cells = [
                text if index == 0 else "",
                name,
                perplexity_text(value),
                change,
                *_divergence_cells((divergence.get(text) or {}).get(name)),
            ]
            table.add_row(*map(Text, cells), end_section=index == len(order) - 1)
    return table


def bench_tables(result: dict[str, Any]) -> list[Table]:
    """What ``bench`` measured, in a table of bytes and one of speeds: a line for each model.

    Where speeds were measured in CUDA graphs, another table has those without.
    """
    models, speeds = result["models"], speeds_of(result)
    others = [column for column in columns_of(result) if column not in speeds]
    where = ", in CUDA graphs" if in_graphs(result) else ""
    tables = [
        _bench_table(f"On {result['text']}", others, models),
        _bench_table(
            f"Tokens a second{where}: medians, with their quartiles below", speeds, models
        ),
    ]
    if in_graphs(result):
        title = "Tokens a second without CUDA graphs, as generate() runs a model by itself"
        tables.append(_bench_table(title, speeds, map(without_graphs, models)))
    return tables


_HEADS = {"file": "files", "prefill": "prompt {}", "decode": "decode ×{}"}


def _bench_table(
    title: str, columns: Sequence[Column], models: Iterable[Mapping[str, Any]]
) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("model", overflow="fold")
    for name, key in columns:
        table.add_column(_HEADS.get(name, name).format(key), justify="right")
    for figures in models:
        shown = ("\n".join(filter(None, cell)) for cell in cells(figures, columns))
        table.add_row(Text(figures["model"]), *map(Text, shown))
    return table


def _divergence_cells(moved: dict[str, Any] | None) -> tuple[str, str]:
    if moved is None:
        return "", ""
    return f"{moved['kl']:.3g}", f"{moved['agreement']:.1%}"
