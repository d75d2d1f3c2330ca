"""Pack a pruned checkpoint: one bit a weight, and the values of those that are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from prunerzero.arguments import path, paths
from prunerzero.arguments import texts as several
from prunerzero.errors import InputError, ModelError
from prunerzero.files import check_apart, new_folder, write_text
from prunerzero.language.cards import inherited_fields
from prunerzero.language.download import copy_others
from prunerzero.language.kinds import auto_class, check_config, empty_model
from prunerzero.language.loading import refusal_of
from prunerzero.language.quiet import quiet_transformers
from prunerzero.language.source import ModelSource
from prunerzero.options import takes
from prunerzero.packed.files import is_packed
from prunerzero.pruning.gram import Grams
from prunerzero.report import packed_card
from prunerzero.report.model_card import UNPACKED_CARD
from prunerzero.tasks.checkpoint import Checkpoint, as_transformers_writes
from prunerzero.tasks.evaluate import evaluate
from prunerzero.tasks.keywords import PackKeywords
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import PackOptions
from prunerzero.tasks.output import check_output
from prunerzero.tasks.pack_plan import Done, Errors, Plan
from prunerzero.tasks.packable import destinations_of
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.sources import sources_of
from prunerzero.tasks.workspace import Workspace
from prunerzero.tensor_file import Header, write_tensors


@dataclass(frozen=True)
class StaysDense:
    """Matrices that are not packed for one reason."""

    why: str
    matrices: int
    bytes: int
    example: str


@dataclass(frozen=True)
class PackResult:
    """What was packed, what it saves and what it costs.

    Attributes:
        output_dir: the packed model.
        model: the one that it was made of.
        values: how the kept values are stored.
        matrices: how many are packed.
        sparsity: share of their weights that are not kept.
        bytes, packed_bytes: of all weights files, before and after.
        dense: the matrices that are not packed, and why.
        negative_zeros: weights that are -0.0; they are kept, as every bit comes back.
        rounded: how values were rounded: ``"to nearest"``, or ``"with a text"`` where the error of
            one is made good by others; None where each is as it was.
        error: of the packed weights, relative to their norm; None where each is as it was.
        worst_matrix, worst_error: the matrix where it is largest.
        perplexity: text → ``before`` and ``after``; empty where no text was named.
    """

    output_dir: str
    model: str
    values: str
    matrices: int
    sparsity: float
    bytes: int
    packed_bytes: int
    dense: tuple[StaysDense, ...]
    negative_zeros: int = 0
    rounded: str | None = None
    error: float | None = None
    worst_matrix: str | None = None
    worst_error: float | None = None
    perplexity: dict[str, dict[str, float]] = field(default_factory=dict)


@takes(PackOptions)
def pack(
    model: str | Path,
    output_dir: str | Path,
    observer: Observer | None = None,
    options: PackOptions = PackOptions(),
    *,
    datasets: str | Sequence[str] = (),
    texts: str | Path | Sequence[str | Path] = (),
    calibration: str | Path | Sequence[str | Path] = (),
    **keywords: Unpack[PackKeywords],
) -> PackResult:
    """Pack a pruned model into a folder that ``from_pretrained`` loads after ``import prunerzero``.

    Every file beside the weights is copied; the model card gets another name, and the folder a card
    of its own. One matrix is in memory at a time; perplexity, where a text is named, is measured on
    the whole models, one after the other. With calibration texts the whole model is in memory
    first, and the Gram matrix of each layer's inputs.

    Args:
        model: folder or hub id of a pruned checkpoint in safetensors.
        output_dir: must be absent or empty.
        observer: told of progress.
        options: how values are stored; each field is a keyword too.
        datasets, texts: named corpora, of which the test part is read, and text files, on which
            perplexity is measured before and after.
        calibration: text files that int4 values are rounded by, so that what each layer computes on
            them changes least; without any, they are rounded to nearest.

    Raises:
        InputError: nothing was written; or the model is packed, but a text cannot be measured.
    """
    observer = observer or Observer()
    output_dir = path("output_dir", output_dir)
    source = options.source(model)
    setup = Setup(**vars(source), max_seq_length=options.max_seq_length)
    datasets, texts = several("datasets", datasets), paths("texts", texts)
    calibration = paths("calibration", calibration)
    if calibration and options.values != "int4":
        raise InputError("`calibration` is for `values=int4`: only these are rounded with a text.")
    check_output(output_dir, setup)
    if datasets or texts:
        sources_of(setup, "test", datasets, texts)
    work = None
    if calibration:
        work = Workspace(replace(setup, calibration=calibration), observer)
        work.texts.read("calibration")
    checkpoint = Checkpoint.of(source)
    check_apart(output_dir, checkpoint.folder)
    empty = _empty_model(source, checkpoint)
    places = destinations_of(empty, checkpoint.owners)
    plan = Plan.of(checkpoint, places, options.values, observer)
    headers = plan.headers()
    checkpoint.check_room(output_dir, headers)
    errors = Errors()
    grams: Grams = {} if work is None else work.calibration.grams
    work = None  # and with it the whole model
    with new_folder(output_dir) as folder:
        copy_others(checkpoint.folder, folder)
        with observer.count("packing", checkpoint.bytes >> 20, "MiB") as advance:
            done = Done(advance)
            for file, header in headers.items():
                tensors = plan.tensors(file, errors, done, grams)
                write_tensors(folder / checkpoint.written_as(file), header, tensors)
        checkpoint.write_index(folder, headers)
        write_text(folder / "config.json", as_transformers_writes(plan.config()))
        result = _result(output_dir, plan, headers, errors)
        if result.error is not None:
            result = replace(result, rounded="with a text" if calibration else "to nearest")
        _write_card(folder, result, auto_class(empty.config).__name__)
    if datasets or texts:
        result = replace(result, perplexity=_measured(result, setup, observer, datasets, texts))
    return result


@quiet_transformers()
def _empty_model(source: ModelSource, checkpoint: Checkpoint) -> Any:
    """The model without weights, which knows what each tensor is for.

    Raises:
        ModelError: it is packed or quantised, or transformers cannot make it.
    """
    from transformers import AutoConfig

    if is_packed(checkpoint.config):
        raise ModelError(f"{source.model!r} is packed already.")
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=source.trust_remote_code
        )
        check_config(source.model, config, from_gguf=False)
        return empty_model(config, source.trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # a broken config makes transformers raise almost anything
        raise refusal_of(source.model, error) from error


def _write_card(folder: Path, result: PackResult, auto_class: str) -> None:
    """Write the card; that of the model that was packed is kept beside it."""
    card = folder / "README.md"
    inherited, unpacked = inherited_fields(str(folder)), None
    if card.is_file():
        unpacked = card.read_text(encoding="utf-8", errors="replace")
        os.replace(card, folder / UNPACKED_CARD)
    write_text(card, packed_card(asdict(result), auto_class, inherited, unpacked))


def _result(
    output_dir: Path, plan: Plan, headers: Mapping[Path, Header], errors: Errors
) -> PackResult:
    packed = plan.packed.values()
    weights = sum(one.facts.rows * one.facts.columns for one in packed)
    worst, worst_error = errors.worst
    return PackResult(
        output_dir=str(output_dir),
        model=plan.checkpoint.name,
        values=" and ".join(sorted({one.facts.values for one in packed})),
        matrices=len(plan.packed),
        sparsity=1 - sum(one.facts.kept for one in packed) / weights,
        bytes=plan.checkpoint.bytes,
        packed_bytes=sum(header.bytes for header in headers.values()),
        dense=_stay_dense(plan),
        negative_zeros=sum(one.negative for one in packed),
        error=errors.relative,
        worst_matrix=worst,
        worst_error=worst_error,
    )


def _stay_dense(plan: Plan) -> tuple[StaysDense, ...]:
    names: dict[str, list[str]] = {}
    for name, why in plan.dense.items():
        names.setdefault(why, []).append(name)
    sizes = {name: form.bytes for name, _, form in plan.checkpoint.tensors()}
    return tuple(
        StaysDense(why, len(each), sum(sizes[name] for name in each), each[0])
        for why, each in names.items()
    )


def _measured(
    result: PackResult,
    setup: Setup,
    observer: Observer,
    datasets: Sequence[str],
    texts: Sequence[Path],
) -> dict[str, dict[str, float]]:
    """Perplexity of the model and of the packed one, by text."""
    unmeasured = f"'{result.output_dir}' is packed, but its perplexity was not measured"
    try:
        found = evaluate(
            replace(setup, model=result.output_dir, revision=None),
            "test",
            observer,
            datasets=datasets,
            texts=texts,
            reference=result.model,
        )
    except InputError as error:
        raise InputError(f"{unmeasured}: {error}") from error
    except KeyboardInterrupt:
        observer.note(f"{unmeasured}.")
        raise
    return {
        one.text: {"before": one.reference, "after": one.perplexity}
        for one in found.texts
        if one.reference is not None
    }
