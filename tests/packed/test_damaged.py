"""Whatever is done to the files of a packed model: it is refused in a sentence, or it runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prunerzero.errors import InputError, ModelError
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource
from prunerzero.packed import kernels
from prunerzero.packed.layout import VALUE_TYPES, matrix_of, pack_matrix, unpack_matrix
from prunerzero.tasks.unpack import unpack

NUMBERS = st.integers(0, 2**31)
FEW = settings(max_examples=40, deadline=None)


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(folder, Path(place) / "packed"))


def refused_or_runs(folder: Path) -> None:
    """Loads and unpacks; a model that loads can be run."""
    try:
        model = load_model(ModelSource(str(folder), device="cpu"), keep_packed=True).model
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        for count in (1, 20):
            assert model(torch.arange(2, 2 + count)[None]).logits.shape[1] == count
    try:
        unpack(folder, folder.parent / "dense")
    except InputError as error:
        assert "\n" not in str(error)


@FEW
@given(st.booleans(), st.lists(st.tuples(NUMBERS, st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(
    int8_folder: Path, int4_folder: Path, halves: bool, flips: list[tuple[int, int]]
) -> None:
    with copied(int4_folder if halves else int8_folder) as folder:
        file = folder / "model.safetensors"
        content = bytearray(file.read_bytes())
        for place, bits in flips:
            content[place % len(content)] ^= bits
        file.write_bytes(content)
        refused_or_runs(folder)


@FEW
@given(NUMBERS)
def test_a_file_that_was_cut(packed_folder: Path, place: int) -> None:
    with copied(packed_folder) as folder:
        file = folder / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: place % len(content)])
        with pytest.raises(ModelError, match="truncated or damaged"):
            load_model(ModelSource(str(folder), device="cpu"), keep_packed=True)
        with pytest.raises(ModelError, match="truncated or damaged"):
            unpack(folder, folder.parent / "dense")


@FEW
@given(
    st.booleans(),
    NUMBERS,
    st.sampled_from(["shorter", "longer", "other dtype", "flat", "swapped", "gone"]),
)
def test_tensors_of_another_form(
    int8_folder: Path, int4_folder: Path, halves: bool, which: int, how: str
) -> None:
    with copied(int4_folder if halves else int8_folder) as folder:
        tensors = load_file(folder / "model.safetensors")
        parts = ("mask", "values", "scales", "weight")
        names = sorted(n for n in tensors if ".layers." in n and n.endswith(parts))
        names = [name for name in names if "norm" not in name]
        name, other = names[which % len(names)], names[(which + 1) % len(names)]
        tensor = tensors[name]
        match how:
            case "shorter" if len(tensor):
                tensors[name] = tensor[:-1].clone()
            case "longer":
                tensors[name] = torch.cat([tensor, tensor.new_ones(1, *tensor.shape[1:])])
            case "other dtype":
                tensors[name] = tensor.to(torch.int32)
            case "flat":
                tensors[name] = tensor.reshape(-1, 1)
            case "swapped":
                tensors[name], tensors[other] = tensors[other], tensors[name]
            case _:
                del tensors[name]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        refused_or_runs(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=3,
)


@FEW
@given(
    st.sampled_from(
        ["rows", "columns", "kept", "values", "dtype", "transposed", "stored_as", "value_bytes"]
        + ["other"]
    ),
    JSON | st.sampled_from(["float16", "int8", "int4", 16, 24, 192]),
    st.booleans(),
)
def test_a_matrix_that_the_config_tells_of_otherwise(
    packed_folder: Path, int4_folder: Path, key: str, value: Any, halves: bool
) -> None:
    with copied(int4_folder if halves else packed_folder) as folder:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["matrices"]["model.layers.0.mlp.up_proj"][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        refused_or_runs(folder)


@FEW
@given(st.sampled_from(["format", "matrices", "quant_method", "other"]), JSON)
def test_a_config_that_is_damaged(packed_folder: Path, key: str, value: Any) -> None:
    with copied(packed_folder) as folder:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        refused_or_runs(folder)


@given(
    st.sampled_from(sorted(VALUE_TYPES)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.tuples(NUMBERS, st.integers(1, 255)), max_size=3),
    NUMBERS,
)
def test_a_matrix_is_refused_or_can_be_multiplied(
    name: str, rows: int, columns: int, flips: list[tuple[int, int]], seed: int
) -> None:
    """A kernel reads as far as the mask says, so what passes the check must be safe to read."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight = weight.masked_fill(torch.rand(rows, columns, generator=generator) < 0.5, 0)
    matrix = pack_matrix(weight, VALUE_TYPES[name])
    flat = matrix.mask.view(-1)
    for place, bits in flips:
        flat[place % len(flat)] ^= bits
    try:
        again = matrix_of(rows, columns, matrix.kind, matrix.mask, matrix.values, matrix.scales)
    except ModelError:
        assert flips
        return
    inputs = torch.randn(3, columns, generator=generator)
    torch.testing.assert_close(
        kernels.product(inputs, again).double(),
        inputs.double() @ unpack_matrix(again, torch.float32).double().t(),
        rtol=2e-2,
        atol=2e-2,
    )


@pytest.mark.parametrize("rows, columns", [(15, 8), (16, 7), (1, 1), (17, 9)])
@pytest.mark.parametrize("name", sorted(VALUE_TYPES))
def test_a_mask_that_keeps_weights_outside_is_refused(rows: int, columns: int, name: str) -> None:
    kind = VALUE_TYPES[name]
    full = pack_matrix(torch.ones(-(-rows // 16) * 16, -(-columns // 4) * 4), kind)
    scales = None if full.scales is None else full.scales[:rows]
    width = pack_matrix(torch.ones(rows, columns), kind).mask.shape[1]
    mask = full.mask[:, :width].contiguous()
    with pytest.raises(ModelError, match="outside"):
        matrix_of(rows, columns, kind, mask, full.values, scales)
