"""A GGUF file is a model like any other, and once pruned an ordinary checkpoint."""

from types import SimpleNamespace

import gguf
import pytest
import torch
from tiny_gguf import save_tiny_gguf
from tiny_model import some_text
from transformers import AutoModelForCausalLM

from prunerzero import ModelError, Setup, prune
from prunerzero.language import gguf_once
from prunerzero.language.loading import load_model, outline_of
from prunerzero.language.source import ModelSource


def test_a_gguf_file_gives_the_model_it_was_made_of(tmp_path):
    original = save_tiny_gguf(tmp_path / "tiny.gguf")
    loaded = load_model(ModelSource(str(tmp_path / "tiny.gguf"), device="cpu"))
    ids = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, original(ids).logits)
    assert loaded.tokenizer("the")["input_ids"] == [1, 6]


def test_a_pruned_gguf_file_is_an_ordinary_checkpoint(tmp_path):
    save_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "text.txt").write_text(some_text(0))
    setup = Setup(model=str(tmp_path / "tiny.gguf"), calibration=tmp_path / "text.txt")
    prune(setup, "wanda", "0.5", tmp_path / "pruned")
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").model.layers[1].mlp.up_proj
    assert torch.all((weight.weight == 0).sum(1) == 8)


def test_a_damaged_gguf_file_is_refused(tmp_path):
    save_tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="tiny.gguf"):
        load_model(ModelSource(str(tmp_path / "tiny.gguf")))


@pytest.mark.parametrize("load", [load_model, outline_of])
def test_a_gguf_file_is_read_once(tmp_path, monkeypatch, load):
    save_tiny_gguf(tmp_path / "tiny.gguf")
    read, usual = [], gguf.GGUFReader

    def reader(path):
        read.append(path)
        return usual(path)

    monkeypatch.setattr(gguf, "GGUFReader", reader)
    load(ModelSource(str(tmp_path / "tiny.gguf"), device="cpu"))
    assert len(read) == 1
    assert gguf.GGUFReader is reader  # nothing of it is kept: the file may change


def test_what_gguf_is_comes_back_where_loading_fails(tmp_path):
    usual = gguf.GGUFReader, gguf.get_tensor_name_map
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="tiny.gguf"):
        load_model(ModelSource(str(tmp_path / "tiny.gguf")))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == usual


def test_a_gguf_package_without_these_functions_is_left_alone(monkeypatch):
    other = SimpleNamespace()
    monkeypatch.setattr(gguf_once, "_library", lambda: other)
    with gguf_once.gguf_once({"gguf_file": "a.gguf"}):
        assert vars(other) == {}
