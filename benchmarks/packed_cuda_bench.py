"""A Llama of random weights, dense and packed, measured on a GPU by ``prunerzero bench`` itself.

    python -m benchmarks.packed_cuda_bench [--layers 8] [--models 2:4-bfloat16 …] [--output FOLDER]

Its blocks are those of a Llama of 7 billion weights, which has 32 of them. Weights and masks are
random: neither changes how long a token takes, and perplexity says nothing of them.
``packed_cuda_model`` measures the whole model without files.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmarks.commands import at_least, folder, in_one_sentence, require
from benchmarks.large_model import write_model
from benchmarks.packed_cuda_model import PACKED, SHAPE, TINY
from prunerzero import bench, pack
from prunerzero.report import bench_tables
from prunerzero.tasks.options import BenchOptions, PackOptions


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=PACKED, default=["2:4-bfloat16", "2:4-int8"])
    parser.add_argument("--layers", type=at_least(1), default=8)
    parser.add_argument("--repeats", type=at_least(1), default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument("--folder", type=folder, help="where the models are written")
    parser.add_argument("--output", type=Path, help="of results.json and report.html")
    options = parser.parse_args()
    shape = TINY if options.tiny else SHAPE | {"num_hidden_layers": options.layers}
    require(options.device)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        place = Path(name)
        write_model(place / "dense", shape, device)
        text = place / "text.txt"
        words = [f"w{number}" for number in range(1, min(400, shape["vocab_size"]))]
        text.write_text(" ".join(random.Random(0).choices(words, k=9000)))
        asked = {name: PACKED[name] for name in options.models}
        for pattern in dict.fromkeys(pattern for pattern, _ in asked.values()):
            remove(place / "dense", place / "pruned", pattern, device)
            for name, (of_it, values) in asked.items():
                if of_it == pattern:
                    pack(place / "pruned", place / name, options=PackOptions(values=values))
                    print(f"packed {name}", flush=True)
            shutil.rmtree(place / "pruned")
        result = bench(
            [place / name for name in ("dense", *options.models)],
            BenchOptions(device=options.device, text=text, windows=2, repeats=options.repeats),
            output_dir=options.output,
        )
    console = Console(width=160)
    console.print(*bench_tables(result.__dict__ | {"models": [vars(m) for m in result.models]}))
    print(result.machine, *(f"{m.model}: {m.notes}" for m in result.models if m.notes), sep="\n")


def remove(model: Path, pruned: Path, pattern: str, device: torch.device) -> None:
    """Write the model again, half of each block matrix's weights set to zero at random."""
    shutil.copytree(model, pruned, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in model.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if ".layers." in name and tensor.dim() == 2:
                chances = torch.rand(tensor.shape, device=device).view(-1, 4)
                if pattern == "2:4":
                    zeros = chances.argsort(1) < 2
                else:
                    zeros = chances < 0.5
                tensor.masked_fill_(zeros.view(tensor.shape).to(tensor.device), 0)
        save_file(tensors, pruned / file.name, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
