"""A packed Llama of 1.1 billion weights beside a dense one, end to end in transformers.

    python -m benchmarks.packed_model [--shares 0.3 0.5] [--repeats 3] [--output FILE.json]

Weights are random, and so are those that are removed: neither changes how long a token takes. Each
model has a process of its own, all are measured by turns as ``prunerzero bench`` does, and torch's
int8 and int4 stand beside them. *dense, same style* is a model whose matrices are stored in the
packed order, without masks, and multiplied by our own code: what is faster than that is what
sparsity brings, and not a better kernel. Perplexity is not measured, as random weights have none
worth telling.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.__main__ import machine, table
from benchmarks.commands import folder, new_file
from benchmarks.dense_steps import DenseSteps
from benchmarks.large_model import write_model
from prunerzero import pack
from prunerzero.language.loading import read_model
from prunerzero.language.source import ModelSource
from prunerzero.tasks.benching.figures import ModelFigures
from prunerzero.tasks.benching.measure import measure_models
from prunerzero.tasks.benching.rivals import RIVALS, make_rivals
from prunerzero.tasks.benching.subject import Plan, Subject
from prunerzero.tasks.benching.weight_only import replaced
from prunerzero.tasks.options import PackOptions, Values

SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
TINY = SHAPE | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}

VALUES: tuple[Values, ...] = ("bfloat16", "int8", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.5], help="removed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=16, help="of a measurement")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=["int8", "int4"])
    parser.add_argument("--no-own-dense", action="store_true", help="no dense kernel of our style")
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument("--folder", type=folder, help="where the models are written (14 GB)")
    parser.add_argument("--output", type=new_file)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        place = Path(name)
        write_model(place / "dense", TINY if options.tiny else SHAPE, torch.device("cpu"))
        dense = _subject("dense bf16", place / "dense")
        subjects = [dense]
        for share in options.shares:
            pruned = place / "pruned"
            remove(place / "dense", pruned, share)
            for values in VALUES:
                packed = place / f"{values} {share}"
                pack(pruned, packed, options=PackOptions(values=values))
                subjects.append(_subject(f"packed {values}, {share:.0%}", packed))
            shutil.rmtree(pruned)
        windows = torch.zeros(16, 512, dtype=torch.int64)
        if not options.no_own_dense:
            subjects.append(_own_dense(dense.source, place / "steps.pt"))
        threads = torch.get_num_threads()
        subjects += make_rivals(options.rivals, dense, place, threads)
        plan = Plan(
            windows,
            threads,
            repeats=options.repeats,
            perplexity=False,
            new_tokens=options.new_tokens,
        )
        figures = measure_models(subjects, plan)
    print(machine("cpu"))
    print(table(_rows(figures)))
    if options.output:
        found = {"threads": threads, "models": [asdict(of_one) for of_one in figures]}
        options.output.write_text(json.dumps(found, indent=1))


def _subject(name: str, folder: Path) -> Subject:
    return Subject(name, ModelSource(model=str(folder)))


def _own_dense(source: ModelSource, file: Path) -> Subject:
    """See ``DenseSteps``."""
    model = read_model(source, lambda _config, _stored: {"dtype": torch.bfloat16}).model
    with replaced(model, DenseSteps):
        torch.save(model, file)
    return Subject("dense, same style (batch 1 alone)", source, file=file)


def remove(model: Path, pruned: Path, share: float) -> None:
    """Write the model again, with a share of each block matrix's weights set to zero at random."""
    shutil.copytree(model, pruned)
    for file in pruned.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        for name, tensor in tensors.items():
            if ".layers." in name and tensor.dim() == 2:
                tensor[torch.rand(tensor.shape) < share] = 0
        save_file(tensors, file, metadata={"format": "pt"})


def _rows(figures: list[ModelFigures]) -> list[dict[str, str]]:
    first = figures[0]

    def beside(value: float | None, other: float | None) -> str:
        return "–" if not value or not other else f"{value:.4g} ({value / other:.2f} ×)"

    return [
        {
            "model": of_one.model,
            "file, GB": beside((of_one.file_bytes or 0) / 1e9, (first.file_bytes or 0) / 1e9),
            "memory, GB": beside((of_one.memory_bytes or 0) / 1e9, (first.memory_bytes or 0) / 1e9),
            "load, s": beside(of_one.load_seconds, first.load_seconds),
            **{
                f"batch {batch}, tokens/s": beside(
                    of_one.decode_tokens_per_second.get(batch), speed
                )
                for batch, speed in first.decode_tokens_per_second.items()
            },
            **{
                f"prefill {length}, tokens/s": beside(
                    of_one.prefill_tokens_per_second.get(length), speed
                )
                for length, speed in first.prefill_tokens_per_second.items()
            },
        }
        for of_one in figures
    ]


if __name__ == "__main__":
    main()
