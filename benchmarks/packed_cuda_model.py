"""A packed Llama of 7 billion weights on a GPU, beside the dense one: tokens a second and memory.

    python -m benchmarks.packed_cuda_model [--models dense 2:4-bfloat16 …] [--output FILE.json]

Weights and masks are random and made on the GPU; neither changes how long a token takes. The layers
of a shape have the same numbers, each in memory of its own. The embedding and the head stay dense.

Models are transformers' own, with its static cache. A decoding step, from tokens to the next ones,
is one CUDA graph, and so is a prompt: what is compared is the work of the GPU. *Eager* is the same
step without a graph, as ``generate`` runs it by itself: Python launches every kernel.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.__main__ import machine, table
from benchmarks.commands import at_least, new_file, require
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix
from prunerzero.packed.linear import PackedLinear, replace_layers
from prunerzero.tasks.options import Values

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
TINY = SHAPE | {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 500,
}
PACKED: dict[str, tuple[str, Values]] = {
    "2:4-bfloat16": ("2:4", "bfloat16"),
    "2:4-int8": ("2:4", "int8"),
    "50%-bfloat16": ("50%", "bfloat16"),
    "50%-int8": ("50%", "int8"),
}
"""Which weights are left out, at random, and how those that stay are stored."""
MODELS = ("dense", *PACKED)
CONTEXT, NEW = 512, 64
"""Tokens that the cache has, and those that are generated after them in a measurement."""


def dense_model(shape: dict[str, int], device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**shape)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.eval()


def pack_layers(model: Any, pattern: str, values: Values) -> None:
    """Replace the linear layers of the blocks by packed ones with random masks."""
    made: dict[tuple[int, int], PackedLinear] = {}

    def packed(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, nn.Linear):
            return None
        shape = module.out_features, module.in_features
        if shape not in made:
            weight = random_weight(*shape, pattern, module.weight.device)
            layer = PackedLinear.of(pack_matrix(weight, VALUE_TYPES[values]), torch.bfloat16)
            layer.arrange()
            made[shape] = layer
        return copy.deepcopy(made[shape])

    replace_layers(model.model.layers, packed)


def random_weight(outputs: int, inputs: int, pattern: str, device: torch.device) -> Tensor:
    weight = torch.randn(outputs, inputs, device=device) / math.sqrt(inputs)
    if pattern == "2:4":
        order = torch.rand(outputs, inputs // 4, 4, device=device).argsort(dim=2)
        weight[(order < 2).flatten(1)] = 0
    else:
        weight[torch.rand(outputs, inputs, device=device) < 0.5] = 0
    return weight


class Decoding:
    """Steps from ``tokens`` to the next ones, with a static cache that has ``CONTEXT`` of them."""

    def __init__(self, model: Any, batch: int) -> None:
        from transformers import StaticCache

        device = model.device
        length = CONTEXT + NEW + 8
        self.model = model
        self.cache = StaticCache(config=model.config, max_cache_len=length)
        self.tokens = torch.randint(0, model.config.vocab_size, (batch, 1), device=device)
        self.place = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self.places = torch.arange(length, device=device)

    def step(self) -> None:
        logits = self.model(
            input_ids=self.tokens,
            attention_mask=(self.places <= self.place)[:, None, None],
            position_ids=self.place,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.tokens.copy_(logits[:, -1].argmax(1, keepdim=True))
        self.place.add_(1)

    def begin(self) -> None:
        self.place.fill_(CONTEXT)
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(CONTEXT)


def captured(work: Callable[[], Any]) -> Callable[[], None]:
    """The work as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def seconds(work: Callable[[], Any], times: int, repeats: int = 3) -> float:
    """Of one call, the median of ``repeats`` measurements of ``times`` calls."""
    found: list[float] = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / times)
    return median(found)


def decoding_rate(model: Any, batch: int, eager: bool = False) -> float:
    """Tokens a second of all sequences together."""
    decoding = Decoding(model, batch)
    decoding.step()
    decoding.begin()
    step = decoding.step if eager else captured(decoding.step)

    def some() -> None:
        decoding.begin()
        for _ in range(16 if eager else NEW):
            step()

    some()
    return batch * (16 if eager else NEW) / seconds(some, 1)


def prefill_seconds(model: Any, tokens: int) -> float:
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), device=model.device)
    run = captured(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1).logits)
    run()
    return seconds(run, 3)


def weight_bytes(model: nn.Module) -> int:
    """Of all tensors of the model. What the card has allocated grows from model to model in a
    process, as workspaces stay."""
    return sum(part.nbytes for part in (*model.parameters(), *model.buffers()))


def measure(
    name: str, model: Any, batches: Sequence[int], prompts: Sequence[int]
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "weights, GB": weight_bytes(model) / 1e9}
    for batch in batches:
        row[f"batch {batch}, tokens/s"] = decoding_rate(model, batch)
        print(row, flush=True)
    for tokens in prompts:
        row[f"prompt of {tokens}, ms"] = prefill_seconds(model, tokens) * 1e3
    row["eager, batch 1, tokens/s"] = decoding_rate(model, 1, eager=True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    prefill_seconds(model, prompts[-1])
    row["more in the prompt, GB"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--batches", nargs="+", type=at_least(1), default=(1, 4, 16, 32, 48))
    parser.add_argument("--prompts", nargs="+", type=at_least(1), default=(512, 2048))
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument("--output", type=new_file)
    options = parser.parse_args()
    require("cuda")
    device, rows = torch.device("cuda"), []
    with torch.inference_mode():
        for name in options.models:
            model = dense_model(TINY if options.tiny else SHAPE, device)
            if name != "dense":
                pack_layers(model, *PACKED[name])
            gc.collect()
            torch.cuda.empty_cache()
            rows.append(measure(name, model, options.batches, options.prompts))
            if options.output:
                found = {"machine": machine("cuda"), "models": rows}
                options.output.write_text(json.dumps(found, indent=2) + "\n")
            del model
            gc.collect()
            torch.cuda.empty_cache()
    print(machine("cuda"))
    print(table(rows))


if __name__ == "__main__":
    main()
