"""What models cost on this machine, side by side: bytes, memory, speed, and perplexity."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch

from prunerzero.arguments import path, texts
from prunerzero.documents import path_of
from prunerzero.errors import InputError, ModelError, TextError
from prunerzero.files import check_apart, check_empty, check_fillable, make_folder, write_json
from prunerzero.files import writing as writing_file
from prunerzero.language.corpora import Text, read_corpus, read_file
from prunerzero.language.devices import find_device
from prunerzero.language.loading import outline_of
from prunerzero.language.models import LanguageModel
from prunerzero.language.source import BUNDLED, ModelSource
from prunerzero.options import takes
from prunerzero.report import bench_answer, write_bench_report
from prunerzero.tasks.benching.figures import ModelFigures
from prunerzero.tasks.benching.machine import machine, versions
from prunerzero.tasks.benching.measure import measure_models
from prunerzero.tasks.benching.rivals import make_rivals
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.duration import parse_duration
from prunerzero.tasks.keywords import BenchKeywords
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import BenchOptions
from prunerzero.tasks.workspace import DEFAULT_WINDOW_LENGTH

RESULTS, PAGE = "results.json", "report.html"

_LIKE_ON: dict[str, dict[str, Any]] = {
    "cpu": {},
    # with 32 new tokens, those before fill a window of 512, the shortest that is common
    "cuda": {"in_graphs": True, "prefill_tokens": (512, 2048), "prompt_tokens": 480},
}
"""How a plan differs from the usual on each kind of device."""


@dataclass(frozen=True)
class BenchResult:
    """What was measured, of all models in one run.

    Attributes:
        models: figures of each, in the order in which they were named, rivals last.
        text: that perplexity was measured on.
        protocol: how it was measured, in figures and under ``words`` in sentences.
        machine: processor, instruction sets, cores, memory; the GPU where models were measured
            on one.
        versions: of what ran the models.
        settings: the options.
        interrupted: whether it was stopped before everything was measured.
        answer: which model is best in what, in a sentence; models whose quartiles overlap are not
            told apart.
    """

    models: tuple[ModelFigures, ...]
    text: str
    protocol: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    interrupted: bool = False
    answer: str = ""


@takes(BenchOptions)
def bench(
    models: str | Path | Sequence[str | Path],
    options: BenchOptions = BenchOptions(),
    *,
    output_dir: str | Path | None = None,
    observer: Observer | None = None,
    **keywords: Unpack[BenchKeywords],
) -> BenchResult:
    """Measure models side by side on this machine, each in a process of its own.

    A GGUF file is run by llama.cpp, every other model by transformers in the dtype it is stored in.
    On a GPU speeds are measured in CUDA graphs, and without them too. If it is interrupted, the
    result has what was measured.

    Args:
        models: folders, hub ids, GGUF files, or ``"bundled"``; rivals are made of the first.
        options: which rivals, where, which text, how often.
        output_dir: where ``results.json`` and ``report.html`` are written; None for nowhere.
        observer: told of progress.

    Raises:
        InputError: a model, a text or a folder that cannot be had, or models whose tokens differ.
        KeyboardInterrupt: before anything was measured.
    """
    observer = observer or Observer()
    names = texts("models", models)
    seconds = None if options.time is None else parse_duration(options.time)
    folder = None if output_dir is None else path("output_dir", output_dir)
    device = _device(names, options)
    _check_names(names, options)
    documents, text_name = _read_text(names[0], options)
    if folder is not None:
        _check_folder(folder, names)
    observer.stage("reading the tokenizers")
    subjects = [_subject(name, options) for name in names]
    outlines = [outline_of(subject.source) for subject in subjects]
    text = _windows(outlines[0], documents, text_name, options)
    for outline in outlines[1:]:
        _check_tokens(outlines[0], outline, text)
    plan = Plan(
        text.windows,
        torch.get_num_threads(),
        options.repeats,
        seconds,
        device=str(device),
        **_LIKE_ON[device.type],
    ).within(min(outline.context_length for outline in outlines))
    result = BenchResult(
        models=(),
        text=text.name,
        protocol=_protocol(plan),
        machine=machine(plan.device),
        versions=versions(),
        settings={"models": names, **asdict(options)},
        interrupted=True,
    )

    def keep(figures: list[ModelFigures]) -> None:
        nonlocal result
        result = replace(result, models=tuple(figures))
        result = replace(result, answer=bench_answer(asdict(result)))
        if folder is not None and any(one.has_speed for one in figures):
            write_json(folder / RESULTS, asdict(result))

    try:
        with tempfile.TemporaryDirectory(prefix="prunerzero-bench-") as rivals_folder:
            rivals = []
            if options.rivals:
                observer.stage("making rivals")
                rivals = make_rivals(options.rivals, subjects[0], Path(rivals_folder), plan.threads)
                for rival in rivals:
                    for note in rival.notes:
                        observer.note(f"{rival.name}: {note}")
            if folder is not None:
                make_folder(folder)
            measure_models([*subjects, *rivals], plan, observer, keep)
        result = replace(result, interrupted=False)
    except KeyboardInterrupt:
        if not any(figures.has_speed for figures in result.models):
            raise
        where = "told here" if folder is None else f"in '{folder / RESULTS}'"
        observer.note(f"Interrupted: what was measured until then is {where}.")
    if folder is not None:
        write_json(folder / RESULTS, asdict(result))
        with writing_file(
            folder / PAGE,
            f"all figures are in '{folder / RESULTS}', and `prunerzero report {folder}` writes the "
            "page of them",
        ):
            write_bench_report(asdict(result), folder / PAGE, options.language)
    return result


def _check_names(names: Sequence[str], options: BenchOptions) -> None:
    if not names:
        raise InputError("no model is named; name a folder, a hub id, or a GGUF file.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"model {min(twice)!r} is named twice; leave one of them out.")
    for what in (*(name for name in names if _is_gguf(name)), *options.rivals):
        if (what == "llama.cpp" or _is_gguf(what)) and find_spec("llama_cpp") is None:
            raise InputError(
                f"{what!r} needs another package: pip install 'prunerzero[bench]', which builds "
                "llama.cpp from source in a few minutes."
            )
        if what == "llama.cpp" and find_spec("gguf") is None:
            raise InputError(f"{what!r} needs another package: pip install 'prunerzero[bench]'.")


def _device(names: Sequence[str], options: BenchOptions) -> torch.device:
    """Where all models are to run. Raises InputError where they cannot."""
    device = find_device(options.device)
    if device.type not in _LIKE_ON:
        raise InputError(
            f"device {options.device!r} cannot be measured on: speeds are measured on the CPU and "
            'on NVIDIA GPUs; pass `device="cpu"`.'
        )
    if device.type != "cpu":
        for what in (*(name for name in names if _is_gguf(name)), *options.rivals):
            if what != "dense":
                raise InputError(
                    f"{what!r} runs on the CPU alone, and the models are measured on a GPU; leave "
                    'it out, or pass `device="cpu"`.'
                )
        if device.index is None:
            device = torch.device(device.type, torch.cuda.current_device())
    return device


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf") and path_of(name).is_file()


def _read_text(first: str, options: BenchOptions) -> tuple[list[str], str]:
    """The documents of the text, and its name."""
    if options.text is not None and options.dataset is not None:
        raise InputError("`text` and `dataset` are both given; leave one of them out.")
    if options.text is not None:
        return read_file(options.text), str(options.text)
    dataset = options.dataset or ("python-docs" if first == BUNDLED else None)
    if dataset is None:
        raise TextError('no text is named; pass `text=FILE` or `dataset="wikitext2"`.')
    return read_corpus(dataset, "test"), f"{dataset} (test)"


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds anything but an earlier result, or that is a model's."""
    for name in names:
        check_apart(folder, path_of(name))
    check_fillable(folder)
    if not (folder / RESULTS).is_file():
        check_empty(folder)


def _subject(name: str, options: BenchOptions) -> Subject:
    source = ModelSource(
        model=name,
        device="cpu",
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )
    if _is_gguf(name):
        return Subject(name, source, "llama.cpp", path_of(name))
    return Subject(name, source)


def _windows(
    outline: LanguageModel, documents: list[str], name: str, options: BenchOptions
) -> Text:
    longest = outline.context_length
    length = options.max_seq_length or min(DEFAULT_WINDOW_LENGTH, longest)
    if length > longest:
        raise ModelError(
            f"{outline.name!r} reads at most {longest} tokens, `max_seq_length={length}` is more."
        )
    return outline.windows(documents, length, name).spread(options.windows)


def _check_tokens(first: LanguageModel, other: LanguageModel, text: Text) -> None:
    """Refuse a model for which the tokens of the text are others than for the first."""
    used = text.windows.unique().tolist()
    if used[-1] < len(other.tokenizer):
        theirs = other.tokenizer.convert_ids_to_tokens(used)
        if theirs == first.tokenizer.convert_ids_to_tokens(used):
            return
    raise ModelError(
        f"{other.name!r} has other tokens than {first.name!r}, so that their perplexities do not "
        "compare; measure them one by one."
    )


def _protocol(plan: Plan) -> dict[str, Any]:
    count, length = plan.windows.shape
    batches = ", ".join(map(str, plan.batches))
    lengths = " and ".join(map(str, plan.prefill_tokens))
    return {
        "device": plan.device,
        "in_graphs": plan.in_graphs,
        "threads": plan.threads,
        "repeats": plan.repeats,
        "windows": count,
        "window_length": length,
        "prefill_tokens": list(plan.prefill_tokens),
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
        "batches": list(plan.batches),
        "words": f"threads: {plan.threads}; repeats: at most {plan.repeats}, in which the models "
        f"take turns; speeds are their medians; prefill of {lengths} tokens; "
        f"decoding of {plan.new_tokens} tokens after a prompt of {plan.prompt_tokens}, for "
        f"{batches} texts at once, greedily, {_HOW_DECODED[plan.in_graphs]}; perplexity on {count} "
        f"windows of {length} tokens; {_WHICH_MEMORY[plan.device != 'cpu']}; the time to load ends "
        "with the first token, its files being in the system's cache",
    }


_HOW_DECODED = {
    False: "by a plain loop with a cache",
    True: "in CUDA graphs with a static cache, and without graphs by a plain loop with a cache "
    "that grows",
}
_WHICH_MEMORY = {
    False: "memory is what a model adds to its libraries', pages of mapped files included",
    True: "memory is the GPU's: what the model's tensors take, and the most that torch had "
    "allocated",
}
