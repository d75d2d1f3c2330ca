"""The packed model beside the pruned one, and what it saves on this machine.

The dense model is the one that was tuned, as it came. Packing rounds float32 to bfloat16: there
both models are rounded as a whole before they are packed and measured, so that what the narrower
dtype saves is not taken for what packing saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from prunerzero.errors import ModelError, first_line
from prunerzero.files import write_text
from prunerzero.language.download import copy_others
from prunerzero.language.locate import files_of
from prunerzero.language.source import ModelSource
from prunerzero.packed import kernels
from prunerzero.packed.files import facts_of
from prunerzero.tasks.benching.figures import ModelFigures
from prunerzero.tasks.benching.machine import machine
from prunerzero.tasks.benching.measure import measure_models
from prunerzero.tasks.benching.rivals import make_rivals
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.checkpoint import Checkpoint
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import PackOptions
from prunerzero.tasks.pack import pack
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.tune_result import Packing, RunningCost
from prunerzero.tasks.workspace import Workspace

REPEATS = 3
LONGEST = 60.0
"""Seconds after which no further repeat begins."""
ABOUT_SECONDS = 30.0
"""What it all takes for a small model."""

_NARROW = (torch.bfloat16, torch.float16)
"""Dtypes whose values are packed as they are."""
_TIMES_FILE = 1.25
"""A model is measured where so many times its files' bytes of memory are free."""


def pack_and_measure(setup: Setup, work: Workspace, model: Path, packed: Path) -> Packing:
    """Pack a pruned model, unless it is packed already, and measure it beside the dense one.

    Whatever goes wrong is told in the result: the pruned model is there all the same.

    Args:
        setup: of the model that was tuned.
        work: its texts, of which prompts are taken; it is asked to forget the model, for memory.
        model: the pruned model.
        packed: where the packed one is, or will be.
    """
    narrow = work.language_model.stored_dtype in _NARROW
    context, windows = work.language_model.context_length, work.texts.of("test").windows
    work.forget_model()
    original = ModelSource(
        model=setup.model,
        revision=setup.revision,
        device="cpu",
        trust_remote_code=setup.trust_remote_code,
        allow_pickle=setup.allow_pickle,
    )
    made = replace(original, model=str(packed), revision=None, allow_pickle=False)
    found = Packing(rounded="nothing" if narrow else "both")
    with TemporaryDirectory(prefix=".rounded-", dir=packed.parent) as scratch:
        try:
            if not packed.exists():
                pruned = replace(made, model=str(model))
                if not narrow:
                    pruned = _rounded(pruned, Path(scratch) / "pruned", work.observer)
                    copy_others(model, Path(pruned.model))
                named = f"{model}{'' if narrow else ', rounded to bfloat16'}"
                try:
                    options = PackOptions(trust_remote_code=setup.trust_remote_code)
                    pack(pruned.model, packed, work.observer, options)
                except ModelError as error:
                    return Packing(why_not=str(error).replace(pruned.model, named))
                card = packed / "README.md"
                write_text(card, card.read_text(encoding="utf-8").replace(pruned.model, named))
            found = _with_files(found, made)
            found = replace(found, original_bytes=_bytes_of(original))
            _check_memory(original)
            if not narrow:
                original = _rounded(original, Path(scratch) / "dense", work.observer)
            plan = Plan(
                windows,
                torch.get_num_threads(),
                repeats=REPEATS,
                seconds=LONGEST,
                perplexity=False,
                prefill_tokens=(16,),
                batches=(1,),
            ).within(context)
            subjects = [Subject("dense", original), Subject("packed", made)]
            return _with_costs(found, measure_models(subjects, plan, work.observer), plan)
        except Exception as error:  # of any library: it must not cost the answer
            return replace(found, failed=f"{first_line(error)}.")


def _rounded(source: ModelSource, folder: Path, observer: Observer) -> ModelSource:
    """A copy of a model in bfloat16."""
    observer.stage(f"rounding {source.model} to bfloat16")
    folder.mkdir()
    [made] = make_rivals(["dense"], Subject("dense", source), folder, torch.get_num_threads())
    return replace(source, model=made.source.model, revision=None, allow_pickle=False)


def _bytes_of(source: ModelSource) -> int:
    return sum(file.stat().st_size for file in files_of(source))


def _check_memory(model: ModelSource) -> None:
    """Raise ModelError where measuring would make the machine swap."""
    free, need = psutil.virtual_memory().available, _TIMES_FILE * _bytes_of(model)
    if free < need:
        raise ModelError(
            f"the dense model takes about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB "
            "are free."
        )


def _with_files(found: Packing, packed: ModelSource) -> Packing:
    """What the packed files tell, of this packing or of an earlier one."""
    checkpoint = Checkpoint.of(packed)
    facts = facts_of(checkpoint.config.get("quantization_config", {})).values()
    if found.rounded == "nothing" and any(one.values != one.dtype for one in facts):
        found = replace(found, rounded="packed")
    return replace(
        found,
        folder=packed.model,
        values=" and ".join(sorted({one.values for one in facts})),
        dense_bytes=checkpoint.bytes + sum(one.dense.bytes - one.bytes for one in facts),
        packed_bytes=checkpoint.bytes,
    )


def _with_costs(found: Packing, figures: Sequence[ModelFigures], plan: Plan) -> Packing:
    for one in figures:
        if one.notes:
            return replace(found, failed=f"{one.model}: {one.notes[-1]}")
    dense, packed = figures
    return replace(
        found,
        dense=_cost(dense),
        packed=_cost(packed),
        kernel=packed.kernel,
        no_kernel=(kernels.why_torch() or "") if packed.kernel == "torch" else "",
        cpu=machine(plan.device)["cpu"],
        threads=plan.threads,
    )


def _cost(figures: ModelFigures) -> RunningCost:
    assert figures.memory_bytes is not None
    return RunningCost(
        memory_bytes=figures.memory_bytes,
        tokens_per_second=figures.decode_tokens_per_second["1"],
        quartiles=figures.spread["decode"]["1"],
    )
