"""The report of a run in words: what it found, by how much, and what that is good for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .charts import improvements
from .wording import (
    MISSING,
    PERPLEXITY,
    RATIO,
    Measure,
    change_text,
    finite,
    in_a_sentence,
    judged_in_race,
    known_beside,
    mean_ratios,
    perplexity_text,
    places_of,
    ratio_text,
    sparsity_text,
    what_others_give,
)


def measure_of(found: dict[str, Any]) -> Measure:
    """What its candidates were measured by: of several cases, by how much worse than dense.

    Where masks are not all, after which refit; that of the result may be another.
    """
    measure = RATIO if found.get("cases") else PERPLEXITY
    refit = found.get("refit_of_candidates")
    return replace(measure, name=f"{measure.name} after {refit}") if refit else measure


def holds_for(found: dict[str, Any]) -> str | None:
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


def _in_the_race(found: dict[str, Any], history: list[dict[str, Any]]) -> float | None:
    """The perplexity of the result on what a race reads, where another may have had a lower one."""
    own = [e for e in history if e["expression"] == found["metric"] and e["state"] == "complete"]
    return finite(own[0]["perplexity"]) if own else None


def answer(found: dict[str, Any], history: list[dict[str, Any]], known: dict[str, float]) -> str:
    """The result in one sentence, and no better than it is."""
    beginning = f"{_where(found)}, {len(history):,} evaluations"
    if found.get("origin") == "known":
        return _known_answer(found, history, beginning)
    basis = _basis(found, history, known)
    best = basis.own or _best(history)
    if best is None:
        return f"{beginning} found no metric."
    sentence = f"{beginning} found a metric of {_told(found, best)}{basis.after}"
    rivals = sorted(basis.known.items(), key=lambda item: item[1])
    if not rivals:
        return f"{sentence}."
    text = measure_of(found).text
    chosen = dict([rivals[0], *((n, v) for n, v in rivals if n == "wanda")])
    if best >= rivals[0][1]:
        sentence = f"{beginning} found no better metric: {text(best)}"
    return f"{sentence}, where {what_others_give(chosen, text)}."


@dataclass(frozen=True)
class _Basis:
    """What the headline compares: figures of one text, after one refit.

    Attributes:
        own: of the result; None where it is unknown.
        known: of the known metrics.
        text: which text that is.
        after: words on the refit behind them, where it is not that of the result.
    """

    own: float | None
    known: dict[str, float]
    text: str
    after: str


def _basis(found: dict[str, Any], history: list[dict[str, Any]], known: dict[str, float]) -> _Basis:
    """Of an evolved result what it was chosen by: the whole validation text, else the race's."""
    whole, on_whole = _on_validation(found, "evolved"), found.get("known_on_validation")
    if whole is not None and on_whole and not judged_in_race(found):
        return _Basis(whole, on_whole, f"the whole {_validation(found)}", "")
    text = f"the {_validation(found)} the search reads"
    return _Basis(_in_the_race(found, history), known, text, _of_candidates(found))


def _of_candidates(found: dict[str, Any]) -> str:
    """``" after least-squares in 8 steps"`` where the result is measured after something else."""
    refit = found.get("refit_of_candidates")
    return f" after {refit}" if refit and refit != found.get("refit") else ""


def in_full(found: dict[str, Any]) -> str:
    """``" (least-squares in full)"`` where candidates are judged after fewer steps."""
    return f" ({found['refit']} in full)" if _of_candidates(found) else ""


def _where(found: dict[str, Any]) -> str:
    """``"At 50 % sparsity"``; of several cases ``"On 2 models, at 50 % and 2:4 sparsity"``.

    With a refit ``"At 50 % sparsity (least-squares)"``.
    """
    sparsities = str(found.get("sparsity")).split(", ")
    at = f"t {' and '.join(map(sparsity_text, sparsities))} sparsity"
    if refit := found.get("refit"):
        at += f" ({refit})"
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


def _known_answer(found: dict[str, Any], history: list[dict[str, Any]], beginning: str) -> str:
    """That no evolved metric is the result, and which one is."""
    name = str(found.get("name"))
    if history and all(e.get("origin") in ("catalog", "given") for e in history):
        beginning += " went to known metrics: allow more to evolve one. This run"
    sentence = f"{beginning} found no metric better than {in_a_sentence(name)}, the best known one"
    whole = _on_validation(found, "known")
    whole = whole or finite((found.get("known_on_validation") or {}).get(name))
    if (in_race := finite(judged_in_race(found).get(name))) is not None:
        return f"{sentence}: {_told(found, in_race)} on the {_validation(found)} the search reads."
    if whole is None:
        return f"{sentence}."
    return f"{sentence}: {_told(found, whole)} on the whole {_validation(found)}."


def aside(found: dict[str, Any], known: dict[str, float], history: list[dict[str, Any]]) -> str:
    """By how much; and what was measured on text that the search never read."""
    words = []
    basis = _basis(found, history, known)
    origin = str(found.get("origin", "evolved"))
    if basis.own is not None and basis.known and origin == "evolved":
        name = min(basis.known, key=lambda n: basis.known[n])
        words.append(
            f"{change_text(basis.own / basis.known[name])} against {in_a_sentence(name)},"
            f" the best metric known before, on {basis.text}{basis.after}."
        )
    words += _on_other_text(found, origin)
    if judged_in_race(found):
        words.append(
            f"Interrupted before the result was measured on the whole text{_missing_refit(found)}."
        )
    return " ".join([*words, "Lower is better."] if words else [])


def _missing_refit(found: dict[str, Any]) -> str:
    """``" after least-squares in full"`` where only candidates were refitted, in fewer steps."""
    settings = found.get("settings") or {}
    asked = [settings.get(name) for name in ("refine", "update")]
    refit = ", ".join(str(word) for word in asked if word not in (None, "none"))
    return f" after {refit} in full" if refit != (found.get("refit") or "") else ""


def _on_other_text(found: dict[str, Any], origin: str) -> list[str]:
    """A sentence on text that no search reads, else on the whole of what this one read.

    With the best known metric beside an evolved one, unless the headline has its figure.
    """
    if found.get("cases"):
        ratios = found.get("ratio") or {}
        tests = places_of(ratios, "test")
        name = known_beside(found)
        beside = mean_ratios(found["cases"], name) if name else {}
        figures = [
            f"{ratio_text(ratios[place])} times dense"
            + (f", {in_a_sentence(name)} {ratio_text(beside[place])}" if place in beside else "")
            for place in tests
        ]
        return [_on_each("test", tests, figures, in_full(found))] if tests else []
    perplexity = found.get("perplexity") or {}
    for part in ("test", "validation"):
        places = places_of(perplexity, part)
        in_headline = part == "validation" and len(places) == 1
        known = "" if in_headline else known_beside(found)
        found_there = [_pruned_and_dense(perplexity[p], origin, known) for p in places]
        if any(found_there):
            told = [figure or MISSING for figure in found_there]
            return [_on_each(part, places, told, in_full(found))]
    return []


def _on_each(part: str, places: list[str], figures: list[str], in_full: str) -> str:
    """What was measured on a part, or on each of its texts."""
    if len(places) == 1:
        whole = "the test text, which no search reads" if part == "test" else "all of that text"
        return f"On {whole}{in_full}: {figures[0]}."
    whole = "the test texts, which no search reads" if part == "test" else "each of those texts"
    each = [f"{p.partition(': ')[2]} {f}" for p, f in zip(places, figures, strict=True)]
    return f"On {whole}{in_full}: {'; '.join(each)}."


def _validation(found: dict[str, Any]) -> str:
    """What the search read: a text, or several mixed."""
    cases = found.get("cases") or []
    measured = [case["perplexity"] for case in cases] or [found.get("perplexity") or {}]
    is_one = all(places_of(one, "validation") in ([], ["validation"]) for one in measured)
    return "validation text" if is_one else "mixture of the validation texts"


def _pruned_and_dense(measured: dict[str, Any], origin: str, known: str) -> str | None:
    """``"40.00, Wanda 41.20, dense 20.00"``, without the known metric where it was not measured."""
    pruned, dense = finite(measured.get(origin)), finite(measured.get("dense"))
    if pruned is None or dense is None:
        return None
    beside = finite(measured.get(known)) if known else None
    told = "" if beside is None else f", {in_a_sentence(known)} {perplexity_text(beside)}"
    return f"{perplexity_text(pruned)}{told}, dense {perplexity_text(dense)}"


def baseline_words(
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
