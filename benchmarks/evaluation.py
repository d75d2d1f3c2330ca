"""A candidate's evaluation, masks and loss, against the loss of the dense model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.timing import times
from prunerzero.language.perplexity import window_losses
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.statistics import collect_statistics

SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    ),
    "Llama-7B": dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, vocab_size=32000, tie_word_embeddings=False,
    ),
    "tiny": dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512, tie_word_embeddings=True,
    ),
}  # fmt: skip


def random_model(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A Llama of that shape with random weights: time depends on nothing else."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(max_position_embeddings=2048, **SHAPES[shape])
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def dense(
    shape: str, device: str = "cuda", length: int = 2048, count: int = 8
) -> Iterator[dict[str, Any]]:
    """The dense loss by batch size, and one step of the statistics as they are."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = random_model(shape, device, dtype)
    windows = torch.randint(0, SHAPES[shape]["vocab_size"], (count, length))
    for size in (1, 2, 4, 8):
        if size > count:
            break

        def losses() -> None:
            for batch in windows.split(size):
                window_losses(model, batch)

        def hidden() -> None:
            with torch.inference_mode():
                for batch in windows.split(size):
                    model.model(input_ids=batch.to(device), use_cache=False)

        yield {"model": shape, "batch": size, "windows": count,
               **times({"loss": losses, "without head": hidden}, device, repeats=3, warmups=1)}  # fmt: skip
    layers = prunable_layers(model)

    def statistics() -> None:
        collect_statistics(model, layers, windows[:2])

    def activations() -> None:
        collect_statistics(model, layers, windows[:2], gradients=False)

    yield {"model": shape, "windows": 2,
           **times({"statistics": statistics, "X alone": activations}, device, repeats=2, warmups=1)}  # fmt: skip
    if device == "cuda":
        yield {"peak GB": torch.cuda.max_memory_allocated() / 1e9}
    del model, layers
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
