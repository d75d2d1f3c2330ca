"""``prunerzero pack`` and ``unpack``: files in, files out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sparse_model import files_of, same_bits, sparse_tiny_model, tensors_of
from tiny_model import some_text, tiny_model, tiny_tokenizer

from prunerzero import InputError, ModelError, OutputError, Setup
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.pack import pack
from prunerzero.tasks.unpack import unpack
from prunerzero.tasks.workspace import Workspace


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sparse_tiny_model(tmp_path_factory.mktemp("pack") / "pruned")
    (folder / "README.md").write_text("a card")
    return folder


@pytest.fixture(scope="module")
def sparser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The padding of such small matrices is more than 4 bits save at one half."""
    return sparse_tiny_model(tmp_path_factory.mktemp("pack") / "sparser", share=0.75)


@pytest.fixture(scope="module")
def packed(pruned: Path) -> Path:
    folder = pruned.parent / "packed"
    pack(pruned, folder)
    return folder


def test_unpacking_gives_every_file_back_byte_for_byte(
    pruned: Path, packed: Path, tmp_path: Path
) -> None:
    unpack(packed, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(pruned)


def test_the_packed_folder_has_a_card_of_its_own_which_is_not_unpacked(
    packed: Path, tmp_path: Path
) -> None:
    assert (packed / "README.unpacked.md").read_text() == "a card"
    assert "import prunerzero" in (packed / "README.md").read_text()
    without = sparse_tiny_model(tmp_path / "without")
    pack(without, tmp_path / "packed")
    assert "import prunerzero" in (tmp_path / "packed" / "README.md").read_text()
    unpack(tmp_path / "packed", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_any_sign_of_zero_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = sparse_tiny_model(tmp_path / "pruned", dtype)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name][0, :4] = torch.tensor([-0.0, 0.0, float("inf"), 1e-7]).to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    weights[name][0, 2] = 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = pack(folder, tmp_path / "packed")
    assert result.negative_zeros == 1 and result.error is None
    unpack(tmp_path / "packed", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(folder)


def test_a_packed_file_is_as_small_as_the_format_says(pruned: Path, packed: Path) -> None:
    before, after = tensors_of(pruned), tensors_of(packed)
    name = "model.layers.0.mlp.up_proj"  # 24 × 16, half of it zero
    assert int(before[f"{name}.weight"].count_nonzero()) == 192
    assert after[f"{name}.mask"].shape == (2, 8 * 4)
    assert after[f"{name}.values"].shape == (192 + 32,)
    assert after[f"{name}.weight"].shape == (0,)


def test_what_stays_dense_is_told_with_the_reason(tmp_path: Path) -> None:
    folder = sparse_tiny_model(tmp_path / "pruned")
    weights = load_file(folder / "model.safetensors")
    full = "model.layers.1.mlp.down_proj.weight"
    weights[full] = torch.randn(weights[full].shape).to(weights[full].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = pack(folder, tmp_path / "packed")
    told = {one.why: (one.matrices, one.example) for one in result.dense}
    assert told == {
        "embedding": (1, "model.embed_tokens.weight"),
        "smaller as it is: too few zeros": (1, full),
    }
    assert result.matrices == 13
    assert same_bits(tensors_of(tmp_path / "packed")[full], weights[full])


def test_a_model_in_several_files_is_packed_file_by_file(tmp_path: Path) -> None:
    whole = sparse_tiny_model(tmp_path / "whole")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(tmp_path / "pruned", max_shard_size="3KB")
    tiny_tokenizer().save_pretrained(tmp_path / "pruned")
    assert len(list((tmp_path / "pruned").glob("*.safetensors"))) > 2
    pack(tmp_path / "pruned", tmp_path / "packed")
    names = [
        sorted(p.name for p in (tmp_path / one).glob("model*")) for one in ("pruned", "packed")
    ]
    assert names[0] == names[1]
    unpack(tmp_path / "packed", tmp_path / "again")
    before, after = files_of(tmp_path / "pruned"), files_of(tmp_path / "again")
    assert before == after


def test_float32_is_rounded_to_bfloat16_and_that_is_told(tmp_path: Path) -> None:
    folder = sparse_tiny_model(tmp_path / "pruned", torch.float32)
    result = pack(folder, tmp_path / "packed")
    assert result.values == "bfloat16"
    assert result.error is not None and 0 < result.error < 2**-8
    unpack(tmp_path / "packed", tmp_path / "again")
    before, after = tensors_of(folder), tensors_of(tmp_path / "again")
    for name, tensor in before.items():
        inside = ".layers." in name and tensor.dim() == 2
        assert same_bits(after[name], tensor.bfloat16().float() if inside else tensor)


def test_float32_whose_values_bfloat16_holds_is_not_called_rounded(
    pruned: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    model.save_pretrained(tmp_path / "wide")
    result = pack(tmp_path / "wide", tmp_path / "packed")
    assert result.values == "bfloat16" and result.error is None and result.rounded is None


def test_int8_tells_its_error_and_what_it_does_to_perplexity(pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(some_text(3))
    result = pack(pruned, tmp_path / "packed", values="int8", texts=tmp_path / "text.txt")
    before, after = tensors_of(pruned), tensors_of(tmp_path / "packed")
    difference = norm = 0.0
    unpack(tmp_path / "packed", tmp_path / "again")
    again = tensors_of(tmp_path / "again")
    for name, tensor in before.items():
        if f"{name.removesuffix('weight')}scales" in after:
            # the float32 products with the scales, before they are rounded to bfloat16
            scales = tensor.abs().amax(1, keepdim=True).float() / 127
            stored = (tensor.float() / scales).round() * scales
            difference += float((stored - tensor.float()).double().square().sum())
            norm += float(tensor.double().square().sum())
            assert same_bits(again[name], stored.bfloat16())
    assert result.error == pytest.approx((difference / norm) ** 0.5, rel=1e-5)
    assert result.worst_error is not None and result.worst_error >= result.error
    (figures,) = result.perplexity.values()
    assert figures["before"] != figures["after"]
    assert figures["after"] == pytest.approx(figures["before"], rel=0.05)


def test_int4_rounds_each_32_inputs_to_16_steps(sparser: Path, tmp_path: Path) -> None:
    result = pack(sparser, tmp_path / "packed", values="int4")
    assert result.values == "int4" and result.rounded == "to nearest"
    assert result.error is not None and 0.02 < result.error < 0.15
    unpack(tmp_path / "packed", tmp_path / "again")
    before, after = tensors_of(sparser), tensors_of(tmp_path / "again")
    packed = tensors_of(tmp_path / "packed")
    seen = 0
    for name, tensor in before.items():
        base = name.removesuffix("weight")
        if f"{base}scales" not in packed:
            assert same_bits(after[name], tensor)
            continue
        seen += 1
        assert torch.equal(after[name] == 0, tensor == 0)
        for group in range(0, tensor.shape[1], 32):
            part = tensor[:, group : group + 32].float()
            scales = (part.abs().amax(1) / 15).bfloat16().float()
            stored = packed[f"{base}scales"][:, group // 32].flatten()[: len(scales)]
            assert torch.equal(stored.float(), scales)
            far = (after[name][:, group : group + 32].float() - part).abs()
            assert (far <= scales[:, None] * 1.05 + part.abs() * 2**-8).all()
    assert seen == 14


def test_int4_rounded_with_a_text_changes_less_of_what_layers_compute_on_it(
    sparser: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(some_text(3))
    found = {"pruned": tensors_of(sparser)}
    for name, texts in (("alone", []), ("with text", [text])):
        result = pack(sparser, tmp_path / name, values="int4", calibration=texts)
        assert result.rounded == ("with a text" if texts else "to nearest")
        unpack(tmp_path / name, tmp_path / f"{name} again")
        found[name] = tensors_of(tmp_path / f"{name} again")
    grams = Workspace(Setup(model=str(sparser), calibration=text)).calibration.grams
    errors = {name: 0.0 for name in ("alone", "with text")}
    for layer, gram in grams.items():
        target = found["pruned"][f"{layer}.weight"].float()
        for name in errors:
            moved = found[name][f"{layer}.weight"].float() - target
            errors[name] += float(((moved @ gram) * moved).sum() / (target @ gram * target).sum())
    assert errors["with text"] < 0.9 * errors["alone"]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in errors]
    assert sizes[0] == sizes[1]


def test_a_text_to_round_by_is_refused_where_nothing_is_rounded_by_it(
    pruned: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(some_text(3))
    with pytest.raises(InputError, match="`calibration` is for `values=int4`"):
        pack(pruned, tmp_path / "out", values="int8", calibration=tmp_path / "text.txt")
    with pytest.raises(InputError, match=r"missing\.txt"):
        pack(pruned, tmp_path / "out", values="int4", calibration=tmp_path / "missing.txt")
    assert not (tmp_path / "out").exists()


def test_a_model_without_zeros_is_refused(tmp_path: Path) -> None:
    folder = sparse_tiny_model(tmp_path / "dense", share=0.0)
    for values in ("auto", "int8", "int4"):
        with pytest.raises(ModelError, match=r"would not become smaller: 0\.0% of the weights"):
            pack(folder, tmp_path / "packed", values=values)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_cannot_be_packed_is_refused_before_the_work(
    pruned: Path, packed: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="not empty"):
        pack(pruned, tmp_path / "full")
    with pytest.raises(ModelError, match="is packed already"):
        pack(packed, tmp_path / "out")
    with pytest.raises(ModelError, match="is not packed"):
        unpack(pruned, tmp_path / "out")
    with pytest.raises(OutputError, match="mixed up"):
        pack(pruned, pruned / "inside")
    with pytest.raises(InputError, match="values"):
        pack(pruned, tmp_path / "out", values="int3")
    with pytest.raises(InputError, match=r"missing\.txt"):
        pack(pruned, tmp_path / "out", texts=tmp_path / "missing.txt")
    with pytest.raises(ModelError, match="no model folder"):
        pack(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("values", ["int8", "int4"])
def test_what_is_rounded_must_be_finite(value: float, values: str, tmp_path: Path) -> None:
    folder = sparse_tiny_model(tmp_path / "pruned")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj\.weight holds weights that are not finite"):
        pack(folder, tmp_path / "packed", values=values)


class _Stop(Observer):
    """Ctrl-C after some matrices."""

    def count(self, what: str, total: int, unit: str = "windows") -> Any:
        if what in ("packing", "unpacking"):
            raise KeyboardInterrupt
        return super().count(what, total, unit)


def test_a_stopped_packing_leaves_nothing(pruned: Path, packed: Path, tmp_path: Path) -> None:
    for task, model in ((pack, pruned), (unpack, packed)):
        with pytest.raises(KeyboardInterrupt):
            task(model, tmp_path / "out", _Stop())
        assert list(tmp_path.iterdir()) == []


class _StopMeasuring(Observer):
    """Ctrl-C when the first text is read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)

    def count(self, what: str, total: int, unit: str = "windows") -> Any:
        if unit == "windows":
            raise KeyboardInterrupt
        return super().count(what, total, unit)


def test_a_packing_that_is_stopped_while_it_measures_says_that_it_is_done(
    pruned: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(some_text(2000))
    observer, folder = _StopMeasuring(), tmp_path / "packed"
    with pytest.raises(KeyboardInterrupt):
        pack(pruned, folder, observer, values="int8", texts=tmp_path / "text.txt")
    assert observer.notes == [f"'{folder}' is packed, but its perplexity was not measured."]
    assert files_of(folder)


def test_the_disk_is_asked_before_the_work(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="make room"):
        pack(pruned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_the_config_has_what_is_ours(pruned: Path, packed: Path) -> None:
    before, after = (json.loads((one / "config.json").read_text()) for one in (pruned, packed))
    ours = after.pop("quantization_config")
    assert ours["quant_method"] == "prunerzero" and ours["format"] == 1
    assert ours["matrices"]["model.layers.1.mlp.down_proj"] == {
        "rows": 16,
        "columns": 24,
        "kept": 192,
        "values": "bfloat16",
        "dtype": "bfloat16",
        "transposed": False,
    }
    assert after.pop("transformers_weights").startswith("import-prunerzero")
    assert after == before
    names = [set(files_of(one)) for one in (pruned, packed)]
    assert names[1] == names[0] | {"README.unpacked.md"}


def test_other_weights_files_in_the_folder_are_left_out(pruned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pruned"
    shutil.copytree(pruned, folder)
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "q4.gguf", ".hidden"):
        (folder / name).write_bytes(b"other weights")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")
    pack(folder, tmp_path / "packed")
    assert set(files_of(tmp_path / "packed")) - set(files_of(pruned)) == {
        "README.unpacked.md",
        "additional_chat_templates/tool.jinja",
    }


def test_the_commands_tell_what_was_done(
    pruned: Path, tmp_path: Path, in_workplace: Callable[..., Any]
) -> None:
    told = in_workplace("pack", str(pruned), "--output-dir", str(tmp_path / "packed"))
    assert told.exit_code == 0
    assert re.search(r"14 matrices packed, 5\d\.\d% of their weights not kept", told.stdout)
    assert "Every weight is what it was" in told.stdout
    assert "Not packed: model.embed_tokens.weight" in told.stdout
    arguments = ["unpack", str(tmp_path / "packed"), "--json"]
    told = in_workplace(*arguments, "--output-dir", str(tmp_path / "again"))
    result = json.loads(told.stdout)
    assert (result["matrices"], result["rounded"]) == (14, 0)
    told = in_workplace(*arguments, "--output-dir", str(tmp_path / "again"))
    assert told.exit_code == 2 and "is not empty" in told.stderr
    told = in_workplace("pack", str(tmp_path / "packed"), "--output-dir", str(tmp_path / "twice"))
    assert told.exit_code == 2 and "packed already" in told.stderr


def test_an_output_head_of_its_own_stays_dense(tmp_path: Path) -> None:
    tiny_model(tie_word_embeddings=False).bfloat16().save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    from sparse_model import zero_smallest

    result = pack(zero_smallest(tmp_path / "dense"), tmp_path / "packed")
    assert {one.why for one in result.dense} == {"embedding", "output head"}
