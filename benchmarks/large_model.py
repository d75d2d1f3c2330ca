"""A randomly initialised Llama-7B shape on disk, pruned block by block, and as a whole beside it.

    python -m benchmarks.large_model --output large_model.json
    python -m benchmarks.large_model --device cuda:0,cuda:1 --output two_gpus.json
    python -m benchmarks.large_model --tiny --device cpu --output tiny.json
    python -m benchmarks.large_model --runs wanda@2:4 wanda@2:4@least-squares \
        wanda@2:4@admm@least-squares wanda@2:4@admm@least-squares@pruned --no-whole

A run is METRIC@SPARSITY, and what else is asked for: "least-squares" refits the weights that stay,
"admm" chooses again which ones do, "pruned" propagates inputs through pruned blocks.

Tells seconds of each stage, peak device and host memory, and whether one device, several devices
and the whole model in memory prune the same weights to the bit. With several devices each run is
made with the first alone as well, before. Runs that would begin after ``--seconds`` are left out.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import shutil
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.commands import in_one_sentence, new_file, refuse, require
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.language.streaming import open_streamed
from prunerzero.metrics import Sparsity, find_metric
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.by_block import prune_blocks
from prunerzero.pruning.by_block.block_passes import Resources
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks, block_names
from prunerzero.pruning.by_block.prune_blocks import Plan, prune_by_block
from prunerzero.pruning.by_block.shards import ShardWriter
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.pruner import LayerSparsity, prune_model
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import collect_statistics

GIB = 2**30
RUNS = (
    *("wanda@0.5", "power-law@2:4", "wanda@2:4", "power-law@0.5"),
    *("wanda@2:4@least-squares", "wanda@2:4@admm@least-squares"),
)
"""The first two are made with the whole model too, the first of them on all devices."""


def plan_of(run: str) -> Plan:
    """
    >>> plan_of("wanda@2:4@admm@pruned").refit
    Refit(update='none', refine='admm')
    """
    metric, sparsity, *more = run.split("@")
    if unknown := set(more) - {"least-squares", "admm", "pruned"}:
        refuse(
            f"{', '.join(sorted(unknown))} is unknown in {run}; a run is METRIC@SPARSITY, and "
            "behind it any of @least-squares, @admm and @pruned."
        )
    return Plan(
        find_metric(metric).expression,
        Sparsity.parse(sparsity),
        propagate="pruned" if "pruned" in more else "dense",
        refit=Refit(
            update="least-squares" if "least-squares" in more else "none",
            refine="admm" if "admm" in more else "none",
        ),
    )


class Stages:
    """Seconds of each stage, added up over threads; a single device is waited for."""

    def __init__(self, devices: int = 1) -> None:
        self._wait = _wait if devices == 1 else lambda: None
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            with self._lock:
                self.seconds[name] += time.perf_counter() - start


class TimedBlocks(OffloadedBlocks):
    """Blocks whose way to the device and back to the CPU is timed."""

    stages: Stages

    @contextmanager
    def loaded(self, index: int, device: torch.device) -> Iterator[None]:
        loading = super().loaded(index, device)
        with self.stages("read weights"):
            loading.__enter__()
        try:
            yield
        finally:
            loading.__exit__(None, None, None)

    def pruned(self, index: int) -> dict[str, Tensor]:
        with self.stages("copy back"):
            return super().pruned(index)


class TimedRecord:
    """Writes shards, timed; keeps nothing to go on from."""

    def __init__(self, writer: ShardWriter, stages: Stages) -> None:
        self._writer, self._stages = writer, stages
        self.layers: list[LayerSparsity] = []

    def finished(self, index: int) -> bool:
        return False

    def zeros(self, index: int) -> dict[str, Tensor]:
        return {}

    def weights(self, index: int) -> dict[str, Tensor]:
        return {}

    def keep(
        self, index: int, tensors: dict[str, Tensor], layers: tuple[LayerSparsity, ...]
    ) -> None:
        with self._stages("write"):
            self._writer.write(index + 1, tensors)
        self.layers.extend(layers)


class HostMemory:
    """Peaks of this process: memory of its own, and pages of files, which can be dropped."""

    def __enter__(self) -> Self:
        self.peak = {"own": 0.0, "files": 0.0}
        self._done = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            kib = {key: int(rest.split()[0]) for key, _, rest in (x.partition(":") for x in lines)
                   if key.startswith("Rss")}  # fmt: skip
            for name, key in (("own", "RssAnon"), ("files", "RssFile")):
                self.peak[name] = max(self.peak[name], kib[key] * 1024 / GIB)


def _wait() -> None:
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)


def write_model(folder: Path, shape: dict[str, int], device: torch.device) -> float:
    """A Llama of random bf16 weights, a shard a block, whose tokens are the words w1, w2, …

    Returns:
        GiB.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(**shape, dtype="bfloat16", tie_word_embeddings=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator(device).manual_seed(0)
    pieces: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, parameter in model.named_parameters():
        part = name.split(".")[2] if ".layers." in name else "outside"
        pieces[part][name] = parameter
    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    size = 0
    for number, parameters in enumerate(pieces.values(), start=1):
        file = f"model-{number:05}-of-{len(pieces):05}.safetensors"
        tensors = {}
        for name, parameter in parameters.items():
            tensor = torch.ones(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.dim() > 1:
                tensor.normal_(std=0.02, generator=generator)
            tensors[name] = tensor.cpu()
            size += tensor.numel() * 2
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    vocabulary = {"?": 0} | {f"w{number}": number for number in range(1, shape["vocab_size"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return size / GIB


def by_block(
    model: Path,
    output: Path,
    windows: Tensor,
    devices: tuple[torch.device, ...],
    plan: Plan,
    memory: int,
) -> dict[str, Any]:
    """Prune block by block into ``output``; what it took."""
    scratch = output.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    output.mkdir()
    stages = Stages(len(devices))
    before = {name: getattr(prune_blocks, name) for name in ("prune_model", "refit_in_place")}

    def timed(name: str, *args: Any, **more: Any) -> Any:
        with stages("score, mask, refit"):
            return before[name](*args, **more)

    with _measured(devices) as took:
        opened = open_streamed(ModelSource(str(model)), block_names, scratch)
        loaded = opened.language_model
        blocks = TimedBlocks(
            loaded.model, opened.files, loaded.stored_dtype, prunable_layers(loaded.model)
        )
        blocks.stages = stages
        writer = ShardWriter(output, loaded.model, len(blocks) + 1)
        with stages("write"):
            writer.write(0, blocks.outside())
        record = TimedRecord(writer, stages)
        for name in before:
            setattr(prune_blocks, name, partial(timed, name))
        try:
            prune_by_block(blocks, windows, plan, Resources(devices, memory, scratch), record)
        finally:
            for name, function in before.items():
                setattr(prune_blocks, name, function)
        writer.finish()
    shutil.rmtree(scratch)
    other = took["seconds"] - sum(stages.seconds.values())
    took["stages"] = dict(stages.seconds)
    if len(devices) == 1:  # with several the stages overlap
        took["stages"]["forward, backward, hidden states"] = other
    took["digest"] = _digest(output)
    took["sparsity"] = _sparsity(record.layers)
    return {"way": "by block", "devices": len(devices)} | took


def as_a_whole(
    model: Path,
    output: Path,
    windows: Tensor,
    devices: tuple[torch.device, ...],
    plan: Plan,
) -> dict[str, Any]:
    """Prune with the whole model on the device, and compare with what lies in ``output``."""
    stages = Stages()
    expression = plan.expression
    with _measured(devices) as took:
        with stages("read weights"):
            loaded = load_model(
                ModelSource(str(model), dtype="bfloat16", device=",".join(map(str, devices)))
            )
            layers = prunable_layers(loaded.model)
        with stages("statistics"):
            statistics = collect_statistics(
                loaded.model, layers, windows, gradients="G" in expression.terminals, batch=1
            )  # one by one, as blocks read them: others round otherwise
            grams = collect_grams(loaded.model, layers, windows) if plan.refit else None
        with stages("score, mask, refit"):
            pruned = prune_model(layers, statistics, expression, plan.sparsity, plan.refit, grams)
        del statistics, grams
    took |= {"stages": dict(stages.seconds), "sparsity": _sparsity(list(pruned))}
    took["unlike_by_block"] = _unlike(loaded.model, output)
    return {"way": "as a whole, not written", "devices": len(devices)} | took


@contextmanager
def _measured(devices: tuple[torch.device, ...]) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    for device in devices:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    _wait()
    start = time.perf_counter()
    with HostMemory() as host:
        yield found
        _wait()
        found["seconds"] = time.perf_counter() - start
    found["host_gib"] = host.peak
    found["device_gib"] = [
        torch.cuda.max_memory_allocated(d) / GIB for d in devices if d.type == "cuda"
    ]


def _digest(folder: Path) -> str:
    def one(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(one, sorted(folder.glob("*.safetensors"))))
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _unlike(model: Any, folder: Path) -> dict[str, float]:
    """How many tensors differ from those in the folder, and the share of zeros that do."""
    mine = dict(model.named_parameters())
    different, moved, zeros = 0, 0, 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                here = mine[name]
                there = file.get_tensor(name).to(here.device)
                different += not torch.equal(here, there)
                moved += int(((here == 0) != (there == 0)).sum())
                zeros += int((here == 0).sum())
    return {"different_tensors": different, "zeros_elsewhere": moved / max(1, zeros)}


def _sparsity(layers: list[LayerSparsity]) -> float:
    return sum(x.zeros for x in layers) / sum(x.shape[0] * x.shape[1] for x in layers)


def _show(run: dict[str, Any]) -> None:
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run["stages"].items())
    device = "/".join(f"{gib:.2f}" for gib in run["device_gib"]) or "-"
    host = run["host_gib"]
    print(
        f"{run['run']:>15} {run['way']} on {run['devices']}: "
        f"{run['seconds']:6.1f} s ({stages}); device {device} GiB, host {host['own']:.1f} GiB "
        f"+ {host['files']:.1f} GiB of files; "
        + (f"digest {run['digest']}" if "digest" in run else f"{run['unlike_by_block']}"),
        flush=True,
    )


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--activation-memory", type=float, default=4.0, help="GiB")
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument(
        "--runs", nargs="+", default=RUNS, help="METRIC@SPARSITY[@REFIT…], in order"
    )
    parser.add_argument("--no-whole", action="store_true", help="do not hold the whole model")
    parser.add_argument("--seconds", type=float, default=240, help="begin no run after these")
    parser.add_argument("--folder", type=Path, default=None, help="where models are written")
    parser.add_argument("--output", type=new_file, help="JSON file")
    args = parser.parse_args()
    require(args.device)
    plans = [plan_of(run) for run in args.runs]
    if args.tiny:
        args.layers, args.hidden, args.ffn, args.heads = 3, 64, 96, 4
        args.vocabulary, args.windows, args.length = 128, 4, 32
    began = time.perf_counter()
    devices = tuple(torch.device(name) for name in args.device.split(","))
    results: dict[str, Any] = {
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "runs": [],
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        model, output = Path(place) / "model", Path(place) / "output"
        shape = {
            "hidden_size": args.hidden,
            "intermediate_size": args.ffn,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.heads,
            "num_key_value_heads": args.heads,
            "vocab_size": args.vocabulary,
            "max_position_embeddings": args.length,
        }
        results["model_gib"] = write_model(model, shape, devices[0])
        results["write_model_seconds"] = time.perf_counter() - began
        print(f"wrote {results['model_gib']:.2f} GiB in {results['write_model_seconds']:.0f} s")
        generator = torch.Generator().manual_seed(1)
        windows = torch.randint(args.vocabulary, (args.windows, args.length), generator=generator)

        def record(name: str, run: Callable[[], dict[str, Any]]) -> None:
            if time.perf_counter() - began > args.seconds:
                print(f"left out for time: {name}")
                return
            try:
                found = {"run": name} | run()
                _show(found)
            except Exception as error:  # the other runs are still worth making
                found = {"run": name, "failed": traceback.format_exc()}
                print(f"{name} failed: {type(error).__name__}: {str(error)[:200]}")
            results["runs"].append(found)
            gc.collect()
            if args.output:
                args.output.write_text(json.dumps(results, indent=2))

        memory = int(args.activation_memory * GIB)
        choices = list(dict.fromkeys((devices[:1], devices)))
        for some, number in product(choices, range(len(args.runs))):
            name = args.runs[number]
            plan = plans[number]
            shutil.rmtree(output, ignore_errors=True)
            record(name, partial(by_block, model, output, windows, some, plan, memory))
            if (
                args.no_whole
                or plan.propagate == "pruned"
                or number > 1
                or some != devices
                or not output.exists()
            ):
                continue
            for whole in choices if number == 0 else choices[:1]:
                record(name, partial(as_a_whole, model, output, windows, whole, plan))
    results["seconds"] = time.perf_counter() - began
    if args.output:
        args.output.write_text(json.dumps(results, indent=2))
    print(f"all in {results['seconds']:.0f} s")
    if any("failed" in run for run in results["runs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
