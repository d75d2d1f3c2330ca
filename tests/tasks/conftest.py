"""A tiny model with three texts in a folder of its own, and the command line to try on it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from installed_command import Forked, InProcess, Installed, run_here
from tiny_model import save_tiny_model, some_text

from prunerzero.tasks.benching.figures import ModelFigures
from prunerzero.tasks.benching.subject import Subject
from prunerzero.tasks.tuning import packing

# a shell starts what it runs in the background with Ctrl-C ignored, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def packed_is_faster() -> Iterator[Callable[..., list[ModelFigures]]]:
    """What ``tune`` measures last takes processes of its own: here both models have known figures.

    Twice the tokens a second of half the memory; ``test_tune_packed`` has the real thing too.
    """

    def figures(subjects: list[Subject], *_: Any) -> list[ModelFigures]:
        return [
            ModelFigures(
                model=subject.name,
                file_bytes=subject.known_bytes(),
                memory_bytes=80_000_000 // times,
                load_seconds=1.0,
                prefill_tokens_per_second={"16": 100.0},
                decode_tokens_per_second={"1": 24.0 * times},
                perplexity=None,
                peak_memory_bytes=None,
                mapped_bytes=None,
                libraries_bytes=None,
                spread={
                    "prefill": {"16": (90.0, 110.0)},
                    "decode": {"1": (23.0 * times, 25.0 * times)},
                },
                runs={},
                runtime="transformers",
                dtype="bfloat16",
                kernel="avx2" if times == 2 else None,
                is_rival=False,
                notes=(),
            )
            for times, subject in enumerate(subjects, start=1)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "measure_models", figures)
        yield figures


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model/``, ``calibration.txt``, ``validation.txt`` and ``test.txt``."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model(folder / "model")
    for seed, part in enumerate(("calibration", "validation", "test")):
        (folder / f"{part}.txt").write_text(some_text(seed))
    return folder


@pytest.fixture(scope="session")
def installed(workplace: Path) -> Installed:
    return Installed(workplace)


@pytest.fixture(scope="session")
def forked(workplace: Path) -> Forked:
    return Forked(workplace)


@pytest.fixture(scope="session")
def here(workplace: Path) -> InProcess:
    """The command line in this process, for fixtures of any scope; else ``in_workplace``."""
    return InProcess(workplace)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The options that name the model and its texts, relative to the workplace."""
    options = ["--model", "model"]
    for part in ("calibration", "validation", "test"):
        options += [f"--{part}", f"{part}.txt"]
    return options


@pytest.fixture(scope="session")
def found(here: InProcess, texts: list[str]) -> Any:
    """What a search of twelve evaluations printed; its folder is ``run``."""
    return here.json("search", *texts, "--evaluations", "12", "--output-dir", "run")


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line in this process, which is faster: a ``Done``."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return run_here
