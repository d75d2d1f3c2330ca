"""Layers whose weights lie in an order of a GPU: what holds without one, in plain torch."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from sparse_model import same_bits
from test_device_order import KINDS, sparse

from prunerzero.packed import gpu
from prunerzero.packed.device_order import to_device_order
from prunerzero.packed.kernels import product
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix, unpack_matrix
from prunerzero.packed.linear import PackedLinear
from prunerzero.packed.nvrtc import GPUError
from prunerzero.packed.plain import FEW, plain_product


def arranged(pattern: str, values: str = "bfloat16") -> tuple[PackedLinear, PackedLinear]:
    """A layer in the order of the file, and the same in that of a GPU."""
    matrix = pack_matrix(sparse(70, 300, pattern, 0), VALUE_TYPES[values])
    bias = torch.nn.Parameter(torch.randn(70))
    layer = PackedLinear.of(matrix, torch.float32, bias)
    other = copy.deepcopy(layer)
    other._take(to_device_order(matrix))
    return layer, other


@pytest.fixture(params=["two of four", "half"])
def pattern(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("count", [1, FEW + 1])
def test_it_computes_what_the_file_s_order_computes(pattern, kind, dtype, count):
    layer, other = arranged(pattern, kind.name)
    inputs = torch.randn(count, 300).to(dtype)
    expected = product(inputs.double(), layer.matrix, layer.bias)
    error = (other(inputs).double() - expected).abs().amax() / expected.abs().amax()
    assert other(inputs).dtype == dtype and error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_its_state_has_the_order_of_the_file(pattern, kind):
    layer, other = arranged(pattern, kind.name)
    before, after = layer.state_dict(), other.state_dict()
    assert before.keys() == after.keys() and other.mask is None
    assert all(same_bits(before[name], after[name]) for name in before)
    assert same_bits(other.dense_weight(), layer.dense_weight())


def test_conversions_leave_it_as_it_is(pattern):
    layer, other = arranged(pattern)
    for convert in (other.half, other.double, other.bfloat16, other.float):
        convert()
        assert other.arranged is not None and other.device_weights.dtype == torch.uint8
    assert same_bits(other.dense_weight(), layer.dense_weight())


def test_where_it_moves_it_takes_the_file_s_order_first(pattern):
    layer, other = arranged(pattern)
    other.to("meta")
    assert other.arranged is None and other.mask is not None and other.mask.is_meta
    assert {name for name, _ in other.named_buffers()} == {n for n, _ in layer.named_buffers()}


def test_a_state_is_loaded_into_it(pattern):
    layer, other = arranged(pattern)
    other.load_state_dict(layer.state_dict())
    assert same_bits(other.dense_weight(), layer.dense_weight())


def test_gradients_are_those_of_the_dense_layer(pattern):
    layer, other = arranged(pattern)
    inputs = torch.randn(3, 300, requires_grad=True)
    upstream = torch.randn(3, 70)
    other(inputs).backward(upstream)
    weight = unpack_matrix(layer.matrix, torch.float32)
    assert torch.allclose(inputs.grad, upstream @ weight, atol=1e-5)
    assert torch.allclose(other.bias.grad, upstream.sum(0), atol=1e-5)


def test_can_be_traced_by_torch_compile(pattern):
    _, other = arranged(pattern)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    inputs = torch.randn(2, 300)
    with torch.no_grad():
        assert torch.equal(compiled(inputs), other(inputs))


def test_it_says_once_why_there_are_no_kernels(monkeypatch, caplog):
    def none(index: int) -> None:
        raise GPUError("this card is too old")

    monkeypatch.setattr(gpu, "card_of", none)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu.trusted.cache_clear()
    with caplog.at_level(logging.WARNING, "prunerzero"):
        for _ in range(2):
            assert not gpu.trusted(0, "bfloat16", torch.bfloat16)
    gpu.trusted.cache_clear()
    assert [record.message for record in caplog.records] == [
        "packed bfloat16 weights are multiplied by plain torch on this GPU, which is slower, "
        "because its kernels cannot be used: this card is too old"
    ]


def test_plain_torch_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("PRUNERZERO_KERNEL", "torch")
    gpu.trusted.cache_clear()
    assert not gpu.trusted(0, "bfloat16", torch.bfloat16)
    gpu.trusted.cache_clear()


def test_many_inputs_give_what_plain_torch_gives(pattern):
    layer, other = arranged(pattern)
    inputs = torch.randn(FEW + 4, 300).bfloat16()
    bias = layer.bias.bfloat16()
    assert torch.equal(
        product(inputs, other.arranged, bias), plain_product(inputs, layer.matrix, bias)
    )
