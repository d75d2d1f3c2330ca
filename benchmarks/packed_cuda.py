"""Products with packed weights on an NVIDIA GPU beside cuBLAS.

    python -m benchmarks.packed_cuda [--shapes 4096x4096 …] [--batches 1 4 16] [--output FILE.json]

One decoding step meets each weight once, so weights come from memory: each product goes through
copies of its matrix that together are several times as large as the second-level cache. All the
products of a pass are one CUDA graph, for cuBLAS and for ours, as launching from Python takes
longer than most of them. What is told is the median pass, over its number of products.

In such a graph our kernels begin to load weights while the one before ends (on Hopper and later),
which they can do because weights depend on nothing. In a model, what comes before is often another
kernel, that does not let them begin early; the column *with others between* has the ratio where a
small kernel of torch runs before every product, ours and cuBLAS's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.__main__ import machine, table
from benchmarks.commands import at_least, new_file, require
from prunerzero.packed import gpu
from prunerzero.packed.cuts import MOST
from prunerzero.packed.device_order import DeviceMatrix, to_device_order
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (12288, 4096))
"""Outputs × inputs of a Llama of 7 billion weights: one projection, up, down, and all three of
attention's as one."""
ROTATED = 400e6
"""Bytes of the copies of one matrix; the second-level cache of an H100 has 50 MB."""
PATTERNS = (("2:4", "bfloat16"), ("2:4", "int8"), ("50 %", "bfloat16"), ("50 %", "int8"))


def run(
    shapes: Sequence[tuple[int, int]], batches: Sequence[int], passes: int
) -> list[dict[str, Any]]:
    rows = []
    for outputs, inputs in shapes:
        dense = copies(torch.randn(outputs, inputs, device="cuda").bfloat16())
        packed = {
            (pattern, values): copies(packed_matrix(outputs, inputs, pattern, values))
            for pattern, values in PATTERNS
        }
        for batch in batches:
            vectors = torch.randn(batch, inputs, device="cuda").bfloat16()
            theirs = [seconds(linear, vectors, dense, between, passes) for between in (False, True)]
            size = dense[0].nbytes
            rows.append(_row((outputs, inputs), batch, "cuBLAS bf16", theirs[0], size, size))
            for (pattern, values), weights in packed.items():
                multiply = gpu.multiply if batch <= MOST else gpu.dense_product
                ours = [
                    seconds(lambda x, w: multiply(x, w, None), vectors, weights, between, passes)
                    for between in (False, True)
                ]
                row = _row(
                    (outputs, inputs), batch, f"{pattern} {values}", ours[0], weights[0].bytes, size
                )
                row["times as fast"] = theirs[0] / ours[0]
                row["with others between"] = theirs[1] / ours[1]
                rows.append(row)
    return rows


def _row(
    shape: tuple[int, int], batch: int, product: str, seconds: float, size: int, dense: int
) -> dict[str, Any]:
    return {
        "outputs × inputs": f"{shape[0]} × {shape[1]}",
        "batch": batch,
        "product": product,
        "µs": seconds * 1e6,
        "GB/s": size / seconds / 1e9,
        "memory": size / dense,
    }


def seconds(
    multiply: Callable[[Tensor, Any], Tensor],
    inputs: Tensor,
    weights: Sequence[Any],
    between: bool,
    passes: int,
) -> float:
    """Of one product, in a graph of a product with each of ``weights``."""
    small = torch.zeros(1, device="cuda")

    def one_pass() -> None:
        for weight in weights:
            if between:
                small.add_(1)
            multiply(inputs, weight)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        one_pass()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_pass()
    for _ in range(3):
        graph.replay()
    found: list[float] = []
    for _ in range(passes):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / len(weights))
    return median(found)


def packed_matrix(outputs: int, inputs: int, pattern: str, values: str) -> DeviceMatrix:
    weight = torch.randn(outputs, inputs, device="cuda")
    if pattern == "2:4":
        order = torch.rand(outputs, inputs // 4, 4, device="cuda").argsort(dim=2)
        weight[(order < 2).flatten(1)] = 0
    else:
        weight[torch.rand(outputs, inputs, device="cuda") < 0.5] = 0
    return to_device_order(pack_matrix(weight, VALUE_TYPES[values]))


def copies(weight: Any) -> list[Any]:
    size = weight.bytes if isinstance(weight, DeviceMatrix) else weight.nbytes
    count = max(2, round(ROTATED / size))
    return [weight, *(_copy(weight) for _ in range(count - 1))]


def _copy(weight: Any) -> Any:
    if isinstance(weight, DeviceMatrix):
        return replace(weight, weights=weight.weights.clone())
    return weight.clone()


def shape(text: str) -> tuple[int, int]:
    outputs, inputs = text.split("x")
    return int(outputs), int(inputs)


def asked(description: str, batches: Sequence[int], passes: int) -> argparse.Namespace:
    """The options of a benchmark of products, where a GPU runs the kernels."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", type=shape, default=SHAPES)
    parser.add_argument("--batches", nargs="+", type=at_least(1), default=batches)
    parser.add_argument("--passes", type=at_least(1), default=passes)
    parser.add_argument("--output", type=new_file, help="JSON file")
    options = parser.parse_args()
    require("cuda")
    device = torch.cuda.current_device()
    for values in ("bfloat16", "int8"):
        if not gpu.trusted(device, values, torch.bfloat16):
            raise SystemExit("this GPU does not run the kernels.")
    return options


if __name__ == "__main__":
    options = asked(__doc__, batches=(1, 4, 16), passes=20)
    with torch.inference_mode():
        rows = run(options.shapes, options.batches, options.passes)
    found = {"machine": machine("cuda"), "products": rows}
    print(found["machine"])
    print(table(rows))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
