"""Published methods on architectures that stand for the kinds there are.

They go through a model as ``test_architectures`` prunes all of them block by block, and solve each
matrix by itself: what is left to differ is how matrices are stored, shared, and reached.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance.test_architectures import ARCHITECTURES, DTYPES, SOME
from conformance.tiny_architectures import WINDOW, save
from tiny_model import some_text

from prunerzero import Setup
from prunerzero.metrics import Sparsity
from prunerzero.pruning.methods import METHODS
from prunerzero.tasks.methods import prune_by
from prunerzero.tasks.workspace import Workspace

KINDS = [
    *SOME,
    "llama",  # plain
    "gpt2",  # matrices stored the other way round, embeddings tied
    "mixtral",  # experts in one tensor
    "deepseek_v3",  # latent attention
    "mamba2",  # state spaces
    "rwkv",
]


@pytest.mark.parametrize("name", KINDS)
def test_each_matrix_is_pruned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    dtype = DTYPES[KINDS.index(name) % len(DTYPES)]
    model = save(ARCHITECTURES[name](), tmp_path / "dense", dtype)
    (tmp_path / "text.txt").write_text(some_text(0, 3 * WINDOW + 1))
    text = tmp_path / "text.txt"
    setup = Setup(model=str(model), device="cpu", calibration=text, max_seq_length=WINDOW)
    work = Workspace(setup)
    # both go through the layers in the same way, so architectures take them in turns
    prune_by(work, [*METHODS.values()][KINDS.index(name) % len(METHODS)], Sparsity(ratio=0.5))
    for layer_name, layer in work.layers.items():
        assert layer.weight.isfinite().all(), layer_name
        zeros = int((layer.weight == 0).sum())
        assert zeros >= layer.weight.numel() // 2, layer_name
