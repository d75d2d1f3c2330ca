"""A tiny random model of each architecture, made from its own config class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_model import ALPHABET, tiny_tokenizer
from transformers import AutoConfig

VOCABULARY = len(ALPHABET) + 2
WINDOW = 24

COMMON = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len"], 64),
    # each author has other names for width, feed-forward width and number of blocks
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "word_embed_proj_dim"], 32),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "dff"], 48),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["decoder_layers", "num_blocks"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    "decoder_attention_heads": 4,
    **dict.fromkeys(["head_dim", "kv_channels", "v_head_dim", "qk_nope_head_dim"], 8),
    **dict.fromkeys(["swa_head_dim", "global_head_dim", "dim_head"], 8),
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "num_key_value_heads": 2,
    "rotary_dim": 4,
    "qk_rope_head_dim": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "sliding_window": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(["index_n_heads", "index_head_dim", "index_topk"], 8),
    # mixtures of experts
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token"], 2),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "n_group", "topk_group"], 1),
    "moe_intermediate_size": 16,
    **dict.fromkeys(["shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"], 24),
    "intermediate_size_mlp": 40,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    # state spaces and linear attention
    **dict.fromkeys(["state_size", "mamba_d_state", "ssm_state_size"], 8),
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads"], 4),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim"], 16),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "chunk_size"], 8),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "time_step_rank": 4,
    "n_groups": 1,
    "lru_width": 32,
    "attention_hidden_size": 32,
}
"""Settings for any config; each takes those that it has."""


def known(model_type: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that the config of this type has, under their first name."""
    default = AutoConfig.for_model(model_type)
    found = {
        key: value
        for key, value in settings.items()
        if knows(default, key) and not isinstance(getattr(type(default), key, None), property)
    }
    aliases = type(default).attribute_map.items()
    twice = {other for other, own in aliases if other in found and own in found}
    return {key: value for key, value in found.items() if key not in twice}


def knows(config: Any, key: str) -> bool:
    """Whether a config has this setting, even with a different value for each layer."""
    try:
        return hasattr(config, key)
    except RuntimeError:
        return True


def causal(model_type: str, **changes: Any) -> Any:
    """A text model."""
    settings = known(model_type, COMMON) | changes
    config = AutoConfig.for_model(model_type, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


VISION = {
    **dict.fromkeys(["hidden_size", "embed_dim", "d_model"], 16),
    **dict.fromkeys(["num_hidden_layers", "depth"], 3),  # more than the text tower has
    **dict.fromkeys(["num_attention_heads", "num_heads"], 2),
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
    "out_hidden_size": 32,
    "projection_dim": 16,
    **dict.fromkeys(["projector_input_dim", "projector_output_dim", "vision_output_dim"], 32),
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
}


def seeing(model_type: str, **changes: Any) -> Any:
    """A vision-language model, whose vision tower has more blocks than its text tower."""
    default = AutoConfig.for_model(model_type)
    text, vision = default.get_text_config().model_type, default.vision_config.model_type
    text_settings = known(text, COMMON) | changes.pop("text", {})
    config = AutoConfig.for_model(
        model_type,
        text_config={"model_type": text, **text_settings},
        vision_config={"model_type": vision, **known(vision, VISION)},
        **changes,
    )
    return transformers.AutoModelForImageTextToText.from_config(config)


def save(model: Any, folder: Path, dtype: torch.dtype) -> Path:
    """A checkpoint with a character tokenizer; weights large enough that pruning shows."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            spread = 0.3 if "embed" in name or parameter.shape[-1] < 16 else 0.2
            parameter.data.normal_(std=spread)
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
