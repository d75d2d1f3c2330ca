"""Guess what a candidate is worth from what it prunes on the probes, before it is measured.

Metrics that prune nearly the same weights have nearly the same loss. So the losses measured so far
are regressed on the masks of the probes (kernel ridge regression, with a Gaussian kernel of the
Hamming distance between masks), and of several offspring the most promising is measured. Screening
by what candidates do instead of how they are written: Hildebrandt and Branke, "On Using Surrogates
with Genetic Programming", Evolutionary Computation 23(3), 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from prunerzero.evolution.records import Individual

MEMORY = 400
"""Measured metrics that a guess is made from; the worst are forgotten first."""

FEWEST = 20
"""Measured metrics before the first guess."""

RIDGE = 0.03
"""Variance of what masks do not tell, against that of the losses' ranks."""

NEAR = 0.002
"""Metrics whose masks differ on no more weights than this share would be measured in vain: the
loss does not tell them apart, and plateaus of them fill a population."""

Bits = NDArray[np.uint8]
"""A mask of the probes, packed eight weights to a byte."""


class Surrogate:
    """Learns from individuals as they are added."""

    def __init__(self) -> None:
        self._individuals: list[Individual] = []
        self._masks = np.empty((0, 0), np.uint64)
        self._distances = np.zeros((MEMORY, MEMORY), np.float32)

    def __len__(self) -> int:
        return len(self._individuals)

    def add(self, individual: Individual, pruned: Bits) -> None:
        """Take in a measured metric and its mask."""
        if not self._individuals:
            self._masks = np.zeros((MEMORY, _words(pruned).size), np.uint64)
        if len(self) < MEMORY:
            place = len(self)
            self._individuals.append(individual)
        else:
            place = int(np.argmax(self._ranks()))
            self._individuals[place] = individual
        self._masks[place] = _words(pruned)
        row = self._distances_to(pruned)
        self._distances[place, : len(self)] = self._distances[: len(self), place] = row

    def choose(self, candidates: Sequence[Bits]) -> int:
        """The place of the most promising candidate that is not nearly one that is known.

        The first while too little is known; the least known if all nearly are.
        """
        known = len(self)
        if known < FEWEST:
            return 0
        distances = self._distances[:known, :known]
        scale = max(float(distances.mean()), 1e-6)
        ranks = self._ranks()
        kernel = np.exp(-distances / scale)
        np.fill_diagonal(kernel, 1 + RIDGE)
        weights = np.linalg.solve(kernel, (ranks - ranks.mean()).astype(np.float32))
        to_known = np.stack([self._distances_to(bits) for bits in candidates])
        guesses = np.exp(-to_known / scale) @ weights
        nearest = to_known.min(1)
        guesses[nearest < NEAR] = np.inf
        return int(guesses.argmin() if np.isfinite(guesses).any() else nearest.argmax())

    def _distances_to(self, bits: Bits) -> NDArray[np.float64]:
        """The share of the probes' weights on which the masks differ, of each known metric."""
        different = np.bitwise_count(self._masks[: len(self)] ^ _words(bits))
        shares: NDArray[np.float64] = different.sum(1, dtype=np.int64) / (8 * bits.size)
        return shares

    def _ranks(self) -> NDArray[np.float64]:
        """Ranks in 0 … 1 by how far behind each was on the chunks it read."""
        finished = [i for i in self._individuals if i.state == "complete"]
        rival = min(finished, key=lambda i: i.mean).losses if finished else ()
        behind = [i.mean - fmean(rival[: len(i.losses)]) if rival else i.mean
                  for i in self._individuals]  # fmt: skip
        order = np.argsort(np.argsort(np.array(behind), kind="stable"))
        return order / (len(behind) - 1)


def _words(bits: Bits) -> NDArray[np.uint64]:
    """The same bits as whole words, which are compared eight times as fast."""
    return np.pad(bits, (0, -bits.size % 8)).view(np.uint64)
