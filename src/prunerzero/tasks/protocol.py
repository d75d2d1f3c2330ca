"""How perplexity was measured, as every figure of it has to say."""

from __future__ import annotations

from typing import Any

from prunerzero.tasks.workspace import Workspace


def protocol_of(work: Workspace, stride: int | None = None) -> dict[str, Any]:
    """The protocol in figures, and under ``words`` as a sentence."""
    tokenizer = work.language_model.tokenizer
    length = work.window_length
    dtype = str(work.language_model.model.dtype).removeprefix("torch.")
    vocabulary = len(tokenizer)
    kind = type(tokenizer).__name__
    begin = work.language_model.begin
    added = "none added" if begin is None else f"{tokenizer.decode([begin])} before each window"
    sliding = stride is not None and stride < length
    windows = (
        f"windows of {length} tokens that slide by {stride}, each counting its {stride} new tokens "
        f"(the first all {length - 1})"
        if sliding
        else f"windows of {length} tokens without overlap, each counting {length - 1}"
    )
    windows += ", evenly spaced where not all are read"
    return {
        "window_length": length,
        "stride": stride if sliding else length - (begin is not None),
        "tokenizer": kind,
        "vocabulary": vocabulary,
        "special_tokens": added,
        "dtype": dtype,
        "device": str(work.language_model.device),
        "words": f"{windows}; the model's tokenizer ({kind}, {vocabulary} tokens), special tokens: "
        f"{added}; {dtype} on {work.language_model.device}",
    }
