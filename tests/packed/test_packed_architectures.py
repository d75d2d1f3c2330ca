"""Every kind of model: packed, it computes what it did, and unpacks bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance.test_architectures import ARCHITECTURES
from conformance.tiny_architectures import WINDOW, save
from sparse_model import same_bits, tensors_of, zero_smallest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.packed.linear import packed_layers
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.tasks.pack import pack
from prunerzero.tasks.packable import EXPERTS, OTHER_FORM, OWN_PRODUCT, READ, SHARED
from prunerzero.tasks.unpack import unpack

NOT_PACKED = {EXPERTS, OTHER_FORM, OWN_PRODUCT, READ, SHARED}
"""Why matrices stay dense that are pruned."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_packed(name: str, tmp_path: Path) -> None:
    if name not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"this transformers does not know {name}")
    dtype = torch.float16 if list(ARCHITECTURES).index(name) % 3 == 1 else torch.bfloat16
    torch.manual_seed(0)
    sparse = zero_smallest(save(ARCHITECTURES[name](), tmp_path / "sparse", dtype), 0.5)

    result = pack(sparse, tmp_path / "packed")
    assert result.packed_bytes - result.bytes < 40_000  # of headers, in so small a model
    unpack(tmp_path / "packed", tmp_path / "again")
    before, after = tensors_of(sparse), tensors_of(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(same_bits(before[key], after[key]) for key in before)

    dense, packed = (
        load_model(ModelSource(str(folder), device="cpu"), keep_packed=True).model
        for folder in (sparse, tmp_path / "packed")
    )
    matrices = prunable_layers(dense)
    layers = packed_layers(packed)
    assert len(layers) == result.matrices > 0
    left = {layer for layer in matrices if layer not in layers}
    if left:
        whys = {one.why for one in result.dense}
        assert whys & NOT_PACKED or any("too few zeros" in why for why in whys), left
    ids = torch.arange(2, 2 + WINDOW)[None]
    with torch.no_grad():
        theirs, ours = (model(ids, use_cache=False).logits for model in (dense, packed))
    assert (ours - theirs).abs().amax() <= 1e-4 * theirs.abs().amax()

    model = packed.dequantize()
    tensors = model.state_dict()
    assert all(same_bits(tensor, tensors[key]) for key, tensor in dense.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False).logits, theirs)
