"""Benchmarks refuse what is not there in a sentence, and write only what is asked for."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
import torch
from optuna.trial import FrozenTrial, create_trial

from benchmarks import __main__ as benchmarks
from benchmarks import study_figures as figures

ROOT = Path(__file__).parents[1]


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m module`` in an empty folder."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PRUNERZERO_CACHE": str(folder.parent / "cache"),
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "module, arguments",
    [
        ("benchmarks", ["--device", "cuda"]),
        ("benchmarks.packed_cuda", []),
        ("benchmarks.packed_cuts", []),
        ("benchmarks.packed_cuda_model", ["--tiny"]),
        ("benchmarks.packed_cuda_bench", ["--tiny"]),
        ("benchmarks.conjugate_steps", ["--device", "cuda"]),
        ("benchmarks.large_model", ["--tiny", "--device", "cuda:0,cuda:1"]),
        ("benchmarks.refit", ["--device", "cuda"]),
        ("benchmarks.quick_products", ["--device", "cuda"]),
        ("benchmarks.racing", ["--device", "cuda"]),
        ("benchmarks.cheap_statistics", ["--device", "cuda"]),
    ],
)
def test_without_a_gpu_a_benchmark_of_gpus_says_so_in_one_sentence(
    tmp_path: Path, module: str, arguments: list[str]
) -> None:
    done = run(tmp_path, module, *arguments)
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("Error: device 'cuda") and "cannot be used here" in sentence
    assert not list(tmp_path.iterdir())


def test_a_benchmark_that_is_not_asked_for_a_file_leaves_none(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    few = ["--metrics", "3", "--best", "2", "--windows", "1", "--sparsities", "0.5"]
    few += ["--max-seq-length", "32", "--num-calibration-samples", "4", "--device", "cpu"]
    done = run(folder, "benchmarks.conjugate_steps", *few)
    assert done.returncode == 0, done.stderr
    assert "0.5: 3 metrics" in done.stdout
    assert not list(folder.iterdir())
    named = tmp_path / "steps.json"
    done = run(folder, "benchmarks.conjugate_steps", *few, "--output", str(named))
    assert done.returncode == 0 and named.is_file() and not list(folder.iterdir())


def test_on_a_cpu_products_in_tf32_are_imitated(tmp_path: Path) -> None:
    named = tmp_path / "products.json"
    few = ["--windows", "2", "--max-seq-length", "32", "--device", "cpu", "--output", str(named)]
    done = run(tmp_path, "benchmarks.quick_products", *few)
    assert done.returncode == 0, done.stderr
    rows = json.loads(named.read_text())["rows"]
    assert len(rows) == 3
    for row in rows:
        assert row["perplexity, TF32"] != row["fp32"], "it is another refit"
        assert row["perplexity, TF32"] == pytest.approx(row["fp32"], rel=0.05)
        assert "seconds, TF32" not in row


def test_a_search_on_a_shape_on_disk_tells_its_parts_its_pace_and_its_memory(
    tmp_path: Path,
) -> None:
    few = ["--evaluations", "12", "--update", "least-squares", "--device", "cpu"]
    done = run(tmp_path, "benchmarks.large_search", "--tiny", "--output", "one.json", "--", *few)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "one.json").read_text())
    for part in (
        "start",
        "loading model-1",
        "statistics",
        "Gram matrices",
        "refitting",
        "candidates",
    ):
        assert found["parts"][part] > 0
    assert found["candidates"] == 12 and found["candidates_an_hour"] > 0 < found["host_gib"]
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])
    assert found["parts"]["candidates"] == pytest.approx(found["seconds_of_search"])
    assert "| candidates an hour | " in done.stdout
    assert not list(tmp_path.glob("tmp*"))

    beside = ("--output", "two.json", "--beside", "one.json")
    done = run(tmp_path, "benchmarks.large_search", "--tiny", *beside, "--", *few)
    assert done.returncode == 0, done.stderr
    times = json.loads((tmp_path / "two.json").read_text())["times"]
    assert list(times) == ["candidates", "chunks", "work"] and min(times.values()) > 0
    assert f"| times as much, by work | {times['work']:.2f} |" in done.stdout


def test_a_large_search_that_is_ended_leaves_no_models(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.large_search", "--tiny", "--folder", str(tmp_path)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [*command, "--", "--time", "1h", "--device", "cpu"],
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if " evaluations (" in line)
        assert list(tmp_path.glob("tmp*/model-1")), told
        process.terminate()
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())


def test_a_search_that_is_refused_ends_the_benchmark_in_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "benchmarks.large_search", "--tiny", "--", "--sparsity", "2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: the search failed, as it says above")


def test_powers_stand_beside_as_many_other_operators(tmp_path: Path) -> None:
    from prunerzero.metrics import Expression

    named = tmp_path / "powers.json"
    done = run(tmp_path, "benchmarks", "powers", "--output", str(named))
    assert done.returncode == 0, done.stderr
    rows = json.loads(named.read_text(encoding="utf-8"))["powers"]
    assert len(rows) == 20 and all(row["with, ms"] > 0 and row["without, ms"] > 0 for row in rows)

    def operators(formula: str) -> list[str]:
        return [node.name for _, node in Expression.parse(formula).subtrees() if node.arguments]

    for row in rows:
        assert len(operators(row["with"])) == len(operators(row["without"])) == row["operators"]
        assert "epow" in operators(row["with"]) and "epow" not in operators(row["without"])


def test_a_section_that_does_not_exist_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    done = run(tmp_path, "benchmarks", "masks", "nosuchsection", "--output", "all.json")
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("Error: there is no section 'nosuchsection' with --device cpu")
    for device in ("cpu", "cuda"):
        assert all(repr(name) in sentence for name in benchmarks.sections(device, quick=False))


def test_a_section_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails() -> Iterator[dict[str, int]]:
        raise RuntimeError("no memory")
        yield {}

    found = {"first": fails, "second": lambda: [{"ms": 3}]}
    monkeypatch.setattr(benchmarks, "sections", lambda device, quick: found)
    named = tmp_path / "all.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(named)])
    with pytest.raises(SystemExit) as ended:
        benchmarks.main()
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "first: " in told and "RuntimeError: no memory" in told and "## second" in told
    results = json.loads(named.read_text(encoding="utf-8"))
    assert results["second"] == [{"ms": 3}] and "no memory" in results["first: error"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "second"])
    benchmarks.main()


def reads_arguments(source: str) -> bool:
    """Whether a module does, by itself or as another one does."""
    return ".parse_" in source or "asked(__doc__" in source


def parts() -> list[str]:
    """The modules that are no command by themselves: those that read no arguments."""
    modules = (ROOT / "benchmarks").glob("[!_]*.py")
    found = [p.stem for p in modules if not reads_arguments(p.read_text(encoding="utf-8"))]
    assert {"powers", "masks", "timing", "whole_model"} <= set(found)
    return sorted(found)


@pytest.mark.parametrize("module", parts())
@pytest.mark.filterwarnings("ignore:'benchmarks:RuntimeWarning")  # it was imported before
def test_a_module_that_is_no_command_says_what_to_run_instead(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
    assert ended.value.code == 2
    said = re.fullmatch(r"Error: .*: run `python -m (.*)`\.\n", capsys.readouterr().err)
    assert said, module
    assert_runs(said[1])


def commands_in_pages() -> list[str]:
    """What pages give as ``python -m benchmarks …``, perhaps on two lines of a paragraph."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    found = {
        " ".join(command.split())
        for text in texts
        for command in re.findall(r"`[A-Z_=1 ]*python -m (benchmarks\b[^`]*)`", text)
    }
    assert len(found) > 10
    return sorted(found)


@pytest.mark.parametrize("command", commands_in_pages())
def test_pages_name_benchmarks_and_sections_that_there_are(command: str) -> None:
    assert_runs(command)


def assert_runs(command: str) -> None:
    """The module is a command; of ``benchmarks`` itself, every section named is there."""
    module, *arguments = shlex.split(command)
    if module != "benchmarks":
        source = Path(str(import_module(module).__file__)).read_text(encoding="utf-8")
        assert reads_arguments(source) and "__main__" in source
        return
    device = arguments.pop(1) if arguments[:1] == ["--device"] else "cpu"
    named = [one for one in arguments if not one.startswith("--")]
    assert set(named) <= set(benchmarks.sections(device, quick=False))


@pytest.mark.parametrize(
    "module, arguments, sentence",
    [
        ("racing", ["--replay", "none.log"], "there is no journal none.log"),
        ("racing", ["--sparsities", "3:2"], "sparsity 3:2 must keep"),
        ("racing", ["--operators", "extendid"], "'published', 'extended'"),
        ("conjugate_steps", ["--sparsities", "2"], "sparsity 2"),
        ("strategies", ["--output", "s.json", "--variants", "evolutoin"], "'evolution, extended'"),
        ("large_model", ["--tiny", "--device", "cpu", "--runs", "wanda@0.5@obs"], "obs is unknown"),
        ("large_model", ["--tiny", "--device", "cpu", "--runs", "wander@0.5"], "named 'wander'"),
        ("large_search", ["--tiny", "--folder", "none"], "there is no folder none"),
        ("large_search", ["--tiny", "--output", "none/a.json"], "there is no folder none"),
        ("large_search", ["--beside", "none.json"], "none.json is no JSON of this script"),
        (
            "large_search",
            ["--tiny", "--", "--model", "bundled"],
            "--model is given to the search by",
        ),
        ("conjugate_steps", ["--metrics", "1"], "1 is less than 3"),
        ("conjugate_steps", ["--windows", "0"], "0 is less than 1"),
        ("conjugate_steps", ["--output", "none/a.json"], "there is no folder none"),
        ("packed_model", ["--rivals", "int6"], "'int8', 'int4'"),
        ("engine_overhead", ["--wait", "0.1", "--output", "o.json"], "--wait takes no --output"),
        ("refit", ["--test", "none.txt"], "text file 'none.txt' cannot be read"),
        ("quick_products", ["--output", "none/a.json"], "there is no folder none"),
    ],
)
def test_what_is_misspelled_is_refused_before_anything_is_measured(
    module: str, arguments: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{module}").main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_work_does_not_depend_on_how_many_candidates_are_raced_out() -> None:
    """One worker reads half to the end; two others, as quick, race out all but a few."""
    one = worker_that_takes(0.25, 0.5, reads=[1, 8] * 50, idle=0.1)
    cost = figures.cost(one)
    assert cost == pytest.approx((0.25, 0.5))
    assert figures.work(figures.cost([]), []) == 0
    few = [1] * 90 + [8] * 10
    two = [
        trial
        for name in "ab"
        for trial in worker_that_takes(0.25, 0.5, reads=few, idle=0.1, name=name)
    ]
    share = figures.work(cost, one)
    assert share == pytest.approx(1 - figures.engine_share(one))
    assert figures.work(cost, two) == pytest.approx(2 * (1 - figures.engine_share(two)))
    assert figures.per_hour(two) > 3 * figures.per_hour(one)
    assert figures.per_hour(two, figures.chunks) < 2 * figures.per_hour(one, figures.chunks)


def worker_that_takes(
    each: float, chunk: float, *, reads: list[int], idle: float, name: str = "a"
) -> list[FrozenTrial]:
    """Its trials: so many chunks read by each, and so long proposing the next."""
    now, trials = datetime(2026, 1, 1), []
    for read in reads:
        begun, took = now, each + chunk * read
        now += timedelta(seconds=took + idle)
        trials.append(
            create_trial(
                value=1.0,
                user_attrs={
                    "proposal": {"worker": name},
                    "measured": {"chunks_read": read, "took": took},
                },
            )
        )
        trials[-1].datetime_start, trials[-1].datetime_complete = begun, now
    return trials
