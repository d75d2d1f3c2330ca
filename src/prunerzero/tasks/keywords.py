"""The options that each function takes by name, for type checkers and editors.

``options`` declares every option; a checker cannot read it from there, so that name and type stand
here again. ``tests/tasks/test_keywords.py`` fails where the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from prunerzero.evolution.settings import SeedMetrics, Strategy
from prunerzero.metrics import Sparsity
from prunerzero.pruning.refit import Refinement, Update
from prunerzero.report.phrases import Language
from prunerzero.tasks.options import GroupChoice, OperatorChoice, Values


class SearchKeywords(TypedDict, total=False):
    """What ``search`` takes of ``SearchOptions`` and ``SearchRefitOptions``."""

    evaluations: int | None
    time: str | float | None
    seed: int
    strategy: Strategy
    operators: OperatorChoice
    seed_metrics: SeedMetrics
    begin_with: Sequence[str]
    workers: int | str
    storage: str | Path | None
    update: Update
    refine: Refinement


class RefitKeywords(TypedDict, total=False):
    """What ``prune`` and ``compare`` take of ``RefitOptions``."""

    update: Update
    refine: Refinement
    steps: int
    reconstruct: int


class TuneKeywords(TypedDict, total=False):
    """What ``tune`` takes of ``TuneOptions``."""

    max_degradation: str | float | None
    max_perplexity: float | None
    task_metric: str | None
    pattern: str | float | Sparsity | None
    group: GroupChoice
    evaluations: int | None
    time: str | float | None
    update: Update | Literal["auto"]
    refine: Refinement | Literal["auto"]
    steps: int
    seed: int
    samples: int
    language: Language
    push_to_hub: str | None


class FilesKeywords(TypedDict, total=False):
    """What ``unpack`` takes of ``FilesOptions``."""

    revision: str | None
    trust_remote_code: bool


class PackKeywords(FilesKeywords, total=False):
    """What ``pack`` takes of ``PackOptions``."""

    values: Values
    max_seq_length: int | None


class BenchKeywords(TypedDict, total=False):
    """What ``bench`` takes of ``BenchOptions``."""

    rivals: str | Sequence[str]
    device: str
    text: Path | str | None
    dataset: str | None
    windows: int
    max_seq_length: int | None
    repeats: int
    time: str | float | None
    language: Language
    trust_remote_code: bool
    allow_pickle: bool
