"""The report of a run: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import run_charts
from .ancestry import Ancestor, ancestry, uses
from .charts import HEAT, PALETTE
from .rendering import render, write_page
from .run_words import answer, aside, baseline_words, holds_for, in_full, measure_of
from .tree_drawing import draw_tree
from .wording import (
    MISSING,
    change_text,
    finite,
    judged_in_race,
    known_beside,
    mean_ratios,
    percent_text,
    perplexity_text,
    ratio_of,
    ratio_text,
    share_unread,
    spoken_name,
)


def write_run_report(
    path: Path,
    found: dict[str, Any],
    history: list[dict[str, Any]],
    names: dict[str, set[str]],
    known_sizes: dict[str, int],
    baseline: list[dict[str, Any]] | None = None,
    compared: dict[str, Any] | None = None,
) -> None:
    """Write the page to ``path``, whole or not at all.

    Args:
        path: of the file.
        found: ``best.json`` of the run.
        history: ``history.json`` of the run.
        names: the operators and terminals of each expression in the history.
        known_sizes: nodes of each known metric.
        baseline: the history of a random search, to compare with.
        compared: what ``comparison`` tells of the metrics side by side.
    """
    history, baseline = _named(history), baseline and _named(baseline)
    measure = measure_of(found)
    known = {n: v for n, v in (found.get("known") or {}).items() if finite(v) is not None}
    family = ancestry(history, found["metric"])
    figures = {
        "course": run_charts.course_chart(history, known, baseline, measure),
        "size": run_charts.size_chart(
            history,
            _named(found.get("pareto")),
            {n: (known_sizes[n], v) for n, v in known.items() if n in known_sizes},
            measure,
        ),
        "use": run_charts.use_chart(uses(history, names)),
        "fate": run_charts.fate_chart(_fates(found, history)),
    }
    if len(family) > 1:
        figures["ancestry"] = run_charts.ancestry_chart(family, measure)
    if compared:
        figures |= compared["figures"]
    metric = str(found["metric"])
    page = render(
        "run.html.j2",
        {
            "measured": measure.text,
            "perplexity": perplexity_text,
            "ratio": ratio_text,
            "ratio_of": ratio_of,
            "change": change_text,
            "spoken": spoken_name,
        },
        answer=answer(found, history, known),
        aside=aside(found, known, history),
        warnings=found.get("warnings") or [],
        key_figures=_key_figures(found, history),
        measure=measure.name,
        origin=found.get("origin", "evolved"),
        cases=found.get("cases") or [],
        means=found.get("ratio") or {},
        in_full=in_full(found),
        known_beside=known_beside(found),
        means_beside=mean_ratios(found.get("cases") or [], known_beside(found)),
        in_race=judged_in_race(found),
        name=found.get("name"),
        holds_for=holds_for(found),
        language="en",
        metric=metric,
        tree=draw_tree(found["tree"], f"Tree of {metric}"),
        with_baseline=bool(baseline),
        baseline=baseline_words(history, baseline, measure),
        with_known=bool(known),
        origins=_origins(family),
        main_line=[ancestor for ancestor in family if ancestor.in_main_line],
        family=len(family),
        front=_named(found.get("pareto")),
        fate=_fate_words(history),
        settings=_settings(found) + ([("machine", compared["machine"])] if compared else []),
        compared=compared,
        palette=PALETTE,
        heat=HEAT,
        baseline_colour=run_charts.BASELINE,
        known_colour=run_charts.KNOWN,
        figures={name: figure.to_json() for name, figure in figures.items()},
    )
    write_page(path, page)


def _named(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """What was measured of metrics, under the name "perplexity" where it is a ratio too."""
    return [{**e, "perplexity": e["ratio"]} if "ratio" in e else e for e in entries or []]


def _key_figures(
    found: dict[str, Any], history: list[dict[str, Any]]
) -> list[tuple[str, str, str]]:
    """(what, figure, remark) for the row of tiles."""
    settings = found.get("settings") or {}
    search = settings.get("search") or {}
    seconds = finite(found.get("seconds")) or 0.0
    pace = f"{len(history) / seconds:.1f} evaluations a second" if seconds else ""
    return [
        ("Evaluations", f"{len(history):,}", "metrics tried on the model"),
        ("Duplicates skipped", f"{found.get('duplicates_skipped', 0):,}", "by text or by ranking"),
        ("Text left unread", _unread(history), "by racing out what cannot win"),
        ("Time of the search", _duration(seconds), pace),
        *_refit(found),
        ("Strategy", str(search.get("strategy", MISSING)), f"{search.get('operators')} operators"),
        *_models(settings),
    ]


def _refit(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The tile that tells how masks were used, where masks are not all."""
    if not (refit := found.get("refit")):
        return []
    of_candidates = found.get("refit_of_candidates")
    same = "of the result and of candidates"
    remark = same if of_candidates == refit else f"of the result; of candidates {of_candidates}"
    return [("Refit", str(refit), remark)]


def _models(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The tiles that tell the model and its text; of several models, the models alone."""
    if several := settings.get("models"):
        names = ", ".join(Path(str(one.get("model"))).name for one in several)
        return [("Models", str(len(several)), names)]
    windows = settings.get("windows") or {}
    return [
        ("Model", Path(str(settings.get("model", MISSING))).name, str(settings.get("dtype", ""))),
        (
            "Text",
            _text_name(settings),
            ", ".join(f"{count} {part}" for part, count in windows.items() if ": " not in part)
            + f" windows of {settings.get('max_seq_length', MISSING)} tokens",
        ),
    ]


def _text_name(settings: dict[str, Any]) -> str:
    if dataset := settings.get("dataset"):
        return ", ".join(dataset) if isinstance(dataset, list | tuple) else str(dataset)
    texts = settings.get("texts") or {}
    several = [name for place, name in texts.items() if place.startswith("validation: ")]
    names = several or [texts.get("validation", MISSING)]
    return ", ".join(Path(str(name)).name for name in names)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _unread(history: list[dict[str, Any]]) -> str:
    unread = share_unread(history)
    return MISSING if unread is None else percent_text(round(unread, 2))


def _fates(found: dict[str, Any], history: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """(what became of it, how many, colour) of every proposal."""
    duplicates = found.get("duplicates_skipped") or 0
    fates = [("duplicate, skipped", duplicates, HEAT[1])]
    failed = sum(e["state"] == "failed" for e in history)
    if failed:
        fates.append(("could not be scored", failed, "#c23b6a"))
    raced = [e["chunks_read"] for e in history if e["state"] == "raced_out"]
    for chunks in sorted(set(raced)):
        name = f"raced out at {chunks} chunk{'s' * (chunks != 1)}"
        fates.append((name, raced.count(chunks), HEAT[2]))
    finished = sum(e["state"] == "complete" for e in history)
    return [*fates, ("read to the end", finished, PALETTE["evolved"])]


def _fate_words(history: list[dict[str, Any]]) -> str:
    chunks = max((e.get("chunks") or 0 for e in history), default=0)
    unread = _unread(history)
    return f"A race is {chunks} chunks of validation text; racing left {unread} of it unread."


def _origins(family: list[Ancestor]) -> list[tuple[str, str]]:
    there = {ancestor.origin for ancestor in family}
    return [(name, colour) for name, colour in run_charts.ORIGINS.items() if name in there]


def _settings(found: dict[str, Any]) -> list[tuple[str, str]]:
    settings = found.get("settings") or {}
    told = {k: found.get(k) for k in ("sparsity", "group", "seed", "evaluations")}
    several = settings.get("models")
    for number, one in enumerate(several or [settings], start=1):
        of = f"model {number}: " if several else ""
        told |= {f"{of}{k}": one.get(k) for k in ("model", "device", "dtype", "max_seq_length")}
        told |= {f"{of}{part} text": name for part, name in (one.get("texts") or {}).items()}
        told |= {f"{of}{part} windows": n for part, n in (one.get("windows") or {}).items()}
    told |= {k: settings[k] for k in ("update", "refine") if k in settings}
    told |= {k: v for k, v in (settings.get("search") or {}).items() if k not in told}
    told |= settings.get("versions") or {}
    return [(name.replace("_", " "), _plain(value)) for name, value in told.items()]


def _plain(value: object) -> str:
    if value is None:
        return MISSING
    return f"{value:,.10g}" if isinstance(value, float) else str(value)
