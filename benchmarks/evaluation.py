"""A candidate's evaluation, masks and loss, against the loss of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.commands import no_command
from benchmarks.masks import METRICS
from benchmarks.timing import times
from prunerzero.language.perplexity import window_losses
from prunerzero.language.replayed import Replayed
from prunerzero.language.window_loss import WindowLoss
from prunerzero.metrics import CATALOG, Expression, Sparsity
from prunerzero.pruning.blocks import Matrix, prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import LayerStatistics
from prunerzero.tasks.cases import RANKING_STEPS

RECORDED = 9
"""Calls after which whatever a GPU can replay is recorded."""

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
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def random_statistics(layers: dict[str, Matrix]) -> dict[str, LayerStatistics]:
    found = {}
    for name, layer in layers.items():
        W = layer.weight
        X = torch.rand(W.shape[1], device=W.device) * 100 + 1
        found[name] = LayerStatistics(X, torch.rand(W.shape, device=W.device) + 0.1)
    return found


def recorded(fitness: PrunedLoss) -> Callable[[], None]:
    """Reads all windows with the weights as they are; whatever a GPU can replay is recorded."""

    def read() -> None:
        first = 0
        while first < fitness.total_chunks:
            _, last = fitness._batch_of(first)
            fitness._read(first, last)[-1]()  # waits for all of them
            first = last

    for _ in range(RECORDED):
        read()
    return read


def timed(
    shape: str, device: str, count: int, functions: dict[str, Callable[[], None]], to: str
) -> Iterator[dict[str, Any]]:
    """Milliseconds of each function, and their ratio to those of ``to``."""
    measured = times(functions, device, repeats=2 if shape == "Llama-7B" else 5, warmups=1)
    for name, ms in measured.items():
        yield {"model": shape, "windows": count, "what": name, "ms": ms,
               f"to {to}": ms / measured[to]}  # fmt: skip
    if device == "cuda":
        yield {"model": shape, "what": "peak GB", "ms": torch.cuda.max_memory_allocated() / 1e9}


def run(shape: str, device: str, count: int = 16, length: int = 2048) -> Iterator[dict[str, Any]]:
    """Milliseconds for ``count`` windows: one at a time, batched, and of whole candidates."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = random_model(shape, device, dtype)
    windows = torch.randint(0, SHAPES[shape]["vocab_size"], (count, length))
    layers = prunable_layers(model)
    statistics = random_statistics(layers)
    fitness = PrunedLoss(
        model, layers, statistics, Sparsity(0.5), windows, windows_per_chunk=1, race_chunks=count
    )
    sparsities = [Sparsity(0.5), Sparsity.parse("2:4"), Sparsity.parse("0.5", "model")]

    def candidate(e: Expression, sparsity: Sparsity) -> None:
        fitness._weights._sparsity = sparsity
        list(fitness.losses(e))

    def masks(e: Expression, sparsity: Sparsity) -> None:
        fitness._weights._sparsity = sparsity
        fitness._weights.prune(e)

    def one_by_one() -> None:
        for window in windows.split(1):
            window_losses(model, window)

    dense = recorded(fitness)
    functions: dict[str, Callable[[], None]] = {
        "dense, one window at a time": one_by_one,
        "dense, batched": dense,
    }
    for name in ("2 operators", "14 operators"):
        e = Expression.parse(METRICS[name])
        for s in sparsities:
            functions[f"candidate, {name}, {s.in_words}"] = partial(candidate, e, s)
            functions[f"masks, {name}, {s.in_words}"] = partial(masks, e, s)
    functions["restore"] = fitness._weights.restore
    yield from timed(shape, device, count, functions, to="dense, batched")


def refitted(
    shape: str, device: str, count: int = 16, length: int = 2048
) -> Iterator[dict[str, Any]]:
    """Milliseconds of candidates that are judged under least squares, beside those that are not.

    The metric is Wanda. G is not held, as the Gram matrices of a 7B shape take its room on 80 GB.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = random_model(shape, device, dtype)
    windows = torch.randint(0, SHAPES[shape]["vocab_size"], (count, length))
    layers = prunable_layers(model)
    grams = collect_grams(model, layers, windows[:2])
    fitness = PrunedLoss(
        model,
        layers,
        {name: LayerStatistics(gram.diagonal().clone(), None) for name, gram in grams.items()},
        Sparsity(0.5),
        windows,
        windows_per_chunk=1,
        race_chunks=count,
        refit=Refit("least-squares", solver_steps=RANKING_STEPS),
        grams=grams,
    )
    metric = CATALOG["wanda"].expression
    quick = fitness._weights._quick
    assert quick is not None

    def under(steps: int, run: Callable[[], object]) -> Callable[[], None]:
        def switched() -> None:
            fitness._weights._grams = grams if steps else None
            fitness._weights._quick = replace(quick, steps=steps)
            run()

        return switched

    def candidate() -> None:
        list(fitness.losses(metric))

    def weights() -> None:
        fitness._weights.prune(metric)

    dense = recorded(fitness)
    functions = {"dense, batched": dense}
    for steps in (0, RANKING_STEPS, 2 * RANKING_STEPS):
        named = f"least squares, {steps} steps" if steps else "masks alone"
        functions[f"candidate, {named}"] = under(steps, candidate)
        functions[f"weights, {named}"] = under(steps, weights)
    yield from timed(shape, device, count, functions, to="candidate, masks alone")


def graphs(shape: str = "SmolLM2-135M") -> Iterator[dict[str, Any]]:
    """The loss of windows called and replayed from a CUDA graph, ms, and whether the bits agree."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("fp32, TF32 products", torch.float32, True),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        model = random_model(shape, "cuda", dtype)
        for batch in (1, 2, 4, 8):
            windows = torch.randint(0, SHAPES[shape]["vocab_size"], (batch, 2048), device="cuda")
            loss = WindowLoss(model)
            assert isinstance(loss._read, Replayed)
            for _ in range(RECORDED):
                replayed = loss(windows)
            with torch.inference_mode():
                called = loss._losses(windows).double().cpu()
                measured = times(
                    {
                        "called": partial(loss._losses, windows),
                        "replayed": partial(loss._read, windows),
                    },
                    "cuda",
                )
            same = torch.equal(called, replayed)
            yield {"model": shape, "dtype": name, "windows": batch, **measured, "same": same,
                   "recorded": len(loss._read._replays)}  # fmt: skip
        del model, loss
    torch.backends.cuda.matmul.allow_tf32 = allowed


if __name__ == "__main__":
    no_command("python -m benchmarks candidates")
