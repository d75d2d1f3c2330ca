"""Some architectures more, block by block: refitted, and with a config that asks for more."""

import json
from pathlib import Path

import pytest
import torch
from conformance.test_architectures import ARCHITECTURES, SOME
from conformance.tiny_architectures import save
from safetensors.torch import load_file
from tiny_model import some_text

from prunerzero import Setup, prune
from prunerzero.tasks.by_block import Way

METRIC = "W * sqrt(X) * G"


def dense(name: str, folder: Path) -> Setup:
    torch.manual_seed(0)
    model = save(ARCHITECTURES[name](), folder / "dense", torch.bfloat16)
    (folder / "text.txt").write_text(some_text(0, 200))
    return Setup(model=str(model), calibration=folder / "text.txt", max_seq_length=24)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def test_a_config_that_asks_for_router_logits_keeps_asking(tmp_path):
    setup = dense("qwen3_moe", tmp_path)
    config = tmp_path / "dense" / "config.json"
    asking = json.loads(config.read_text()) | {"output_router_logits": True}
    config.write_text(json.dumps(asking))
    prune(setup, METRIC, "0.5", tmp_path / "whole")
    prune(setup, METRIC, "0.5", tmp_path / "blocks", way=Way(block_by_block=True))
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "blocks")
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert json.loads((tmp_path / "blocks" / "config.json").read_text())["output_router_logits"]


@pytest.mark.parametrize("name", SOME)
def test_block_by_block_refits_as_the_whole_model_does(name, tmp_path):
    """Sums are added up in another order, so weights may differ by a unit of their last place."""
    setup = dense(name, tmp_path)
    expected = prune(setup, "magnitude", "0.5", tmp_path / "whole", update="least-squares")
    way = Way(block_by_block=True)
    found = prune(setup, "magnitude", "0.5", tmp_path / "blocks", way=way, update="least-squares")
    written = weights(tmp_path / "blocks")
    for key, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(written[key], tensor, rtol=2**-6, atol=1e-4)
    for row, wanted in zip(found.layers, expected.layers, strict=True):
        assert row.error == pytest.approx(wanted.error, rel=1e-2, abs=1e-5), row.name
