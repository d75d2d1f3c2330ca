"""How a model continues a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunerzero.language.corpora import evenly_spaced
from prunerzero.language.devices import device_of
from prunerzero.language.kinds import context_length

PROMPT_TOKENS = 32
NEW_TOKENS = 48


def prompts_of(windows: Tensor, count: int, tokens: int = PROMPT_TOKENS) -> Tensor:
    """The beginnings [count, tokens] of evenly spaced windows [windows, length]."""
    return windows[evenly_spaced(count, len(windows)), : min(tokens, windows.shape[1] // 2)]


def continuations(
    model: Any, tokenizer: Any, prompts: Tensor, new_tokens: int = NEW_TOKENS
) -> list[str]:
    """What follows each prompt [count, tokens] where the likeliest token is always taken.

    A continuation ends after ``new_tokens``, or where the model's context is full.
    """
    prompts = prompts.to(device_of(model))
    room = context_length(model.config) - prompts.shape[1]
    texts = []
    for prompt in prompts:
        with torch.inference_mode():
            ids = model.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt[None]),
                max_new_tokens=min(new_tokens, room),
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        texts.append(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))
    return texts
