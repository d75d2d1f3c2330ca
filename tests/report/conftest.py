"""The results of one small search, as they come from JSON."""

from typing import Any

import pytest
from plotly.offline import get_plotlyjs
from run_case import evaluation

from prunerzero.report import rendering


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages lack plotly's own code, which is the same in each and 5 MB long."""
    monkeypatch.setattr(rendering, "get_plotlyjs", lambda: "")


@pytest.fixture
def with_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are whole after all."""
    monkeypatch.setattr(rendering, "get_plotlyjs", get_plotlyjs)


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "sparsity": "0.5",
        "metric": "W * sqrt(X) * sqrt(G)",
        "perplexity": {
            "validation": {
                "dense": 18.43,
                "magnitude": 40.11,
                "wanda": 32.62,
                "ria": 33.71,
                "gblm": 32.44,
                "pruner-zero": 34.92,
                "power-law": 31.21,
                "evolved": 30.87,
            },
            "test": {
                "dense": 18.91,
                "magnitude": 40.72,
                "wanda": 33.04,
                "ria": 34.15,
                "gblm": 32.83,
                "pruner-zero": 35.36,
                "power-law": 31.58,
                "evolved": 31.24,
            },
        },
        "patterns": {
            "2:4": {
                "test": {
                    "dense": 18.91,
                    "magnitude": 2529.4,
                    "wanda": 199.83,
                    "ria": 220.25,
                    "gblm": 201.56,
                    "pruner-zero": 184.97,
                    "power-law": 165.58,
                    "evolved": 158.36,
                }
            }
        },
        "catalog": {
            "magnitude": "W",
            "wanda": "W * sqrt(X)",
            "ria": "(rownorm(W) + colnorm(W)) * X ** 0.25",
            "gblm": "W * (100 * G + sqrt(X))",
            "pruner-zero": "abs(W * W) * mms(G)",
            "power-law": "W * X ** 0.5 * G ** 0.25",
        },
        "refitted": {"test": {"dense": 18.91, "wanda": 22.17, "evolved": 22.05}},
        "evolved": None,
        "command": "prunerzero demo --seed 17",
        "machine": "2 × AMD EPYC",
    }


@pytest.fixture
def history() -> list[dict[str, Any]]:
    return [
        _evaluation(0, "exp(X) - W", "raced_out", 3.1e9, chunks_read=1),
        _evaluation(1, "W * X", "complete", 41.2),
        _evaluation(2, "log(G)", "failed", None, chunks_read=0),
        _evaluation(3, "W * sqrt(X)", "complete", 32.6),
        _evaluation(4, "W + sqrt(X)", "raced_out", 31.9, chunks_read=3),
        _evaluation(5, "W * sqrt(X) * sqrt(G)", "complete", 30.87),
    ]


def _evaluation(
    number: int, expression: str, state: str, perplexity: float | None, chunks_read: int = 12
) -> dict[str, Any]:
    return {
        "number": number,
        "expression": expression,
        "state": state,
        "perplexity": perplexity,
        "chunks_read": chunks_read,
        "chunks": 12,
        "size": 3,
        "origin": "random" if number < 3 else "crossover",
        "parents": [],
        "seconds": 0.4 * number,
        "duplicates_skipped": 0,
    }


@pytest.fixture
def layers() -> list[dict[str, Any]]:
    return [
        {"name": f"model.layers.{block}.{kind}", "shape": shape, "sparsity": 0.5}
        for block in range(2)
        for kind, shape in (
            ("self_attn.q_proj", [192, 192]),
            ("self_attn.k_proj", [64, 192]),
            ("mlp.down_proj", [192, 512]),
        )
    ]


@pytest.fixture
def run() -> list[dict[str, Any]]:
    return [
        evaluation(0, "W", 480.0),
        evaluation(1, "X", 5e12, state="raced_out", chunks_read=1),
        evaluation(2, "W * X", 60.0, origin="crossover", parents=[0, 1]),
        evaluation(4, "exp(G)", None),
        evaluation(5, "W * sqrt(X)", 47.3, origin="insertion", parents=[2]),
        evaluation(7, "W * sqrt(X) * G", 46.1, origin="crossover", parents=[5, 5]),
    ]


@pytest.fixture
def best() -> dict[str, Any]:
    return {
        "metric": "W * sqrt(X) * G",
        "tree": {"data": "mul", "left": {"data": "W"}, "right": {"data": "G"}},
        "sparsity": "0.5",
        "group": "row",
        "seed": 3,
        "evaluations": 6,
        "duplicates_skipped": 11,
        "seconds": 75.0,
        "perplexity": {"validation": {"dense": 21.4, "evolved": 46.3}},
        "known": {"wanda": 47.3, "power-law": 46.6, "magnitude": 480.9},
        "pareto": [
            {"metric": "W", "size": 1, "perplexity": 480.0},
            {"metric": "W * sqrt(X) * G", "size": 9, "perplexity": 46.1},
        ],
        "settings": {
            "model": "model.gguf",
            "texts": {"validation": "validation.txt"},
            "windows": {"validation": 22},
            "max_seq_length": 2048,
            "search": {"strategy": "evolution", "operators": "extended"},
        },
    }
