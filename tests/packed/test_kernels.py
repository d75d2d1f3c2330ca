"""The product with a packed matrix, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero.packed.kernels import product
from prunerzero.packed.layout import VALUE_TYPES, PackedMatrix, pack_matrix, unpack_matrix

INPUT_TYPES = [torch.bfloat16, torch.float16, torch.float32]


@st.composite
def products(draw):
    """A packed matrix, inputs and perhaps a bias, of any shape and sparsity."""
    rows, columns, batch = (
        draw(st.integers(1, 70)),
        draw(st.integers(1, 150)),
        draw(st.integers(1, 18)),
    )
    kind = VALUE_TYPES[draw(st.sampled_from(sorted(VALUE_TYPES)))]
    share = draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(rows, columns, generator=random)
    weight[torch.rand(rows, columns, generator=random) < share] = 0
    weight[torch.rand(rows, generator=random) < 0.2] = 0
    inputs = torch.randn(batch, columns, generator=random).to(draw(st.sampled_from(INPUT_TYPES)))
    bias = torch.randn(rows, generator=random).to(inputs.dtype) if draw(st.booleans()) else None
    return pack_matrix(weight, kind), inputs, bias


def exact(inputs: torch.Tensor, matrix: PackedMatrix, bias: torch.Tensor | None) -> torch.Tensor:
    weight = unpack_matrix(matrix, torch.float32).double()
    return torch.nn.functional.linear(
        inputs.double(), weight, None if bias is None else bias.double()
    )


def tolerance(inputs: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
    """What rounding may change: the size of what is summed, and the result's own precision."""
    weight = unpack_matrix(matrix, torch.float32).double().abs()
    sizes = torch.nn.functional.linear(inputs.double().abs(), weight)
    largest = inputs.double().abs().amax(1, keepdim=True) * weight.sum(1)
    return 2**-16 * (sizes + largest * matrix.kind.scaled)


@settings(max_examples=60, deadline=None)
@given(products())
def test_is_the_dense_product(case):
    inputs, matrix, bias = case[1], case[0], case[2]
    expected = exact(inputs, matrix, bias)
    got = product(inputs, matrix, bias)
    assert got.dtype == inputs.dtype and got.shape == expected.shape
    precision = torch.finfo(inputs.dtype).eps
    allowed = tolerance(inputs, matrix) + precision * expected.abs() + 1e-7
    assert ((got.double() - expected).abs() <= allowed).all()


def test_keeps_the_dimensions_before_the_last():
    matrix = pack_matrix(torch.eye(4), VALUE_TYPES["bfloat16"])
    inputs = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(product(inputs, matrix), inputs)
    assert torch.equal(product(inputs[0, 0], matrix), inputs[0, 0])
    assert product(inputs[:0], matrix).shape == (0, 3, 4)


@pytest.mark.parametrize("bad", [torch.ones(2, 5), torch.ones(2, 4, dtype=torch.float64)])
def test_refuses_other_inputs(bad):
    with pytest.raises(ValueError, match="packed matrix of 4 inputs"):
        product(bad, pack_matrix(torch.eye(4), VALUE_TYPES["int8"]))
