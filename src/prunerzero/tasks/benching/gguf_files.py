"""Models as GGUF files for llama.cpp, and quantised by it.

A model that transformers has loaded is written without its tokenizer, since token ids are fed to
it; only architectures whose computation is plainly that of llama.cpp's are.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Of transformers → of llama.cpp."""
_INTERLEAVED = ("llama",)
"""Architectures of llama.cpp whose rotary embedding turns neighbours, not the two halves."""

QUANTISED = {"Q8_0": 7, "Q4_K_M": 15}
"""Types of file that llama.cpp writes, by their numbers."""


def write_gguf(name: str, model: Any, path: Path) -> None:
    """Write a model in bfloat16, its norms and biases in float32.

    Raises:
        ModelError: an architecture, or a setting of one, that is not known here.
    """
    import gguf

    config = model.config
    kind = _ARCHITECTURES.get(config.model_type)
    if kind is None:
        known = ", ".join(_ARCHITECTURES)
        raise ModelError(
            f"{name!r} is a {config.model_type} model, and only {known} models are written as GGUF "
            "here; name its GGUF file as the first model, and llama.cpp's rivals are made of that."
        )
    rotary = model.base_model.rotary_emb
    if getattr(rotary, "attention_scaling", 1.0) != 1.0 or getattr(config, "sliding_window", None):
        raise ModelError(
            f"{name!r} scales its rotary embedding, or limits its attention, in a way that is not "
            "written as GGUF here; name its GGUF file as the first model, and llama.cpp's rivals "
            "are made of that."
        )
    heads = config.num_attention_heads
    key_heads = config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    base = float(config.rope_parameters["rope_theta"])

    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(base)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    rows_of = {"attn_q": heads, "attn_k": key_heads}
    for key, tensor in model.named_parameters():  # a tied head is not among them
        place = places.get_name(key, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ModelError(f"{name!r} has a tensor {key!r} that is not written as GGUF here.")
        part = place.split(".")[-2]
        if kind in _INTERLEAVED and part in rows_of:
            tensor = _interleaved(tensor, rows_of[part])
        _add(writer, place, tensor)
    plain = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    factors = plain.float() / rotary.inv_freq.float().cpu()
    if not torch.allclose(factors, torch.ones_like(factors), rtol=1e-3):
        _add(writer, "rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(name: str, source: Path, path: Path, kind: str, threads: int) -> None:
    """Let llama.cpp quantise a GGUF file, ``kind`` being one of ``QUANTISED``.

    Raises:
        ModelError: it refuses.
    """
    import llama_cpp

    from prunerzero.tasks.benching.in_llama import silence

    silence()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = QUANTISED[kind]
    options.nthread = threads
    options.allow_requantize = True
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(path).encode(), ctypes.byref(options)
    )
    if code:
        raise ModelError(f"llama.cpp could not make a {kind} file of {name!r}.")


def _add(writer: Any, place: str, tensor: Tensor) -> None:
    import gguf

    values = tensor.detach().float().contiguous().numpy()
    if values.ndim == 1:
        writer.add_tensor(place, values)
        return
    kind = gguf.GGMLQuantizationType.BF16
    writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """The rows of a query or key matrix in the order that llama.cpp's rotary embedding wants."""
    halves = weight.view(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
