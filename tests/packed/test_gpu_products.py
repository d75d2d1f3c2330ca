"""On a GPU: products with packed weights by its kernels, against float64."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sparse_model import same_bits
from test_device_order import sparse
from transformers import AutoModelForCausalLM

from prunerzero.packed import cuts, gpu
from prunerzero.packed.cuts import MOST
from prunerzero.packed.device_order import DeviceMatrix, dense_of, numbers_of, to_device_order
from prunerzero.packed.kernels import product
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix
from prunerzero.packed.linear import PackedLinear, packed_layers

if not torch.cuda.is_available():
    warnings.warn("no GPU here: the GPU kernels are not tested", stacklevel=1)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CASES = [
    ("bfloat16", torch.bfloat16),
    ("float16", torch.float16),
    ("int8", torch.bfloat16),
    ("int8", torch.float16),
]
SHAPES = [(16, 64), (128, 256), (1, 1), (1, 5), (37, 1003), (300, 4096), (129, 2304), (4096, 1000)]
CUTS = [
    cuts.Tuning(tall=1, warps=16, ahead=2),
    cuts.Tuning(warps=16, cluster=2),
    cuts.Tuning(tall=4, warps=4, cluster=8),
    cuts.Tuning(warps=8, ahead=2, cluster=4),
]
PATTERNS = ["two of four", "half", "any", "dense"]


def arranged(rows: int, columns: int, pattern: str, values: str, seed: int = 0) -> DeviceMatrix:
    weight = sparse(rows, columns, pattern, seed)
    if rows > 40:
        weight[5:30] = 0  # empty rows
    return to_device_order(pack_matrix(weight.cuda(), VALUE_TYPES[values]))


def assert_is_dense(
    got: torch.Tensor, inputs: torch.Tensor, matrix: DeviceMatrix, bias: torch.Tensor | None
) -> None:
    weight = dense_of(matrix, torch.float32).double()
    expected = torch.nn.functional.linear(
        inputs.double(), weight, None if bias is None else bias.double()
    )
    sizes = torch.nn.functional.linear(inputs.double().abs(), weight.abs())
    precision = torch.finfo(inputs.dtype).eps
    allowed = sizes * 2**-18 + precision * (expected.abs() + 1e-4)
    assert got.dtype == inputs.dtype and got.shape == expected.shape
    assert ((got.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("values, dtype", CASES)
def test_the_kernels_are_trusted(values, dtype):
    assert gpu.trusted(torch.cuda.current_device(), values, dtype)


@pytest.mark.parametrize("values, dtype", CASES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_is_the_dense_product(shape, pattern, values, dtype):
    matrix = arranged(*shape, pattern, values)
    for count in (1, 2, 3, 5, 8, 9, 16, 23, MOST):
        inputs = torch.randn(count, shape[1], device="cuda").to(dtype)
        bias = torch.randn(shape[0], device="cuda").to(dtype) if count % 2 else None
        got = gpu.multiply(inputs, matrix, bias)
        assert_is_dense(got, inputs, matrix, bias)
        assert torch.equal(got, gpu.multiply(inputs, matrix, bias)), "the same each time"


@pytest.mark.parametrize("tuning", CUTS, ids=str)
@pytest.mark.parametrize("values", ["bfloat16", "int8"])
@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_however_it_is_cut(pattern, values, tuning):
    matrix = arranged(300, 4096, pattern, values)
    for count in (1, 8, 16, MOST):
        inputs = torch.randn(count, 4096, device="cuda").bfloat16()
        assert_is_dense(gpu.multiply(inputs, matrix, None, tuning), inputs, matrix, None)


@pytest.mark.parametrize("processors", [1, 1000])
@pytest.mark.parametrize("values, dtype", CASES)
@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_whether_rows_are_few_for_a_card_or_many(pattern, values, dtype, processors, monkeypatch):
    card = replace(gpu.card_of(torch.cuda.current_device()), processors=processors)
    monkeypatch.setattr(gpu, "card_of", lambda index: card)
    matrix = arranged(300, 9000, pattern, values)
    for count in (1, 4, 8, 16, 24, 32, 40, MOST):
        inputs = torch.randn(count, 9000, device="cuda").to(dtype)
        assert_is_dense(gpu.multiply(inputs, matrix, None), inputs, matrix, None)


@pytest.mark.parametrize("values", ["bfloat16", "int8"])
@pytest.mark.parametrize("pattern", ["two of four", "dense"])
def test_on_a_card_with_less_shared_memory(pattern, values, monkeypatch):
    card = replace(gpu.card_of(torch.cuda.current_device()), shared=48 << 10)
    monkeypatch.setattr(gpu, "card_of", lambda index: card)
    matrix = arranged(300, 4096, pattern, values)
    for count in (1, 16, MOST):
        inputs = torch.randn(count, 4096, device="cuda").bfloat16()
        assert_is_dense(gpu.multiply(inputs, matrix, None), inputs, matrix, None)


def test_threads_do_not_mix_up_their_products():
    matrix = arranged(128, 256, "half", "bfloat16")
    inputs = [torch.randn(1, 256, device="cuda").bfloat16() for _ in range(4)]
    expected = [gpu.multiply(one, matrix, None) for one in inputs]

    def many(place: int) -> bool:
        return all(
            torch.equal(gpu.multiply(inputs[place], matrix, None), expected[place])
            for _ in range(500)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


@pytest.mark.parametrize("values, dtype", CASES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_expands_bit_for_bit(shape, pattern, values, dtype):
    matrix = arranged(*shape, pattern, values)
    values = numbers_of(matrix).view(matrix.kind.dtype).to(dtype)
    assert same_bits(gpu.expand(matrix, dtype), values)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("values", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("count", [0, 1, MOST, MOST + 1, 100])
def test_takes_any_inputs_and_any_number(count, values, dtype):
    matrix = arranged(130, 300, "half", values)
    inputs = torch.randn(count, 300, device="cuda").to(dtype)
    got = product(inputs, matrix)
    weight = dense_of(matrix, torch.float32).double()
    expected = inputs.double() @ weight.t()
    assert got.dtype == dtype and got.shape == (count, 130)
    assert torch.allclose(got.double(), expected, rtol=2e-2, atol=8 * torch.finfo(dtype).eps * 20)


def test_takes_inputs_that_are_not_contiguous_or_not_aligned():
    matrix = arranged(130, 304, "half", "bfloat16")
    inputs = torch.randn(304, 6, device="cuda").bfloat16().T
    assert torch.equal(product(inputs, matrix), product(inputs.contiguous(), matrix))
    flat = torch.randn(2 * 304 + 1, device="cuda").bfloat16()[1:].view(2, 304)
    assert torch.equal(product(flat, matrix), product(flat.clone(), matrix))


def test_what_is_not_finite_is_not_hidden():
    for pattern in ("two of four", "half"):
        matrix = arranged(64, 256, "dense" if pattern == "half" else pattern, "bfloat16")
        kept = int(dense_of(matrix, torch.float32)[0].nonzero()[0])
        inputs = torch.ones(3, 256, device="cuda").bfloat16()
        inputs[1, kept], inputs[2, kept] = torch.inf, torch.nan
        got = product(inputs, matrix)
        assert torch.isfinite(got[0]).all() and not torch.isfinite(got[1:, 0]).any()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_on_a_gpu_that_is_not_the_current_one(pattern):
    assert torch.cuda.current_device() == 0
    for values in ("bfloat16", "int8"):
        packed = layer(pattern, values)
        first, second = packed.to("cuda:0"), layer(pattern, values).to("cuda:1")
        assert first.arranged is not None and second.arranged is not None
        for count in (1, MOST, MOST + 1):
            inputs = torch.randn(count, 512).bfloat16()
            got = second(inputs.to("cuda:1"))
            assert torch.equal(got.cpu(), first(inputs.to("cuda:0")).cpu())


# Layers


def layer(pattern: str, values: str = "bfloat16") -> PackedLinear:
    matrix = pack_matrix(sparse(256, 512, pattern, 0), VALUE_TYPES[values])
    bias = torch.nn.Parameter(torch.linspace(-1, 1, 256).bfloat16())
    return PackedLinear.of(matrix, torch.bfloat16, bias)


@pytest.mark.parametrize("values", ["bfloat16", "int8"])
@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_a_layer_goes_to_the_gpu_and_back(pattern, values):
    packed = layer(pattern, values)
    before = {name: part.clone() for name, part in packed.state_dict().items()}
    packed.cuda()
    assert packed.arranged is not None and packed.mask is None
    state = packed.state_dict()
    assert before.keys() == state.keys()
    assert all(same_bits(before[name], state[name].cpu()) for name in before)
    packed.cpu()
    assert packed.arranged is None
    assert all(same_bits(before[name], part) for name, part in packed.state_dict().items())


@pytest.mark.parametrize("values", ["bfloat16", "int8"])
@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_a_layer_runs_in_a_cuda_graph(pattern, values):
    packed = layer(pattern, values).cuda()
    inputs = torch.randn(2, 512, device="cuda").bfloat16()
    with torch.no_grad():
        expected = packed(inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = packed(packed(inputs)[:, :256].repeat(1, 2) * 0 + inputs)
        got.zero_()
        graph.replay()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("pattern", ["two of four", "half"])
def test_a_layer_is_compiled_with_cuda_graphs(pattern):
    packed = layer(pattern).cuda()
    compiled = torch.compile(packed, mode="reduce-overhead", fullgraph=True)
    inputs = torch.randn(2, 512, device="cuda").bfloat16()
    with torch.no_grad():
        for _ in range(4):
            torch.compiler.cudagraph_mark_step_begin()
            got = compiled(inputs).clone()
        assert torch.equal(got, packed(inputs))


@pytest.mark.parametrize("values", ["bfloat16", "int8"])
def test_a_model_is_loaded_onto_the_gpu(values, packed_folder: Path, int8_folder: Path):
    folder = packed_folder if values == "bfloat16" else int8_folder
    ids = torch.arange(2, 26, device="cuda")[None]
    packed = AutoModelForCausalLM.from_pretrained(folder, device_map="cuda:0")
    moved = AutoModelForCausalLM.from_pretrained(folder).to("cuda")
    dense = AutoModelForCausalLM.from_pretrained(folder, device_map="cuda:0").dequantize()
    assert all(one.arranged is not None for one in packed_layers(packed).values())
    for count in (1, 24):
        with torch.no_grad():
            ours, theirs = packed(ids[:, :count]).logits, dense(ids[:, :count]).logits
            assert torch.equal(ours, moved(ids[:, :count]).logits)
        assert (ours - theirs).abs().amax() <= 3e-2 * theirs.abs().amax()


@pytest.mark.parametrize("values", ["bfloat16", "int8", "int4"])
def test_generate_writes_the_same_with_a_static_cache(
    values, packed_folder: Path, int8_folder: Path, int4_folder: Path
):
    folder = {"bfloat16": packed_folder, "int8": int8_folder, "int4": int4_folder}[values]
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cuda:0")
    assert model.hf_quantizer.is_compileable == (values != "int4")
    ids = torch.arange(3, 13, device="cuda").repeat(2, 1)  # no two tokens are nearly as likely

    def written(**how: object) -> torch.Tensor:
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, **how
        )

    expected = written()
    for _ in range(2):  # with graphs that were recorded before, too
        assert torch.equal(written(cache_implementation="static"), expected)
    assert hasattr(model, "_compiled_call") == (values != "int4")
