"""The result of one small tuning, as it comes from JSON, and how other answers differ from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_EXAMPLE = Path(__file__).with_name("tune_example.json")


def tuned(**changes: Any) -> dict[str, Any]:
    """A limit that is kept, with a metric that was evolved."""
    dense, limit = 14.6123, 0.25
    formula = "W * X ** 0.5 * sqrt(G)"
    return {
        "answer": "At 43 % sparsity the perplexity of mine.txt rises from 14.61 to 18.02.",
        "reached": True,
        "model": "bundled",
        "output_dir": "tuned",
        "limit": {
            "kind": "degradation",
            "value": limit,
            "max_perplexity": dense * (1 + limit),
            "task": None,
            "task_metric": None,
            "min_score": None,
        },
        "pattern_asked": None,
        "sparsity": 0.43,
        "pattern": "0.43",
        "group": "model",
        "metric": {
            "name": "evolved",
            "formula": formula,
            "tree": {
                "data": "mul",
                "left": {
                    "data": "mul",
                    "left": {"data": "W"},
                    "right": {"data": "epow", "left": {"data": "X"}, "right": {"data": 0.5}},
                },
                "right": {"data": "sqrt", "left": {"data": "G"}},
            },
            "words": "the weight's magnitude times the rest",
        },
        "dense": dense,
        "curve": [
            _point(0.3, "wanda", 15.9, 0.1134, windows=16, step="choice"),
            _point(0.3, "magnitude", 31.2, 1.1849, windows=16, step="choice"),
            _point(0.3, "wanda", 16.11, 0.1025, step="bracket"),
            _point(0.41, "wanda", 18.2041, 0.2458, step="bracket"),
            _point(0.6, "wanda", 44.4, 2.0386, step="bracket"),
            _point(0.41, "evolved", 17.1, 0.1703, step="evolved", formula=formula),
            _point(0.43, "evolved", 18.0213, 0.2333, step="evolved", formula=formula),
        ],
        "parts": {
            "validation": _part("mine.txt (validation)", dense, 0.2333, limit),
            "test": _part("mine.txt (test)", 14.7519, 0.2412, limit),
        },
        "decision": {"held": True, "stepped_back": False, "tried": [[0.43, 18.3101]]},
        "layers": [
            {
                "name": f"model.layers.{block}.{kind}",
                "block": block,
                "shape": shape,
                "sparsity": 0.4271 + block / 1000,
                "sensitivity": sensitivity,
            }
            for block in range(2)
            for kind, shape, sensitivity in (
                ("self_attn.q_proj", [192, 192], 0.00412),
                ("mlp.down_proj", [192, 512], 0.0348 - block / 100),
                ("mlp.up_proj", [512, 192], -0.0011),
            )
        ],
        "sensitivity_of": "layer",
        "sensitivity_windows": 8,
        "samples": [
            {"prompt": "It was a", "dense": " dark night", "pruned": " dark day of 1984"},
            {"prompt": "Two and two", "dense": " are four", "pruned": " are four"},
        ],
        "task": None,
        "evaluations": 200,
        "settings": {
            "model": "bundled",
            "revision": None,
            "dtype": "float32",
            "ignore": ["*.0.mlp.up_proj"],
            "max_seq_length": 512,
            "texts": {"validation": "mine.txt (validation)"},
            "windows": {"calibration": 48, "validation": 64, "test": 64},
            "versions": {"prunerzero": "0.1.0", "torch": "2.13.0"},
        },
        "split": {"kind": "dataset", "dataset": "python-docs"},
        "commands": [
            "prunerzero tune --model bundled --max-degradation 25% --output-dir tuned",
            "prunerzero prune --recipe tuned/model/recipe.yaml --output-dir again",
        ],
        "seconds": 214.3,
        **changes,
    }


def missed_on_test() -> dict[str, Any]:
    decision = {"held": False, "stepped_back": False, "tried": [[0.43, 18.9], [0.005, 14.8]]}
    result = tuned(reached=False, sparsity=0.005, pattern="0.005", decision=decision)
    result["parts"]["test"] |= {"within": False, "confidence": 0.12}
    return result


def stepped_back() -> dict[str, Any]:
    tried = [[0.435, 18.55], [0.43, 18.3101]]
    return tuned(decision={"held": False, "stepped_back": True, "tried": tried})


def not_reached() -> dict[str, Any]:
    return tuned(reached=False, sparsity=0.005, pattern="0.005", decision=None)


def in_a_pattern(kept: bool) -> dict[str, Any]:
    result = tuned(pattern_asked="2:4", sparsity=0.5, pattern="2:4", group="row", reached=kept)
    result["decision"] = {"held": kept, "stepped_back": False, "tried": [[0.5, 18.9]]}
    for figures in result["parts"].values():
        figures["within"] = kept
    result["curve"] = [_point(0.5, "wanda", 18.9, 0.29, step="bracket", pattern="2:4")]
    return result


def at_a_share(kept: bool) -> dict[str, Any]:
    result = in_a_pattern(kept) | {"pattern_asked": "0.5", "pattern": "0.5", "group": "model"}
    result["curve"] = [_point(0.5, "wanda", 18.9, 0.29, step="bracket")]
    return result


def by_perplexity() -> dict[str, Any]:
    result = tuned()
    result["limit"] |= {"kind": "perplexity", "value": 18.5, "max_perplexity": 18.5}
    return result


def by_task() -> dict[str, Any]:
    result = tuned(decision=None)
    result["limit"] |= {
        "kind": "task",
        "value": 0.02,
        "max_perplexity": None,
        "task": "arc_easy",
        "task_metric": "acc",
        "min_score": 0.6135,
    }
    result["task"] = {
        "task": "arc_easy",
        "metric": "acc",
        "examples": 2376,
        "dense": 0.6335,
        "dense_error": 0.0099,
        "pruned": 0.6204,
        "pruned_error": 0.0101,
    }
    for figures in result["parts"].values():
        figures |= {"allowed": None, "within": None, "confidence": None}
    for point in result["curve"]:
        told_apart = point["step"] == "choice"
        point |= {"score": None, "within": None} if told_apart else {"score": 0.6204}
    return result


def by_block() -> dict[str, Any]:
    result = tuned(sensitivity_of="block")
    for layer in result["layers"]:
        layer["sensitivity"] = 0.0312 - 0.01 * layer["block"]
    return result


def of_several_texts(**changes: Any) -> dict[str, Any]:
    """Two validation texts and two test texts, of which one rises more than the other."""
    result = tuned(**changes)
    names = ["wiki.txt", "code.txt"]
    rises = {"validation": (0.2118, 0.2453), "test": (0.2091, 0.2489)}
    for part, (less, more) in rises.items():
        result["parts"][part] |= {
            "text": ", ".join(names),
            "allowed": None,
            "texts": [
                _part(names[0], 21.3145, less, 0.25),
                _part(names[1], 9.8812, more, 0.25) | {"agreement": 0.7312, "divergence": 0.2117},
            ],
        }
    for point in result["curve"]:
        point["rises"] = dict(zip(names, (point["rise"] * 0.9, point["rise"]), strict=True))
        point["perplexities"] = {n: 12.5 * (1 + r) for n, r in point["rises"].items()}
    decision = result["decision"]
    if decision is not None:
        decision["tried_texts"] = [
            {"wiki.txt": 25.77 + 0.5 * i, "code.txt": 12.34 + 0.5 * i}
            for i in range(len(decision["tried"]))
        ]
    return result | {"split": {"kind": "dataset", "dataset": ["wiki", "docs"]}}


def several_by_task() -> dict[str, Any]:
    result = of_several_texts(**{k: by_task()[k] for k in ("limit", "task", "decision")})
    for part in result["parts"].values():
        for figures in (part, *part["texts"]):
            figures |= {"allowed": None, "within": None, "confidence": None}
    return result


def several_in_a_pattern() -> dict[str, Any]:
    pattern = in_a_pattern(False)
    kept = {k: pattern[k] for k in ("pattern_asked", "sparsity", "pattern", "group", "reached")}
    return of_several_texts(**kept, curve=pattern["curve"], decision=pattern["decision"])


def packed(speed: float = 31.4, **changes: Any) -> dict[str, Any]:
    """A packed model that is smaller, and continues a text at this speed instead of 24."""
    return {
        "folder": "tuned/packed",
        "why_not": "",
        "failed": "",
        "values": "bfloat16",
        "rounded": "nothing",
        "original_bytes": 2_712_345_678,
        "dense_bytes": 2_712_345_999,
        "packed_bytes": 1_912_345_678,
        "dense": {
            "memory_bytes": 2_823_000_111,
            "tokens_per_second": 24.1,
            "quartiles": [23.8, 24.7],
        },
        "packed": {
            "memory_bytes": 2_034_000_111,
            "tokens_per_second": speed,
            "quartiles": [speed - 0.4, speed + 0.6],
        },
        "kernel": "avx512",
        "no_kernel": "",
        "cpu": "AMD EPYC 9R14",
        "threads": 2,
        **changes,
    }


_UNMEASURED = {"dense": None, "packed": None, "kernel": None, "cpu": "", "threads": None}

CASES = {
    "kept": tuned,
    "missed on the test text": missed_on_test,
    "stepped back": stepped_back,
    "not reached": not_reached,
    "a pattern that keeps it": lambda: in_a_pattern(True),
    "a pattern that does not": lambda: in_a_pattern(False),
    "a share that keeps it": lambda: at_a_share(True),
    "a share that does not": lambda: at_a_share(False),
    "a limit of perplexity": by_perplexity,
    "a limit of a task": by_task,
    "a known metric": lambda: tuned(metric={**tuned()["metric"], "name": "power-law"}),
    "sensitivity of blocks": by_block,
    "several texts": of_several_texts,
    "several texts, stepped back": lambda: of_several_texts(decision=stepped_back()["decision"]),
    "several texts, missed": lambda: of_several_texts(
        reached=False, sparsity=0.005, pattern="0.005", decision=missed_on_test()["decision"]
    ),
    "several texts, a limit of perplexity": lambda: of_several_texts(
        limit=by_perplexity()["limit"]
    ),
    "several texts, a limit of a task": several_by_task,
    "several texts, a pattern that does not keep it": several_in_a_pattern,
    "packed": lambda: tuned(packing=packed()),
    "packed, slower for want of a compiler": lambda: tuned(
        packing=packed(3.2, kernel="torch", no_kernel="there is no compiler")
    ),
    "packed, rounded before": lambda: tuned(
        packing=packed(rounded="both", original_bytes=5_424_691_998)
    ),
    "packed, some of it rounded": lambda: tuned(packing=packed(rounded="packed")),
    "packed, measured once": lambda: tuned(
        packing=packed(**{n: packed()[n] | {"quartiles": None} for n in ("dense", "packed")})
    ),
    "packed, of a smaller file": lambda: tuned(packing=packed(original_bytes=912_345_678)),
    "packed in vain": lambda: tuned(packing=packed(24.3, packed_bytes=2_900_000_000)),
    "packed, not measured": lambda: tuned(
        packing=packed(**_UNMEASURED, failed="3.1 GB of memory are free.")
    ),
    "not packed": lambda: tuned(
        packing=packed(
            **_UNMEASURED,
            folder=None,
            why_not="'tuned/model' would not become smaller: 3.2% of the weights are zero.",
        )
    ),
    "packing failed": lambda: tuned(
        packing=packed(**_UNMEASURED, folder=None, failed="the disk is full.")
    ),
    "no samples": lambda: tuned(samples=[]),
    "a real one": lambda: json.loads(_EXAMPLE.read_text(encoding="utf-8")),
}
"""Every kind of answer that there is, by what is special about it."""


def _point(
    sparsity: float,
    metric: str,
    perplexity: float,
    rise: float,
    *,
    step: str,
    windows: int = 64,
    formula: str = "W * sqrt(X)",
    pattern: str | None = None,
) -> dict[str, Any]:
    return {
        "sparsity": sparsity,
        "pattern": pattern or str(sparsity),
        "group": "model" if pattern is None else "row",
        "metric": metric,
        "formula": formula,
        "perplexity": perplexity,
        "rise": rise,
        "within": rise <= 0.25,
        "windows": windows,
        "score": None,
        "step": step,
    }


def _part(text: str, dense: float, rise: float, limit: float) -> dict[str, Any]:
    return {
        "text": text,
        "windows": 64,
        "window_length": 512,
        "dense": dense,
        "dense_interval": [dense * 0.96, dense * 1.04],
        "pruned": dense * (1 + rise),
        "pruned_interval": [dense * 1.18, dense * 1.28],
        "rise": rise,
        "rise_interval": [rise - 0.0131, rise + 0.0142],
        "allowed": dense * (1 + limit),
        "within": True,
        "confidence": 0.943,
        "divergence": 0.1873,
        "agreement": 0.7741,
        "compared_tokens": 8192,
    }
