"""The report of a run: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import run_charts
from .ancestry import Ancestor, ancestry, uses
from .charts import HEAT, PALETTE, improvements
from .rendering import render, write_page
from .tree_drawing import draw_tree
from .wording import (
    MISSING,
    PERPLEXITY,
    RATIO,
    Measure,
    change_text,
    finite,
    in_a_sentence,
    percent_text,
    perplexity_text,
    places_of,
    ratio_text,
    share_unread,
    sparsity_text,
    spoken_name,
    what_others_give,
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
    measure = _measure(found)
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
            "change": change_text,
            "spoken": spoken_name,
        },
        answer=_answer(found, history, known),
        aside=_aside(found, known, history),
        warnings=found.get("warnings") or [],
        key_figures=_key_figures(found, history),
        measure=measure.name,
        origin=found.get("origin", "evolved"),
        cases=found.get("cases") or [],
        means=found.get("ratio") or {},
        holds_for=_holds_for(found),
        language="en",
        metric=metric,
        tree=draw_tree(found["tree"], f"Tree of {metric}"),
        with_baseline=bool(baseline),
        baseline=_baseline_words(history, baseline, measure),
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


def _measure(found: dict[str, Any]) -> Measure:
    """What its metrics were measured by: of several cases, by how much worse than dense."""
    return RATIO if found.get("cases") else PERPLEXITY


def _named(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """What was measured of metrics, under the name "perplexity" where it is a ratio too."""
    return [{**e, "perplexity": e["ratio"]} if "ratio" in e else e for e in entries or []]


def _holds_for(found: dict[str, Any]) -> str | None:
    """What an evolved metric is good for; None where the result was known before."""
    if found.get("origin", "evolved") != "evolved":
        return None
    cases = found.get("cases") or []
    models = len({case["model"] for case in cases})
    if models < 2:
        return (
            "A metric that was fitted to one model is good for that model alone: on another one, "
            "compare it with the known metrics before it is used."
        )
    return (
        f"It was fitted to these {models} models: on another one, compare it with the known "
        "metrics before it is used."
    )


def _best(history: list[dict[str, Any]]) -> float | None:
    """The lowest perplexity of those that finished the race."""
    best = improvements(history)
    return finite(best[-1][1]["perplexity"]) if best else None


def _answer(found: dict[str, Any], history: list[dict[str, Any]], known: dict[str, float]) -> str:
    """The result in one sentence, and no better than it is."""
    beginning = f"{_where(found)}, {len(history):,} evaluations"
    if found.get("origin") == "known":
        return _known_answer(found, beginning)
    whole, on_whole = _on_validation(found, "evolved"), found.get("known_on_validation")
    best = _best(history)
    if whole is not None and on_whole:  # what the result was chosen by
        best, known = whole, on_whole
    if best is None:
        return f"{beginning} found no metric."
    sentence = f"{beginning} found a metric of {_told(found, best)}"
    rivals = sorted(known.items(), key=lambda item: item[1])
    if not rivals:
        return f"{sentence}."
    text = _measure(found).text
    chosen = dict([rivals[0], *((n, v) for n, v in rivals if n == "wanda")])
    if best >= rivals[0][1]:
        sentence = f"{beginning} found no better metric: {text(best)}"
    return f"{sentence}, where {what_others_give(chosen, text)}."


def _where(found: dict[str, Any]) -> str:
    """``"At 50 % sparsity"``; of several cases ``"On 2 models, at 50 % and 2:4 sparsity"``."""
    sparsities = str(found.get("sparsity")).split(", ")
    at = f"t {' and '.join(map(sparsity_text, sparsities))} sparsity"
    models = len({case["model"] for case in found.get("cases") or []})
    return f"On {models} models, a{at}" if models > 1 else f"A{at}"


def _told(found: dict[str, Any], value: float) -> str:
    """``"perplexity 46.10"``, or what that is of several cases."""
    if cases := found.get("cases"):
        mean = f"the geometric mean of {len(cases)} cases"
        return f"{ratio_text(value)} times the dense perplexity in {mean}"
    return f"perplexity {perplexity_text(value)}"


def _on_validation(found: dict[str, Any], origin: str) -> float | None:
    """What the result was measured at on the whole validation text."""
    if found.get("cases"):
        return finite((found.get("ratio") or {}).get("validation"))
    return finite(((found.get("perplexity") or {}).get("validation") or {}).get(origin))


def _known_answer(found: dict[str, Any], beginning: str) -> str:
    """That no evolved metric is the result, and which one is."""
    name = str(found.get("name"))
    sentence = f"{beginning} found no metric better than {in_a_sentence(name)}, the best known one"
    whole = _on_validation(found, "known")
    whole = whole or finite((found.get("known_on_validation") or {}).get(name))
    if whole is None:
        return f"{sentence}."
    return f"{sentence}: {_told(found, whole)} on the whole {_validation(found)}."


def _aside(found: dict[str, Any], known: dict[str, float], history: list[dict[str, Any]]) -> str:
    """By how much; and what was measured on text that the search never read."""
    words = []
    best = _best(history)
    origin = str(found.get("origin", "evolved"))
    if best is not None and known and origin == "evolved":
        name = min(known, key=lambda n: known[n])
        words.append(
            f"{change_text(best / known[name])} against {in_a_sentence(name)},"
            f" the best metric known before, on the {_validation(found)} the search reads."
        )
    words += _on_other_text(found, origin)
    return " ".join([*words, "Lower is better."])


def _on_other_text(found: dict[str, Any], origin: str) -> list[str]:
    """A sentence on text that no search reads, else on the whole of what this one read."""
    if found.get("cases"):
        test = (found.get("ratio") or {}).get("test")
        told = f"On the test text, which no search reads: {ratio_text(test)} times dense."
        return [told] if test else []
    perplexity = found.get("perplexity") or {}
    for part in ("test", "validation"):
        places = places_of(perplexity, part)
        figures = [_pruned_and_dense(perplexity[place], origin) for place in places]
        if not any(figures):
            continue
        whole = "the test text, which no search reads" if part == "test" else "all of that text"
        if len(places) == 1:
            return [f"On {whole}: {figures[0]}."]
        whole = "the test texts, which no search reads" if part == "test" else "each of those texts"
        each = [
            f"{p.partition(': ')[2]} {f or MISSING}" for p, f in zip(places, figures, strict=True)
        ]
        return [f"On {whole}: {'; '.join(each)}."]
    return []


def _validation(found: dict[str, Any]) -> str:
    """What the search read: a text, or several mixed."""
    cases = found.get("cases") or []
    measured = [case["perplexity"] for case in cases] or [found.get("perplexity") or {}]
    is_one = all(places_of(one, "validation") in ([], ["validation"]) for one in measured)
    return "validation text" if is_one else "mixture of the validation texts"


def _pruned_and_dense(measured: dict[str, Any], origin: str) -> str | None:
    pruned, dense = finite(measured.get(origin)), finite(measured.get("dense"))
    if pruned is None or dense is None:
        return None
    return f"{perplexity_text(pruned)}, dense {perplexity_text(dense)}"


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
        ("Time", _duration(seconds), pace),
        ("Strategy", str(search.get("strategy", MISSING)), f"{search.get('operators')} operators"),
        *_models(settings),
    ]


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


def _baseline_words(
    history: list[dict[str, Any]], baseline: list[dict[str, Any]] | None, measure: Measure
) -> str | None:
    """Where the random search stands after as many evaluations."""
    if not baseline:
        return None
    equal = min(len(history), len(baseline))
    ours, others = _best(history[:equal]), _best(baseline[:equal])
    if ours is None or others is None:
        return None
    return (
        f"After {equal:,} evaluations each, random search is at {measure.text(others)},"
        f" this search at {measure.text(ours)}."
    )


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
    told |= {k: v for k, v in (settings.get("search") or {}).items() if k not in told}
    told |= settings.get("versions") or {}
    return [(name.replace("_", " "), _plain(value)) for name, value in told.items()]


def _plain(value: object) -> str:
    if value is None:
        return MISSING
    return f"{value:,.10g}" if isinstance(value, float) else str(value)
