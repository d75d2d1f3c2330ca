"""How the figures of ``bench`` read, and what they say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .wording import (
    bytes_text,
    finite,
    perplexity_text,
    seconds_text,
    speed_text,
    spread_text,
)

Figures = Mapping[str, Any]
"""What ``results.json`` has of one model."""


def speed_of(figures: Figures, batch: str = "1") -> float | None:
    """Tokens a second of decoding, so many texts at once."""
    return finite(figures["decode_tokens_per_second"].get(batch))


def batches_of(result: Mapping[str, Any]) -> list[str]:
    """How many texts were continued at once, each as a key of the figures."""
    return [str(batch) for batch in result["protocol"]["batches"]]


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


def cells(figures: Figures, batches: Sequence[str]) -> list[tuple[str, str]]:
    """The cells of a table's row, each with what stands under it; the model's name not among them.

    File, memory in use, at its peak, loading, prefill, decoding at each batch, perplexity.
    """
    spread = figures["spread"]
    decode = figures["decode_tokens_per_second"]
    return [
        (bytes_text(figures["file_bytes"]), ""),
        (bytes_text(figures["memory_bytes"]), ""),
        (bytes_text(figures["peak_memory_bytes"]), ""),
        (seconds_text(figures["load_seconds"]), ""),
        (speed_text(figures["prefill_tokens_per_second"]), spread_text(spread["prefill"])),
        *((speed_text(decode.get(b)), spread_text(spread["decode"].get(b))) for b in batches),
        (perplexity_text(figures["perplexity"]), ""),
    ]
