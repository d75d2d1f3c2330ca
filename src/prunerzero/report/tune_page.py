"""The report of ``tune``: one HTML file that needs no network, from ``tune.json`` alone."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prunerzero.metrics import Expression, NotationError
from prunerzero.metrics.explain import in_words

from . import charts, layer_charts, tune_charts, tune_words
from .phrases import Language, Say, strings_of
from .rendering import render, write_page
from .tree_drawing import draw_tree
from .wording import (
    MISSING,
    bytes_text,
    change_text,
    nats_text,
    percent_text,
    perplexity_text,
    sparsity_text,
    speed_text,
    spread_text,
)

_MOST = 5
"""So many of the most sensitive layers or blocks are listed."""


def write_tune_report(result: Mapping[str, Any], path: Path, language: Language = "en") -> None:
    """Write the page to ``path``, whole or not at all.

    Args:
        result: what ``tune.json`` holds.
        path: of the HTML file.
        language: English or Japanese; figures, formulas and commands are the same in both.
    """
    write_page(path, _render(dict(result), language))


def _render(result: dict[str, Any], language: Language) -> str:
    strings = strings_of(language)
    say = partial(_say, strings)
    named = partial(tune_charts.metric_name, strings=strings)
    metric = result["metric"]
    layers = result["layers"]
    axis = strings["axis_block"]
    figures = {
        "curve": tune_charts.quality_chart(result, strings),
        "rise": tune_charts.rise_chart(result, strings),
        "sparsity": layer_charts.sparsity_chart(layers, axis),
        "sensitivity": layer_charts.sensitivity_chart(_measured(result, axis), axis),
    }
    return render(
        "tune.html.j2",
        {
            "perplexity": perplexity_text,
            "percent": percent_text,
            "rise": lambda share: MISSING if share is None else change_text(1 + share),
            "nats": nats_text,
            "spoken": named,
            "sparsity": sparsity_text,
            "score": _score,
        },
        result=result,
        language=language,
        say=say,
        headline=_headline(result, say),
        answer=_unbroken(tune_words.answer(result, language)),
        warnings=result.get("warnings") or [],
        words=_words(metric, language),
        split=tune_words.split(result["split"], language),
        tiles=_tiles(result, named(metric["name"]), say),
        columns=[name for name, _ in tune_words.columns(result, say)],
        part_rows=_part_rows(result, say),
        texts=tune_words.texts_of(result["parts"]["validation"]),
        chosen_rise=tune_charts.worst(result["parts"]["validation"])["rise"],
        decision=_decision(result, say),
        rise_words=_rise_words(result, say),
        limit=_limit(result, say),
        tree=draw_tree(metric["tree"], say("metric_tree", formula=metric["formula"])),
        has_score=any(point["score"] is not None for point in result["curve"]),
        most_sensitive=sorted(_measured(result, axis), key=_sensitivity)[-1 : -_MOST - 1 : -1],
        packed=result.get("packing") and tune_words.packed(result["packing"], language),
        packing_rows=_packing_rows(result.get("packing"), say),
        samples=[_sample(sample) for sample in result["samples"]],
        settings=_settings(result),
        palette=charts.PALETTE,
        heat=charts.HEAT,
        limit_colour=tune_charts.LIMIT_COLOUR,
        # plotly writes "<" inside JSON as \u003c, so that no name can end the script.
        figures={name: figure.to_json() for name, figure in figures.items()},
    )


def _words(metric: dict[str, Any], language: Language) -> str:
    """What the metric means; as ``tune`` wrote it where an operator is not known here."""
    try:
        return in_words(Expression.from_json(metric["tree"]), language)
    except NotationError:
        return str(metric["words"])


def _say(strings: dict[str, str], key: str, **values: object) -> str:
    return _unbroken(strings[key].format(**values))


def _unbroken(text: str) -> str:
    """A figure stays on the line of its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _limit(result: dict[str, Any], say: Say) -> str:
    limit = result["limit"]
    values = {
        "degradation": percent_text(limit["value"]),
        "perplexity": perplexity_text(limit["value"]),
        "task": f"{limit['value']:g}",
    }
    return say(
        f"limit_{limit['kind']}",
        value=values[limit["kind"]],
        task=limit["task"],
        task_metric=limit["task_metric"],
    )


def _headline(result: dict[str, Any], say: Say) -> str:
    """The answer in two sentences, and no better than it is."""
    key = tune_words.asked_about(result) + ("reached" if result["reached"] else "not_reached")
    sparsity = sparsity_text(result["pattern"])
    limit = _limit(result, say)
    answer = say(key, sparsity=sparsity, pattern=result["pattern"], limit=limit)
    if task := result["task"]:
        scores = {"dense": _score(task["dense"]), "pruned": _score(task["pruned"])}
        cost = say("cost_task", task=task["task"], task_metric=task["metric"], **scores)
    else:
        test = result["parts"]["test"]
        cost = say(
            "cost",
            dense=perplexity_text(test["dense"]),
            pruned=perplexity_text(test["pruned"]),
            rise=change_text(1 + test["rise"]),
        )
        if texts := tune_words.texts_of(test):
            cost = say("cost_texts", each=tune_words.changes(texts, say))
    return say("gap").join([answer, cost])


def _tiles(result: dict[str, Any], name: str, say: Say) -> list[tuple[str, str, str]]:
    """(what, figure, remark) for the row of tiles."""
    within = "pattern" if ":" in result["pattern"] else result["group"]
    tiles = [
        (say("tile_sparsity"), sparsity_text(result["pattern"]), say(f"tile_{within}_note")),
    ]
    name_of_part = say("part_test")
    whole = test = result["parts"]["test"]
    texts = tune_words.texts_of(whole)
    if texts:  # that of the highest rise
        name_of_text, test = max(texts.items(), key=lambda text: text[1]["rise"])
        name_of_part = say("part_text", part=name_of_part, name=name_of_text)
    key = "_texts" if texts else ""
    sure = say("no_interval")
    if test["rise_interval"] is not None:
        low, high = (change_text(1 + bound) for bound in test["rise_interval"])
        sure = say("tile_rise_note", low=low, high=high)
    dense = perplexity_text(test["dense"])
    note = say("tile_perplexity_note", part=name_of_part, dense=dense)
    rise = change_text(1 + test["rise"])
    tiles += [
        (say("tile_perplexity"), perplexity_text(test["pruned"]), note),
        (say(f"tile_rise{key}"), rise, sure),
    ]
    if whole["confidence"] is not None:
        share = percent_text(whole["confidence"])
        tiles.append((say("tile_confidence"), share, say(f"tile_confidence_note{key}")))
    divergence, agreement = nats_text(test["divergence"]), _agreement(test["agreement"])
    spent = say("seconds", value=f"{result['seconds']:,.0f}")
    tried = say("tile_time_note", evaluations=result["evaluations"])
    return [
        *tiles,
        (say("tile_divergence"), divergence, say("tile_divergence_note")),
        (say("tile_agreement"), agreement, say("tile_agreement_note")),
        (say("tile_model"), result["model"], say("tile_metric_note", metric=name)),
        (say("tile_time"), spent, tried),
    ]


def _part_rows(result: dict[str, Any], say: Say) -> list[tuple[str, list[str]]]:
    """A figure a row, a text a column; a row that says nothing anywhere is left out."""

    def within(figures: dict[str, Any]) -> str:
        kept = figures["within"]
        return MISSING if kept is None else say("yes" if kept else "no")

    def ranged(figures: dict[str, Any], name: str, text: Callable[[float], str]) -> str:
        if figures[f"{name}_interval"] is None:
            return text(figures[name])
        low, high = (text(bound) for bound in figures[f"{name}_interval"])
        return f"{text(figures[name])} ({say('range', low=low, high=high)})"

    cells: dict[str, Callable[[dict[str, Any]], str]] = {
        "text": lambda f: str(f["text"]),
        "windows": lambda f: f"{f['windows']} × {f['window_length']}",
        "dense": lambda f: ranged(f, "dense", perplexity_text),
        "pruned": lambda f: ranged(f, "pruned", perplexity_text),
        "rise": lambda f: ranged(f, "rise", lambda share: change_text(1 + share)),
        "allowed": lambda f: perplexity_text(f["allowed"]),
        "within": within,
        "confidence": lambda f: percent_text(f["confidence"]),
        "divergence": lambda f: nats_text(f["divergence"]),
        "agreement": lambda f: _agreement(f["agreement"]),
        "compared": lambda f: f"{f['compared_tokens']:,}",
    }
    columns = [figures for _, figures in tune_words.columns(result, say)]
    rows = [
        (say(f"row_{name}"), [cell(found) for found in columns]) for name, cell in cells.items()
    ]
    return [(name, line) for name, line in rows if set(line) != {MISSING}]


def _agreement(share: float) -> str:
    return percent_text(round(share, 3))


def _score(score: float, error: float | None = None) -> str:
    return f"{score:.4f}" if error is None else f"{score:.4f} ± {error:.4f}"


def _decision(result: dict[str, Any], say: Say) -> str:
    decision = result["decision"]
    if decision is None:
        return ""
    on_texts = decision.get("tried_texts") or []
    if decision["held"]:
        return say("decision_held_texts" if on_texts else "decision_held")
    shown = [tune_words.perplexities(of_each, say) for of_each in on_texts]
    shown = shown or [perplexity_text(value) for _, value in decision["tried"]]
    tried = say("separator").join(
        say("tried_one", sparsity=percent_text(at), perplexity=value)
        for (at, _), value in zip(decision["tried"], shown, strict=True)
    )
    if on_texts:
        key = "decision_back_texts" if decision["stepped_back"] else "decision_missed_texts"
    else:
        key = "decision_back" if decision["stepped_back"] else "decision_missed"
    return say(key, tried=tried)


def _rise_words(result: dict[str, Any], say: Say) -> str:
    """The chart of the rise for those who hear the page."""
    parts = []
    for name, figures in tune_words.columns(result, say):
        rise = change_text(1 + figures["rise"])
        if figures["rise_interval"] is None:
            parts.append(f"{name} {rise} ({say('no_interval')})")
            continue
        low, high = (change_text(1 + bound) for bound in figures["rise_interval"])
        parts.append(say("chart_rise_part", part=name, rise=rise, low=low, high=high))
    return say("chart_rise", parts=say("separator").join(parts))


def _measured(result: dict[str, Any], block: str) -> list[dict[str, Any]]:
    """What was pruned alone for its sensitivity: the layers, or the blocks as ``3.block``."""
    if result["sensitivity_of"] == "layer":
        return list(result["layers"])
    one_each = {layer["block"]: layer["sensitivity"] for layer in result["layers"]}
    return [
        {"name": f"{number}.{block}", "title": f"{block} {number}", "sensitivity": value}
        for number, value in one_each.items()
    ]


def _packing_rows(facts: dict[str, Any] | None, say: Say) -> list[tuple[str, list[str]]]:
    """(what, [dense, packed]) for the table of what packing saves; empty where none is."""
    if facts is None or facts["folder"] is None:
        return []
    sizes = [bytes_text(facts["dense_bytes"]), bytes_text(facts["packed_bytes"])]
    rows = [(say("row_file"), sizes)]
    costs = [facts["dense"], facts["packed"]]
    if all(costs):
        speeds = []
        for cost in costs:
            spread = f" ({spread_text(cost['quartiles'])})" if cost["quartiles"] else ""
            speeds.append(speed_text(cost["tokens_per_second"]) + spread)
        rows.append((say("row_memory"), [bytes_text(cost["memory_bytes"]) for cost in costs]))
        rows.append((say("row_speed"), speeds))
    return rows


def _sensitivity(measured: dict[str, Any]) -> float:
    return float(measured["sensitivity"])


def _sample(sample: dict[str, str]) -> dict[str, str]:
    """The continuations, and from where on the pruned model's is another."""
    dense, pruned = sample["dense"], sample["pruned"]
    same = next(
        (place for place, (a, b) in enumerate(zip(dense, pruned, strict=False)) if a != b),
        min(len(dense), len(pruned)),
    )
    return {**sample, "same": pruned[:same], "other": pruned[same:]}


def _settings(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Every setting under the name it has in files and, with dashes, on the command line."""
    return list(_flat(result["settings"]))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{prefix}{name}", MISSING if listed in (None, "") else str(listed)
