"""Packed models in vLLM, which calls ``register`` through an entry point of this package.

vLLM makes one layer of what reads the same inputs, q, k and v, or gate and up, while each of them
is packed by itself. So a layer has parts here, one after another in its outputs. Neighbours whose
groups are full become one matrix, and one product computes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from prunerzero.errors import ModelError
from prunerzero.packed import kernels
from prunerzero.packed.files import METHOD, Facts, check_stored, facts_of
from prunerzero.packed.layout import ROWS, VALUE_TYPES, PackedMatrix, matrix_of
from prunerzero.tensor_file import Form

_INSTEAD = "unpack the model with `prunerzero unpack`, and serve that."
_QKV = {"q": 0, "k": 1, "v": 2}
"""What vLLM calls the partitions of a layer that makes queries, keys and values."""


def register() -> None:
    """Make vLLM know packed models."""
    register_quantization_config(METHOD)(PackedModel)


class PackedModel(QuantizationConfig):  # type: ignore[misc]
    """What ``quantization_config`` in ``config.json`` says; vLLM asks it layer by layer.

    Args:
        facts: of the packed matrices, by the names that their tensors have in the files.
    """

    def __init__(self, facts: Mapping[str, Facts]) -> None:
        super().__init__()
        self._facts = dict(facts)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PackedModel:
        return cls({one.stored_as or name: one for name, one in facts_of(config).items()})

    @classmethod
    def get_min_capability(cls) -> int:
        return 0  # the products ask for no kind of GPU

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    def get_name(self) -> str:
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        self._facts = hf_to_vllm_mapper.apply_dict(self._facts)

    def get_quant_method(self, layer: nn.Module, prefix: str) -> LinearMethodBase | None:
        parts = self._parts(prefix)
        packed = any(facts is not None for facts in parts.values())
        if isinstance(layer, LinearBase):
            return PackedLinearMethod(prefix, parts) if packed else UnquantizedLinearMethod()
        inside = f"{prefix}."
        if packed or (
            prefix.endswith("experts") and any(n.startswith(inside) for n in self._facts)
        ):
            raise ModelError(
                f"{prefix} is packed, and vLLM makes it a {type(layer).__name__}, which has no "
                f"product with packed weights; {_INSTEAD}"
            )
        return None

    def _parts(self, prefix: str) -> dict[str, Facts | None]:
        """The parts of a layer of vLLM by name, each with its facts where it is packed."""
        if (whole := self._find(prefix)) is not None:  # in the files it is one matrix too
            return {prefix: whole}
        before, dot, last = prefix.rpartition(".")
        names = self.packed_modules_mapping.get(last, [last])
        return {before + dot + name: self._find(before + dot + name) for name in names}

    def _find(self, name: str) -> Facts | None:
        """Files of a model without its head leave out how the names begin in one with a head."""
        return self._facts.get(name) or self._facts.get(name.partition(".")[2])


@dataclass(frozen=True)
class _Part:
    name: str
    rows: int
    columns: int
    facts: Facts | None
    loaded: dict[str, Tensor] = field(default_factory=dict)
    """By the last part of the names in the files."""


class PackedLinearMethod(LinearMethodBase):  # type: ignore[misc]
    """Loads one layer, of which at least one part is packed, and multiplies with it.

    Args:
        prefix: the name of the layer.
        facts: of the parts by name, in the order of the outputs; None for one that is not packed.
    """

    def __init__(self, prefix: str, facts: Mapping[str, Facts | None]) -> None:
        self._prefix = prefix
        self._facts = facts
        self._begins: list[int] = []
        """At which output each of vLLM's partitions begins."""
        self._parts: dict[int, _Part] = {}
        """By the output that they begin at."""

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **_others: Any,
    ) -> None:
        """Put empty parameters where vLLM looks for what is in the files; each loads itself."""
        rows = sum(output_partition_sizes)
        if (input_size_per_partition, rows) != (input_size, output_size):
            raise ModelError(
                "packed matrices are not divided among devices: serve the packed model with "
                f"tensor_parallel_size=1, or {_INSTEAD}"
            )
        packed = [facts for facts in self._facts.values() if facts is not None]
        all_packed = len(packed) == len(self._facts)
        sizes = [facts.rows for facts in packed] if all_packed else output_partition_sizes
        fits = len(sizes) == len(self._facts) and sum(sizes) == rows
        if not fits or any(
            facts is not None and (facts.rows, facts.columns) != (size, input_size)
            for size, facts in zip(sizes, self._facts.values(), strict=True)
        ):
            raise ModelError(
                f"vLLM makes {self._prefix} of {rows} × {input_size} weights, which the packed "
                f"{', '.join(self._facts)} do not fill; {_INSTEAD}"
            )
        self._begins = list(accumulate(output_partition_sizes, initial=0))
        begins = accumulate(sizes, initial=0)
        self._parts = {
            begin: _Part(name, size, input_size, facts)
            for begin, size, (name, facts) in zip(begins, sizes, self._facts.items(), strict=False)
        }
        forms = {part: form.dtype for facts in packed for part, form in facts.parts.items()}
        for part, dtype in (forms | {"weight": params_dtype}).items():
            parameter = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
            parameter.weight_loader = partial(self._load, part)  # type: ignore[attr-defined]
            layer.register_parameter(part, parameter)

    def _load(
        self,
        name: str,
        parameter: nn.Parameter,
        tensor: Tensor,
        partition: int | str | tuple[int, ...] | None = None,
    ) -> None:
        """Keep a tensor of the files: that of the part at this partition, or the first of these."""
        first = partition[0] if isinstance(partition, tuple) else partition
        index = _QKV.get(first, -1) if isinstance(first, str) else first or 0
        part = self._parts.get(self._begins[index])
        if part is None:
            raise ModelError(
                f"vLLM loads the {name} of partition {partition!r} of {self._prefix}, which no "
                f"packed matrix begins at; {_INSTEAD}"
            )
        dtype = parameter.dtype if name == "weight" else tensor.dtype
        part.loaded[name] = tensor.to(parameter.device, dtype, copy=True)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Check what was loaded, and make modules of it."""
        pieces = [_piece(part) for part in self._parts.values()]
        layer.packed_parts = nn.ModuleList(
            _Dense(piece) if isinstance(piece, Tensor) else _Packed(piece)
            for piece in _joined(pieces)
        )
        self._parts = {}
        for name in {"mask", "values", "scales"} & layer._parameters.keys():
            delattr(layer, name)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        results, begin = [], 0
        for part in layer.packed_parts:  # type: ignore[union-attr]
            of_part = None if bias is None else bias[begin : begin + part.rows]
            results.append(part(x, of_part))
            begin += part.rows
        return results[0] if len(results) == 1 else torch.cat(results, -1)


class _Packed(nn.Module):
    """A packed matrix in buffers: to a compiled graph they are inputs, as weights are."""

    scales: Tensor | None

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.rows, self.values_type = matrix.rows, matrix.kind.name
        for name in ("mask", "values", "starts", "scales"):
            self.register_buffer(name, getattr(matrix, name))

    def forward(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.prunerzero.packed_linear(  # type: ignore[no-any-return]
            inputs,
            self.mask,
            self.values,
            self.starts,
            self.scales,
            bias,
            self.rows,
            self.values_type,
        )


class _Dense(nn.Module):
    """The weights of a part that is not packed."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows = len(weight)
        self.register_buffer("weight", weight)

    def forward(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return linear(inputs, self.weight, bias)


def _piece(part: _Part) -> PackedMatrix | Tensor:
    """What the tensors of a part are, each checked."""
    facts, loaded = part.facts, part.loaded
    if facts is None:
        weight = loaded.get("weight")
        if weight is None or weight.shape != (part.rows, part.columns):
            raise ModelError(
                f"the weights files hold {part.name}.weight as "
                f"{'nothing' if weight is None else Form.of(weight)} where vLLM needs "
                f"{part.rows} × {part.columns}; {_INSTEAD}"
            )
        return weight
    forms = {f"{part.name}.{name}": Form.of(tensor) for name, tensor in loaded.items()}
    check_stored({part.name: facts}, forms)
    try:
        return matrix_of(
            facts.rows,
            facts.columns,
            facts.kind,
            loaded["mask"],
            loaded["values"],
            loaded.get("scales"),
        )
    except ModelError as error:
        raise ModelError(f"the packed matrix {part.name} cannot be used: {error}.") from None


def _joined(pieces: list[PackedMatrix | Tensor]) -> list[PackedMatrix | Tensor]:
    """The same rows in as few matrices as can be."""
    result: list[PackedMatrix | Tensor] = []
    for piece in pieces:
        before = result[-1] if result else None
        if (
            isinstance(before, PackedMatrix)
            and isinstance(piece, PackedMatrix)
            and before.kind == piece.kind
            and before.rows % ROWS == 0
        ):
            result[-1] = _join(before, piece)
        else:
            result.append(piece)
    return result


def _join(one: PackedMatrix, other: PackedMatrix) -> PackedMatrix:
    """The rows of ``one``, whose last group is full, and those of ``other``."""
    return replace(
        one,
        rows=one.rows + other.rows,
        mask=torch.cat([one.mask, other.mask]),
        values=torch.cat([one.values[: one.stored], other.values]),
        starts=torch.cat([one.starts[:-1], one.stored + other.starts]),
        scales=None
        if one.scales is None or other.scales is None
        else torch.cat([one.scales, other.scales]),
    )


def _product(
    inputs: Tensor,
    mask: Tensor,
    values: Tensor,
    starts: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    rows: int,
    values_type: str,
) -> Tensor:
    kind = VALUE_TYPES[values_type]
    matrix = PackedMatrix(rows, inputs.shape[-1], kind, mask, values, starts, scales)
    return kernels.product(inputs, matrix, bias)


def _fake_product(inputs: Tensor, *others: Any) -> Tensor:
    rows = others[-2]
    return inputs.new_empty(*inputs.shape[:-1], rows)


# vLLM compiles a model once, for any number of inputs, and drops what the graph supposes of it. The
# product of a few is another than that of many, so the graph must not see inside.
_operators = torch.library.Library("prunerzero", "FRAGMENT")
_operators.define(
    "packed_linear(Tensor inputs, Tensor mask, Tensor values, Tensor starts, Tensor? scales, "
    "Tensor? bias, int rows, str values_type) -> Tensor"
)
_operators.impl("packed_linear", _product, "CompositeExplicitAutograd")
torch.library.register_fake("prunerzero::packed_linear", _fake_product)
