"""A packed model in transformers, after ``import prunerzero`` and without it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sparse_model import files_of, same_bits, tensors_of, zero_smallest
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, CompileConfig

from prunerzero import ModelError
from prunerzero.bundled import __file__ as bundled
from prunerzero.packed.layout import VALUE_TYPES
from prunerzero.packed.linear import PackedLinear, packed_layers
from prunerzero.tasks.pack import pack
from prunerzero.tasks.unpack import unpack

IDS = torch.arange(2, 26)[None]


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_linear_layers_are_packed_and_nothing_else(packed_folder: Path) -> None:
    model = load(packed_folder)
    assert len(packed_layers(model)) == 14
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert linears == ["lm_head"]
    assert model.is_quantized and not any(p.is_meta for p in model.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", ["bfloat16", "int8", "int4"])
def test_it_computes_what_the_dense_model_computes(
    dtype: torch.dtype, values: str, packed_folder: Path, int8_folder: Path, int4_folder: Path
) -> None:
    folder = {"bfloat16": packed_folder, "int8": int8_folder, "int4": int4_folder}[values]
    packed, dense = load(folder, dtype=dtype), load(folder, dtype=dtype).dequantize()
    for count in (1, 24):  # decoding, and a prompt
        with torch.no_grad():
            ours, theirs = packed(IDS[:, :count]).logits, dense(IDS[:, :count]).logits
        assert ours.dtype == dtype
        scale = theirs.float().abs().amax()
        # decoding rounds what values with scales are multiplied with; such values times their scale
        # are rounded in the dense model
        limit = 2e-2 if values != "bfloat16" else 8 * torch.finfo(dtype).eps
        assert (ours.float() - theirs.float()).abs().amax() <= limit * scale


@pytest.mark.parametrize("values", ["bfloat16", "int8", "int4"])
def test_generate_compiles_a_step_into_one_graph(
    values: str, packed_folder: Path, int8_folder: Path, int4_folder: Path
) -> None:
    model = load({"bfloat16": packed_folder, "int8": int8_folder, "int4": int4_folder}[values])
    ids = torch.arange(3, 13).repeat(2, 1)  # no two tokens are nearly as likely as each other

    def written(**how: Any) -> torch.Tensor:
        found: torch.Tensor = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, **how
        )
        return found

    config = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    config._compile_all_devices = True  # which transformers has for tests on a CPU
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = written(cache_implementation="static", compile_config=config)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.equal(compiled, written())


def test_generate_does_not_compile_what_a_gpu_has_no_kernels_for(packed_folder: Path) -> None:
    model = load(packed_folder)
    assert model.hf_quantizer.is_compileable
    layer = next(iter(packed_layers(model).values()))
    with FakeTensorMode():  # stands for a GPU, where plain torch would wait for numbers
        layer.mask = torch.empty(0, dtype=torch.uint8, device="cuda")
    assert not model.hf_quantizer.is_compileable


def test_dequantised_it_is_the_pruned_model_bit_for_bit(
    sparse_folder: Path, packed_folder: Path
) -> None:
    dense, model = load(sparse_folder), load(packed_folder).dequantize()
    assert not packed_layers(model) and not model.is_quantized
    before, after = dense.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    assert torch.equal(model(IDS).logits, dense(IDS).logits)


def test_dequantised_and_saved_it_is_an_ordinary_checkpoint(
    sparse_folder: Path, packed_folder: Path, tmp_path: Path
) -> None:
    load(packed_folder).dequantize().save_pretrained(tmp_path)
    before, after = tensors_of(sparse_folder), tensors_of(tmp_path)
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("size", ["50GB", "2KB"])
def test_saved_again_it_is_packed_and_loads(
    size: str, sparse_folder: Path, packed_folder: Path, tmp_path: Path
) -> None:
    model = load(packed_folder)
    model.save_pretrained(tmp_path / "saved", max_shard_size=size)
    again = load(tmp_path / "saved")
    assert len(packed_layers(again)) == 14
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    unpack(tmp_path / "saved", tmp_path / "dense")
    before, after = tensors_of(sparse_folder), tensors_of(tmp_path / "dense")
    assert all(same_bits(before[name], after[name]) for name in before)


def test_a_model_without_its_head_is_packed_too(packed_folder: Path, tmp_path: Path) -> None:
    whole, body = load(packed_folder), AutoModel.from_pretrained(packed_folder)
    assert len(packed_layers(body)) == 14
    assert torch.equal(body(IDS)[0], whole.model(IDS)[0])
    body.save_pretrained(tmp_path / "body")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "body")(IDS)[0], body(IDS)[0])


@pytest.mark.parametrize("values", ["bfloat16", "int8", "int4"])
def test_conversions_leave_packed_values_alone(
    values: str, packed_folder: Path, int8_folder: Path, int4_folder: Path
) -> None:
    folders = {"bfloat16": packed_folder, "int8": int8_folder, "int4": int4_folder}
    model = load(folders[values])
    before = {name: layer.state_dict() for name, layer in packed_layers(model).items()}
    model.to(torch.bfloat16)
    torch.nn.Module.half(model)
    torch.nn.Module.double(model)
    torch.nn.Module.float(model)
    for name, layer in packed_layers(model).items():
        assert layer.weight.dtype == torch.float32
        for part, tensor in layer.state_dict().items():
            assert part == "weight" or same_bits(tensor, before[name][part])
    assert model(IDS).logits.dtype == torch.float32
    assert torch.equal(copy.deepcopy(model)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("buffers", [False, True])
def test_blocks_may_stay_on_the_disk(buffers: bool, packed_folder: Path, tmp_path: Path) -> None:
    places = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb"], "cpu")
    places |= {"lm_head": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"}
    model = load(packed_folder, device_map=places, offload_folder=tmp_path, offload_buffers=buffers)
    assert model.model.layers[0].mlp.up_proj.mask.is_meta == buffers
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, load(packed_folder)(IDS).logits)


def test_gradients_reach_what_is_dense(packed_folder: Path) -> None:
    packed = load(packed_folder, dtype=torch.float32)
    dense = load(packed_folder, dtype=torch.float32).dequantize()
    for model in (packed, dense):
        model(IDS, labels=IDS).loss.backward()
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"):
        ours, theirs = packed.get_parameter(name).grad, dense.get_parameter(name).grad
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_bundled_model_answers_word_for_word_as_before(tmp_path: Path) -> None:
    shutil.copytree(Path(bundled).parent / "model", tmp_path / "sparse")
    pack(zero_smallest(tmp_path / "sparse", 0.4), tmp_path / "packed")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "packed")
    answers = []
    for name in ("sparse", "packed"):
        model = load(tmp_path / name, dtype=torch.bfloat16)
        prompt = tokenizer("Return a list of", return_tensors="pt")
        ids = model.generate(**prompt, max_new_tokens=40, do_sample=False)
        answers.append(tokenizer.decode(ids[0]))
    assert answers[0] == answers[1]


def test_it_loads_where_prunerzero_is_imported_first(packed_folder: Path) -> None:
    code = (
        "import prunerzero, transformers\nimport sys\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(type(model.model.layers[0].mlp.up_proj).__name__)"
    )
    done = python(code, str(packed_folder))
    assert done.stdout.strip() == "PackedLinear", done.stderr


def test_importing_prunerzero_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, prunerzero; print({'torch', 'transformers'} & set(sys.modules))"
    assert python(code).stdout.strip() == "set()"


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prunerzero":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForCausalLM

for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("loaded")

del sys.meta_path[0]
import prunerzero
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].mlp.up_proj).__name__)
"""


def test_without_prunerzero_loading_stops_and_once_it_is_imported_goes_on(
    packed_folder: Path, tmp_path: Path
) -> None:
    """Also of what transformers saved, which cannot name a file that is not there."""
    for name, size in (("one", "50GB"), ("several", "2KB")):
        load(packed_folder).save_pretrained(tmp_path / name, max_shard_size=size)
    done = python(WITHOUT, str(packed_folder), str(tmp_path / "one"), str(tmp_path / "several"))
    told = done.stdout.splitlines()
    assert "import-prunerzero-to-load-this-model" in told[0], done.stderr
    assert [line.split()[0] for line in told[1:]] == ["RuntimeError"] * 2 + ["PackedLinear"]
    assert "MISMATCH" in done.stderr


def test_a_model_of_another_shape_is_refused(packed_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(packed_folder, tmp_path / "packed")
    config = json.loads((packed_folder / "config.json").read_text())
    for change in ({"intermediate_size": 32}, {"num_hidden_layers": 1}):
        (tmp_path / "packed" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match="one of the two was changed|has no such layer"):
            load(tmp_path / "packed")


def test_a_newer_format_is_refused(packed_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(packed_folder, tmp_path / "packed")
    config = json.loads((packed_folder / "config.json").read_text())
    config["quantization_config"]["format"] = 2
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="packed in format 2"):
        load(tmp_path / "packed")


@pytest.mark.parametrize("part", ["mask", "values", "weight"])
def test_a_missing_tensor_is_named(part: str, packed_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(packed_folder, tmp_path / "packed")
    tensors = tensors_of(packed_folder)
    del tensors[f"model.layers.1.mlp.up_proj.{part}"]
    save_file(tensors, tmp_path / "packed" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"lack model\.layers\.1\.mlp\.up_proj\.{part}"):
        load(tmp_path / "packed")


def test_values_that_the_mask_does_not_count_are_refused(
    packed_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(packed_folder, tmp_path / "packed")
    file = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.mask"][0, 0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj of .*packed. cannot be used"):
        load(tmp_path / "packed")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj cannot be used"):
        unpack(tmp_path / "packed", tmp_path / "dense")
    assert not (tmp_path / "dense").exists()


def test_a_dense_model_is_not_packed_on_loading(sparse_folder: Path) -> None:
    from prunerzero.packed.quantizer import PackedConfig

    with pytest.raises(ValueError, match="pre-quantized"):
        load(sparse_folder, quantization_config=PackedConfig())


def test_a_layer_is_made_of_any_matrix() -> None:
    from prunerzero.packed.layout import pack_matrix

    weight = torch.randn(20, 33).bfloat16()
    bias = torch.nn.Parameter(torch.randn(20).bfloat16(), requires_grad=False)
    for name, kind in VALUE_TYPES.items():
        layer = PackedLinear.of(pack_matrix(weight, kind), torch.bfloat16, bias)
        dense = layer.dense_weight()
        assert dense.dtype == torch.bfloat16 and dense.shape == weight.shape
        if name == "bfloat16":
            assert same_bits(dense, weight)
        inputs = torch.randn(2, 3, 33)
        expected = torch.nn.functional.linear(
            inputs, layer.dense_weight(torch.float32), bias.float()
        )
        torch.testing.assert_close(layer(inputs), expected, rtol=1e-3, atol=1e-2)


def test_files_of_the_packed_folder_are_not_touched(packed_folder: Path) -> None:
    before = files_of(packed_folder)
    load(packed_folder)
    assert files_of(packed_folder) == before


def test_that_there_are_no_kernels_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, packed_folder: Path
) -> None:
    from prunerzero.packed import kernels

    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_loaded", None)
    monkeypatch.setattr(kernels, "_find", lambda _: "slower, as there is no compiler")
    for _ in range(2):
        kernels.path()
    assert caplog.messages == ["slower, as there is no compiler"]
