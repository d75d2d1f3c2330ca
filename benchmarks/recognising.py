"""How long it takes to recognise a large model: to hash its files once, and to know them again.

    python -m benchmarks.recognising [--gigabytes 13] [--folder FOLDER]

Random bf16 shards of 2 GB are written to a folder, which is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from prunerzero import identity

SHARD = 2 * 10**9
SIDE = 4096


def write_shards(folder: Path, size: int) -> list[Path]:
    """Shards of random 4096 × 4096 matrices, ``size`` bytes in all."""
    each = SIDE * SIDE * 2
    files: list[Path] = []
    left = size // each
    while left > 0:
        count = min(left, SHARD // each)
        tensors = {
            f"blocks.{len(files)}.{i}.weight": torch.randn(SIDE, SIDE).bfloat16()
            for i in range(count)
        }
        files.append(folder / f"model-{len(files) + 1:05}.safetensors")
        save_file(tensors, files[-1], metadata={"format": "pt"})
        left -= count
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=13.0)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    os.environ["PRUNERZERO_CACHE"] = str(folder / "cache")
    try:
        files = write_shards(folder, int(given.gigabytes * 1e9))
        time.sleep(3)  # until the files are old enough to be remembered
        seconds = {}
        for label in ("hashing every byte", "knowing it again"):
            begun = time.perf_counter()
            found = identity.of_weights(files)
            seconds[label] = round(time.perf_counter() - begun, 4)
        size = sum(file.stat().st_size for file in files)
        print(json.dumps({"bytes": size, "files": len(files), "seconds": seconds, "digest": found}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
