"""Writing a safetensors file tensor by tensor, so that only one of them is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunerzero.errors import ModelError, first_line

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls dtypes; a file holds the tensors of wider ones first."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(DTYPES.values())}


@dataclass(frozen=True)
class Form:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tensor.dtype, tuple(tensor.shape))

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.shape))
        return f"{str(self.dtype).removeprefix('torch.')} {shape}"


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself before its tensors."""

    forms: Mapping[str, Form]
    metadata: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return len(header_bytes(self)) + sum(form.bytes for form in self.forms.values())


def read_header(path: Path) -> Header:
    """The tensors of a file by name, without their values.

    Raises:
        ModelError: it is truncated or damaged, or holds a dtype that is not known here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            forms = {}
            for name in file.keys():
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise ModelError(
                        f"weights file '{path}' holds {name!r} as {part.get_dtype()}, which "
                        "cannot be read here."
                    )
                forms[name] = Form(DTYPES[part.get_dtype()], tuple(part.get_shape()))
            return Header(forms, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights file '{path}' is truncated or damaged ({first_line(error)})."
        ) from None


def header_bytes(header: Header) -> bytes:
    """The length and the JSON that a file begins with."""
    entries: dict[str, object] = {}
    if header.metadata:
        entries["__metadata__"] = dict(header.metadata)
    for name, begin in _places(header.forms).items():
        form = header.forms[name]
        entries[name] = {
            "dtype": _NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [begin, begin + form.bytes],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _places(forms: Mapping[str, Form]) -> dict[str, int]:
    """Where each tensor begins behind the header: wider dtypes first, so that all are aligned."""
    places, end = {}, 0
    for name in sorted(forms, key=lambda name: (_ORDER[forms[name].dtype], name)):
        places[name] = end
        end += forms[name].bytes
    return places


def write_tensors(path: Path, header: Header, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a file; each tensor is written when it comes, in any order.

    Raises:
        OSError: the disk does not take it.
    """
    begin = header_bytes(header)
    places = _places(header.forms)
    with path.open("wb") as file:
        file.write(begin)
        for name, tensor in tensors:
            form = header.forms[name]
            if Form.of(tensor) != form:
                raise ValueError(f"{name} is {Form.of(tensor)}, where {form} was announced")
            file.seek(len(begin) + places.pop(name))
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if places:
        raise ValueError(f"no tensor came for {', '.join(places)}")
