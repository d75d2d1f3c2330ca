"""What ``docs/format.md`` says is what the files hold."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparse_model import tensors_of

from prunerzero.packed.layout import PADDING, VALUE_TYPES, pack_matrix

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
READER, SHOWN = re.findall(
    r"```python\n(import numpy.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
)[0]


def run_reader() -> tuple[dict[str, Any], str]:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(READER, names)
    return names, out.getvalue()


def test_the_reader_shows_what_the_page_shows() -> None:
    assert run_reader()[1] == SHOWN


def test_the_worked_example_is_what_is_written() -> None:
    weight = torch.tensor([[1, 0, -2], [0, 0.5, 0]]).bfloat16()
    matrix = pack_matrix(weight, VALUE_TYPES["bfloat16"])
    names, _ = run_reader()
    assert np.array_equal(matrix.mask.numpy(), names["mask"])
    assert np.array_equal(matrix.values.numpy(), names["values"])
    assert matrix.mask.numpy().tobytes().hex(" ", 4) == "09000000 01000000"
    assert matrix.values.numpy().tobytes()[:6].hex(" ", 2) == "803f 003f 00c0"
    assert PADDING == 64


def test_the_reader_reads_a_packed_checkpoint(sparse_folder: Path, packed_folder: Path) -> None:
    read = run_reader()[0]["read"]
    dense, packed = tensors_of(sparse_folder), tensors_of(packed_folder)
    config = json.loads((packed_folder / "config.json").read_text())
    matrices = config["quantization_config"]["matrices"]
    assert len(matrices) == 14
    for name, facts in matrices.items():
        mask, values = packed[f"{name}.mask"].numpy(), packed[f"{name}.values"].numpy()
        bits = read(mask, values, facts["rows"], facts["columns"])
        assert np.array_equal(
            bits, dense[f"{name}.weight"].view(torch.int16).numpy().view(np.uint16)
        )
        assert facts["kept"] == np.count_nonzero(bits)


def test_the_page_names_every_field(packed_folder: Path) -> None:
    config = json.loads((packed_folder / "config.json").read_text())
    fields = {*config["quantization_config"], "stored_as", "transformers_weights"}
    for facts in config["quantization_config"]["matrices"].values():
        fields |= set(facts)
    missing = [name for name in fields - {"quant_method"} if f"`{name}`" not in PAGE]
    assert missing == []
    assert config["transformers_weights"] in PAGE
