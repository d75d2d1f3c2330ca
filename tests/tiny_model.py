"""A random Llama of two blocks with a character tokenizer: everything real but the weights."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

ALPHABET = [*"abcdefghijklmnopqrstuvwxyz ,.\n"]


def tiny_model(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """hidden 16, ffn 24, two blocks, windows of at most 64 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "tie_word_embeddings": True,
        }
        | changes
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # larger than trained ones, so that pruning shows
        if parameter.dim() == 2:
            parameter.mul_(8)
    return model


def tiny_gemma() -> Gemma3ForCausalLM:
    """Local and global blocks take turns; they have masks and rotary embeddings of their own."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return Gemma3ForCausalLM(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "?", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="?"
    )


def save_tiny_model(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    tiny_model().to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def some_text(seed: int, characters: int = 2000) -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(ALPHABET[i] for i in torch.randint(0, 26, (characters,), generator=generator))
