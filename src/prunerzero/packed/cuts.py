"""How a product with packed weights is cut into blocks of a GPU, warps and shared memory.

The rules are what was fastest on an H100; results differ in their rounding alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from prunerzero.packed.device_order import JOB_INPUTS, JOB_ROWS, TILE, UNIT
from prunerzero.packed.nvrtc import Card, Launch

MOST = 48
"""Inputs at once, at most, that kernels multiply by packed weights; with 64, expanding the matrix
first is as fast on an H100."""


@dataclass(frozen=True)
class Tuning:
    """How a product is cut. Results differ in their rounding alone."""

    tall: int = 2
    """``two_four``: tiles of 16 rows that a block computes."""
    warps: int = 8
    """Of a block, at most: fewer where shared memory has no room for them."""
    ahead: int = 1
    """``two_four``: units that a warp loads before it needs them."""
    cluster: int = 1
    """Blocks that divide the inputs among them, at most."""


class Work(NamedTuple):
    """What decides how a product is cut."""

    rows: int
    columns: int
    integers: bool
    longest: int
    """0 in the order ``two_four``."""
    batch: int
    kind: int
    """Of the inputs."""


def tunings(card: Card, work: Work) -> set[Tuning]:
    """How the rule cuts such products, of few rows and of many."""
    cut = cut_streams if work.longest else cut_two_four
    return {cut(card, work._replace(rows=rows)) for rows in (1, 1 << 20)}


@cache
def launch_of(card: Card, work: Work, tuning: Tuning | None) -> tuple[Launch, int]:
    """The launch, and the last argument of the kernel."""
    if work.longest:
        return _streams(card, work, tuning or cut_streams(card, work))
    return _two_four(card, work, tuning or cut_two_four(card, work))


def cut_two_four(card: Card, work: Work) -> Tuning:
    """What was fastest on an H100 with the matrices of a Llama of 7 billion, or within 10 % of it.

    Of few rows, blocks are no more than the card's processors, and more warps read for each. From 9
    inputs on, taller blocks pay: they share the inputs. int8 takes shorter to read, and wants more
    loads under way; many inputs leave no registers for them.
    """
    few, integers, batch = _few_rows(card, work), work.integers, work.batch
    if batch > 16:
        ahead = 1 if batch > 32 and not integers else 2
        return Tuning(tall=4, ahead=ahead, cluster=2 if few or batch > 24 else 1)
    if batch > 8:
        ahead = 2 if few or integers else 1
        return Tuning(tall=4, warps=8 if few else 4, ahead=ahead, cluster=2)
    if few or (batch > 1 and not integers):
        return Tuning(tall=1 if integers and batch == 1 else 2, warps=16, ahead=2)
    if batch > 1:
        return Tuning(tall=4, cluster=2)
    return Tuning(ahead=2 if integers else 1)


def _two_four(card: Card, work: Work, tuning: Tuning) -> tuple[Launch, int]:
    """The launch, and units whose inputs are staged at once."""
    tall, ahead, batch = tuning.tall, tuning.ahead, work.batch
    units = -(-work.columns // UNIT)
    cluster = min(tuning.cluster, units) if card.overlaps else 1
    room = (card.shared // batch - 16) // 128  # units of 128 bytes of inputs
    sums = batch * TILE * tall * 4
    warps = max(1, min(tuning.warps, room // ahead, card.shared // sums))
    turn = warps * ahead
    segment = -(-units // (cluster * turn)) * turn
    if segment > room:
        segment = room // turn * turn
    template = f"{work.kind},{flag(work.integers)},{tall},{-(-batch // 8)},{tuning.warps},{ahead}"
    blocks = -(-work.rows // (TILE * tall)) * cluster
    shared = max(batch * (segment * 128 + 16), warps * sums)
    return Launch(f"two_four<{template}>", blocks, warps * 32, shared, cluster, True), segment


def cut_streams(card: Card, work: Work) -> Tuning:
    """What was fastest there of matrices at 50 %, or within 8 % of it."""
    integers, batch = work.integers, work.batch
    if _few_rows(card, work):
        if batch > 16:
            return Tuning(warps=12)
        if batch > 8 and integers:
            return Tuning(warps=12, cluster=2)
        return Tuning(warps=16, cluster=2 if batch <= 4 or integers else 1)
    if batch > 16:
        return Tuning(warps=6 if batch <= (32 if integers else 24) else 4)
    if batch > 8:
        return Tuning(warps=8 if integers else 6)
    if batch > 1 and not integers:
        return Tuning(warps=8, cluster=2 if batch <= 4 else 1)
    return Tuning(warps=12)


def _few_rows(card: Card, work: Work) -> bool:
    """Whether blocks of 32 rows are no more than the processors, so that each has one alone."""
    return work.rows <= 32 * card.processors


def _streams(card: Card, work: Work, tuning: Tuning) -> tuple[Launch, int]:
    """The launch, and bytes that a job takes in shared memory."""
    room = room_of(work.integers, work.longest)
    each = room + work.batch * _LINE
    warps = max(1, min(tuning.warps, (card.shared - TABLE) // each))
    cluster = min(tuning.cluster, -(-work.columns // JOB_INPUTS)) if card.overlaps else 1
    template = f"{work.kind},{flag(work.integers)},{-(-work.batch // 8)},{tuning.warps}"
    blocks = -(-work.rows // JOB_ROWS) * cluster
    shared = TABLE + warps * each
    return Launch(f"streams<{template}>", blocks, warps * 32, shared, cluster, True), room


TABLE, _LINE, DENSE_WARPS = 128, JOB_INPUTS * 2 + 16, 4
"""As in ``cuda/streams.cu``: bytes of the table, bytes of a vector of inputs, and warps."""


def room_of(integers: bool, longest: int) -> int:
    """Bytes of shared memory for a job, and for what is read beyond it.

    Sums take the place of a job and its inputs: 128 bytes a vector, where inputs have 272.
    """
    fixed = JOB_ROWS * JOB_INPUTS // 8 + 32 * (4 if integers else 2)
    return fixed + longest * 128 + 256


def flag(value: bool) -> str:
    return "true" if value else "false"
