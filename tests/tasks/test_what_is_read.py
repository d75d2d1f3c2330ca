"""What is measured is what transformers reads, before and after; what it cannot read is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero import ModelError, Setup
from prunerzero.tasks import read_back
from prunerzero.tasks.prune import prune
from prunerzero.tasks.workspace import Workspace

WEIGHTS = "model.safetensors"
OPTIONS = ["--calibration", "calibration.txt", "--validation", "validation.txt"]
OPTIONS += ["--num-calibration-samples", "4", "--num-validation-samples", "4"]


@pytest.fixture
def place(workplace: Path, in_workplace: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of its own with the model and its texts, in which commands run."""
    shutil.copytree(workplace / "model", tmp_path / "model")
    for part in ("calibration", "validation"):
        shutil.copy(workplace / f"{part}.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def command(place: Path, in_workplace: Any, monkeypatch: Any) -> Any:
    monkeypatch.chdir(place)  # in_workplace has gone elsewhere
    monkeypatch.setenv("PRUNERZERO_CACHE", str(place / "cache"))
    return in_workplace


def perplexity_by_hand(folder: Path, text: Path) -> float:
    """By transformers alone, on the first 4 of the evenly spaced windows of 64 tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(text.read_text(), add_special_tokens=False)["input_ids"])
    windows = ids[: len(ids) // 64 * 64].view(-1, 64)
    windows = windows[torch.arange(4) * len(windows) // 4]
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    return math.exp(losses)


def pruned(command: Any, *options: str) -> Any:
    done = command("prune", *OPTIONS, "--output-dir", "out", "--json", *options)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# Other files beside the weights


def stray_file(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v.half() * 0 + 0.5 for k, v in tensors.items()}, folder / "model_ema.safetensors")
    save_file({k: v * 3 for k, v in tensors.items()}, folder / "a_first.safetensors")


def shards_of_a_variant(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    model = tiny_model()
    model.save_pretrained(folder, max_shard_size="2KB")
    config = (folder / "config.json").read_text()
    model.half().save_pretrained(folder, max_shard_size="2KB", variant="fp16")
    (folder / "config.json").write_text(config)


def stale_shards(folder: Path) -> None:
    """Left by an earlier save in more files, beside the one file that is read."""
    tensors = load_file(folder / WEIGHTS)
    for number in (1, 2):
        old = {k: v + number for k, v in tensors.items()}
        save_file(old, folder / f"model-0000{number}-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_file_that_the_config_names(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors, folder / "chosen.safetensors", metadata={"format": "pt"})
    save_file({k: v + 1 for k, v in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "chosen.safetensors"
    (folder / "config.json").write_text(json.dumps(config))


def a_damaged_file_that_nobody_reads(folder: Path) -> None:
    (folder / "optimizer.safetensors").write_bytes(b"half")


@pytest.mark.parametrize(
    "beside",
    [
        stray_file,
        shards_of_a_variant,
        stale_shards,
        a_file_that_the_config_names,
        a_damaged_file_that_nobody_reads,
    ],
)
@pytest.mark.parametrize("way", [[], ["--block-by-block"]], ids=["whole", "block by block"])
def test_no_other_file_is_a_source(place, command, beside, way):
    dense = perplexity_by_hand(place / "model", place / "validation.txt")
    beside(place / "model")
    found = pruned(command, "--model", "model", *way)
    assert found["perplexity"]["validation"]["dense"] == pytest.approx(dense, rel=1e-5)
    written = perplexity_by_hand(place / "out", place / "validation.txt")
    assert found["perplexity"]["validation"]["pruned"] == pytest.approx(written, rel=1e-5)
    dtypes = {
        tensor.dtype for tensor in load_file(next((place / "out").glob("*.safetensors"))).values()
    }
    assert dtypes == {torch.float32}


def test_a_gguf_file_is_the_one_of_that_path(place, command):
    from tiny_gguf import save_tiny_gguf  # type: ignore[import-not-found]

    (place / "models").mkdir()
    save_tiny_gguf(place / "models" / "tiny.gguf")
    (place / "tiny.gguf").write_bytes(b"another file of that name in the working folder")
    options = ["--model", "models/tiny.gguf", "--text", "validation.txt", "--max-seq-length", "32"]
    done = command("eval", *options)
    assert done.exit_code == 0, done.stderr


# What cannot be read as it is


def test_an_adapter_beside_the_base_model_is_refused(place, command):
    (place / "model" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    done = command("prune", *OPTIONS, "--model", "model", "--output-dir", "out")
    assert done.exit_code == 2
    assert "holds an adapter" in done.stderr and "merge" in done.stderr
    assert not (place / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_that_the_config_does_not_tell_are_refused(place, command, dtype):
    tensors = load_file(place / "model" / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, place / "model" / WEIGHTS, metadata={"format": "pt"})
    done = command("prune", *OPTIONS, "--model", "model", "--output-dir", "out")
    assert done.exit_code == 2
    assert "quantised" in done.stderr and name in done.stderr


def test_a_token_without_an_embedding_is_refused(place, command):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["qx", "zj"])
    tokenizer.save_pretrained(place / "model")
    text = (place / "validation.txt").read_text()
    (place / "validation.txt").write_text(text + "zj")
    options = [*OPTIONS, "--num-validation-samples", "100", "--max-seq-length", "2"]
    done = command("prune", *options, "--model", "model", "--output-dir", "out")
    assert done.exit_code == 2
    assert "'zj'" in done.stderr and "for only 32 tokens" in done.stderr
    assert not (place / "out").exists()


def test_tokens_that_no_text_holds_hinder_nothing_and_are_told(place, command):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["qqqqqqqq"])
    tokenizer.save_pretrained(place / "model")
    done = command("prune", *OPTIONS, "--model", "model", "--output-dir", "out")
    assert done.exit_code == 0, done.stderr
    assert "tokenizer has 33 tokens" in done.stderr and "embeddings for 32" in done.stderr


# Other weights, config or tokenizer at the same path


def search(command: Any, evaluations: int, *options: str, model: str = "model") -> Any:
    budget = ["--evaluations", str(evaluations), "--output-dir", "run"]
    return command("search", *OPTIONS, "--model", model, *budget, *options)


def test_a_search_goes_on_with_the_same_model_however_its_path_is_spelt(place, command):
    assert search(command, 3).exit_code == 0
    done = search(command, 4, model=f"{place}/model/")
    assert done.exit_code == 0, done.stderr
    assert "resumed: 3 evaluations" in done.stderr


@pytest.mark.parametrize("part", ["weights", "config", "tokenizer"])
def test_a_search_is_not_gone_on_with_on_another_model(place, command, part):
    assert search(command, 3).exit_code == 0
    if part == "weights":
        tiny_model(seed=5).save_pretrained(place / "model")
    elif part == "config":
        config = json.loads((place / "model" / "config.json").read_text())
        (place / "model" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
    else:
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["qqqqqqqq"])
        tokenizer.save_pretrained(place / "model")
    done = search(command, 4)
    assert done.exit_code == 2
    assert f"other model {part}" in done.stderr
    assert "statistics" not in done.stderr


def test_statistics_of_the_same_weights_with_another_config_are_others(place, command):
    first = pruned(command, "--model", "model")
    shutil.move(place / "out", place / "first")
    config = json.loads((place / "model" / "config.json").read_text())
    (place / "model" / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    pruned(command, "--model", "model")
    shutil.move(place / "out", place / "with-cache")
    shutil.rmtree(place / "cache")
    pruned(command, "--model", "model")
    masks = [load_file(place / f / WEIGHTS) for f in ("first", "with-cache", "out")]
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(masks[1][name], masks[2][name])
    assert not torch.equal(masks[0][name], masks[2][name])
    assert first["settings"]["fingerprints"]["model"]["config"]


# The checkpoint is read back


def test_a_checkpoint_that_is_not_what_was_measured_is_not_kept(place, monkeypatch):
    whole = Workspace.language_model.func  # type: ignore[attr-defined]
    loaded = whole(Workspace(Setup(model="model")))
    saved = type(loaded).save

    def save_wrongly(self: Any, folder: Path) -> None:
        saved(self, folder)
        tensors = load_file(folder / WEIGHTS)
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    monkeypatch.setattr(type(loaded), "save", save_wrongly)
    setup = Setup(model="model", calibration=Path("calibration.txt"))
    with pytest.raises(ModelError, match=r"does not hold .*model\.layers\.1\.mlp\.up_proj\.weight"):
        prune(setup, "wanda", "0.5", "out")
    assert not (place / "out").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_whatever_the_types_the_checkpoint_is_what_was_measured(place, stored, dtype):
    tiny_model().to(stored).save_pretrained(place / "model")
    setup = Setup(model="model", calibration=Path("calibration.txt"), dtype=dtype)
    prune(setup, "wanda", "0.5", "out")
    kept = load_file(place / "out" / WEIGHTS)
    assert {tensor.dtype for tensor in kept.values()} == {stored}


def test_each_tensor_is_compared(place):
    tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
    measured = {name: (t.dtype, read_back.of_tensor(t)) for name, t in tensors.items()}
    read_back.compare(tensors.items(), measured, place)
    with pytest.raises(ModelError, match="b differs"):
        read_back.compare([("a", tensors["a"])], measured, place)
    with pytest.raises(ModelError, match="c differs"):
        read_back.compare([*tensors.items(), ("c", torch.ones(1))], measured, place)


# A cache that cannot be written is no reason to stop


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    place, command, monkeypatch, caplog
):
    (place / "file").write_text("in the way")
    monkeypatch.setenv("PRUNERZERO_CACHE", str(place / "file" / "cache"))
    pruned(command, "--model", "model")
    assert any("PRUNERZERO_CACHE" in message for message in caplog.messages)
