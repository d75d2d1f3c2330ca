"""Random expressions and statistics for the tests of the metric language."""

import random

import torch
from torch import Tensor

from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS

CONSTANTS = (0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 3.0, 0.3, -2.5, 1e-05, 1e20)


def random_tree(rng: random.Random, depth: int, *, published: bool = False) -> Expression:
    """A tree of at most that depth; constants and D only where it need not be published."""
    if depth == 0 or rng.random() < 0.15:
        if not published and rng.random() < 0.2:
            return Expression.constant(rng.choice(CONSTANTS))
        return Expression(rng.choice("WXG" if published else "WXGD"))
    operator = rng.choice([o for o in OPERATORS.values() if o.published or not published])
    arguments = (random_tree(rng, depth - 1, published=published) for _ in range(operator.arity))
    return Expression(operator.name, tuple(arguments))


def statistics(seed: int = 0, shape: tuple[int, int] = (12, 16)) -> dict[str, Tensor]:
    """W, X, G, D in float64 at the scales of language models, with some zeros."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W, X, G = 0.05 * normal(*shape), (1.5 * normal(1, shape[1])).exp() * 20, 0.3 * normal(*shape)
    for matrix in (W, G):
        matrix[torch.rand(*shape, generator=generator) < 0.03] = 0
    X[:, 3] = 0
    D = X.sqrt() * torch.rand(1, shape[1], generator=generator, dtype=torch.float64)
    return {"W": W.abs(), "X": X, "G": G.abs(), "D": D}
