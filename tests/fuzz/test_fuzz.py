"""Whatever is given, the tool does it right, or refuses it in one sentence.

Random commands, formulas, files and calls on tiny models. Some of each kind are tried here, the
same ones each time; more, and others, with

    PRUNERZERO_FUZZ_SEED=7 PRUNERZERO_FUZZ_SECONDS=3600 python -m pytest tests/fuzz -s

which prints each fault with the name of its case. One case again:

    PRUNERZERO_FUZZ_CASE="prune:7.31" python -m pytest tests/fuzz
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fuzz_cases import KINDS, run_case
from fuzz_place import build
from transformers.utils.logging import disable_progress_bar

from prunerzero.tasks.benching.process import ModelFailedError

SEED = os.environ.get("PRUNERZERO_FUZZ_SEED", "0")
SECONDS = float(os.environ.get("PRUNERZERO_FUZZ_SECONDS", "0"))
CASE = os.environ.get("PRUNERZERO_FUZZ_CASE", "")
SLOW = ("interrupt", "surroundings")
"""Kinds that start processes: not tried in the suite, where other tests do so."""
FEW, SHORT = 4, 2.0
"""Of each kind, in the suite: so many cases, begun within so many seconds."""


@pytest.fixture(scope="session")
def model_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "cache").mkdir()
    build(folder / "place")
    return folder / "place"


@pytest.fixture(autouse=True)
def surroundings(model_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(model_place.parent / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    disable_progress_bar()
    if not SECONDS and not CASE:
        monkeypatch.setattr("prunerzero.tasks.tuning.packing.measure_models", start_no_process)


def start_no_process(*_: Any) -> None:
    """What the end of a tuning would measure; that it fails is told, and costs no answer."""
    raise ModelFailedError("processes are not started here")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if SECONDS or CASE or kind not in SLOW])
def test_it_is_done_right_or_refused_in_one_sentence(
    kind: str, model_place: Path, tmp_path: Path
) -> None:
    if CASE:
        wanted, seed = CASE.split(":")
        if wanted == kind:
            run_case(kind, seed, model_place, tmp_path / "case")
        return
    share = SECONDS * KINDS[kind][1] / sum(weight for _, weight in KINDS.values())
    end = time.monotonic() + (share or SHORT)
    faults: Counter[str] = Counter()
    for number in count():
        if time.monotonic() > end or (not SECONDS and number == FEW):
            break
        try:
            run_case(kind, f"{SEED}.{number}", model_place, tmp_path / "case")
        except Exception as error:
            if not SECONDS:
                raise
            where = traceback.extract_tb(error.__traceback__)
            inside = [
                f"{f.filename.split('src/')[-1]}:{f.lineno}" for f in where if "src/" in f.filename
            ]
            words = re.sub(r"\d[\d.]*|'[^']*'|\"[^\"]*\"", "…", str(error))[:60]
            sort = f"{type(error).__name__} {inside[-1] if inside else words!r}"
            if not faults[sort]:
                print(f"\n=== {sort}\n{str(error)[:800]}", *error.__notes__, sep="\n", flush=True)
            faults[sort] += 1
    print(f"\n{kind}: {number} cases, {faults.total()} faults of {len(faults)} sorts", flush=True)
    assert not faults
