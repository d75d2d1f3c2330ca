import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    ChameleonConfig,
    RwkvConfig,
    RwkvForCausalLM,
)

from prunerzero.errors import ModelError
from prunerzero.language.kinds import auto_class
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource


def load(model, device="cpu", **options):
    return load_model(ModelSource(str(model), device=device, **options))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), torch.bfloat16)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_a_folder_computes_in_float32_on_a_cpu_and_remembers_its_dtype(saved):
    loaded = load(saved)
    assert loaded.model.dtype == torch.float32
    assert loaded.stored_dtype == torch.bfloat16
    assert loaded.context_length == 64
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_the_dtype_can_be_chosen(saved):
    assert load(saved, dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="must be auto, float32"):
        load(saved, dtype="int8")


def test_a_config_that_sets_no_limit_limits_nothing(folder):
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = -1
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).context_length == 2048


def test_a_model_that_sees_with_a_config_in_one_piece_is_loaded_by_its_class():
    assert auto_class(ChameleonConfig()) is AutoModelForImageTextToText
    assert auto_class(RwkvConfig()) is AutoModelForCausalLM


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        load(folder)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelError, match="only pickled ones; pass `allow_pickle=True`"):
        load(folder)


@pytest.mark.parametrize("size", [0, 4, 40, -100])
def test_truncated_weights_are_refused(folder, size):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match="truncated or damaged"):
        load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"model_type": "unheard-of"})])
def test_a_config_that_is_none_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError):
        load(folder)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer_config.json", "[]", "tokenizer"),
        ("tokenizer.json", '{"model": 3}', "tokenizer"),
        ("config.json", '{"model_type": "llama", "rope_parameters": [1]}', "rope_parameters"),
        ("tokenizer_config.json", '{"model_max_length": "16"}', "tokenizer"),
    ],
)
def test_what_transformers_stumbles_over_is_told_in_words_that_help(folder, file, content, words):
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=words) as refused:
        load(folder)
    assert "object" not in str(refused.value) and "attribute" not in str(refused.value)


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(name):
    with pytest.raises(ModelError, match="there is no model folder or file"):
        load(name)


def test_a_revision_of_what_is_not_on_the_hub_is_refused(folder):
    for name in (folder, "bundled"):
        with pytest.raises(ModelError, match="has no revisions; leave out `revision`"):
            load(name, revision="main")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=r"not a \.gguf file"):
        load(tmp_path / "model.onnx")


def test_a_gguf_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError):
        load(tmp_path / "model.gguf")


def test_a_device_that_is_not_there_is_refused(saved):
    with pytest.raises(ModelError, match="cannot be used here"):
        load(saved, device="cuda:99")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [("unreachable", "the hub cannot be reached"), ("not there", "the hub has none either")],
)
def test_a_model_the_hub_cannot_give_says_what_to_pass_instead(monkeypatch, answer, problem):
    monkeypatch.setattr("prunerzero.language.locate.ask_hub", lambda *_: answer)
    with pytest.raises(ModelError, match=f"{problem}; pass a model folder, a .gguf file"):
        load("nobody/nothing-of-that-name")


def test_pickled_weights_are_read_where_that_is_allowed(folder, saved):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    loaded = load(folder, allow_pickle=True)
    for name, tensor in load(saved).model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_a_pickle_that_holds_more_than_tensors_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": print}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load(folder, allow_pickle=True)


@pytest.fixture
def sharded(folder):
    model = load(folder, dtype="bfloat16").model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_weights_in_several_files_are_one_model(sharded, saved):
    whole, parts = (load(f) for f in (saved, sharded))
    assert whole.identity() == parts.identity()


def test_a_missing_shard_is_named(sharded):
    (gone, *_) = sorted(sharded.glob("*.safetensors"))
    gone.unlink()
    with pytest.raises(ModelError, match=f"lacks the weights file '{gone.name}'"):
        load(sharded)


def test_an_index_that_is_none_is_named(sharded):
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="does not say which weights lie in which file"):
        load(sharded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_saved_again_is_what_was_read(tmp_path, dtype):
    folder = save_tiny_model(tmp_path / "first", dtype)
    load(folder).save(tmp_path / "second")
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "second"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype == dtype
        assert torch.equal(tensor, second[name])


def test_weights_that_transformers_widens_are_saved_as_narrow_as_they_were(tmp_path):
    config = RwkvConfig(
        vocab_size=34, hidden_size=16, num_hidden_layers=2, bos_token_id=0, eos_token_id=0
    )
    RwkvForCausalLM(config).half().save_pretrained(tmp_path / "first")
    tiny_tokenizer().save_pretrained(tmp_path / "first")
    loaded = load(tmp_path / "first")
    loaded.save(tmp_path / "second")
    saved = load_file(tmp_path / "second" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_checkpoint_holds_in_another_dtype_is_saved_as_it_was(tmp_path, dtype):
    folder = save_tiny_model(tmp_path / "first", torch.bfloat16)
    file, (norm, weight) = folder / "model.safetensors", ("model.norm.weight", "lm_head.weight")
    other = {norm: torch.linspace(0, 1, 16).to(dtype), weight: torch.randn(32, 16).to(dtype)}
    save_file(load_file(file) | other, file, metadata={"format": "pt"})
    loaded = load(folder)
    loaded.model.lm_head.weight.data[0] = 0
    loaded.save(tmp_path / "second")
    saved = load_file(tmp_path / "second" / "model.safetensors")
    other[weight][0] = 0
    for name, tensor in (load_file(file) | other).items():
        assert tensor.dtype == saved[name].dtype
        assert torch.equal(tensor, saved[name]), name


def test_files_of_a_processor_go_along(folder, tmp_path):
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    load(folder).save(tmp_path / "again")
    assert (tmp_path / "again" / "preprocessor_config.json").read_text() == '{"image_mean": [0.5]}'


@pytest.mark.parametrize("method", ["gptq", "mxfp4"])
def test_quantised_weights_are_refused(folder, method):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"are quantised \({method}\)"):
        load(folder)


def test_a_model_that_needs_more_than_text_is_refused(folder, monkeypatch):
    def forward(self, input_ids, pixel_values, labels=None, **more): ...

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", forward)
    with pytest.raises(ModelError, match="it also needs pixel_values"):
        load(folder)
