"""How a model continues a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunerzero.language.kinds import context_length

PROMPT_TOKENS = 32
NEW_TOKENS = 48


def continuations(
    model: Any, tokenizer: Any, prompts: Tensor, new_tokens: int = NEW_TOKENS
) -> list[str]:
    """What follows each prompt [count, tokens] when the likeliest token is always taken."""
    prompts = prompts.to(next(model.parameters()).device)
    length = min(new_tokens, _room(model, prompts))
    texts = []
    for prompt in prompts:
        with torch.inference_mode():
            ids = model.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt[None]),
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        texts.append(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))
    return texts


def prompts_of(windows: Tensor, count: int, tokens: int = PROMPT_TOKENS) -> Tensor:
    """The beginnings [count, tokens] of evenly spaced windows [windows, length]."""
    count = min(count, len(windows))
    chosen = torch.arange(count) * len(windows) // max(1, count)
    return windows[chosen, : min(tokens, windows.shape[1] // 2)]


def _room(model: Any, prompts: Tensor) -> int:
    """Tokens that fit behind the prompts into the model's context."""
    return context_length(model.config) - prompts.shape[1]
