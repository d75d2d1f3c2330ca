"""How numbers and names read, the same in the page, the terminal and the model card."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "—"

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SPOKEN_NAMES = {
    "wanda": "Wanda",
    "ria": "RIA",
    "gblm": "GBLM",
    "fisher": "Fisher",
    "obs": "OBS",
    "pruner-zero": "Pruner-Zero",
    "power-law": "power law",
}


def finite(value: object) -> float | None:
    """The number, or None for whatever JSON has in its place: null, NaN, an infinity, nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def perplexity_text(value: object) -> str:
    """About four figures: ``31.24``, ``480.9``, ``2,529``, ``3.1e+09``."""
    number = finite(value)
    if number is None:
        return MISSING
    if number >= 1e5:
        return f"{number:.1e}"
    return f"{number:,.{2 if number < 100 else 1 if number < 1000 else 0}f}"


def ratio_text(value: object) -> str:
    """Of a perplexity to the dense one: ``1.838``."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.{3 if number < 100 else 0}f}"


@dataclass(frozen=True)
class Measure:
    """What the metrics of a run were measured by.

    Attributes:
        name: on axes and in tables.
        text: how a value reads.
    """

    name: str
    text: Callable[[object], str]


PERPLEXITY = Measure("perplexity", perplexity_text)
RATIO = Measure("perplexity / dense perplexity", ratio_text)
"""Of several cases: the geometric mean."""


def percent_text(share: object) -> str:
    """A share of one as ``50 %`` or ``43.5 %``."""
    number = finite(share)
    return MISSING if number is None else f"{round(100 * number, 2):g} %"


def change_text(ratio: float | None) -> str:
    """A ratio as a signed change: 0.95 reads ``−5.00 %``."""
    if ratio is None:
        return MISSING
    change = 100 * (ratio - 1)
    if change >= 1e5:
        return f"{change:+.1e} %"
    text = f"{change:+,.{2 if abs(change) < 100 else 0}f} %"
    return "0.00 %" if text in ("+0.00 %", "-0.00 %") else text.replace("-", "−")


def nats_text(loss: object) -> str:
    """Three figures of a small difference of losses: ``0.00412``, ``−0.0011``."""
    number = finite(loss)
    return MISSING if number is None else f"{number:.3g}".replace("-", "−")


def sparsity_text(sparsity: object) -> str:
    """``0.5`` reads ``50 %``; a pattern such as ``2:4`` reads as it is written."""
    try:
        return percent_text(float(str(sparsity)))
    except ValueError:
        return str(sparsity)


def spoken_name(metric: str) -> str:
    return _SPOKEN_NAMES.get(metric, metric)


def in_a_sentence(metric: str) -> str:
    return "the power law" if metric == "power-law" else spoken_name(metric)


def what_others_give(
    perplexities: Mapping[str, float | None], text: Callable[[object], str] = perplexity_text
) -> str:
    """``Wanda gives 27.87, RIA 28.34 and magnitude 36.29``."""
    first, *others = perplexities
    *told, last = [
        f"{in_a_sentence(first)} gives {text(perplexities[first])}",
        *(f"{in_a_sentence(name)} {text(perplexities[name])}" for name in others),
    ]
    return f"{', '.join(told)} and {last}" if told else last


def share_unread(history: list[dict[str, Any]]) -> float | None:
    """The share of the text that racing left unread; None where nothing was to be read.

    What could not be measured has no part in it: nobody would have read its text.
    """
    raced = [e for e in history if e.get("state") != "failed"]
    read = sum(e.get("chunks_read") or 0 for e in raced)
    chunks = sum(e.get("chunks") or 0 for e in raced)
    return 1 - read / chunks if chunks else None


@dataclass(frozen=True)
class Row:
    """One line of a comparison: a metric's perplexity on each part it was measured on."""

    name: str
    validation: float | None
    test: float | None
    judged: float | None
    """The perplexity that decides the order: test, or validation where there is no test."""
    versus_wanda: float | None
    places: dict[str, float | None]
    """Its perplexity on each text, as ``places_of`` calls them, and on mixtures."""


def places_of(perplexity: dict[str, Any], part: str) -> list[str]:
    """What was measured of a part: the part itself, or each of its texts, ``test: mine.txt`` …"""
    texts = [place for place in perplexity if place.startswith(f"{part}: ") and perplexity[place]]
    return texts or ([part] if perplexity.get(part) else [])


def known_beside(found: Mapping[str, Any]) -> str:
    """The known metric that stands beside an evolved result of a search; empty where none does."""
    return str(found.get("best_known") or "") if found.get("origin") == "evolved" else ""


def judged_in_race(found: Mapping[str, Any]) -> dict[str, float]:
    """What the result of a search was chosen by, where it was interrupted before that was read on
    the whole text; empty where it was not."""
    return dict(found.get("judged") or {}) if found.get("judged_on") == "race" else {}


def ratio_of(figures: Mapping[str, Any], metric: str) -> float | None:
    """The perplexity of a metric to the dense one."""
    pruned, dense = finite(figures.get(metric)), finite(figures.get("dense"))
    return pruned / dense if pruned and dense else None


def mean_ratios(cases: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """By place the geometric mean over the cases of a metric's ratio to dense, where all have it.

    ``cases`` are those of ``best.json``.
    """
    means = {}
    for place in cases[0]["perplexity"] if cases else ():
        ratios = [ratio_of(case["perplexity"].get(place) or {}, metric) for case in cases]
        known = [ratio for ratio in ratios if ratio]
        if len(known) == len(cases):
            means[place] = math.exp(math.fsum(map(math.log, known)) / len(known))
    return means


def judged_part(perplexity: dict[str, Any]) -> str:
    """The part that comparisons are made on."""
    return "test" if places_of(perplexity, "test") else "validation"


def comparison_rows(perplexity: dict[str, Any]) -> list[Row]:
    """Dense first, then the metrics from best to worst; those that gave no number come last.

    Of several texts the geometric mean of the perplexities decides, in which each weighs the same.
    """
    validation = perplexity.get("validation") or {}
    test = perplexity.get("test") or {}
    judged = _judged(perplexity)
    wanda = finite(judged.get("wanda"))

    def row(name: str) -> Row:
        value = finite(judged.get(name))
        compared = name != "dense" and value is not None and wanda
        return Row(
            name=name,
            validation=finite(validation.get(name)),
            test=finite(test.get(name)),
            judged=value,
            versus_wanda=value / wanda if compared and value and wanda else None,
            places={p: finite(v.get(name)) for p, v in perplexity.items() if isinstance(v, dict)},
        )

    rows = [row(name) for name in {**judged, **validation}]
    rows.sort(key=lambda row: (row.name != "dense", row.judged is None, row.judged or 0.0))
    return rows


def _judged(perplexity: dict[str, Any]) -> dict[str, Any]:
    """The perplexities that comparisons are made by."""
    measured = [perplexity[p] for p in places_of(perplexity, judged_part(perplexity))]
    if len(measured) < 2:
        return measured[0] if measured else {}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for of_text in measured for name in of_text):
        values = [finite(of_text.get(name)) for of_text in measured]
        positive = [value for value in values if value]
        if len(positive) == len(values):
            found[name] = math.exp(math.fsum(map(math.log, positive)) / len(values))
        else:
            found[name] = None
    return found


def bytes_text(count: object) -> str:
    """Three figures: ``1.23 GB``, ``270 MB``."""
    number = finite(count)
    if number is None:
        return MISSING
    size, unit = next((pair for pair in _UNITS if number >= pair[0]), _UNITS[-1])
    return f"{_three(number / size)} {unit}"


def speed_text(speed: object) -> str:
    """Tokens a second in three figures: ``1,340``, ``27.3``."""
    number = finite(speed)
    return MISSING if number is None else _three(number)


def seconds_text(seconds: object) -> str:
    """Seconds in three figures."""
    number = finite(seconds)
    return MISSING if number is None else f"{_three(number)} s"


def spread_text(spread: Sequence[float] | None) -> str:
    """The two quartiles of a speed; empty where it was not measured."""
    return "" if spread is None else " – ".join(map(speed_text, spread))


def _three(number: float) -> str:
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f}"
