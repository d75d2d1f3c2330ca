"""Read ``tune.json`` back into the answer that it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunerzero.files import read_own_json
from prunerzero.tasks.damage import damage_told
from prunerzero.tasks.tune_result import (
    ChosenMetric,
    CurvePoint,
    LayerFigures,
    Limit,
    Packing,
    PartFigures,
    RunningCost,
    Sample,
    TaskFigures,
    TestDecision,
    TuneResult,
)


def read_result(path: Path) -> TuneResult:
    """Read ``tune.json`` back.

    Raises:
        InputError: it is damaged.
    """
    again = "move it away, and the same tune command writes it again from what was measured"
    content = read_own_json(path, again)
    with damage_told(path, writer="tune", remedy=again):
        return _result(content)


def _result(content: dict[str, Any]) -> TuneResult:
    task, decision, packing = content["task"], content["decision"], content.get("packing")
    return TuneResult(
        **content
        | {
            "limit": Limit(**content["limit"]),
            "metric": ChosenMetric(**content["metric"]),
            "curve": tuple(CurvePoint(**point) for point in content["curve"]),
            "parts": {name: _part(figures) for name, figures in content["parts"].items()},
            "decision": decision
            and TestDecision(
                **decision
                | {
                    "tried": tuple(map(tuple, decision["tried"])),
                    "tried_texts": tuple(decision.get("tried_texts", ())),
                }
            ),
            "layers": tuple(
                LayerFigures(**layer | {"shape": tuple(layer["shape"])})
                for layer in content["layers"]
            ),
            "samples": tuple(Sample(**sample) for sample in content["samples"]),
            "task": task and TaskFigures(**task),
            "commands": tuple(content["commands"]),
            "warnings": tuple(content.get("warnings", ())),
            "packing": packing and _packing(packing),
        }
    )


def _packing(facts: dict[str, Any]) -> Packing:
    costs = {
        name: RunningCost(**cost | {"quartiles": cost["quartiles"] and tuple(cost["quartiles"])})
        for name in ("dense", "packed")
        if (cost := facts[name]) is not None
    }
    return Packing(**facts | costs)


def _part(figures: dict[str, Any]) -> PartFigures:
    intervals = {name: v and tuple(v) for name, v in figures.items() if name.endswith("_interval")}
    texts = tuple(map(_part, figures.get("texts", ())))
    return PartFigures(**figures | intervals | {"texts": texts})
