"""The product with a packed matrix: every path that this machine runs, against float64."""

from dataclasses import replace
from tempfile import TemporaryFile

import pytest
import torch
from forked import ForkedProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from tell_path import tell_path

from prunerzero.packed import kernels
from prunerzero.packed.kernels import product
from prunerzero.packed.layout import VALUE_TYPES, PackedMatrix, pack_matrix, unpack_matrix
from prunerzero.packed.plain import FEW, plain_product

INPUT_TYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(scope="module", params=kernels.PATHS)
def path(request):
    """Each path of the library in turn; those of other processors are skipped."""
    if request.param not in kernels.paths():
        pytest.skip(f"this machine does not run {request.param}: {kernels.why_torch() or ''}")
    before = kernels.path()
    kernels.use(request.param)
    yield request.param
    kernels.use(before)


@st.composite
def products(draw, kinds=tuple(VALUE_TYPES), most=2 * FEW + 3):
    """A packed matrix, inputs and perhaps a bias, of any shape and sparsity."""
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(1, 150))
    kind = VALUE_TYPES[draw(st.sampled_from(kinds))]
    share = draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(rows, columns, generator=random)
    weight[torch.rand(rows, columns, generator=random) < share] = 0
    weight[torch.rand(rows, generator=random) < 0.2] = 0  # empty rows
    inputs = torch.randn(draw(st.integers(1, most)), columns, generator=random)
    inputs = inputs.to(draw(st.sampled_from(INPUT_TYPES)))
    bias = torch.randn(rows, generator=random).to(inputs.dtype) if draw(st.booleans()) else None
    return inputs, pack_matrix(weight, kind), bias


def exact(inputs: torch.Tensor, matrix: PackedMatrix, bias: torch.Tensor | None) -> torch.Tensor:
    weight = unpack_matrix(matrix, torch.float32).double()
    return torch.nn.functional.linear(
        inputs.double(), weight, None if bias is None else bias.double()
    )


def allowed(inputs: torch.Tensor, matrix: PackedMatrix, expected: torch.Tensor) -> torch.Tensor:
    """What rounding may change: float32 sums, inputs that become integers, and the result.

    Of many inputs, a sum of integers is rounded before its bias is added, and weights of int4 are
    rounded as the inputs are.
    """
    weight = unpack_matrix(matrix, torch.float32).double().abs()
    precision = torch.finfo(inputs.dtype).eps
    sizes = torch.nn.functional.linear(inputs.double().abs(), weight)
    error = sizes * 2**-18 + precision * (expected.abs() + 1e-4)
    if matrix.scales is not None:
        error += inputs.double().abs().amax(1, keepdim=True) * weight.sum(1) * 2**-15
        error += precision * exact(inputs, matrix, None).abs() * (len(inputs) > FEW)
    if matrix.kind.halves and len(inputs) > FEW and inputs.dtype == torch.bfloat16:
        error += sizes * 2**-8
    return error


def assert_is_dense(got: torch.Tensor, case) -> None:
    inputs, matrix, bias = case
    expected = exact(inputs, matrix, bias)
    assert got.dtype == inputs.dtype and got.shape == expected.shape
    assert ((got.double() - expected).abs() <= allowed(inputs, matrix, expected)).all()


@settings(max_examples=40, deadline=None)
@given(products())
def test_in_plain_torch_is_the_dense_product(case):
    assert_is_dense(plain_product(*case), case)


@settings(max_examples=100, deadline=None)
@given(case=products())
def test_is_the_dense_product(path, case):
    assert_is_dense(product(*case), case)


@settings(max_examples=60, deadline=None)
@given(case=products(kinds=("int8", "int4"), most=FEW))
def test_of_integers_is_the_same_on_every_path(path, case):
    assert torch.equal(product(*case), plain_product(*case))


@pytest.mark.parametrize("tokens", [1, 3, FEW, 2 * FEW + 3])
@pytest.mark.parametrize("kind", VALUE_TYPES.values(), ids=VALUE_TYPES)
def test_does_not_depend_on_the_number_of_threads(path, kind, tokens):
    if tokens > FEW and not (path == "amx" and kind.name in ("bfloat16", "int8")):
        pytest.skip("many inputs go through torch's product, which may")
    random = torch.Generator().manual_seed(0)
    matrix = pack_matrix(torch.randn(16 * 33, 1501, generator=random).relu(), kind)
    inputs = torch.randn(tokens, 1501, generator=random).bfloat16()
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(product(inputs, matrix))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_many_inputs_give_what_they_give_in_parts(path):
    matrix = pack_matrix(torch.randn(1100, 4000).relu(), VALUE_TYPES["float16"])
    inputs = torch.randn(FEW + 1, 4000)  # more than one block of rows is expanded
    parts = torch.cat([product(inputs[:1], matrix), product(inputs[1:], matrix)])
    assert torch.allclose(product(inputs, matrix), parts, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_integers_do_not_overflow(path, sign):
    columns = 140_001
    weight = torch.full((17, columns), 1.0)
    weight[1] = -1
    matrix = pack_matrix(weight, VALUE_TYPES["int8"])
    inputs = torch.full((1, columns), float(sign))
    got = product(inputs, matrix)
    assert torch.equal(got, plain_product(inputs, matrix, None))
    assert got[0, 0] == pytest.approx(sign * columns, rel=1e-6)
    assert got[0, 1] == pytest.approx(-sign * columns, rel=1e-6)


def test_what_is_not_finite_is_not_hidden(path):
    inputs = torch.ones(4, 40)
    inputs[1, 3], inputs[2, 5], inputs[3] = torch.inf, torch.nan, 0
    for kind in VALUE_TYPES.values():
        got = product(inputs, pack_matrix(torch.ones(20, 40), kind))
        assert torch.isfinite(got[[0, 3]]).all() and not torch.isfinite(got[1:3]).any()


def test_inputs_too_small_for_float32_count_as_zeros(path):
    matrix = pack_matrix(torch.ones(20, 40), VALUE_TYPES["int8"])
    assert not product(torch.full((1, 40), 1e-40), matrix).any()


def test_rounds_to_float16_as_torch_does(path):
    values = torch.cat([torch.logspace(-9, 6, 500), torch.tensor([65519.0, 65520.0, 1e9])])
    matrix = pack_matrix(values[:, None].half().float().clamp(max=65504), VALUE_TYPES["float16"])
    inputs = torch.tensor([[1.0], [1.5], [-0.37]])
    expected = inputs.half() * unpack_matrix(matrix, torch.float32).T
    assert torch.equal(product(inputs.half(), matrix), expected.half())


def test_keeps_the_dimensions_before_the_last(path):
    matrix = pack_matrix(torch.eye(4), VALUE_TYPES["bfloat16"])
    inputs = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(product(inputs, matrix), inputs)
    assert torch.equal(product(inputs[0, 0], matrix), inputs[0, 0])
    assert product(inputs[:0], matrix).shape == (0, 3, 4)


@pytest.mark.parametrize("kind", VALUE_TYPES.values(), ids=VALUE_TYPES)
@pytest.mark.parametrize("tokens", [1, FEW + 1])
def test_takes_float64(kind, tokens):
    matrix = pack_matrix(torch.randn(30, 50).relu(), kind)
    inputs, bias = torch.randn(tokens, 50).double(), torch.randn(30).double()
    weight = unpack_matrix(matrix, torch.float64)
    expected = torch.nn.functional.linear(inputs, weight, bias)
    assert torch.equal(product(inputs, matrix, bias), expected)


def test_takes_inputs_that_are_not_contiguous(path):
    matrix = pack_matrix(torch.randn(5, 4), VALUE_TYPES["bfloat16"])
    inputs = torch.randn(4, 6).T
    assert torch.equal(product(inputs, matrix), product(inputs.contiguous(), matrix))


@pytest.mark.parametrize("bad", [torch.ones(2, 5), torch.ones(2, 4, dtype=torch.int64)])
def test_refuses_other_inputs(bad):
    with pytest.raises(ValueError, match="packed matrix of 4 inputs"):
        product(bad, pack_matrix(torch.eye(4), VALUE_TYPES["int8"]))


@pytest.mark.parametrize("field", ["mask", "values", "starts", "scales"])
@pytest.mark.parametrize("values", ["int8", "int4"])
def test_refuses_tensors_that_are_too_short(path, values, field):
    matrix = pack_matrix(torch.eye(40), VALUE_TYPES[values])
    short = replace(matrix, **{field: getattr(matrix, field)[:-1].contiguous()})
    with pytest.raises(RuntimeError):
        product(torch.ones(1, 40), short)


@pytest.mark.parametrize("tokens", [2, FEW + 2])
@pytest.mark.parametrize("kind", VALUE_TYPES.values(), ids=VALUE_TYPES)
def test_gradients_are_those_of_the_dense_product(kind, tokens):
    matrix = pack_matrix(torch.randn(30, 20).relu(), kind)
    inputs, bias = torch.randn(tokens, 20, requires_grad=True), torch.randn(30, requires_grad=True)
    upstream = torch.randn(tokens, 30)
    product(inputs, matrix, bias).backward(upstream)
    assert torch.allclose(inputs.grad, upstream @ unpack_matrix(matrix, torch.float32), atol=1e-5)
    assert torch.allclose(bias.grad, upstream.sum(0), atol=1e-5)


@pytest.mark.parametrize("tokens", [2, FEW + 2])
def test_can_be_traced_by_torch_compile(tokens):
    matrix = pack_matrix(torch.randn(30, 20).relu(), VALUE_TYPES["bfloat16"])
    inputs = torch.randn(tokens, 20)
    compiled = torch.compile(lambda x: product(x, matrix) * 2, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(inputs), product(inputs, matrix) * 2)


# Which path is used


def told(**environment: str) -> str:
    """What a process that has loaded no kernels says of its path."""
    with TemporaryFile("w+") as said:
        process = ForkedProcess(tell_path, streams={1: said.fileno()}, environment=environment)
        assert process.wait() == 0
        said.seek(0)
        return said.read().strip()


@pytest.mark.skipif(len(kernels.paths()) == 1, reason=f"no library: {kernels.why_torch()}")
def test_the_best_path_is_used_unless_another_is_named():
    assert told(PRUNERZERO_KERNEL="") == f"{kernels.paths()[0]} | None"
    assert told(PRUNERZERO_KERNEL="portable") == "portable | None"


def test_plain_torch_can_be_asked_for():
    assert told(PRUNERZERO_KERNEL="torch").startswith("torch | PRUNERZERO_KERNEL asks")


def test_a_path_that_does_not_exist_is_refused():
    assert told(PRUNERZERO_KERNEL="sse9").startswith(
        "PRUNERZERO_KERNEL is 'sse9', which is no path; name one of"
    )


def test_without_a_compiler_plain_torch_is_used_and_says_why(tmp_path):
    answer = told(CXX="/no/compiler", PRUNERZERO_CACHE=str(tmp_path))
    assert answer.startswith("torch | packed weights are multiplied by plain torch")
    assert "'/no/compiler' does not start" in answer


def test_a_compiler_that_fails_is_an_error_where_a_path_is_wanted(tmp_path):
    told_of = told(CXX="false", PRUNERZERO_CACHE=str(tmp_path), PRUNERZERO_KERNEL="portable")
    assert told_of.startswith(
        "PRUNERZERO_KERNEL asks for portable, but there are no compiled kernels: "
        "the compiler 'false' failed"
    )


def test_a_library_that_computes_other_products_is_refused_each_time(monkeypatch):
    if kernels.why_torch():
        pytest.skip(f"there is no library: {kernels.why_torch()}")
    monkeypatch.setattr(kernels, "_loaded", None)
    monkeypatch.setattr(kernels, "plain_product", lambda *given: plain_product(*given) + 1)
    matrix = pack_matrix(torch.ones(2, 4), VALUE_TYPES["bfloat16"])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="PRUNERZERO_KERNEL=torch"):
            product(torch.ones(1, 4), matrix)
