"""What a packing will do, found out before it begins: which matrices, which bytes, what error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.packed.files import DENSE, FORMAT, METHOD, WITHOUT_PRUNERZERO, Facts
from prunerzero.packed.layout import (
    VALUE_TYPES,
    PackedMatrix,
    count_stored,
    pack_matrix,
    pack_numbers,
    stored_numbers,
    unpack_matrix,
)
from prunerzero.packed.rounding import round_to_grid
from prunerzero.pruning.gram import damped
from prunerzero.tasks.checkpoint import Checkpoint
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.packable import NOT_PRUNED, Place
from prunerzero.tensor_file import Form, Header

_MIB = 1 << 20
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of as many bytes."""


@dataclass(frozen=True)
class Counted:
    """One matrix that could be packed.

    Attributes:
        module: the name of its layer in the model.
        facts: what the config would say of it.
        dense: bytes of the dense weight.
        zeros: weights that are 0, of either sign.
        negative: weights that are -0.0.
    """

    module: str
    facts: Facts
    dense: int
    zeros: int
    negative: int

    @property
    def smaller(self) -> bool:
        """Whether packing makes it smaller than it is."""
        return self.facts.bytes < self.dense

    @property
    def pruned(self) -> bool:
        """Whether it is smaller, too, than all its weights stored as its values are."""
        facts = self.facts
        all_kept = facts.rows * facts.columns * facts.kind.bits // 8
        scales = facts.parts.get("scales")
        return facts.bytes < all_kept + (scales.bytes if scales else 0)


@dataclass(frozen=True)
class Plan:
    """What becomes of each tensor.

    Attributes:
        checkpoint: the files.
        packed: tensor → its matrix.
        dense: tensor of a matrix that is not packed → why.
        counted: all matrices that could be packed, by tensor.
    """

    checkpoint: Checkpoint
    packed: Mapping[str, Counted]
    dense: Mapping[str, str]
    counted: Mapping[str, Counted]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        places: Mapping[str, Place],
        values: str,
        observer: Observer,
    ) -> Plan:
        """Count what would be kept of each matrix, one in memory at a time.

        Args:
            checkpoint: of a dense model.
            places: of its tensors, from ``destinations_of``.
            values: a name in ``VALUE_TYPES``, or ``"auto"`` for what keeps most of each.
            observer: told of progress.

        Raises:
            ModelError: nothing would become smaller, or a weight cannot be stored so.
        """
        counted: dict[str, Counted] = {}
        dense: dict[str, str] = {}
        total = sum(form.bytes for _, _, form in checkpoint.tensors()) // _MIB
        with observer.count("counting zeros", total, "MiB") as advance:
            done = Done(advance)
            for name, file, form in checkpoint.tensors():
                place = places[name]
                if place.why:
                    if len(form.shape) > 1:
                        dense[name] = place.why
                elif str(form.dtype).removeprefix("torch.") in DENSE:
                    with safe_open(file, framework="pt") as tensors:
                        counted[name] = _count(name, tensors.get_tensor(name), place, values)
                done.more(form.bytes)
        packed = {name: one for name, one in counted.items() if one.smaller}
        dense |= {name: NOT_PRUNED for name in counted if name not in packed}
        plan = cls(checkpoint, packed, dense, counted)
        plan._check_worth()
        return plan

    def _check_worth(self) -> None:
        if any(one.pruned for one in self.packed.values()):
            return
        name = repr(self.checkpoint.name)
        if not self.counted:
            raise ModelError(f"{name} has no linear layer in its blocks that could be packed.")
        weights = sum(one.facts.rows * one.facts.columns for one in self.counted.values())
        zeros = sum(one.zeros for one in self.counted.values()) / weights
        kinds = " and ".join(sorted({one.facts.values for one in self.counted.values()}))
        raise ModelError(
            f"{name} would not become smaller: {zeros:.1%} of the weights in the linear layers of "
            f"its blocks are zero, and the mask costs one bit a weight beside the {kinds} values; "
            "prune it first, or prune more of it."
        )

    def headers(self) -> dict[Path, Header]:
        """The weights files to write, by the files that they are made of."""
        return {
            file: Header(
                {
                    new: new_form
                    for name, form in header.forms.items()
                    if self.checkpoint.owners[name] == file
                    for new, new_form in self._forms(name, form)
                },
                header.metadata,
            )
            for file, header in self.checkpoint.headers.items()
        }

    def _forms(self, name: str, form: Form) -> Iterator[tuple[str, Form]]:
        if name not in self.packed:
            yield name, form
            return
        for part, its_form in self.packed[name].facts.parts.items():
            yield f"{name.removesuffix('weight')}{part}", its_form

    def tensors(
        self,
        file: Path,
        errors: Errors,
        done: Done,
        grams: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors to write in the place of a file, one matrix in memory at a time.

        What is packed is unpacked again and compared. int4 values of a layer with a Gram matrix in
        ``grams`` are rounded with it, and others to nearest.
        """
        with safe_open(file, framework="pt") as tensors:
            for name, form in self.checkpoint.headers[file].forms.items():
                if self.checkpoint.owners[name] != file:
                    continue
                tensor = tensors.get_tensor(name)
                if name not in self.packed:
                    yield name, tensor
                else:
                    facts = self.packed[name].facts
                    weight = tensor.t() if facts.transposed else tensor
                    gram = grams.get(self.packed[name].module)
                    if gram is None or not facts.kind.halves:
                        matrix = pack_matrix(weight, facts.kind)
                    else:
                        matrix = pack_numbers(*round_to_grid(weight, damped(gram)), facts.kind)
                    errors.add(name, weight, matrix)
                    for part, its_tensor in facts.tensors(matrix).items():
                        yield f"{name.removesuffix('weight')}{part}", its_tensor
                done.more(form.bytes)

    def config(self) -> dict[str, Any]:
        """The config of the packed model."""
        return {
            **self.checkpoint.config,
            "transformers_weights": WITHOUT_PRUNERZERO,
            "quantization_config": {
                "quant_method": METHOD,
                "format": FORMAT,
                "matrices": {one.module: one.facts.to_json() for one in self.packed.values()},
            },
        }


class Done:
    """Tells how many MiB are done."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._bytes = advance, 0

    def more(self, count: int) -> None:
        self._bytes += count
        if (done := self._bytes // _MIB) > 0:
            self._advance(done)


class Errors:
    """How far packed weights are from what they were, relative to their norm."""

    def __init__(self) -> None:
        self._squares: dict[str, tuple[float, float]] = {}

    def add(self, name: str, weight: Tensor, matrix: PackedMatrix) -> None:
        """Unpack a matrix and compare. Weights stored in their own dtype must be the same bits."""
        if matrix.scales is None and matrix.kind.dtype == weight.dtype:
            bits = _INTEGERS[weight.dtype.itemsize]
            after = unpack_matrix(matrix, weight.dtype)
            if not torch.equal(weight.contiguous().view(bits), after.view(bits)):
                raise RuntimeError(f"{name} is not the same after packing: a fault of prunerzero")
            return
        dense = weight.double()
        difference = unpack_matrix(matrix, torch.float32).double().sub_(dense)
        if difference.any():
            self._squares[name] = float(difference.square_().sum()), float(dense.square_().sum())

    @property
    def relative(self) -> float | None:
        """Over all matrices that packing changed; None without one."""
        if not self._squares:
            return None
        differences, norms = zip(*self._squares.values(), strict=True)
        return math.sqrt(sum(differences) / (sum(norms) or 1))

    @property
    def worst(self) -> tuple[str | None, float | None]:
        """The tensor where it is largest, and how large."""
        squares = self._squares.items()
        found = {name: math.sqrt(error / (norm or 1)) for name, (error, norm) in squares}
        return max(found.items(), key=lambda item: item[1]) if found else (None, None)


def _count(name: str, tensor: Tensor, place: Place, values: str) -> Counted:
    dtype = str(tensor.dtype).removeprefix("torch.")
    weight = tensor.t() if place.transposed else tensor
    chosen = values if values != "auto" else dtype if dtype in VALUE_TYPES else "bfloat16"
    kind = VALUE_TYPES[chosen]
    numbers, scales = stored_numbers(weight, kind)
    if not torch.isfinite(numbers.view(kind.dtype) if scales is None else scales).all():
        raise ModelError(f"{name} holds weights that are not finite, or too large for {chosen}.")
    base = name.removesuffix(".weight")
    facts = Facts(
        rows=weight.shape[0],
        columns=weight.shape[1],
        kept=int(numbers.count_nonzero()),
        values=chosen,
        dtype=dtype,
        transposed=place.transposed,
        stored_as=None if base == place.module else base,
        value_bytes=count_stored(numbers, kind) if kind.halves else None,
    )
    integers = tensor.view(_INTEGERS[tensor.dtype.itemsize])
    zeros = tensor.numel() - int(tensor.count_nonzero())
    negative = zeros - (tensor.numel() - int(integers.count_nonzero()))
    return Counted(place.module, facts, tensor.numel() * tensor.dtype.itemsize, zeros, negative)
