"""The files of a packed model: what its config and its weights files say of each packed matrix.

A packed folder is an ordinary one but for the packed matrices: ``NAME.weight`` is not there in its
own form, and ``quantization_config`` in ``config.json`` tells what ``NAME.mask``, ``NAME.values``
and ``NAME.scales`` stand for. ``docs/format.md`` has it to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.packed.layout import (
    PADDING,
    ROWS,
    VALUE_TYPES,
    PackedMatrix,
    ValueType,
    groups_of,
    steps_of,
)
from prunerzero.tensor_file import Form

METHOD = "prunerzero"
"""``quant_method`` in a config."""
FORMAT = 1
"""Version of the format; a reader refuses any other."""
WITHOUT_PRUNERZERO = "import-prunerzero-to-load-this-model.safetensors"
"""The file of weights that a packed config names. It does not exist, so that transformers without
this package stops, and says this, instead of filling the packed matrices with random numbers."""

DENSE = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}
"""Dtypes of weights that can be packed."""


@dataclass(frozen=True)
class Facts:
    """What the config says of one packed matrix, rows × columns being outputs × inputs."""

    rows: int
    columns: int
    kept: int
    values: str
    """A name in ``VALUE_TYPES``."""
    dtype: str
    """Of the dense weight, a name in ``DENSE``."""
    transposed: bool = False
    """Whether the dense weight is inputs × outputs, as GPT-2 has it."""
    stored_as: str | None = None
    """How the names of its tensors begin in the file, where that is not the module's name."""
    value_bytes: int | None = None
    """Of the values without padding, where two share a byte: it does not follow from ``kept``."""

    @property
    def kind(self) -> ValueType:
        return VALUE_TYPES[self.values]

    @property
    def dense(self) -> Form:
        """The form of the dense weight."""
        shape = (self.columns, self.rows) if self.transposed else (self.rows, self.columns)
        return Form(DENSE[self.dtype], shape)

    @property
    def parts(self) -> dict[str, Form]:
        """The forms of what is stored in its place, by the last part of the name.

        The empty ``weight`` stops a reader of ordinary checkpoints, whose matrix has another shape.
        """
        kind, groups = self.kind, groups_of(self.rows)
        width = steps_of(self.columns, kind) * ROWS * kind.inputs // 8
        padding = PADDING // kind.storage.itemsize
        parts = {
            "mask": Form(torch.uint8, (groups, width)),
            "values": Form(kind.storage, ((self.value_bytes or self.kept) + padding,)),
            "weight": Form(DENSE[self.dtype], (0,)),
        }
        if kind.scaled:
            parts["scales"] = Form(kind.scale, kind.scales_of(self.rows, self.columns))
        return parts

    @property
    def bytes(self) -> int:
        """What is stored."""
        return sum(form.bytes for form in self.parts.values())

    def tensors(self, matrix: PackedMatrix) -> dict[str, Tensor]:
        """The tensors that are stored of a matrix, by the last part of the name."""
        tensors = {
            "mask": matrix.mask,
            "values": matrix.values,
            "weight": torch.empty(0, dtype=DENSE[self.dtype]),
        }
        return tensors if matrix.scales is None else tensors | {"scales": matrix.scales}

    def to_json(self) -> dict[str, Any]:
        told = {
            "rows": self.rows,
            "columns": self.columns,
            "kept": self.kept,
            "values": self.values,
            "dtype": self.dtype,
            "transposed": self.transposed,
        }
        others = {"stored_as": self.stored_as, "value_bytes": self.value_bytes}
        return told | {name: value for name, value in others.items() if value is not None}

    @classmethod
    def from_json(cls, name: str, told: Any) -> Facts:
        """Raises ModelError where the entry is not one of this format."""
        try:
            facts = cls(**told)
        except TypeError:
            raise ModelError(_damaged(f"its entry of {name} is not one of a matrix")) from None
        sizes = (facts.rows, facts.columns, facts.kept)
        if any(type(size) is not int or size < 0 for size in sizes):
            raise ModelError(_damaged(f"{name} has sizes that are no whole numbers"))
        if not facts.rows or not facts.columns or facts.kept > facts.rows * facts.columns:
            raise ModelError(_damaged(f"{name} keeps more weights than it has"))
        if str(facts.values) not in VALUE_TYPES or str(facts.dtype) not in DENSE:
            raise ModelError(
                f"the packed matrix {name} has values {facts.values!r} of {facts.dtype!r}, which "
                "this version of prunerzero does not know; install a newer one."
            )
        if facts.kind.halves == (facts.value_bytes is None) or (
            facts.value_bytes is not None
            and (type(facts.value_bytes) is not int or not 0 <= facts.value_bytes <= facts.kept)
        ):
            raise ModelError(_damaged(f"{name} has no number of bytes that its values can take"))
        if type(facts.transposed) is not bool or not isinstance(facts.stored_as, str | None):
            raise ModelError(_damaged(f"its entry of {name} is not one of a matrix"))
        return facts


def facts_of(quantization: Mapping[str, Any]) -> dict[str, Facts]:
    """The packed matrices by the names of their modules, from ``quantization_config``.

    Raises:
        ModelError: it is not of this format, or damaged.
    """
    version = quantization.get("format")
    if version != FORMAT:
        raise ModelError(
            f"the model is packed in format {version!r}, and this version of prunerzero reads "
            f"format {FORMAT}; install the version that it was packed with, or a newer one."
        )
    matrices = quantization.get("matrices")
    if not isinstance(matrices, Mapping):
        raise ModelError(_damaged("it does not say which matrices are packed"))
    return {name: Facts.from_json(name, told) for name, told in matrices.items()}


def is_packed(config: Any) -> bool:
    """Whether a config, as JSON or as transformers has it, is that of a packed model."""
    content = config if isinstance(config, Mapping) else vars(config)
    found = content.get("quantization_config")
    if isinstance(found, Mapping):
        return found.get("quant_method") == METHOD
    return getattr(found, "quant_method", None) == METHOD


def check_stored(facts: Mapping[str, Facts], stored: Mapping[str, Form]) -> None:
    """Raise ModelError unless every tensor of the packed matrices is there, in its form.

    Args:
        facts: by the beginning of the names in the files.
        stored: all tensors of the files.
    """
    for name, one in facts.items():
        for part, form in one.parts.items():
            found = stored.get(f"{name}.{part}")
            if found is None:
                raise ModelError(
                    f"the weights files lack {name}.{part}, so that the packed model is damaged; "
                    "pack it again."
                )
            if found.shape != form.shape or (part != "weight" and found.dtype != form.dtype):
                raise ModelError(
                    f"{name}.{part} is {found} in the weights files and {form} by config.json, so "
                    "that the packed model is damaged; pack it again."
                )


def _damaged(what: str) -> str:
    return f"the quantization_config in config.json is damaged: {what}; pack the model again."
