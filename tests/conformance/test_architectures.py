"""Every architecture through statistics → prune → save → reload → perplexity."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conformance.brute_force import activations, gradients
from conformance.tiny_architectures import WINDOW, causal, save, seeing
from safetensors.torch import load_file
from tiny_model import ALPHABET
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from prunerzero import Setup, evaluate, prune
from prunerzero.errors import ModelError
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.statistics import collect_statistics
from prunerzero.tasks.by_block import Way
from prunerzero.tasks.prune_loaded import check_blocks
from prunerzero.tasks.pruned import Pruned
from prunerzero.tasks.workspace import Workspace

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
LATENT = {"num_key_value_heads": 4, "head_dim": 4}
CHANGES: dict[str, dict[str, Any]] = {
    "bart": {"is_encoder_decoder": False, "is_decoder": True},
    "cpmant": {"dim_ff": 32, "prompt_types": 4, "prompt_length": 4},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 8},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_text": {
        "enable_moe_block": True,
        "global_head_dim": 16,
        "top_k_experts": 2,
        "num_kv_shared_layers": 0,
    },
    "git": {
        "vision_config": {
            **dict.fromkeys(["hidden_size", "intermediate_size", "image_size"], 16),
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        }
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {
        **LATENT,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "mlp_layer_types": ["dense", "sparse"],
        "layer_types": ["linear_attention", "full_attention"],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {
        **LATENT,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "rembert": {"is_decoder": True, "input_embedding_size": 24, "output_embedding_size": 40},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "qwen2_vl": {"text": {"rope_parameters": MROPE}},
    "zamba2": {
        **LATENT,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_ngroups": 1,
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "num_mem_blocks": 1,
    },
}
TEXT = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "opt", "gpt2", "gpt_neox"),
    *("bloom", "falcon", "mixtral", "qwen3_moe"),
    # dense
    *("codegen", "cohere2", "ctrl", "gemma2", "glm4", "gpt_bigcode", "gpt_neo", "gptj", "granite"),
    *("mpt", "nemotron", "olmo2", "openai-gpt", "persimmon", "phi", "smollm3", "stablelm"),
    *("starcoder2", "xglm"),
    # parts that lie elsewhere than usual: images' blocks beside the text's, twin lists of blocks,
    # logits of other features than the last hidden states, attention to an encoder that is absent
    *("bart", "cpmant", "gemma3n_text", "git", "hrm_text", "rembert", "xlm"),
    # mixtures of experts
    *("aria_text", "dbrx", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"),
    *("ernie4_5_moe", "gemma4_text", "gpt_oss", "granitemoe", "inkling_text", "jetmoe"),
    *("llama4_text", "longcat_flash", "olmoe", "phimoe", "qwen2_moe", "zaya"),
    # state spaces, linear attention, and blocks of several classes
    *("bamba", "falcon_h1", "jamba", "kimi_linear", "lfm2_moe", "mamba", "mamba2", "nemotron_h"),
    *("olmo_hybrid", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm", "zamba2"),
]
SEEING = ["gemma3", "internvl", "llama4", "llava", "mllama", "qwen2_vl", "qwen3_vl_moe"]
ARCHITECTURES = {
    **{
        model_type: partial(causal, model_type, **CHANGES.get(model_type, {}))
        for model_type in TEXT
    },
    **{
        model_type: partial(seeing, model_type, **CHANGES.get(model_type, {}))
        for model_type in SEEING
    },
}
TOGETHER = {
    "gemma3n_text": "hand on more",
    "hrm_text": "several lists",
    "xlm": "several lists",
    "zamba2": "share weights",
    "zaya": "hand on more",
}
"""Why they are not pruned block by block."""
SOME = [
    *("gemma3_text", "opt", "bloom", "falcon", "gpt_oss", "qwen3_moe", "openai-gpt"),
    *("qwen3_next", "llama4", "gemma3"),
]
"""Their blocks differ in arguments, in what they return, and in how their weights are stored; the
last two also read images. Block by block they are pruned as they are as a whole, to the bit."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
METRIC, SPARSITY = "W * sqrt(X) * G", 0.5


@dataclass(frozen=True)
class Case:
    """One architecture: its dense checkpoint, and what ``prune`` made of it."""

    name: str
    dtype: torch.dtype
    work: Workspace
    dense: Path
    pruned: Path
    result: Pruned


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    name: str = request.param
    if name not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"this transformers does not know {name}")
    folder = tmp_path_factory.mktemp(name)
    dtype = DTYPES[list(ARCHITECTURES).index(name) % len(DTYPES)]
    torch.manual_seed(0)
    save(ARCHITECTURES[name](), folder / "dense", dtype)
    for part, windows in (("calibration", 3), ("test", 1)):
        letters = random.Random(part).choices(ALPHABET, k=windows * WINDOW + 1)
        (folder / part).write_text("".join(letters))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNERZERO_CACHE", str(folder / "cache"))
        setup = Setup(
            model=str(folder / "dense"),
            device="cpu",
            calibration=folder / "calibration",
            test=folder / "test",
            max_seq_length=WINDOW,
        )
        result = prune(setup, METRIC, str(SPARSITY), folder / "pruned")
        work = Workspace(setup)
        yield Case(name, dtype, work, folder / "dense", folder / "pruned", result)
    shutil.rmtree(folder)


def load(folder: Path, like: Any) -> Any:
    """A checkpoint as anybody would load it."""
    return type(like).from_pretrained(folder, dtype="auto")


def test_each_matrix_is_pruned_exactly_and_nothing_else_changes(case: Case) -> None:
    model = case.work.language_model.model
    dense, pruned = load(case.dense, model), load(case.pruned, model)
    assert pruned.dtype == dense.dtype == case.dtype
    assert dtypes(case.pruned) == dtypes(case.dense)
    before, after = prunable_layers(dense), prunable_layers(pruned)
    assert list(before) == [layer.name for layer in case.result.layers]
    assert pruned.config.architectures == dense.config.architectures == [type(model).__name__]
    for name, layer in after.items():
        width = layer.weight.shape[1]
        zeros = (layer.weight == 0).sum(1)
        assert (zeros == int(width * SPARSITY)).all(), name
        kept = layer.weight != 0
        assert torch.equal(layer.weight[kept], before[name].weight[kept]), name
    matrices = {id(layer.stored) for layer in before.values()}
    same = {**dict(pruned.named_parameters()), **dict(pruned.named_buffers())}
    for name, tensor in (*dense.named_parameters(), *dense.named_buffers()):
        if id(tensor) not in matrices:
            assert torch.equal(tensor, same[name]), name


def test_the_saved_checkpoint_predicts_what_the_pruned_model_did(case: Case) -> None:
    again = evaluate(Setup(**{**vars(case.work.setup), "model": str(case.pruned)}))
    figures = case.result.perplexity["test"]
    assert again.perplexity == figures["pruned"] != figures["dense"]


def test_statistics_equal_a_brute_force_computation(case: Case) -> None:
    model, layers = case.work.language_model.model, case.work.layers
    windows = case.work.texts.of("calibration").windows
    found = case.work.calibration.statistics("XGD")
    G = gradients(model, layers, windows)
    X, D = activations(model, layers, windows)
    together = collect_statistics(model, layers, windows, batch=2)
    for name in layers:
        assert None not in (found[name].X, found[name].G, found[name].D)
        for field in ("X", "G"):
            torch.testing.assert_close(
                getattr(together[name], field), getattr(found[name], field), rtol=1e-2, atol=1e-4
            )
        torch.testing.assert_close(
            found[name].X, X[name].float(), rtol=1e-3, atol=1e-5, msg=partial(naming, name, "X")
        )
        torch.testing.assert_close(
            found[name].D, D[name].float(), rtol=1e-3, atol=1e-5, msg=partial(naming, name, "D")
        )
        torch.testing.assert_close(
            found[name].G, G[name], rtol=1e-2, atol=1e-4, msg=partial(naming, name, "G")
        )


def test_block_by_block_the_same_weights_are_pruned(case: Case, tmp_path: Path) -> None:
    way, setup = Way(block_by_block=True, activation_memory="2KB"), case.work.setup
    if case.name in TOGETHER:
        with pytest.raises(ModelError, match=TOGETHER[case.name]):
            prune(setup, METRIC, str(SPARSITY), tmp_path / "blocks", way=way)
        return
    found = prune(setup, METRIC, str(SPARSITY), tmp_path / "blocks", way=way)
    for name, perplexity in case.result.perplexity["test"].items():
        assert found.perplexity["test"][name] == pytest.approx(perplexity, rel=2e-2), name
    whole, blocks = weights(case.pruned), weights(tmp_path / "blocks")
    assert whole.keys() == blocks.keys()
    differing = 0
    for name, tensor in whole.items():
        assert tensor.dtype == blocks[name].dtype, name
        differing += int((tensor != blocks[name]).sum())
    # of others, scores that tie but for rounding may be ordered another way
    few = 1e-5 * sum(tensor.numel() for tensor in whole.values())
    assert differing <= (0 if case.name in SOME else few)


def test_published_methods_go_through_its_blocks_or_say_why_not(case: Case) -> None:
    """What they make of a matrix is asked of the architectures in ``test_published_methods``."""
    if case.name in TOGETHER:
        reason = TOGETHER[case.name].replace("several lists", "a second list")
        with pytest.raises(ModelError, match=f"{reason}.*leave out `methods`"):
            check_blocks(case.work, "methods")
    else:
        check_blocks(case.work, "methods")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: t for file in folder.glob("*.safetensors") for key, t in load_file(file).items()}


def dtypes(folder: Path) -> dict[str, torch.dtype]:
    return {key: tensor.dtype for key, tensor in weights(folder).items()}


def naming(layer: str, statistic: str, message: str) -> str:
    return f"{statistic} of {layer}: {message}"


def test_what_is_prunable_are_the_matrices_of_the_text_blocks(case: Case) -> None:
    model = case.work.language_model.model
    layers = case.work.layers
    assert not any("vision" in name or "visual" in name for name in layers)
    parts = {part for name in layers for part in name.split(".")}
    assert not parts & {"router", "gate", "classifier", "shared_expert_gate"}
    embeddings = {id(module.weight) for module in model.modules() if is_embedding(module)}
    assert not embeddings & {id(layer.stored) for layer in layers.values()}


def is_embedding(module: Any) -> bool:
    return isinstance(module, torch.nn.Embedding)


def test_encoder_decoders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=34, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    save(transformers.T5ForConditionalGeneration(config), tmp_path, torch.float32)
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(t5\); only decoders"):
        load_model(ModelSource(str(tmp_path)))
