"""The orders of weights for a GPU: arranged and restored they are the same, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero.packed.device_order import (
    from_device_order,
    is_two_four,
    numbers_of,
    to_device_order,
)
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix, stored_numbers, unpack_matrix

KINDS = [kind for kind in VALUE_TYPES.values() if not kind.halves]


def sparse(rows: int, columns: int, pattern: str, seed: int) -> torch.Tensor:
    """Weights with rows that are empty, full and of every share; or at most two of four."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random)
    chance = torch.rand(rows, columns, generator=random)
    if pattern == "two of four":
        of_four = torch.nn.functional.pad(chance, (0, -columns % 4)).view(rows, -1, 4)
        fewer = torch.rand(of_four.shape, generator=random) < 0.2
        drop = torch.zeros(of_four.shape, dtype=torch.bool)
        drop.scatter_(2, of_four.argsort(2)[..., :2], True)
        weight[(drop | fewer).flatten(1)[:, :columns]] = 0
    elif pattern == "any":
        weight[chance < torch.rand(rows, 1, generator=random) * 1.4 - 0.2] = 0
    elif pattern == "half":
        weight[chance < 0.5] = 0
    return weight


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 300)), draw(st.integers(1, 600))
    kind = VALUE_TYPES[draw(st.sampled_from([kind.name for kind in KINDS]))]
    pattern = draw(st.sampled_from(["two of four", "any", "half", "dense"]))
    return pack_matrix(sparse(rows, columns, pattern, draw(st.integers(0, 2**31))), kind)


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_the_file_s_order_comes_back_bit_for_bit(matrix):
    there = to_device_order(matrix)
    back = from_device_order(there)
    assert torch.equal(back.mask, matrix.mask) and torch.equal(back.values, matrix.values)
    assert torch.equal(back.starts, matrix.starts)
    if matrix.scales is not None:
        assert torch.equal(back.scales, matrix.scales)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_pattern_has_its_order(kind):
    for pattern, order in (("two of four", "two_four"), ("half", "streams"), ("dense", "streams")):
        weight = sparse(130, 300, pattern, 0)
        there = to_device_order(pack_matrix(weight, kind))
        assert there.order == order, pattern
        assert torch.equal(numbers_of(there), stored_numbers(weight, kind)[0])


def test_negative_zeros_are_kept():
    weight = torch.tensor([[-0.0, 0.0, 1.0, 0.0]]).repeat(3, 5)
    matrix = pack_matrix(weight, VALUE_TYPES["bfloat16"])
    back = unpack_matrix(from_device_order(to_device_order(matrix)), torch.float32)
    assert torch.equal(back.signbit(), weight.signbit())


def test_two_of_four_means_of_each_four():
    assert is_two_four(torch.tensor([[0, 0, 1, 2, 3, 4, 0, 0, 5]]))
    assert not is_two_four(torch.tensor([[0, 1, 2, 3]]))


@pytest.mark.parametrize("kind, bits, at_most", [("bfloat16", 9, 9.6), ("int8", 5, 5.6)])
def test_bits_a_weight(kind, bits, at_most):
    rows, columns = 1024, 2048
    kind = VALUE_TYPES[kind]
    two_four = to_device_order(pack_matrix(sparse(rows, columns, "two of four", 0), kind))
    assert two_four.weights.nbytes * 8 == bits * rows * columns
    streams = to_device_order(pack_matrix(sparse(rows, columns, "half", 0), kind))
    assert bits < streams.bytes * 8 / (rows * columns) < at_most


# As the kernels read it: lane by lane, as NVIDIA's manual of PTX has the operands of mma.sp


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lanes_hold_the_operands_of_the_sparse_tensor_cores(kind):
    rows, columns = 32, 192
    weight = sparse(rows, columns, "two of four", 3)
    numbers = stored_numbers(weight, kind)[0]
    there = to_device_order(pack_matrix(weight, kind))
    units = there.weights.view(2, 3, -1)
    found = torch.zeros_like(numbers)
    for tile in range(2):
        for unit in range(3):
            lanes, words = units[tile, unit, :-128], units[tile, unit, -128:].view(torch.int32)
            for half in range(2):
                for lane in range(32):
                    g, t = divmod(lane, 4)
                    for register in range(4):  # rows g, g + 8, g, g + 8; fours t, t, t + 4, t + 4
                        row, four = g + register % 2 * 8, t + register // 2 * 4
                        word = int(words[g * 4 + half * 2 + four // 4])
                        places = word >> (register % 2 * 16 + four % 4 * 4)
                        for k in range(2):
                            if kind.scaled:
                                at = lane * 16 + half * 8 + register * 2 + k
                                value = int(lanes[at]) - 128
                            else:
                                at = half * 256 + lane * 8 + register * 2 + k
                                value = int(lanes.view(kind.storage)[at])
                            column = unit * 64 + half * 32 + four * 4 + (places >> 2 * k & 3)
                            if value:
                                found[tile * 16 + row, column] = value
                        assert (places & 3) < (places >> 2 & 3), "places are in order"
    assert torch.equal(found, numbers)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_lane_reads_its_weights_from_streams_of_its_own(kind):
    rows, columns = 70, 300
    weight = sparse(rows, columns, "any", 3)
    numbers = stored_numbers(weight, kind)[0]
    there = to_device_order(pack_matrix(weight, kind))
    per = 4 if kind.scaled else 2
    count = 32 * per
    found = torch.zeros(96, 384, dtype=kind.storage)
    for index, offset in enumerate(there.offsets[:-1].tolist()):
        tile, chunk = divmod(index, 3)
        job = there.weights[offset * 64 : int(there.offsets[index + 1]) * 64].clone()
        masks = job[:512].view(4, 32, 4).int()  # step, lane, row of the lane
        second_columns = job[512 : 512 + count].tolist()
        words = job[512 + count :].view(kind.storage).view(-1, count)
        ends = [0] * count  # of first halves
        for half in range(2):
            for stream in range(count):
                lane, first = divmod(stream, per)
                g, t = divmod(lane, 4)
                column = second_columns[stream] if half else stream
                place = ends[column] if half else 0
                for step in range(2 * half, 2 * half + 2):
                    for r in range(first, 4, per):
                        for bit in range(8):
                            if int(masks[step, lane, r]) >> bit & 1:
                                at = step * 32 + bit // 2 * 8 + t * 2 + bit % 2
                                value = int(words[place, column])
                                found[tile * 32 + r * 8 + g, chunk * 128 + at] = value
                                place += 1
                if not half:
                    ends[stream] = place
        assert len(words) <= there.longest
    assert torch.equal(found[:rows, :columns], numbers)


def test_columns_of_streams_are_about_equally_long():
    kind = VALUE_TYPES["bfloat16"]
    for seed in range(3):
        there = to_device_order(pack_matrix(sparse(64, 2048, "half", seed), kind))
        kept = int(stored_numbers(sparse(64, 2048, "half", seed), kind)[0].count_nonzero())
        words = len(there.weights) // 64 - 32 * (512 + 64) // 64
        assert kept <= words * 32 <= 1.07 * kept
