"""Squares of matrix products, added up over windows."""

import pytest
import torch

from prunerzero.pruning.square_products import TILE, Tile, add_squared_products, launch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
HELD = Tile(128, 128, 64, held=True, warps=8, stages=4)


def factors(windows, length, rows, columns, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(windows, length, width, generator=generator).to(device, dtype)
        for width in (rows, columns)
    ]


def expected(left, right, scale):
    return 1 + scale * torch.einsum("wtr,wtc->wrc", left.double(), right.double()).square().sum(0)


@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (4, 16, 8, 12), (3, 1, 1, 9)])
def test_each_windows_product_is_squared_on_its_own(shape):
    left, right = factors(*shape)
    total = torch.ones(shape[2:])
    add_squared_products(total, left, right, 0.5)
    torch.testing.assert_close(total.double(), expected(left, right, 0.5), rtol=1e-5, atol=1e-5)


@gpu
@pytest.mark.parametrize("tile", [TILE, HELD])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 2048, 512, 1024), (3, 192, 264, 520), (2, 100, 8, 1000), (4, 64, 136, 8)]
)
def test_the_kernel_gives_what_fp64_gives(shape, dtype, tile):
    left, right = factors(*shape, dtype, "cuda")
    total = torch.ones(shape[2:], device="cuda")
    launch(total, left, right, 0.5, tile)
    torch.testing.assert_close(total.double(), expected(left, right, 0.5), rtol=1e-3, atol=1e-2)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_widths_and_views_are_taken_on_a_gpu(dtype):
    left, right = factors(2, 33, 20, 31, dtype, "cuda")
    views = [
        (left, right),
        (left[..., ::2], right[..., 3:]),
        (left[:, 1:, :16], right[:, 1:, 7:]),
    ]
    for a, b in views:
        total = torch.ones(a.shape[-1], b.shape[-1], device="cuda")
        add_squared_products(total, a, b, 0.5)
        torch.testing.assert_close(total.double(), expected(a, b, 0.5), rtol=2e-2, atol=0.1)


@gpu
def test_statistics_on_a_gpu_are_those_of_a_cpu():
    from tiny_model import tiny_model

    from prunerzero.pruning.blocks import prunable_layers
    from prunerzero.pruning.statistics import collect_statistics

    windows = torch.randint(0, 32, (9, 40), generator=torch.Generator().manual_seed(1))
    model = tiny_model(hidden_size=64, intermediate_size=96)
    theirs = collect_statistics(model, prunable_layers(model), windows)
    for dtype, far in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        model = tiny_model(hidden_size=64, intermediate_size=96).to("cuda", dtype)
        for batch in (1, 4):
            found = collect_statistics(model, prunable_layers(model), windows, batch=batch)
            for name, ours in found.items():
                for a, b in ((ours.X, theirs[name].X), (ours.G, theirs[name].G)):
                    assert (a.cpu() - b).norm() <= far * b.norm(), (name, dtype, batch)
