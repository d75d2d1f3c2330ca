"""The prose of a tuning, from its facts, in each language of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .phrases import Language, Say, say_in
from .wording import bytes_text, speed_text

_FASTER = 1.05
"""From so many times the dense model's speed on, the packed one is called faster."""


def answer(result: Mapping[str, Any], language: Language = "en") -> str:
    """One paragraph: what can be pruned, what it costs, how sure that is.

    Args:
        result: what ``tune.json`` holds.
        language: of the paragraph.
    """
    say = say_in(language)
    test = result["parts"]["test"]
    metric, decision = result["metric"], result["decision"]
    name, formula = metric["name"], metric["formula"]
    named = formula
    if name not in ("evolved", formula):
        named = say("metric_named", name=name, formula=formula)
    opening = say(
        f"opening_{asked_about(result)}{'reached' if result['reached'] else 'not_reached'}",
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
    refitted = [say("refitted", way=result["refit"])] if result.get("refit") else []
    sentences = [first, *refitted, _unused(test, say(f"text_{seen}"), say)]
    if decision is not None and not decision["held"]:
        sentences.append(_missed(result, decision, say))
    if (facts := result.get("packing")) is not None:
        sentences.append(packed(facts, language))
    return say("gap").join(sentences)


def packed(facts: Mapping[str, Any], language: Language = "en") -> str:
    """What packing the pruned model saves on this machine, or that it does not pay.

    Args:
        facts: ``packing`` of ``tune.json``.
        language: of the sentences.
    """
    say = say_in(language)
    if facts["why_not"]:
        return say("packed_not", why=facts["why_not"])
    if facts["folder"] is None:
        return say("packed_failed", why=facts["failed"])
    sizes = {"packed": bytes_text(facts["packed_bytes"]), "dense": bytes_text(facts["dense_bytes"])}
    rest = []
    if facts["rounded"] != "nothing":
        rest.append(say(f"packed_rounded_{facts['rounded']}", values=facts["values"]))
    original = facts["original_bytes"]
    if original is not None and abs(original - facts["dense_bytes"]) > 0.01 * original:
        rest.append(say("packed_original", bytes=bytes_text(original)))
    dense, after = facts["dense"], facts["packed"]
    if dense is None or after is None:
        first = say("packed_unmeasured", **sizes, why=facts["failed"])
        return say("gap").join([first, *rest])
    is_smaller, is_faster = _is_smaller(facts), _is_faster(facts)
    pays = {(True, True): "both", (True, False): "size", (False, True): "speed"}
    first = say(
        "packed_saves",
        verdict=say(f"packed_pays_{pays.get((is_smaller, is_faster), 'not')}"),
        **sizes,
        packed_memory=bytes_text(after["memory_bytes"]),
        dense_memory=bytes_text(dense["memory_bytes"]),
        packed_speed=speed_text(after["tokens_per_second"]),
        dense_speed=speed_text(dense["tokens_per_second"]),
        threads=facts["threads"],
        cpu=facts["cpu"],
    )
    if facts["no_kernel"] and not is_faster:
        rest.insert(0, say("packed_no_kernel", why=facts["no_kernel"]))
    return say("gap").join([first, *rest])


def _is_smaller(facts: Mapping[str, Any]) -> bool:
    """Whether the packed files are smaller than those that it is compared with, and the user's."""
    sizes = [facts["dense_bytes"], facts["original_bytes"]]
    return bool(facts["packed_bytes"] < min(size for size in sizes if size is not None))


def _is_faster(facts: Mapping[str, Any]) -> bool:
    """Whether the packed model is faster by more than speeds differ from turn to turn."""
    dense, after = facts["dense"]["tokens_per_second"], facts["packed"]["tokens_per_second"]
    return bool(after > _FASTER * dense)


def texts_of(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of each of several texts of a part by the text's name; empty where it has one."""
    texts = part.get("texts") or []
    return dict(zip(_short([text["text"] for text in texts]), texts, strict=True))


def columns(result: Mapping[str, Any], say: Say) -> list[tuple[str, dict[str, Any]]]:
    """Each text that was measured: called by its part, and where a part has several by its name."""
    found: list[tuple[str, dict[str, Any]]] = []
    for part, figures in result["parts"].items():
        name, texts = say(f"part_{part}"), texts_of(figures)
        found += [(say("part_text", part=name, name=n), dict(text)) for n, text in texts.items()]
        found += [] if texts else [(name, figures)]
    return found


def _short(names: Sequence[str]) -> list[str]:
    """The names of files without their folders, where that tells them apart."""
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(short) else list(names)


def perplexities(on_texts: Mapping[str, float], say: Say) -> str:
    """Several texts' perplexities in one phrase."""
    values = zip(_short(list(on_texts)), on_texts.values(), strict=True)
    each = [say("on_text", name=name, value=_perplexity(value)) for name, value in values]
    return say("list_comma").join(each)


def changes(texts: Mapping[str, Mapping[str, Any]], say: Say) -> str:
    """What the perplexity of each of several texts did, in one phrase."""
    each = [say("text_change", name=name, **_change(text, say)) for name, text in texts.items()]
    return say("list_comma").join(each)


def _unused(test: Mapping[str, Any], where: str, say: Say) -> str:
    """What was measured on the test part."""
    texts = texts_of(test)
    if not texts:
        return say("unused", text=where, **_measured(test, say))
    each = [
        say("text_change_sure", name=name, **_measured(text, say)) for name, text in texts.items()
    ]
    return say("unused_texts", text=where, each=say("separator").join(each))


def _measured(figures: Mapping[str, Any], say: Say) -> dict[str, Any]:
    interval = figures["rise_interval"]
    sure = say("sure_none")
    if interval is not None:
        sure = say("sure_interval", low=_signed(interval[0]), high=_signed(interval[1]))
    amount = {"windows": figures["windows"], "length": figures["window_length"]}
    return {"sure": sure, **amount, **_change(figures, say)}


def asked_about(result: Mapping[str, Any]) -> str:
    """How keys of phrases begin where a pattern or a share alone was asked about."""
    if result["pattern_asked"] is None:
        return ""
    return "pattern_" if ":" in result["pattern"] else "share_"


def _costs(result: Mapping[str, Any], say: Say) -> str:
    limit, task = result["limit"], result["task"]
    if limit["kind"] == "degradation":
        allowed = say("allowed", value=_signed(limit["value"]))
    else:
        key = "allowed" if limit["kind"] == "perplexity" else "allowed_drop"
        allowed = say(key, value=f"{limit['value']:g}")
    validation = result["parts"]["validation"]
    texts = texts_of(validation)
    change = {"each": changes(texts, say)} if texts else _change(validation, say)
    if task is None:
        return say("costs_texts" if texts else "costs", allowed=allowed, **change)
    scores = {"before": f"{task['dense']:.4g}", "after": f"{task['pruned']:.4g}"}
    named = {"task_metric": task["metric"], "task": task["task"], "examples": task["examples"]}
    key = "costs_task_texts" if texts else "costs_task"
    return say(key, allowed=allowed, **scores, **named, **change)


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
    on_texts = decision.get("tried_texts")
    if result["pattern_asked"] is not None:
        return say("missed_pattern_texts" if on_texts else "missed_pattern")
    sparsity, perplexity = decision["tried"][0]
    shown = perplexities(on_texts[0], say) if on_texts else _perplexity(perplexity)
    lowered = "missed_lowered_texts" if on_texts else "missed_lowered"
    outcome = say(lowered if decision["stepped_back"] else "missed_by_all")
    return say("missed", amount=_percent(sparsity), perplexity=shown, outcome=outcome)


def split(facts: Mapping[str, Any], language: Language = "en") -> str:
    """How the parts of the text came about; see ``TuneResult.split``."""
    say = say_in(language)
    if facts["kind"] == "own":
        return say("split_own")
    if facts["kind"] == "dataset":
        dataset = facts["dataset"]
        if isinstance(dataset, str):
            return say("split_dataset", dataset=dataset)
        return say("split_dataset_texts", dataset=say("list_comma").join(dataset))
    turns = facts["turns"]
    shares = [
        say("split_share", count=turns.count(part), of=len(turns), part=say(f"split_{part}"))
        for part in ("calibration", "validation", "test")
        if part in turns
    ]
    text = facts["text"]
    is_one = isinstance(text, str)
    return say(
        "split_cut" if is_one else "split_cut_texts",
        text=text if is_one else say("list_comma").join(text),
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
