"""Which GPU kernels a window's loss spends its time in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.commands import no_command
from benchmarks.evaluation import SHAPES, random_model
from prunerzero.language.perplexity import window_losses


def run(shape: str = "SmolLM2-135M", batch: int = 4) -> Iterator[dict[str, Any]]:
    model = random_model(shape, "cuda", torch.bfloat16)
    windows = torch.randint(0, SHAPES[shape]["vocab_size"], (batch, 2048))
    window_losses(model, windows)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        window_losses(model, windows)
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
    for event in events[:12]:
        yield {
            "model": shape,
            "kernel": event.key[:70],
            "ms": event.self_device_time_total / 1e3,
            "calls": event.count,
        }


if __name__ == "__main__":
    no_command('python -m benchmarks --device cuda "kernels of SmolLM2"')
