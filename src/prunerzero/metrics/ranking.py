"""What a metric ranks like: duplicates by behaviour, and likeness to other metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunerzero.metrics.errors import ScoreError, SparsityError
from prunerzero.metrics.expression import Expression, evaluate
from prunerzero.metrics.mask import Sparsity, prune_mask


@dataclass(frozen=True, eq=False)
class Probe:
    """A small sample of weights [out, in] with their X [1, in] and G [out, in], in float64."""

    W: Tensor
    X: Tensor
    G: Tensor

    @classmethod
    def of(cls, W: Tensor, X: Tensor, G: Tensor, rows: int = 32, columns: int = 256) -> Probe:
        """The evenly spaced rows and columns of one layer."""
        row, column = _spaced(rows, W.shape[0]), _spaced(columns, W.shape[1])

        def sample(matrix: Tensor) -> Tensor:
            return matrix.cpu().double()[row][:, column]

        x = X.cpu().double().reshape(1, -1)[:, column]
        return cls(sample(W).abs(), x, sample(G))


def _spaced(count: int, length: int) -> Tensor:
    count = min(count, length)
    return torch.arange(count) * length // max(count, 1)


def synthetic_probe(seed: int = 0) -> Probe:
    """Random weights with heavy-tailed X and G, as language models have them [64, 256]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W = (0.02 * normal(64, 256)).abs()
    X = (1.5 * normal(1, 256)).exp() * 100
    G = (normal(64, 256).abs() + 0.1) * (0.5 * normal(64, 1) + 0.5 * normal(1, 256)).exp() * 0.1
    return Probe(W, X, G)


def probe_scores(expression: Expression, probe: Probe) -> Tensor:
    """Scores [rows, columns] in float64."""
    values = {"W": probe.W, "X": probe.X, "G": probe.G}
    return evaluate(expression, values).expand(probe.W.shape)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a metric does to the weights of the probes.

    Attributes:
        key: a hash that metrics share when they rank every comparison group alike.
        pruned: the weights that are pruned, packed eight to a byte.
    """

    key: str
    pruned: NDArray[np.uint8]


def rank(expression: Expression, probes: Sequence[Probe], sparsity: Sparsity) -> Ranking:
    """Rank the weights of the probes.

    In float64: fp32 rounding would tell equal metrics apart. Scores are rounded to 40 bits before
    they are ranked, so that what differs only by rounding ties, in column order.

    Raises:
        ScoreError: the metric is constant, or not finite, on a probe, so that it ranks nothing.
        SparsityError: a probe is narrower than one N:M run.
    """
    digest = hashlib.sha256()
    pruned = []
    for probe in probes:
        scores = probe_scores(expression, probe)
        if not torch.isfinite(scores).all():
            raise ScoreError("the metric is not finite.")
        scores = _rounded(scores)
        if bool((scores == scores[:, :1]).all()):
            raise ScoreError("the metric is constant within rows.")
        if sparsity.of is not None:
            if scores.shape[1] < sparsity.of:
                raise SparsityError(f"a probe of {scores.shape[1]} inputs cannot show {sparsity}.")
            scores = scores[:, : scores.shape[1] // sparsity.of * sparsity.of]
            groups = scores.reshape(-1, sparsity.of)
        else:
            groups = scores.reshape(1, -1) if sparsity.group == "layer" else scores
        order = _order(groups.numpy())
        digest.update(order.tobytes())
        mask = np.zeros(order.shape, dtype=bool)
        lowest = order[:, : round(order.shape[1] * sparsity.fraction)]
        np.put_along_axis(mask, lowest.astype(np.int64), True, axis=1)
        pruned.append(np.packbits(mask))
    return Ranking(digest.hexdigest()[:32], np.concatenate(pruned))


def ranking_key(expression: Expression, probes: Sequence[Probe], sparsity: Sparsity) -> str:
    """The ``key`` of ``rank``; the same errors."""
    return rank(expression, probes, sparsity).key


def _rounded(scores: Tensor) -> Tensor:
    """float64 scores with 40 of their 52 bits, rounded to nearest."""
    bits = scores.contiguous().view(torch.int64)
    return ((bits + (1 << 11)) & ~_SPARE).view(torch.float64)


_SPARE = (1 << 12) - 1
"""The bits that rounding clears."""


def _order(groups: NDArray[np.float64]) -> NDArray[np.int32]:
    """The stable order within each row of rounded scores, as ``argsort`` gives it.

    Rounding leaves room for the column in each number, so that plain sorting, which is several
    times faster, brings the columns along. A float's bits are in the order of the floats once
    those of negative ones are inverted; adding zero makes one of the two zeros.
    """
    if groups.shape[1] > _SPARE:
        return groups.argsort(axis=1, kind="stable").astype(np.int32)
    bits = (groups + 0.0).view(np.int64)
    bits ^= (bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF)
    bits &= ~_SPARE
    bits |= np.arange(groups.shape[1])
    bits.sort(axis=1)
    return (bits & _SPARE).astype(np.int32)


def agreement(a: Expression, b: Expression, probe: Probe, sparsity: Sparsity) -> float:
    """The share of pruned weights that two metrics have in common, in [0, 1]."""
    masks = [prune_mask(probe_scores(e, probe), sparsity) for e in (a, b)]
    pruned = int(masks[0].sum())
    return int((masks[0] & masks[1]).sum()) / pruned if pruned else 1.0
