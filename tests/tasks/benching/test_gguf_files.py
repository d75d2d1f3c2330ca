"""A model of transformers written as GGUF is the one that llama.cpp's own converter writes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import save_tiny_gguf
from tiny_model import tiny_gemma, tiny_model, tiny_tokenizer

from prunerzero.errors import ModelError
from prunerzero.tasks.benching.gguf_files import quantise, write_gguf


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    found = gguf.GGUFReader(path).tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in found}


def test_tensors_have_the_names_and_the_order_that_llama_cpp_wants(tmp_path):
    expected = tmp_path / "expected.gguf"
    model = save_tiny_gguf(expected)
    write_gguf("tiny", model, tmp_path / "written.gguf")
    before, after = tensors_of(expected), tensors_of(tmp_path / "written.gguf")
    assert before.keys() == after.keys()
    for name, values in before.items():
        rounded = torch.tensor(values)
        if values.ndim == 2:
            rounded = rounded.to(torch.bfloat16).float()
        assert np.array_equal(after[name], rounded.numpy()), name


def test_a_head_of_its_own_is_written_and_a_tied_one_is_not(tmp_path):
    for tied in (True, False):
        write_gguf("tiny", tiny_model(tie_word_embeddings=tied), tmp_path / f"{tied}.gguf")
        assert ("output.weight" in tensors_of(tmp_path / f"{tied}.gguf")) is not tied


def test_scaled_rotary_frequencies_are_written_as_factors(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    model = tiny_model(rope_parameters=scaling)
    write_gguf("tiny", model, tmp_path / "scaled.gguf")
    factors = tensors_of(tmp_path / "scaled.gguf")["rope_freqs.weight"]
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    assert plain / factors == pytest.approx(model.model.rotary_emb.inv_freq.numpy(), rel=1e-5)
    assert factors.max() == pytest.approx(8)


def test_another_architecture_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="gemma3_text model.* name its GGUF file"):
        write_gguf("tiny", tiny_gemma(), tmp_path / "gemma.gguf")


def test_what_llama_cpp_predicts_is_what_transformers_does(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama.cpp is an extra: prunerzero[bench]")
    from prunerzero.tasks.benching.in_llama import LlamaLoader
    from prunerzero.tasks.benching.in_torch import TorchModel

    model = tiny_model(hidden_size=64, intermediate_size=96).to(torch.bfloat16)
    windows = torch.randint(2, len(tiny_tokenizer()), (3, 40)).numpy()
    expected = TorchModel("tiny", model, ()).losses(windows, lambda done: None)
    path = tmp_path / "dense.gguf"
    write_gguf("tiny", model, path)
    for kind, tolerance in ((None, 0.05), ("Q8_0", 0.2)):
        file = path
        if kind is not None:
            file = tmp_path / f"{kind}.gguf"
            quantise("tiny", path, file, kind, 1)
        found = LlamaLoader("tiny", file, 1).load().losses(windows, lambda done: None)
        assert found == pytest.approx(expected, rel=tolerance)
