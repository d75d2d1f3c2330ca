"""``bench``: what is measured of each model, what is refused, what an interruption keeps."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from copied_models import copied_models
from installed_command import Forked, InProcess
from sparse_model import zero_smallest
from tiny_gguf import save_tiny_gguf
from tiny_model import save_tiny_model, some_text, tiny_model, tiny_tokenizer

from prunerzero import bench
from prunerzero.errors import InputError
from prunerzero.language.corpora import cut_windows
from prunerzero.language.loading import load_model
from prunerzero.language.perplexity import perplexity
from prunerzero.language.source import ModelSource
from prunerzero.memory import cache_folder
from prunerzero.tasks.bench import BenchResult
from prunerzero.tasks.benching.figures import ModelFigures
from prunerzero.tasks.benching.measure import measure_models
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import BenchOptions
from prunerzero.tasks.pack import pack

LITTLE = ["--text", "test.txt", "--windows", "3", "--repeats", "2"]
KEYS = ["model", "file_bytes", "memory_bytes", "load_seconds", "prefill_tokens_per_second",
        "decode_tokens_per_second", "perplexity"]  # fmt: skip
HAS_LLAMA = find_spec("llama_cpp") is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose layers torch's products take, a wider one, and a text."""
    folder = tmp_path_factory.mktemp("bench")
    for name, changes in (("model", {}), ("wide", {"intermediate_size": 512})):
        sizes = {"hidden_size": 64, "intermediate_size": 96} | changes
        tiny_model(**sizes).to(torch.bfloat16).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    shutil.copytree(folder / "wide", folder / "pruned")
    pack(zero_smallest(folder / "pruned"), folder / "packed")
    (folder / "test.txt").write_text(some_text(2))
    compiled = cache_folder() / "kernels"  # once for all: that takes ten seconds
    compiled.mkdir(parents=True, exist_ok=True)
    (folder / "cache").mkdir()
    (folder / "cache" / "kernels").symlink_to(compiled)
    return folder


@pytest.fixture(scope="module")
def measured(place: Path) -> dict[str, Any]:
    """Two models and torch's rivals, measured by the command; its folder is ``out``."""
    rivals = ["--rivals", "dense,int8,int4", "--output-dir", "out"]
    with copied_models():
        return InProcess(place).json("bench", "model", "pruned", "packed", *LITTLE, *rivals)


def test_every_model_and_rival_has_every_figure(measured):
    models = measured["models"]
    names = [figures["model"] for figures in models]
    assert names == ["model", "pruned", "packed", "dense bfloat16", "torch int8", "torch int4"]
    assert [figures["is_rival"] for figures in models] == [False, False, False, True, True, True]
    for figures in models:
        assert list(figures)[: len(KEYS)] == KEYS
        assert figures["notes"] == []
        assert set(figures["prefill_tokens_per_second"]) == {"64"}
        assert set(figures["decode_tokens_per_second"]) == {"1", "4", "16"}
        assert figures["without_graphs"] is None
        speeds = [
            *figures["prefill_tokens_per_second"].values(),
            *figures["decode_tokens_per_second"].values(),
        ]
        assert all(value > 0 for value in (*speeds, figures["load_seconds"], figures["file_bytes"]))
        assert 0 < figures["memory_bytes"] <= figures["peak_memory_bytes"]
        assert figures["libraries_bytes"] > 0
        assert math.isfinite(figures["perplexity"])


def test_bytes_are_those_of_the_files_of_weights(measured, place):
    sizes = {figures["model"]: figures["file_bytes"] for figures in measured["models"]}
    for name in ("model", "pruned"):
        assert sizes[name] == (place / name / "model.safetensors").stat().st_size
    assert sizes["torch int8"] < sizes["dense bfloat16"]


def test_speeds_are_medians_of_runs_and_have_quartiles(measured):
    for figures in measured["models"]:
        runs, spread = figures["runs"], figures["spread"]
        assert len(runs["load_seconds"]) == 1
        for kind in ("prefill", "decode"):
            for key, values in runs[kind].items():
                assert len(values) == 2
                middle = figures[f"{kind}_tokens_per_second"][key]
                assert middle == pytest.approx(sum(values) / 2)
                assert min(values) <= spread[kind][key][0] <= middle <= spread[kind][key][1]


def test_perplexity_is_that_of_the_model_on_windows_all_have_in_common(measured, place):
    text = cut_windows([some_text(2)], tiny_tokenizer(), 64, "test").spread(3)
    source = ModelSource(model=str(place / "model"), dtype="bfloat16")
    expected = perplexity(load_model(source).model, text.windows).value
    found = {figures["model"]: figures["perplexity"] for figures in measured["models"]}
    assert found["model"] == found["dense bfloat16"] == pytest.approx(expected, rel=0.01)
    assert found["torch int8"] == pytest.approx(expected, rel=0.1)
    assert found["torch int8"] != found["model"] != found["torch int4"]


def test_a_packed_model_is_measured_packed(measured, place):
    model, pruned, packed = measured["models"][:3]
    (file,) = (place / "packed").glob("*.safetensors")
    assert packed["file_bytes"] == file.stat().st_size < pruned["file_bytes"]
    assert packed["kernel"] and pruned["kernel"] is None
    assert packed["perplexity"] == pytest.approx(pruned["perplexity"], rel=0.02)


def test_machine_and_protocol_are_told(measured):
    assert measured["protocol"]["threads"] == 1
    assert measured["protocol"]["prefill_tokens"] == [64]  # more than that the models do not read
    assert measured["protocol"]["windows"] == 3
    assert measured["protocol"]["device"] == "cpu" and not measured["protocol"]["in_graphs"]
    assert "gpu" not in measured["machine"] and "CUDA" not in measured["protocol"]["words"]
    assert measured["machine"]["cpu"] and measured["machine"]["memory_bytes"] > 0
    assert measured["versions"]["torch"] == torch.__version__
    assert measured["interrupted"] is False
    assert "turns" in measured["protocol"]["words"]


def test_results_and_page_are_written_and_the_page_again_in_japanese(measured, place):
    assert json.loads((place / "out" / "results.json").read_text()) == measured
    page = place / "out" / "report.html"
    assert "torch int4" in page.read_text()
    assert f"<h1>{measured['answer']}</h1>" in page.read_text()
    assert InProcess(place).json("report", "out", "--language", "ja")["of"] == "bench"
    assert '<html lang="ja">' in page.read_text()


def test_a_terminal_has_the_sentence_below_the_tables(measured, in_workplace, monkeypatch):
    models = tuple(ModelFigures(**figures) for figures in measured["models"])
    found = BenchResult(**{**measured, "models": models})
    monkeypatch.setattr("prunerzero.tasks.bench.bench", lambda *_, **__: found)
    assert measured["answer"].startswith("Of these models, the smallest is")
    assert f"\n{measured['answer']}\n" in in_workplace("bench", "model", "packed").stdout
    alone = replace(found, models=models[:1], answer="")
    monkeypatch.setattr("prunerzero.tasks.bench.bench", lambda *_, **__: alone)
    assert "Of these models" not in in_workplace("bench", "model").stdout


def test_one_model_can_be_measured_by_a_program(place):
    """In a new process, as all are but in these tests."""
    windows = torch.randint(2, 30, (2, 20))
    [found] = measure_models(
        [Subject("mine", ModelSource(model=str(place / "model")))],
        Plan(windows, threads=1, repeats=1, perplexity=False, batches=(2,)).within(64),
    )
    assert found.model == "mine" and found.perplexity is None
    assert list(found.decode_tokens_per_second) == ["2"]


class _StopsAt(Observer):
    """Interrupts when so many turns of measuring speed are done."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)

    def count(self, what: str, total: int, unit: str = "windows") -> Any:
        counted = super().count(what, total, unit)
        if what != "measuring speed":
            return counted
        counted.__enter__()

        class Counting:
            def __enter__(_self) -> Callable[[int], None]:
                return self.advance

            def __exit__(_self, *_: object) -> None:
                pass

        return Counting()

    def advance(self, done: int) -> None:
        if done == self.turns:
            raise KeyboardInterrupt


def test_an_earlier_result_stays_where_nothing_new_was_measured(place, tmp_path):
    class StopsLoading(Observer):
        def count(self, what: str, total: int, unit: str = "windows") -> Any:
            if what == "loading":
                raise KeyboardInterrupt
            return super().count(what, total, unit)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("an earlier one")
    with copied_models(), pytest.raises(KeyboardInterrupt):
        bench(
            [place / "model"],
            text=place / "test.txt",
            output_dir=tmp_path / "out",
            observer=StopsLoading(),
        )
    assert (tmp_path / "out" / "results.json").read_text() == "an earlier one"


def test_an_interruption_keeps_what_was_measured(place, tmp_path):
    observer = _StopsAt(1)
    with copied_models():
        found = bench(
            [place / "model", place / "wide"],
            text=place / "test.txt",
            repeats=2,
            output_dir=tmp_path / "out",
            observer=observer,
        )
    assert found.interrupted
    first, second = found.models
    assert first.decode_tokens_per_second["16"] > 0 and first.perplexity is None
    assert second.decode_tokens_per_second == {} and second.load_seconds is not None
    assert "what was measured until then is in" in observer.notes[-1]
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["interrupted"] and kept["models"][0]["prefill_tokens_per_second"]["64"] > 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_signal_ends_the_command_and_its_processes(place):
    command = ["bench", "model", *LITTLE, "--repeats", "100000", "--output-dir", "stopped"]
    with Forked(place).start(*command) as process:
        results = place / "stopped" / "results.json"
        while not results.exists() or '"64": [\n' not in results.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        children = _children(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted: what was measured until then is in" in errors
    assert "model" in out
    assert not any(os.path.exists(f"/proc/{child}") for child in children)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_models_process_that_a_signal_ends_is_no_interruption(place, stop):
    def end_first(turns: int) -> None:
        if turns == 2:  # both models had their first turn
            processes = [p for p in psutil.Process().children() if _WORKER in p.cmdline()]
            first, second = sorted(processes, key=lambda p: p.pid)
            first.send_signal(stop)

    observer = _StopsAt(0)
    observer.advance = end_first
    few = {"windows": 1, "repeats": 2}
    models = [place / "model", place / "wide"]
    found = bench(models, text=place / "test.txt", observer=observer, **few)
    assert not found.interrupted
    first, second = found.models
    [note] = first.notes
    assert note.startswith("Not measured to the end: its process ") and stop.name in note
    assert second.perplexity is not None and second.notes == ()


_WORKER = "prunerzero.tasks.benching.worker"


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def test_a_rival_that_cannot_be_measured_says_so_and_the_others_go_on(place, tmp_path, monkeypatch):
    monkeypatch.setattr("prunerzero.tasks.bench.make_rivals", _broken_rival)
    few = {"windows": 1, "repeats": 1}
    with copied_models():
        found = bench(place / "model", text=place / "test.txt", rivals="int8", **few)
    model, rival = found.models
    assert model.perplexity is not None and model.notes == ()
    assert rival.perplexity is None and rival.file_bytes is None
    assert rival.notes[0].startswith("Not measured to the end: ")


def _broken_rival(rivals: Any, first: Subject, folder: Path, threads: int) -> list[Subject]:
    (folder / "broken.pt").write_bytes(b"no module")
    return [Subject("torch int8", first.source, "torch int8", folder / "broken.pt", True)]


@pytest.fixture
def refused(in_workplace: Callable[..., Any], workplace: Path) -> Callable[..., str]:
    """What a command that is refused says."""

    def run(*arguments: str) -> str:
        done = in_workplace("bench", *arguments)
        assert done.exit_code == 2, done.output
        assert done.stdout == ""
        return str(done.stderr)

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./nowhere", "--text", "test.txt"], ["./nowhere"]),
        (["model"], ["no text is named", "--text FILE"]),
        (["model", "--text", "nowhere.txt"], ["nowhere.txt"]),
        (["model", "--text", "test.txt", "--dataset", "c4"], ["--text", "--dataset"]),
        (["model", "model", "--text", "test.txt"], ["named twice"]),
        (["model", "--text", "test.txt", "--rivals", "int5"], ["--rivals", "int5", "llama.cpp"]),
        (["model", "--text", "test.txt", "--repeats", "0"], ["--repeats"]),
        (["model", "--text", "test.txt", "--time", "soon"], ["soon"]),
        (["model", "--text", "test.txt", "--max-seq-length", "65"], ["64", "--max-seq-length 65"]),
        (["model", "--text", "test.txt", "--output-dir", "model"], ["model"]),
    ],
)
def test_bad_input_is_refused_before_the_work(refused, arguments, words):
    told = refused(*arguments)
    assert all(word in told for word in words), told


def test_a_folder_with_other_files_is_left_alone(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    told = refused("model", "--text", "test.txt", "--output-dir", str(tmp_path))
    assert f"'{tmp_path}' exists and is not empty" in told


def test_models_of_other_tokens_are_refused(refused, workplace):
    shutil.rmtree(workplace / "other-tokens", ignore_errors=True)
    save_tiny_model(workplace / "other-tokens")
    file = workplace / "other-tokens" / "tokenizer.json"
    swapped = file.read_text().replace('"a":', '"!":').replace('"b":', '"a":')
    file.write_text(swapped.replace('"!":', '"b":'))
    told = refused("model", "other-tokens", "--text", "test.txt")
    assert "other tokens" in told and "one by one" in told


@pytest.mark.skipif(HAS_LLAMA, reason="llama.cpp is installed")
def test_without_llama_cpp_what_needs_it_is_refused(refused, workplace):
    for arguments in (["model", "--rivals", "llama.cpp"], ["tiny.gguf"]):
        save_tiny_gguf(workplace / "tiny.gguf")
        assert "pip install 'prunerzero[bench]'" in refused(*arguments, "--text", "test.txt")


@pytest.mark.skipif(not HAS_LLAMA, reason="llama.cpp is an extra: prunerzero[bench]")
def test_llama_cpp_is_measured_on_the_same_windows(place):
    found = bench(
        place / "model", text=place / "test.txt", rivals="llama.cpp", windows=2, repeats=1
    )
    dense, q8, q4 = found.models
    assert (q8.model, q4.model) == ("llama.cpp Q8_0", "llama.cpp Q4_K_M")
    assert q8.perplexity == pytest.approx(dense.perplexity, rel=0.2)
    assert q8.decode_tokens_per_second["16"] > 0 and q8.file_bytes < dense.file_bytes


def test_rivals_are_read_from_text_and_lists_alike():
    assert BenchOptions(rivals="int8, int4").rivals == ("int8", "int4")
    assert BenchOptions(rivals=["int8"]).rivals == ("int8",)
    assert BenchOptions().rivals == ()
    with pytest.raises(InputError, match="`rivals` must be dense, int8, int4 or llama.cpp"):
        BenchOptions(rivals=["q4"])
