"""The prose of a tuning, from its facts and one catalogue of phrases for each language.

``languages/LANGUAGE.yaml`` holds the phrases by the same keys and with the same places in every
language; how a sentence is built from them is the same too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Language = Literal["en", "ja"]

Say = Callable[..., str]
"""A phrase of the catalogue by its key, with what stands in its places."""


@cache
def strings_of(language: Language) -> dict[str, str]:
    """The phrases of a language by their keys."""
    source = files(__package__) / "languages" / f"{language}.yaml"
    strings: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return strings


def say_in(language: Language) -> Say:
    """What renders a phrase in this language."""
    strings = strings_of(language)
    return lambda key, **values: strings[key].format(**values)


def answer(result: Mapping[str, Any], language: Language = "en") -> str:
    """One paragraph: what can be pruned, what it costs, how sure that is.

    Args:
        result: what ``tune.json`` holds.
        language: of the paragraph.
    """
    say = say_in(language)
    validation, test = (result["parts"][part] for part in ("validation", "test"))
    metric, decision = result["metric"], result["decision"]
    name, formula = metric["name"], metric["formula"]
    named = formula
    if name not in ("evolved", formula):
        named = say("metric_named", name=name, formula=formula)
    opening = say(
        f"opening_{_kind(result)}",
        amount=_percent(result["sparsity"]),
        pattern=result["pattern"],
    )
    first = say(
        "answer",
        opening=opening,
        kept=say(f"kept_{result['group']}"),
        kind=say("kind_evolved" if name == "evolved" else "kind_known"),
        metric=named,
        costs=_costs(result, say),
    )
    seen = "set_aside" if decision is not None and decision["stepped_back"] else "unseen"
    interval = test["rise_interval"]
    sure = (
        say("sure_none")
        if interval is None
        else say("sure_interval", low=_signed(interval[0]), high=_signed(interval[1]))
    )
    sentences = [
        first,
        say(
            "unused",
            text=say(f"text_{seen}"),
            sure=sure,
            windows=test["windows"],
            length=test["window_length"],
            **_change(test, say),
        ),
    ]
    if decision is not None and not decision["held"]:
        sentences.append(_missed(result, decision, say))
    return say("gap").join(sentences)


def _kind(result: Mapping[str, Any]) -> str:
    if result["pattern_asked"] is not None:
        return "yes" if result["reached"] else "no"
    return "at" if result["reached"] else "even_at"


def _costs(result: Mapping[str, Any], say: Say) -> str:
    limit, task = result["limit"], result["task"]
    if limit["kind"] == "degradation":
        allowed = say("allowed", value=_signed(limit["value"]))
    else:
        key = "allowed" if limit["kind"] == "perplexity" else "allowed_drop"
        allowed = say(key, value=f"{limit['value']:g}")
    change = _change(result["parts"]["validation"], say)
    if task is None:
        return say("costs", allowed=allowed, **change)
    scores = {"before": f"{task['dense']:.4g}", "after": f"{task['pruned']:.4g}"}
    named = {"task_metric": task["metric"], "task": task["task"], "examples": task["examples"]}
    return say("costs_task", allowed=allowed, **scores, **named, **change)


def _change(part: Mapping[str, Any], say: Say) -> dict[str, str]:
    """What a perplexity did, in the places of a phrase."""
    rise = part["rise"]
    return {
        "verb": say("rises" if rise > 0 else "falls" if rise < 0 else "stays"),
        "dense": _perplexity(part["dense"]),
        "pruned": _perplexity(part["pruned"]),
        "rise": _signed(rise),
    }


def _missed(result: Mapping[str, Any], decision: Mapping[str, Any], say: Say) -> str:
    """What was done when the limit was missed on the test part."""
    if result["pattern_asked"] is not None:
        return say("missed_pattern")
    sparsity, perplexity = decision["tried"][0]
    outcome = say("missed_lowered" if decision["stepped_back"] else "missed_by_all")
    return say(
        "missed", amount=_percent(sparsity), perplexity=_perplexity(perplexity), outcome=outcome
    )


def split(facts: Mapping[str, Any], language: Language = "en") -> str:
    """How the parts of the text came about; see ``TuneResult.split``."""
    say = say_in(language)
    if facts["kind"] == "own":
        return say("split_own")
    if facts["kind"] == "dataset":
        return say("split_dataset", dataset=facts["dataset"])
    turns = facts["turns"]
    shares = [
        say("split_share", count=turns.count(part), of=len(turns), part=say(f"split_{part}"))
        for part in ("calibration", "validation", "test")
        if part in turns
    ]
    return say(
        "split_cut",
        text=facts["text"],
        blocks=facts["blocks"],
        shares=say("list_comma").join(shares),
        folder=facts["folder"],
    )


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %" if abs(share) < 1 else f"{100 * share:+.0f} %"
