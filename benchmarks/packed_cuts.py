"""How a product with packed weights is best cut into blocks on this GPU, beside the rule's cut.

    python -m benchmarks.packed_cuts [--shapes 11008x4096 …] [--batches 1 16] [--output FILE.json]

``prunerzero.packed.cuts`` chooses the cut by a rule that was made on an H100. Here each product is
timed with every cut, as ``benchmarks.packed_cuda`` times it: in CUDA graphs, copies of the matrix
taking turns. A cut that this GPU has no registers or shared memory for is left out. The kernels of
each cut are compiled first, half a second each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from benchmarks.__main__ import machine, table
from benchmarks.commands import in_one_sentence
from benchmarks.packed_cuda import PATTERNS, asked, copies, packed_matrix, seconds
from prunerzero.files import write_json
from prunerzero.packed import gpu
from prunerzero.packed.cuts import Tuning, launch_of
from prunerzero.packed.nvrtc import GPUError, card_of

STREAMS = tuple(
    Tuning(warps=warps, cluster=cluster)
    for warps, cluster in product((2, 3, 4, 6, 8, 12, 16, 24, 32), (1, 2, 3, 4))
)
TWO_FOUR = tuple(
    Tuning(tall, warps, ahead, cluster)
    for tall, warps, ahead, cluster in product((1, 2, 4), (4, 8, 16), (1, 2), (1, 2, 4, 8))
)


def run(
    shapes: Sequence[tuple[int, int]], batches: Sequence[int], passes: int
) -> Iterator[dict[str, Any]]:
    """Of each product the rule's cut, and all that can be run, the fastest first."""
    card = card_of(torch.cuda.current_device())
    for (outputs, inputs), (pattern, values) in product(shapes, PATTERNS):
        weights = copies(packed_matrix(outputs, inputs, pattern, values))
        for batch in batches:
            vectors = torch.randn(batch, inputs, device="cuda").bfloat16()
            found = {}
            work = gpu.work_of(batch, vectors.dtype, weights[0])
            for cut in (None, *(TWO_FOUR if pattern == "2:4" else STREAMS)):
                if cut and launch_of(card, work, cut)[0].threads < 32 * cut.warps:
                    continue  # shared memory has room for fewer warps, which is another cut
                try:
                    found[cut] = seconds(
                        lambda x, w, cut=cut: gpu.multiply(x, w, None, cut),  # type: ignore[misc]
                        vectors,
                        weights,
                        False,
                        passes,
                    )
                except GPUError:
                    continue
            yield {
                "outputs × inputs": f"{outputs} × {inputs}",
                "batch": batch,
                "product": f"{pattern} {values}",
                "µs by the rule": found.pop(None) * 1e6,
                "cuts": [
                    {"µs": 1e6 * took, **asdict(cut)}
                    for cut, took in sorted(found.items(), key=lambda one: one[1])
                    if cut is not None
                ],
            }


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: the fastest cut, and how much faster it is than the rule's."""
    best = dict(found["cuts"][0])
    took = best.pop("µs")
    plain = {name: value for name, value in found.items() if name != "cuts"}
    cut = ", ".join(f"{name} {value}" for name, value in best.items())
    return plain | {"fastest": cut, "µs": took, "times": found["µs by the rule"] / took}


@in_one_sentence()
def main() -> None:
    options = asked(__doc__, batches=(1, 16), passes=8)
    rows: list[dict[str, Any]] = []
    here = machine("cuda")
    with torch.inference_mode():
        count = len(options.shapes) * len(PATTERNS) * len(options.batches)
        for found in run(options.shapes, options.batches, options.passes):
            rows.append(found)
            told = json.dumps(row_of(found), ensure_ascii=False)
            print(f"{len(rows)} of {count}: {told}", file=sys.stderr, flush=True)
            if options.output:
                write_json(options.output, {"machine": here, "products": rows})
    print(here)
    print(table([row_of(found) for found in rows]))


if __name__ == "__main__":
    main()
