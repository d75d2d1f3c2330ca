"""How the figures of ``bench`` read, and what they say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .phrases import Language, Say, say_in
from .wording import (
    bytes_text,
    finite,
    perplexity_text,
    seconds_text,
    speed_text,
    spread_text,
)

PHRASES = "bench_"
"""Begins the names of the catalogues."""

Figures = Mapping[str, Any]
"""What ``results.json`` has of one model."""


def speed_of(figures: Figures, batch: str = "1") -> float | None:
    """Tokens a second of decoding, so many texts at once."""
    return finite(figures["decode_tokens_per_second"].get(batch))


Column = tuple[str, str]
"""What is measured, and for a speed how long the prompt was, or how many texts were continued."""


def speeds_of(result: Mapping[str, Any]) -> list[Column]:
    """The columns of speeds: of reading prompts by length, of decoding by how many texts."""
    protocol = result["protocol"]
    return [
        *(("prefill", str(length)) for length in protocol["prefill_tokens"]),
        *(("decode", str(batch)) for batch in protocol["batches"]),
    ]


def columns_of(result: Mapping[str, Any]) -> list[Column]:
    """The columns of the table of all figures."""
    before = ("file", "memory", "peak", "load")
    return [*((name, "") for name in before), *speeds_of(result), ("perplexity", "")]


def in_graphs(result: Mapping[str, Any]) -> bool:
    """Whether speeds were measured in CUDA graphs, and without them too."""
    return bool(result["protocol"]["in_graphs"])


def without_graphs(figures: Figures) -> Figures:
    """The same model with the speeds that it has without CUDA graphs."""
    speeds = figures["without_graphs"] or {"prefill": {}, "decode": {}}
    return {
        **figures,
        "prefill_tokens_per_second": speeds["prefill"],
        "decode_tokens_per_second": speeds["decode"],
        "spread": figures["spread"].get("without_graphs", {"prefill": {}, "decode": {}}),
    }


def gpu_text(machine: Mapping[str, Any]) -> str | None:
    """The GPU that models were measured on, with what drives it."""
    gpu = machine.get("gpu")
    if gpu is None:
        return None
    driver = f"driver {gpu['driver']}, " if gpu["driver"] else ""
    return f"{gpu['name']} ({driver}CUDA {gpu['cuda']}, torch {gpu['torch']})"


def answer(result: Mapping[str, Any], language: Language = "en") -> str:
    """Which model is best in what, in a sentence, and no more than was measured.

    Args:
        result: what ``results.json`` holds.
        language: of the sentence.
    """
    say = say_in(language, PHRASES)
    models: Sequence[Figures] = result["models"]
    short = short_names(models)
    said = []
    if smallest := best(models, lambda m: finite(m["file_bytes"])):
        value = bytes_text(smallest["file_bytes"])
        said.append(say("smallest", model=short[smallest["model"]], value=value))
    if first := fastest(models):
        said.append(_speed_told(first, short, say, graphs=in_graphs(result)))
    if nearest := best(models, lambda m: finite(m["perplexity"])):
        value = perplexity_text(nearest["perplexity"])
        said.append(say("nearest", model=short[nearest["model"]], value=value))
    return say("headline", each=say("list_comma").join(said)) if said else say("headline_alone")


def _speed_told(
    first: Sequence[Figures], short: Mapping[str, str], say: Say, *, graphs: bool
) -> str:
    """Which model is the fastest, or which ones cannot be told apart."""
    names = say("list_and").join(short[model["model"]] for model in first)
    values = say("list_and").join(speed_text(speed_of(model)) for model in first)
    where = say("where_in_graphs") if graphs else ""
    key = "fastest" if _quartiles(first[0]) is not None else "fastest_once"
    return say(key if len(first) == 1 else "alike", models=names, values=values, where=where)


def fastest(models: Sequence[Figures]) -> list[Figures]:
    """The model that continues one text the fastest, and after it those whose quartiles overlap
    with its own, or touch them; none where fewer than two have a speed.

    A speed that was measured once has no quartiles, and stands for them.
    """
    top = best(models, speed_of, highest=True)
    if top is None:
        return []
    known = [(speed, model) for model in models if (speed := speed_of(model)) is not None]
    spread = {id(model): _quartiles(model) or (speed, speed) for speed, model in known}
    low, _ = spread[id(top)]
    others = [(s, m) for s, m in known if m is not top and spread[id(m)][1] >= low]
    return [top, *(model for _, model in sorted(others, key=lambda pair: -pair[0]))]


def _quartiles(figures: Figures) -> tuple[float, float] | None:
    """Those of ``speed_of``."""
    found = figures["spread"]["decode"].get("1")
    return None if found is None else (found[0], found[1])


def best(
    models: Sequence[Figures], value: Callable[[Figures], float | None], *, highest: bool = False
) -> Figures | None:
    """The model with the lowest value, or the highest; None where fewer than two have one."""
    known = [(found, model) for model in models if (found := value(model)) is not None]
    if len(known) < 2:
        return None
    chosen = (max if highest else min)(known, key=lambda pair: pair[0])
    return chosen[1]


def frontier(
    models: Sequence[Figures],
    value: Callable[[Figures], float | None],
    *,
    highest: bool = False,
) -> list[Figures]:
    """The models that no other surpasses in a value and in perplexity both.

    One surpasses another where it is better in the one, and no worse in the other.
    """
    sign = -1 if highest else 1
    known = [
        (sign * found, perplexity, model)
        for model in models
        if (found := value(model)) is not None
        and (perplexity := finite(model["perplexity"])) is not None
    ]
    return [
        model
        for cost, loss, model in known
        if not any(
            c <= cost and other <= loss and (c < cost or other < loss) for c, other, _ in known
        )
    ]


def short_names(models: Sequence[Figures]) -> dict[str, str]:
    """Each model's name without the folders above it, where that tells the models apart."""
    names = [str(model["model"]) for model in models]
    short = [name.rstrip("/").rpartition("/")[2] for name in names]
    return dict(zip(names, short if len(set(short)) == len(short) else names, strict=True))


def cells(figures: Figures, columns: Sequence[Column]) -> list[tuple[str, str]]:
    """A row's cells without the model's name, each with what stands under it."""
    return [_cell(figures, *column) for column in columns]


def _cell(figures: Figures, name: str, key: str) -> tuple[str, str]:
    if name in _CELLS:
        field, told = _CELLS[name]
        return told(figures[field]), ""
    speeds = figures[f"{name}_tokens_per_second"]
    return speed_text(speeds.get(key)), spread_text(figures["spread"][name].get(key))


_CELLS: dict[str, tuple[str, Callable[[object], str]]] = {
    "file": ("file_bytes", bytes_text),
    "memory": ("memory_bytes", bytes_text),
    "peak": ("peak_memory_bytes", bytes_text),
    "load": ("load_seconds", seconds_text),
    "perplexity": ("perplexity", perplexity_text),
}
"""The field of a column that is no speed, and how it reads."""
