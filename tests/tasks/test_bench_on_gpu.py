"""``bench --device cuda``: what it measures and tells, and what it refuses.

Most of it is tested without a GPU: with a plan like one for a GPU, for models on the CPU, where
replaying a graph stands for doing its work again.
"""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from installed_command import InProcess
from sparse_model import zero_smallest
from tiny_model import some_text, tiny_model, tiny_tokenizer

from prunerzero import bench
from prunerzero.errors import InputError
from prunerzero.tasks import bench as task
from prunerzero.tasks.benching import graphs, measure
from prunerzero.tasks.benching.process import ModelFailedError
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.benching.worker import Worker
from prunerzero.tasks.pack import pack

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    warnings.warn("no GPU here: bench is not tested on one", stacklevel=1)
LITTLE = ["--text", "test.txt", "--windows", "3", "--repeats", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model, a packed one, and a text."""
    folder = tmp_path_factory.mktemp("bench-on-gpu")
    tiny_model(hidden_size=64, intermediate_size=96).to(torch.bfloat16).save_pretrained(
        folder / "model"
    )
    tiny_tokenizer().save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "pruned")
    pack(zero_smallest(folder / "pruned"), folder / "packed")
    (folder / "test.txt").write_text(some_text(2))
    return folder


class _InThisProcess:
    """A ``ModelProcess`` without the process, so that what it does can be changed here."""

    def __init__(self, subject: Subject, threads: int, device: str) -> None:
        self.is_warm = False
        self._worker = Worker(subject.to_json(), threads, device, io.StringIO())

    def ask(self, word: str, on_done: object = None, **told: Any) -> Any:
        try:
            return json.loads(json.dumps(getattr(self._worker, word)(**told)))
        except RuntimeError as error:
            raise ModelFailedError(str(error)) from error

    def close(self) -> None:
        pass


@pytest.fixture
def like_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(task._LIKE_ON, "cpu", task._LIKE_ON["cuda"])
    monkeypatch.setattr(graphs, "recorded", lambda work, device: work)
    monkeypatch.setattr(measure, "ModelProcess", _InThisProcess)


def check(measured: dict[str, Any]) -> None:
    """That every speed is there in graphs and without, and that it is told which is which."""
    for figures in measured["models"]:
        assert figures["notes"] in ([], ())
        of_all = {"prefill": {"64"}, "decode": {"1", "4", "16"}}
        for kind, keys in of_all.items():
            inside, outside = figures[f"{kind}_tokens_per_second"], figures["without_graphs"][kind]
            assert inside.keys() == outside.keys() == keys
            assert all(speed > 0 for speed in (*inside.values(), *outside.values()))
            for of_runs in (figures["runs"], figures["runs"]["without_graphs"]):
                assert all(len(of_runs[kind][key]) == 2 for key in keys)
            for of_runs in (figures["spread"], figures["spread"]["without_graphs"]):
                assert all(len(of_runs[kind][key]) == 2 for key in keys)
    assert measured["protocol"]["in_graphs"] is True
    assert "in CUDA graphs with a static cache, and without graphs" in measured["protocol"]["words"]


def test_every_speed_is_measured_in_graphs_and_without(place, like_on_gpu):
    run = InProcess(place)
    measured = run.json("bench", "packed", "--rivals", "dense", *LITTLE, "--output-dir", "out")
    assert [figures["model"] for figures in measured["models"]] == ["packed", "dense bfloat16"]
    check(measured)
    assert json.loads((place / "out" / "results.json").read_text()) == measured
    assert "Without CUDA graphs" in (place / "out" / "report.html").read_text()


def test_the_terminal_tells_which_speeds_are_in_graphs(place, like_on_gpu):
    told = " ".join(InProcess(place).run("bench", "packed", *LITTLE).stdout.split())  # titles wrap
    assert "Tokens a second, in CUDA graphs" in told
    assert "Tokens a second without CUDA graphs, as generate() runs a model by itself" in told
    assert "generate() by itself runs them without" in told


def test_a_model_that_cannot_be_recorded_keeps_its_other_figures(place, like_on_gpu, monkeypatch):
    def fails(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "recorded", fails)
    found = bench(place / "packed", text=place / "test.txt", windows=2, repeats=2)
    [figures] = found.models
    assert figures.decode_tokens_per_second == {} == figures.prefill_tokens_per_second
    assert figures.without_graphs is not None
    assert set(figures.without_graphs["decode"]) == {"1", "4", "16"}
    assert len(figures.runs["without_graphs"]["decode"]["1"]) == 2
    assert figures.perplexity is not None and figures.has_speed
    [note] = figures.notes
    assert note == (
        "Not measured to the end in CUDA graphs: operation not permitted when stream is capturing."
    )


def test_the_plan_fits_the_shortest_context_and_fills_its_prompts():
    windows = torch.arange(60).view(3, 20)
    plan = Plan(windows, threads=1, **task._LIKE_ON["cuda"])
    long = plan.within(4096)
    assert (long.prefill_tokens, long.prompt_tokens, long.new_tokens) == ((512, 2048), 480, 32)
    assert long.prompts(4)[1][:3] == [20, 21, 22] and long.prompts(4)[1][39:42] == [59, 0, 1]
    assert long.prompts(4)[3] == long.prompts(4)[0]
    assert all(len(prompt) == 480 for prompt in long.prompts(4))
    assert len(long.prompt(2048)) == 2048
    short = plan.within(100)
    assert (short.prefill_tokens, short.prompt_tokens, short.new_tokens) == ((100,), 68, 32)
    assert (plan.within(20).prompt_tokens, plan.within(20).new_tokens) == (16, 4)


@pytest.fixture
def cuda_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "find_device", lambda name: torch.device("cuda", 0))


def test_what_runs_on_a_cpu_alone_is_refused_on_a_gpu(place, cuda_is_there, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    few = {"text": place / "test.txt", "device": "cuda"}
    for rivals in ("int8", "dense,int4", "llama.cpp"):
        last = rivals.rpartition(",")[2]
        with pytest.raises(InputError, match=f"'{last}' runs on the CPU alone") as told:
            bench(place / "model", rivals=rivals, **few)
        assert '`device="cpu"`' in str(told.value) and "leave it out" in str(told.value)
    with pytest.raises(InputError, match="tiny.gguf' runs on the CPU alone"):
        bench(tmp_path / "tiny.gguf", **few)


@pytest.mark.parametrize("name", ["cuda", "cuda:0,cuda:1", "nowhere", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_sentence(place, name):
    if HAS_GPU and name == "cuda":
        pytest.skip("there is a GPU")
    done = InProcess(place).run("bench", "model", *LITTLE, "--device", name)
    assert done.returncode == 2 and done.stdout == ""
    assert name.split(",")[0] in done.stderr and done.stderr.count("\n") == 1


def test_another_kind_of_device_is_refused(place, monkeypatch):
    monkeypatch.setattr(task, "find_device", lambda name: torch.device("mps"))
    with pytest.raises(InputError, match="device 'auto' cannot be measured on"):
        bench(place / "model", text=place / "test.txt", device="auto")


@pytest.mark.skipif(not HAS_GPU, reason="no GPU")
def test_dense_and_packed_models_are_measured_on_a_gpu(place):
    """In new processes, as all are but in these tests."""
    output = place / "on-gpu"
    few = {"windows": 3, "repeats": 2, "rivals": "dense", "device": "cuda"}
    found = bench(place / "packed", text=place / "test.txt", output_dir=output, **few)
    measured = json.loads((output / "results.json").read_text())
    check(measured)
    packed, dense = found.models
    for figures in found.models:
        assert 0 < figures.memory_bytes < figures.peak_memory_bytes
    assert packed.kernel == "cuda" and dense.kernel is None
    assert packed.libraries_bytes is None and packed.mapped_bytes is None
    assert dense.perplexity == pytest.approx(packed.perplexity, rel=0.02)
    gpu = measured["machine"]["gpu"]
    assert gpu["name"] == torch.cuda.get_device_name() and gpu["cuda"] == torch.version.cuda
    assert measured["protocol"]["device"] == "cuda:0"
    page = (output / "report.html").read_text()
    assert gpu["name"] in page and "Without CUDA graphs" in page
