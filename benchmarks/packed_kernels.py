"""Products with packed weights beside dense ones, against the aims.

    python -m benchmarks.packed_kernels [--size 4096] [--copies 8] [--rounds 6] [--ahead]
        [--output FILE.json]

One decoding step meets each weight once: weights come from memory, not from a cache. Each product
therefore goes through several copies of its matrix, and the products take turns: between two
uses of a copy lie some 1.3 GB of others', more than caches hold. A prompt reuses its weights, so
there it does not matter. Copies of one product follow each other, because what ran just before
(AMX lowers a core's clock) would otherwise weigh on the next.

*Dense, same style* is our own code on the same order of weights, without masks: it shows what
sparsity itself brings. It needs AVX-512 with BF16 and is timed for one input, where it is at its
best. ``--ahead`` asks Linux to run this before all ordinary processes, which only root may: times
on a machine that is not idle mean nothing without it, and little with it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.__main__ import machine, table
from benchmarks.commands import new_file
from prunerzero.packed import kernels
from prunerzero.packed.build import COMMON_FLAGS, SOURCES, TORCH, find_compiler, flags_of
from prunerzero.packed.layout import ROWS, VALUE_TYPES, PackedMatrix, pack_matrix

BATCHES = (1, 4, 16, 512)
AIMS = (
    (1, "bf16 50 %", "dense bf16, same style", 1.65),
    (1, "bf16 50 %", "torch bf16", 2.4),
    (1, "bf16 30 %", "dense bf16, same style", 1.25),
    (1, "int8 50 %", "dense int8, same style", 1.5),
    (1, "int8 50 %", "torch int8", 1.6),
    (1, "int8 50 %", "torch int4", 1.1),
    (4, "bf16 50 %", "torch bf16", 1.3),
    (16, "bf16 50 %", "torch bf16", 1.0),
    (512, "bf16 50 %", "torch bf16", 0.9),
)

Product = tuple[list[Any], Callable[[Tensor, Any], Tensor]]
"""Copies of a weight, and what multiplies inputs with one."""


def products(size: int, copies: int) -> dict[str, Product]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, generator=random)
    integers = torch.randint(-127, 128, (size, size), dtype=torch.int8, generator=random)
    scales = torch.rand(size, generator=random)
    found: dict[str, Product] = {}

    def add(name: str, weight: Any, multiply: Callable[[Tensor, Any], Tensor]) -> None:
        found[name] = [_copy(weight) for _ in range(copies)], multiply

    if build_dense():
        dense = torch.ops.prunerzero_benchmark.dense_product
        add(
            "dense bf16, same style",
            in_steps(weight.bfloat16(), 2),
            lambda inputs, weight: dense(inputs, weight, None, size),
        )
        add(
            "dense int8, same style",
            in_steps(integers, 4),
            lambda inputs, weight: dense(inputs, weight, scales, size),
        )
    add("torch bf16", weight.bfloat16(), linear)
    add(
        "torch int8",
        integers,
        lambda inputs, weight: torch._weight_int8pack_mm(inputs, weight, scales.bfloat16()),
    )
    fours = torch.randint(0, 16, (size, size), dtype=torch.int32, generator=random)
    groups = torch.rand(size // 128, size, 2, generator=random).bfloat16()
    add(
        "torch int4",
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(fours, 1),
        lambda inputs, weight: torch.ops.aten._weight_int4pack_mm_for_cpu(
            inputs, weight, 128, groups
        ),
    )
    chance = torch.rand(size, size, generator=random)
    for name, kind in (("bf16", "bfloat16"), ("int8", "int8"), ("int4", "int4")):
        for share in (30, 50, 60):
            sparse = torch.where(chance < share / 100, 0, weight)
            add(f"{name} {share} %", pack_matrix(sparse, VALUE_TYPES[kind]), kernels.product)
    return found


def run(size: int, copies: int, rounds: int, ahead: bool) -> list[dict[str, Any]]:
    """A row for each product and number of inputs."""
    rows = []
    candidates = products(size, copies)
    for batch in BATCHES:
        inputs = torch.randn(batch, size).bfloat16()
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        candidates["torch bf16"][1](inputs, candidates["torch bf16"][0][0])  # makes the threads
        _schedule(ahead)
        for _ in range(rounds):
            for name, (weights, multiply) in candidates.items():
                if batch > 1 and "same style" in name:
                    continue
                multiply(inputs, weights[-1])  # the threads are awake, the clock has settled
                for weight in weights[: 2 if batch > 100 else None]:
                    start = time.perf_counter()
                    multiply(inputs, weight)
                    seconds[name].append(time.perf_counter() - start)
        _schedule(False)
        for name, values in seconds.items():
            if values:
                low, _, high = quantiles(values)
                rows.append(
                    {
                        "inputs": batch,
                        "product": name,
                        "ms": median(values) * 1e3,
                        "from": low * 1e3,
                        "to": high * 1e3,
                        "GB/s": _bytes(candidates[name][0][0]) / median(values) / 1e9,
                    }
                )
    return rows


def _schedule(ahead: bool) -> None:
    policy, priority = (os.SCHED_RR, 10) if ahead else (os.SCHED_OTHER, 0)
    for thread in os.listdir("/proc/self/task") if hasattr(os, "SCHED_RR") else ():
        os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


def against_aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {(row["inputs"], row["product"]): row["ms"] for row in rows}
    return [
        {
            "inputs": batch,
            "product": ours,
            "against": other,
            "times as fast": times[batch, other] / times[batch, ours],
            "aim": aim,
        }
        for batch, ours, other, aim in AIMS
        if (batch, other) in times
    ]


def in_steps(weight: Tensor, inputs: int) -> Tensor:
    """The order of packed weights, with none left out."""
    rows, columns = weight.shape
    steps = weight.view(rows // ROWS, ROWS, columns // inputs, inputs)
    return steps.permute(0, 2, 1, 3).contiguous()


def _copy(weight: Any) -> Any:
    if isinstance(weight, PackedMatrix):
        return replace(weight, mask=weight.mask.clone(), values=weight.values.clone())
    return weight.clone()


def _bytes(weight: Any) -> int:
    return int(weight.bytes if isinstance(weight, PackedMatrix) else weight.nbytes)


_schemas = torch.library.Library("prunerzero_benchmark", "DEF")
_schemas.define("dense_product(Tensor inputs, Tensor weights, Tensor? scales, int rows) -> Tensor")


def build_dense() -> bool:
    """Build and load the dense kernels; False where this processor does not run them."""
    if "avx512-bf16" not in kernels.paths():
        return False
    torch_folder = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        place = Path(folder) / "dense.so"
        command = [*find_compiler(), *COMMON_FLAGS, "-shared", "-o", str(place)]
        command += flags_of(platform.machine())["avx512_bf16.cpp"]
        command += [f"-DTORCH_TARGET_VERSION={TORCH}", f"-I{SOURCES}"]
        command += [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
        command += [str(Path(__file__).with_name("packed_dense.cpp")), str(SOURCES / "prepare.cpp")]
        subprocess.run([*command, "-ltorch_cpu"], check=True)
        ctypes.CDLL(str(place))
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="rows and columns")
    parser.add_argument("--copies", type=int, default=8, help="of each matrix")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--ahead", action="store_true", help="of ordinary processes; root alone")
    parser.add_argument("--output", type=new_file)
    arguments = parser.parse_args()
    with torch.inference_mode():
        rows = run(arguments.size, arguments.copies, arguments.rounds, arguments.ahead)
    aims = against_aims(rows)
    print(f"{arguments.size} × {arguments.size}, path {kernels.path()}")
    print(table(rows), table(aims), sep="\n\n")
    if arguments.output:
        there = machine("cpu") | {"path": kernels.path()}
        found = {"machine": there, "products": rows, "aims": aims}
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")
