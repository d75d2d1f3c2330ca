"""Cases for the tests of GPU kernels: awkward values, random metrics with their masks."""

import random
from collections.abc import Callable

import torch
from random_trees import random_tree, statistics
from torch import Tensor

from prunerzero.metrics import ScoreError, Sparsity
from prunerzero.scoring import prune_mask
from prunerzero.scoring.selection import prune_into, score_mask

SHAPES = [(12, 16), (5, 80), (33, 1000), (3, 4096), (2, 11008), (1, 16), (2, 40000)]
SPARSITIES = ["0.5", "0.3", "0.999", "0", "2:4", "1:4", "4:8", "1:2", "1:16", "0.5 of a layer"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def awkward(shape: tuple[int, int] = (64, 1000)) -> dict[str, Tensor]:
    """Values from denormals to overflow, of both signs but for X."""
    generator = torch.Generator().manual_seed(0)

    def spread(low: float, high: float, *shape: int) -> Tensor:
        exponents = torch.rand(*shape, generator=generator) * (high - low) + low
        return torch.randn(*shape, generator=generator) * 10**exponents

    W, G, X = spread(-40, 8, *shape), spread(-8, 4, *shape), spread(-3, 3, shape[1]).abs()
    D = spread(-3, 3, shape[1]).abs()
    W[0, :5] = torch.tensor([0.0, -0.0, 1e-45, 3e38, 1.0])
    return {name: value.cuda() for name, value in {"W": W, "X": X, "G": G, "D": D}.items()}


def masks_of(seed: int) -> tuple[list[Tensor | str], list[Tensor | str], object]:
    """The plain path's mask, the fast one's, and weights pruned in place, or refusals."""
    rng = random.Random(seed)
    e = random_tree(rng, rng.choice((2, 3, 4, 5)))
    shape = rng.choice(SHAPES)
    share, _, layer = rng.choice(SPARSITIES).partition(" of a ")
    sparsity = Sparsity.parse(share, "layer" if layer else "row")
    if shape[1] % (sparsity.of or 1):
        sparsity = Sparsity(0.5)
    values = {name: value.float().cuda() for name, value in statistics(seed, shape).items()}
    if rng.random() < 0.5:  # ties
        values = {name: (value * 8).round() / 8 for name, value in values.items()}
    signs = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).sign().cuda()
    W = (values.pop("W") * signs).to(rng.choice(DTYPES))
    weights = W.clone()

    def in_place() -> Tensor:
        prune_into(weights, e, sparsity, W=weights, **values)
        return weights

    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: prune_mask(e.score(W=W, **values), sparsity),
        lambda: score_mask(e, sparsity, W=W, **values),
        in_place,
    )
    found: list[Tensor | str] = []
    for way in ways:
        try:
            found.append(way())
        except ScoreError as error:
            found.append(str(error))
    reference = found[0]
    expected = reference if isinstance(reference, str) else W.masked_fill(reference, 0)
    return found, [reference, reference, expected], (str(e), str(sparsity), shape, W.dtype)


def alike(a: Tensor | str, b: Tensor | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    return torch.equal(a, b)
