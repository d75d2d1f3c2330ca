"""The kernel of squared products in several tiles, against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.commands import no_command
from benchmarks.gradients import Row, told
from benchmarks.masks import SHAPES
from benchmarks.timing import times
from prunerzero.pruning import square_products
from prunerzero.pruning.square_products import Tile

TILES = [
    Tile(128, 256, 64, False, 8, 4), Tile(128, 256, 64, False, 8, 3),
    Tile(256, 128, 64, False, 8, 4), Tile(128, 128, 64, True, 8, 4),
    Tile(128, 128, 64, False, 8, 4), Tile(128, 128, 64, False, 4, 3),
]  # fmt: skip


def run(device: str = "cuda", length: int = 2048) -> Iterator[Row]:
    """Milliseconds a window, for each shape of a 7B model's layers."""
    for rows, columns in SHAPES:
        for windows in (1, 2):
            yield from told(
                {"rows": rows, "columns": columns, "windows": windows},
                partial(_tiles, rows, columns, windows, device, length),
                device,
            )


def _tiles(rows: int, columns: int, windows: int, device: str, length: int) -> Iterator[Row]:
    torch.manual_seed(0)
    left = torch.randn(windows, length, rows, device=device, dtype=torch.bfloat16)
    right = torch.randn(windows, length, columns, device=device, dtype=torch.bfloat16)
    total = torch.zeros(rows, columns, device=device)
    product = torch.empty(rows, columns, device=device, dtype=torch.bfloat16)
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: square_products.by_torch(total, left, right, 1.0),
        "product alone": lambda: [
            torch.mm(a.t(), b, out=product) for a, b in zip(left, right, strict=True)
        ],
    }
    expected = torch.zeros_like(total)
    square_products.by_torch(expected, left.float(), right.float(), 1.0)
    for tile in TILES:
        name = ", ".join(map(str, tile))
        try:
            found = torch.zeros_like(total)
            square_products.launch(found, left, right, 1.0, tile)
            error = float((found - expected).abs().max() / expected.abs().max())
            if error > 1e-3:
                yield {"tile": name, "error": error}
                continue
            ways[name] = partial(square_products.launch, total, left, right, 1.0, tile)
        except Exception as failure:
            yield {"tile": name, "error": repr(failure)[:200]}
    for name, ms in times(ways, device, repeats=5, warmups=1).items():
        work = 2 * rows * columns * length * windows
        yield {"tile": name, "ms a window": ms / windows, "TFLOP/s": work / ms / 1e9}


if __name__ == "__main__":
    no_command('python -m benchmarks --device cuda "squared gradients"')
