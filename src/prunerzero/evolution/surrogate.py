"""Guesses the loss of a candidate from the weights that it prunes on the probes.

Metrics that prune nearly the same weights have nearly the same loss. So the measured losses are
regressed on the masks of the probes, and the most promising of several offspring is measured. The
method is kernel ridge regression; the kernel is exp(-distance / scale) with the Hamming distance
between masks. Screening by behaviour instead of by formula comes from Hildebrandt and Branke, "On
Using Surrogates with Genetic Programming", Evolutionary Computation 23(3), 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from prunerzero.evolution.records import Individual
from prunerzero.scoring.threads import alone

MEMORY = 400
"""Number of measured metrics that a guess uses; the worst are forgotten first."""

FEWEST = 20
"""Number of measured metrics before the first guess."""

RIDGE = 0.03
"""Variance that masks do not explain, relative to that of the losses' ranks."""

NEAR = 0.002
"""Share of weights. A metric whose mask differs from a known one's on fewer is not measured: its
loss would be the same, and plateaus of such metrics fill a population."""

Bits = NDArray[np.uint8]
"""A mask of the probes, packed eight weights to a byte."""


class Surrogate:
    """Learns from individuals as they are added."""

    def __init__(self) -> None:
        self._count = 0
        self._losses: list[tuple[float, ...]] = [()] * MEMORY
        self._means = np.zeros(MEMORY)
        self._chunks_read = np.zeros(MEMORY, np.int64)
        self._finished = np.zeros(MEMORY, bool)
        self._masks = np.empty((0, 0), np.uint64)
        self._distances = np.zeros((MEMORY, MEMORY), np.float32)

    def __len__(self) -> int:
        return self._count

    def add(self, individual: Individual, pruned: Bits) -> None:
        """Learn from a measured metric and its mask."""
        if not self._count:
            self._masks = np.zeros((MEMORY, _words(pruned).size), np.uint64)
        if self._count < MEMORY:
            place = self._count
            self._count += 1
        else:
            place = int(np.argmax(self._ranks()))
        self._losses[place] = individual.losses
        self._means[place] = individual.mean
        self._chunks_read[place] = len(individual.losses)
        self._finished[place] = individual.state == "complete"
        self._masks[place] = _words(pruned)
        (row,) = self._distances_to(pruned[None])
        self._distances[place, : len(self)] = self._distances[: len(self), place] = row

    def choose(self, candidates: Sequence[Bits]) -> int:
        """Choose the candidate with the lowest guess that is not nearly equal to a known metric.

        If all are nearly equal to known ones, that is the one farthest from them. With fewer than
        ``FEWEST`` measured metrics, it is the first.

        Returns:
            its index.
        """
        known = len(self)
        if known < FEWEST:
            return 0
        distances = self._distances[:known, :known]
        scale = max(float(distances.mean()), 1e-6)
        ranks = self._ranks()
        kernel = np.exp(-distances / scale)
        np.fill_diagonal(kernel, 1 + RIDGE)
        values = (ranks - ranks.mean()).astype(np.float32)
        weights = alone(lambda: _solve(kernel, values))
        to_known = self._distances_to(np.stack(candidates))
        guesses = np.exp(-to_known / scale) @ weights
        nearest = to_known.min(1)
        guesses[nearest < NEAR] = np.inf
        return int(guesses.argmin() if np.isfinite(guesses).any() else nearest.argmax())

    def _distances_to(self, masks: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The share of weights on which each mask (rows) differs from each known one (columns)."""
        known = self._masks[: len(self)]
        different = [np.bitwise_count(known ^ mask).sum(1, np.uint32) for mask in _words(masks)]
        shares: NDArray[np.float64] = np.stack(different) / (8 * masks.shape[1])
        return shares

    def _ranks(self) -> NDArray[np.float64]:
        """The rank of each metric, 0 to 1, by how far it was behind the best on its chunks."""
        known = len(self)
        behind = self._means[:known]
        if self._finished[:known].any():
            rival = self._losses[np.where(self._finished, self._means, np.inf)[:known].argmin()]
            running = np.array([fmean(rival[:read]) for read in range(1, len(rival) + 1)])
            behind = behind - running[self._chunks_read[:known] - 1]
        order = np.argsort(np.argsort(behind, kind="stable"))
        return order / (known - 1)


def _solve(kernel: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The x of ``kernel`` @ x = values, for a positive definite kernel."""
    root = torch.linalg.cholesky(torch.from_numpy(kernel).double())
    solution = torch.cholesky_solve(torch.from_numpy(values).double()[:, None], root)
    return solution[:, 0].float().numpy()


def _words(bits: Bits) -> NDArray[np.uint64]:
    """The same bits as 64-bit words, which are compared eight times as fast."""
    if spare := -bits.shape[-1] % 8:
        bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], spare), np.uint8)], -1)
    return bits.view(np.uint64)
