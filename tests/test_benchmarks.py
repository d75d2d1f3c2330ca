"""Benchmarks refuse a device that is not there in a sentence, and write only what is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
        ("benchmarks.packed_cuda_model", ["--tiny"]),
        ("benchmarks.packed_cuda_bench", ["--tiny"]),
        ("benchmarks.conjugate_steps", ["--device", "cuda"]),
        ("benchmarks.large_model", ["--tiny", "--device", "cuda:0,cuda:1"]),
        ("benchmarks.refit", ["--device", "cuda"]),
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
