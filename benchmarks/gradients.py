"""X and G of a 7B shape: the usual way, ours, what bounds it, and how far they differ."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import usual
from benchmarks.commands import no_command
from benchmarks.evaluation import SHAPES, random_model
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning import square_products
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.calibration import CalibrationRun
from prunerzero.pruning.calibration_pass import CalibrationPass
from prunerzero.pruning.deterministic import deterministic
from prunerzero.pruning.statistics import collect_statistics, watch
from prunerzero.scoring import score_mask

Row = dict[str, Any]


class Bench:
    """A random model on the device, and parts that are timed one after the other."""

    def __init__(self, shape: str, device: str, length: int) -> None:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.model = random_model(shape, device, dtype)
        self.layers = prunable_layers(self.model)
        self.device, self.length, self.vocabulary = device, length, SHAPES[shape]["vocab_size"]

    def windows(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.vocabulary, (count, self.length), generator=generator)

    def wait(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def ours(
        self, batch: int, gradients: bool = True, rounds: int = 2, order: Any = deterministic
    ) -> Row:
        """Milliseconds a window once the first batch is over."""
        windows = self.windows(int(gradients) + (rounds + 1) * batch)  # the first may go alone
        stamps: list[float] = []
        current = CalibrationPass()
        with order():
            calibration = CalibrationRun(
                self.model, windows, current, backward=gradients, batch=batch
            )
            with watch(self.layers, gradients, current):
                calibration.run(lambda done: stamps.append(self.wait()))
        timed = rounds * calibration._batch
        return {
            "ms a window": (stamps[-1] - stamps[-1 - timed]) / timed * 1e3,
            "batch": calibration._batch,
        }

    def usual(self, count: int) -> Row:
        windows = self.windows(count).to(self.device)
        usual.statistics(self.model, self.layers, windows[:1])
        return self._timed(lambda: usual.statistics(self.model, self.layers, windows), count)

    def whole(self, count: int) -> Row:
        windows = self.windows(count)
        collect_statistics(self.model, self.layers, windows[:1])
        return self._timed(lambda: collect_statistics(self.model, self.layers, windows), count)

    def step(self, batch: int, weights: bool) -> Row:
        """Forward and backward, with the gradients of weights or those of inputs alone."""
        ids = self.windows(batch).to(self.device)
        embedding = self.model.get_input_embeddings().weight
        wanted = [layer.stored for layer in self.layers.values()] if weights else []

        def step() -> None:
            for stored in wanted:
                stored.requires_grad_(True)
            hidden = embedding[ids].requires_grad_(True)
            self.model(inputs_embeds=hidden, labels=ids, use_cache=False).loss.backward()
            for stored in wanted:
                stored.grad = None
                stored.requires_grad_(False)

        step()
        return self._timed(step, batch, times=3)

    def forward(self, batch: int) -> Row:
        ids = self.windows(batch).to(self.device)

        @torch.inference_mode()
        def forward() -> None:
            self.model.base_model(input_ids=ids, use_cache=False)

        forward()
        return self._timed(forward, batch, times=3)

    def _timed(self, function: Callable[[], object], windows: int, times: int = 1) -> Row:
        """Of a function that reads so many windows, called so many times."""
        start = self.wait()
        for _ in range(times):
            function()
        return {"ms a window": (self.wait() - start) / (times * windows) * 1e3}

    def profile(self, batch: int) -> Iterator[Row]:
        """Where the time of a batch goes, by kind of kernel."""
        windows = self.windows(1 + 2 * batch)
        current, profiler = CalibrationPass(), torch.profiler.profile()

        def on_window(done: int) -> None:
            self.wait()
            if done == 1 + batch:
                profiler.__enter__()
            elif done == 1 + 2 * batch:
                profiler.__exit__(None, None, None)

        with deterministic():
            calibration = CalibrationRun(self.model, windows, current, backward=True, batch=batch)
            with watch(self.layers, True, current):
                calibration.run(on_window)
        yield from _kinds(profiler, batch)


def _kinds(profiler: Any, batch: int) -> Iterator[Row]:
    kernels = [e for e in profiler.events() if e.device_type.name != "CPU"]
    kernels.sort(key=lambda e: e.time_range.start)
    loss = next((i for i, e in enumerate(kernels) if "softmax" in e.name.lower()), len(kernels))
    spent: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for i, kernel in enumerate(kernels):
        ms = kernel.time_range.elapsed_us() / 1e3 / batch
        spent[_kind(kernel.name.lower(), i < loss)] += ms
        names[kernel.name[:80]] += ms
    whole = (kernels[-1].time_range.end - kernels[0].time_range.start) / 1e3 / batch
    spent["nothing running"] = whole - sum(spent.values())
    for kind, ms in spent.most_common():
        yield {"what": f"profile: {kind}", "batch": batch, "ms a window": ms, "share": ms / whole}
    for name, ms in names.most_common(14):
        yield {"what": f"kernel: {name}", "batch": batch, "ms a window": ms, "share": ms / whole}


def _kind(name: str, forward: bool) -> str:
    if "add_squares" in name:
        return "squared weight gradients"
    if any(word in name for word in ("flash", "fmha", "attention", "sdpa")):
        return "attention " + ("forward" if forward else "backward")
    if any(word in name for word in ("gemm", "nvjet", "cutlass", "xmma", "cublas")):
        return "products forward" if forward else "products, gradients of inputs"
    if "norm" in name and "reduce" in name:
        return "X"
    if "softmax" in name or "nll" in name:
        return "loss"
    if "memcpy" in name or "memset" in name:
        return "copies"
    return "elementwise " + ("forward" if forward else "backward")


def run(shape: str, device: str, length: int = 2048) -> Iterator[Row]:
    """Each part told as soon as it is there; one that fails does not stop the others."""
    bench = Bench(shape, device, length)
    sizes = (1, 2, 4, 8) if device == "cuda" else (1, 2)
    parts: dict[str, Callable[[], Row | Iterator[Row]]] = {
        f"ours, {b} at once": partial(bench.ours, b) for b in sizes
    }
    if device == "cuda":
        trusted = square_products._agrees(torch.device("cuda", 0), torch.bfloat16)
        yield {"what": "kernel of squares agrees with torch", "value": trusted}
        parts["profile"] = lambda: bench.profile(2)
    parts |= {
        "usual, whole call of 9": lambda: bench.usual(9),
        "ours, whole call of 9": lambda: bench.whole(9),
        "ours, 2 at once, in any order": lambda: bench.ours(2, order=nullcontext),
        **{f"bare gradient steps, {b} at once": partial(bench.step, b, True) for b in sizes[:2]},
        "bare steps, inputs' gradients alone": lambda: bench.step(2, False),
        **{f"X alone, {b} at once": partial(bench.ours, b, False) for b in sizes[:3]},
        **{f"forward alone, {b} at once": partial(bench.forward, b) for b in sizes[:3]},
    }
    for name, part in parts.items():
        yield from told({"model": shape, "what": name}, part, device)


def told(row: Row, part: Callable[[], Row | Iterator[Row]], device: str) -> Iterator[Row]:
    """A part's rows, printed at once, or its error."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        found = part()
        rows = [found] if isinstance(found, dict) else list(found)
    except Exception as error:
        rows = [{"error": repr(error)[:300]}]
    for one in rows:
        if device == "cuda":
            one.setdefault("peak GB", torch.cuda.max_memory_allocated() / 1e9)
        print(json.dumps(row | one), flush=True)
        yield row | one


def deviation(shape: str, device: str, count: int = 5, length: int = 2048) -> Iterator[Row]:
    """G of the usual way and of ours, in bf16, against ours in fp32; two blocks of that shape."""
    before = SHAPES[shape]["num_hidden_layers"]
    SHAPES[shape]["num_hidden_layers"] = 2
    try:
        model = random_model(shape, device, torch.bfloat16)
    finally:
        SHAPES[shape]["num_hidden_layers"] = before
    layers = prunable_layers(model)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, SHAPES[shape]["vocab_size"], (count, length), generator=generator)
    found = {"usual": usual.statistics(model, layers, windows.to(device))}
    for batch in (1, 4):
        statistics = collect_statistics(model, layers, windows, batch=batch)
        found[f"ours, {batch} at once"] = {n: s.G for n, s in statistics.items() if s.G is not None}
    model.float()
    layers = prunable_layers(model)
    exact = {n: s.G for n, s in collect_statistics(model, layers, windows).items()}
    e, half = Expression.parse("W * G"), Sparsity(0.5)
    for way, G in found.items():
        far, other, weights = 0.0, 0, 0
        for name, layer in layers.items():
            right = exact[name]
            assert right is not None
            far += float(((G[name] - right).abs() / right.clamp_min(1e-12)).double().sum())
            masks = [score_mask(e, half, W=layer.weight, G=g) for g in (G[name], right)]
            other += int((masks[0] != masks[1]).sum())
            weights += right.numel()
        row = {"what": f"G, {way}", "mean relative deviation from fp32": far / weights,
               "masks that differ": other / weights}  # fmt: skip
        print(json.dumps(row), flush=True)
        yield row


if __name__ == "__main__":
    no_command("python -m benchmarks statistics")
