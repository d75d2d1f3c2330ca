"""What a metric ranks like: duplicates by behaviour, and likeness to other metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunerzero.metrics.errors import ScoreError, SparsityError
from prunerzero.metrics.expression import Expression, evaluate
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.mask import prune_mask
from prunerzero.scoring.thresholds import in_order


@dataclass(frozen=True, eq=False)
class Probe:
    """A small sample of weights [out, in] with X and D [1, in] and G [out, in], in float64."""

    W: Tensor
    X: Tensor
    G: Tensor
    D: Tensor

    @classmethod
    def of(
        cls,
        W: Tensor,
        X: Tensor,
        G: Tensor,
        D: Tensor | None = None,
        *,
        rows: int = 32,
        columns: int = 256,
    ) -> Probe:
        """The evenly spaced rows and columns of one layer; ones stand in for D where it is None."""
        row, column = _spaced(rows, W.shape[0]), _spaced(columns, W.shape[1])

        def sample(matrix: Tensor) -> Tensor:
            return matrix.cpu().double()[row][:, column]

        def of_inputs(row: Tensor) -> Tensor:
            return row.cpu().double().reshape(1, -1)[:, column]

        d = of_inputs(torch.ones(W.shape[1]) if D is None else D)
        return cls(sample(W).abs(), of_inputs(X), sample(G), d)

    def scaled(self, factor: float) -> Probe:
        """The same with all of W, X, G and D multiplied."""
        return Probe(self.W * factor, self.X * factor, self.G * factor, self.D * factor)

    def in_float32(self) -> Probe:
        """The same in the precision that models are pruned in."""
        return Probe(self.W.float(), self.X.float(), self.G.float(), self.D.float())


def _spaced(count: int, length: int) -> Tensor:
    count = min(count, length)
    return torch.arange(count) * length // max(count, 1)


def synthetic_probe(seed: int = 0) -> Probe:
    """Random weights with heavy-tailed X, G and D, as language models have them [64, 256]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W = (0.02 * normal(64, 256)).abs()
    X = (1.5 * normal(1, 256)).exp() * 100
    G = (normal(64, 256).abs() + 0.1) * (0.5 * normal(64, 1) + 0.5 * normal(1, 256)).exp() * 0.1
    D = X.sqrt() * (-normal(1, 256).abs()).exp()  # never more than the norm of the input
    return Probe(W, X, G, D)


def mixed_probes() -> list[Probe]:
    """Synthetic probes in which each of W, X, G and D in turn is far below and far above the rest.

    One probe alone does not tell ``max(D, X)`` from X where D is smaller everywhere.
    """
    plain = synthetic_probe()
    return [
        plain,
        *(
            replace(plain, **{name: getattr(plain, name) * scale})
            for name in ("W", "X", "G", "D")
            for scale in (1e-6, 1e6)
        ),
    ]


def probe_scores(expression: Expression, probe: Probe) -> Tensor:
    """Scores [rows, columns] in float64."""
    values = {"W": probe.W, "X": probe.X, "G": probe.G, "D": probe.D}
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
        ScoreError: the metric is not finite on a probe, or constant where its scores are compared.
        SparsityError: a probe is narrower than one N:M run.
    """
    digest = hashlib.sha256()
    pruned = []
    scores = [_finite(expression, probe) for probe in probes]
    if sparsity.group == "model":
        scores = [np.concatenate([found.reshape(1, -1) for found in scores], axis=1)]
    for found in scores:
        groups = _grouped(found, sparsity)
        if _is_constant(groups):
            raise ScoreError(_CONSTANT)
        order, lowest = _lowest(groups, sparsity.fraction)
        digest.update(order.data)
        pruned.append(np.packbits(lowest))
    return Ranking(digest.hexdigest()[:32], np.concatenate(pruned))


def rank_on(expression: Expression, samples: Sequence[tuple[Sequence[Probe], Sparsity]]) -> Ranking:
    """Rank the weights of several models, or for several sparsities: probes and sparsity of each.

    Metrics share the key where they rank alike in all of them; with one, it is that of ``rank``.

    Raises:
        ScoreError, SparsityError: as ``rank``, where it happens in one of them.
    """
    rankings = [rank(expression, probes, sparsity) for probes, sparsity in samples]
    if len(rankings) == 1:
        return rankings[0]
    keys = hashlib.sha256("".join(ranking.key for ranking in rankings).encode())
    return Ranking(keys.hexdigest()[:32], np.concatenate([ranking.pruned for ranking in rankings]))


_CONSTANT = "the metric is constant: it gives all weights that are compared the same score."


def check_ranks(expression: Expression, sparsity: Sparsity, probes: Sequence[Probe] = ()) -> None:
    """Raise ScoreError where the metric gives all weights that are compared the same score.

    Args:
        expression: the metric.
        sparsity: says among which weights scores are compared.
        probes: where to look, in float32, which scores are computed in; by default, whether there
            is nothing to rank in synthetic weights of whatever scale.
    """
    scores = [probe_scores(expression, probe.in_float32()).double() for probe in probes] or [
        probe_scores(expression, synthetic_probe().scaled(scale)) for scale in _SCALES
    ]
    if sparsity.group == "model" and probes:
        scores = [torch.cat([found.reshape(1, -1) for found in scores], dim=1)]
    if all(bool(found.isnan().all()) for found in scores):
        raise ScoreError("the metric gives NaN for all weights, so it ranks nothing.")
    if all(_is_constant(_grouped(_rounded(found.numpy()), sparsity)) for found in scores):
        raise ScoreError(_CONSTANT)


_SCALES = (1.0, 1e-3, 1e3)


def _is_constant(groups: NDArray[np.int64]) -> bool:
    """Whether each row holds one value throughout; most are told apart by their first row."""
    return bool((groups[0] == groups[0, 0]).all() and (groups == groups[:, :1]).all())


def _finite(expression: Expression, probe: Probe) -> NDArray[np.int64]:
    """Rounded scores [rows, columns]; ScoreError where one is not finite."""
    scores = probe_scores(expression, probe).numpy()
    if not np.isfinite(scores).all():
        raise ScoreError("the metric is not finite.")
    return _rounded(scores)


def _grouped(scores: NDArray[np.int64], sparsity: Sparsity) -> NDArray[np.int64]:
    """The scores [rows, columns] with what competes in one row."""
    run = sparsity.of
    if run is None:
        return scores if sparsity.group == "row" else scores.reshape(1, -1)
    if scores.shape[1] < run:
        raise SparsityError(f"a probe of {scores.shape[1]} inputs cannot show {sparsity}.")
    return scores[:, : scores.shape[1] // run * run].reshape(-1, run)


def ranking_key(expression: Expression, probes: Sequence[Probe], sparsity: Sparsity) -> str:
    """The ``key`` of ``rank``; the same errors."""
    return rank(expression, probes, sparsity).key


def _rounded(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """float64 scores with 40 of their 52 bits, rounded to nearest, as integers of the same order.

    Adding zero makes one of the two zeros.
    """
    bits = np.ascontiguousarray(scores).view(np.int64) + (1 << 11)
    bits &= ~_SPARE
    rounded = bits.view(np.float64)
    rounded += 0.0
    order: NDArray[np.int64] = in_order(bits, np.empty_like(bits))
    order &= ~_SPARE
    return order


_SPARE = (1 << 12) - 1
"""The bits that rounding clears."""


def _lowest(
    groups: NDArray[np.int64], fraction: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The stable order within each row of rounded scores, and where its first ``fraction`` is.

    Rounding leaves room for the column in each number, so that plain sorting, which is several
    times faster than ``argsort``, brings the columns along.
    """
    columns = groups.shape[1]
    count = round(columns * fraction)
    if columns > _SPARE:
        order = groups.argsort(axis=1, kind="stable").astype(np.int32)
        mask = np.zeros(groups.shape, dtype=bool)
        np.put_along_axis(mask, order[:, :count].astype(np.int64), True, axis=1)
        return order, mask
    placed = groups | np.arange(columns)
    ascending = np.sort(placed, axis=1)
    mask = placed <= ascending[:, count - 1 : count] if count else np.zeros(groups.shape, bool)
    ascending &= _SPARE
    return ascending.astype(np.int32), mask


def agreement(a: Expression, b: Expression, probe: Probe, sparsity: Sparsity) -> float:
    """The share of pruned weights that two metrics have in common, in [0, 1]."""
    masks = [prune_mask(probe_scores(e, probe), sparsity) for e in (a, b)]
    pruned = int(masks[0].sum())
    return int((masks[0] & masks[1]).sum()) / pruned if pruned else 1.0
