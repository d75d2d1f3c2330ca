"""A small search, as it comes from JSON."""

from typing import Any

NAMES = {
    "W": {"W"},
    "X": {"X"},
    "W * X": {"mul", "W", "X"},
    "W * sqrt(X)": {"mul", "W", "sqrt", "X"},
    "W * sqrt(X) * G": {"mul", "W", "sqrt", "X", "G"},
    "exp(G)": {"exp", "G"},
}
"""The operators and terminals of each expression."""

SIZES = {"wanda": 4, "power-law": 7, "magnitude": 1}
"""Nodes of the known metrics."""


def evaluation(number: int, expression: str, perplexity: float | None, **more: Any) -> Any:
    return {
        "number": number,
        "expression": expression,
        "state": "complete" if perplexity else "failed",
        "loss": None,
        "perplexity": perplexity,
        "chunks_read": 16 if perplexity else 0,
        "chunks": 16,
        "size": 2 * len(NAMES[expression]) - 1,
        "origin": "random",
        "parents": [],
        "seconds": 2.0 * number + 1,
        "duplicates_skipped": 1,
        **more,
    }
