"""A linear layer whose weights are packed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.packed import gpu, kernels
from prunerzero.packed.device_order import DeviceMatrix, dense_of, from_device_order
from prunerzero.packed.files import Facts
from prunerzero.packed.layout import PackedMatrix, matrix_of, unpack_matrix


class PackedLinear(nn.Module):
    """Computes what ``nn.Linear``, or the ``Conv1D`` of GPT-2, computes with the dense weights.

    The packed matrix lies in buffers, which conversions to another dtype leave as they are: they
    convert what is dense, and the products take inputs of any floating-point dtype. ``weight`` is
    empty: it has the dtype and the device that the dense weight would have, and whoever takes it
    for a matrix gets an error about its shape. ``dense_weight`` expands it.

    On a GPU with kernels for them, weights lie in the GPU's order: ``mask`` and ``values`` are then
    None, and ``arranged`` has the matrix. Its state has the order of the file in any case.

    Args:
        facts: of the matrix; its buffers get their sizes from them.
        bias: of the layer, if it has one.
        dtype, device: of ``weight``, and the device of the buffers.
        dense: the layer without weights that it stands for, which ``to_dense`` fills.
    """

    mask: Tensor | None
    values: Tensor | None
    weight: Tensor
    scales: Tensor | None
    device_weights: Tensor
    device_offsets: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        facts: Facts,
        bias: nn.Parameter | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dense: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.facts = facts
        self.in_features, self.out_features = facts.columns, facts.rows
        for name, form in facts.parts.items():
            kind = dtype if name == "weight" and dtype is not None else form.dtype
            self.register_buffer(name, torch.empty(form.shape, dtype=kind, device=device))
        if not facts.kind.scaled:
            self.register_buffer("scales", None)
        self._longest: int | None = None  # of ``arranged``, where there is one
        self._arranged: DeviceMatrix | None = None  # made once for the tensors in the buffers
        self.register_parameter("bias", bias)
        self._dense = (dense,)  # in a tuple, so that it is no submodule
        self._checked: PackedMatrix | None = None

    @classmethod
    def of(
        cls, matrix: PackedMatrix, dtype: torch.dtype, bias: nn.Parameter | None = None
    ) -> PackedLinear:
        """A layer with this matrix, whose dense weight would be of this dtype."""
        named = str(dtype).removeprefix("torch.")
        facts = Facts(
            matrix.rows,
            matrix.columns,
            matrix.kept,
            matrix.kind.name,
            named,
            value_bytes=matrix.stored if matrix.kind.halves else None,
        )
        layer = cls(facts, bias, dtype, "meta")
        for name, tensor in facts.tensors(matrix).items():
            setattr(layer, name, tensor.to(dtype) if name == "weight" else tensor)
        return layer

    @property
    def matrix(self) -> PackedMatrix:
        """The matrix in the order of the file, checked once for every tensor that comes into a
        buffer; made anew each time where ``arranged`` has it.

        Raises:
            ModelError: the buffers do not belong together.
        """
        arranged = self.arranged
        if arranged is not None:
            return from_device_order(arranged)
        assert self.mask is not None and self.values is not None
        known = self._checked
        if (
            known is None
            or known.mask is not self.mask
            or known.values is not self.values
            or known.scales is not self.scales
        ):
            facts = self.facts
            known = matrix_of(
                facts.rows, facts.columns, facts.kind, self.mask, self.values, self.scales
            )
            self._checked = known
        return known

    @property
    def arranged(self) -> DeviceMatrix | None:
        """The matrix in the order of a GPU, where it lies there in that."""
        if self._longest is None:
            return None
        known, weights, scales = self._arranged, self.device_weights, self.scales
        if known is None or known.weights is not weights or known.scales is not scales:
            facts = self.facts
            known = self._arranged = DeviceMatrix(
                facts.rows,
                facts.columns,
                facts.kind,
                weights,
                self.device_offsets if self._longest else None,
                self._longest,
                scales,
            )
        return known

    @property
    def recordable(self) -> bool:
        """Whether CUDA graphs can record its product.

        Not on a GPU without kernels for the weights: plain torch waits there for where they begin.
        """
        return self.mask is None or not self.mask.is_cuda

    def arrange(self) -> None:
        """Put the weights into an order of the GPU that they are on, if it has kernels for them.

        It takes the time of a few products, and that of compiling the kernels once in a process.

        Raises:
            ModelError: the buffers do not belong together.
        """
        if self.mask is None or not self.mask.is_cuda:
            return
        arranged = gpu.arrange(self.matrix, self.weight.dtype)
        if arranged is not None:
            self._take(arranged)

    def _take(self, arranged: DeviceMatrix) -> None:
        self.mask = self.values = self._checked = None
        self._longest = arranged.longest
        self.register_buffer("device_weights", arranged.weights, persistent=False)
        if arranged.offsets is not None:
            self.register_buffer("device_offsets", arranged.offsets, persistent=False)

    def _restore(self) -> None:
        """Put the weights back into the order of the file."""
        if self._longest is not None:
            matrix = self.matrix
            self.mask, self.values = matrix.mask, matrix.values
            del self.device_weights
            if self._longest:
                del self.device_offsets
            self._longest = self._arranged = None

    def dense_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as the dense layer has it, outputs × inputs or, in a ``Conv1D``, transposed.

        Args:
            dtype: by default that of ``weight``.
        """
        dtype, arranged = dtype or self.weight.dtype, self.arranged
        if arranged is None:
            dense = unpack_matrix(self.matrix, dtype)
        else:
            dense = dense_of(arranged, dtype)
        return dense.t().contiguous() if self.facts.transposed else dense

    def to_dense(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The dense layer, of the class that it had."""
        (dense,) = self._dense
        if dense is None:
            shape = self.in_features, self.out_features
            dense = nn.Linear(*shape, bias=self.bias is not None, device="meta")
        dense.weight = nn.Parameter(self.dense_weight(dtype), requires_grad=False)
        if self.bias is not None:
            bias = self.bias.detach().to(dtype or self.bias.dtype)
            dense.bias = nn.Parameter(bias, requires_grad=self.bias.requires_grad)
        return dense.train(self.training)

    def forward(self, inputs: Tensor) -> Tensor:
        arranged = self.arranged
        matrix = self.matrix if arranged is None else arranged
        return kernels.product(inputs, matrix, self.bias)

    def extra_repr(self) -> str:
        facts = self.facts
        share = facts.kept / (facts.rows * facts.columns)
        return (
            f"in_features={facts.columns}, out_features={facts.rows}, "
            f"bias={self.bias is not None}, values={facts.values}, kept={share:.1%}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Move and convert; scales move, but stay as they are."""
        if fn(self.weight).device != self.weight.device:
            self._restore()  # each device has an order of its own
        before = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None and self.scales is not None and self.scales.dtype != before.dtype:
            device = self.scales.device
            self.scales = (
                torch.empty_like(before, device=device) if before.is_meta else before.to(device)
            )
        with suppress(ModelError):  # an empty layer moves too; what is damaged is told on use
            self.arrange()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._longest is not None:
            matrix = self.matrix
            destination |= {prefix + "mask": matrix.mask, prefix + "values": matrix.values}

    def _load_from_state_dict(self, *arguments: Any, **others: Any) -> None:
        self._restore()
        super()._load_from_state_dict(*arguments, **others)


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """The packed layers of a model by name, each once."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)
    }


def replace_layers(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put what ``make`` returns in the place of each module, wherever the model has it.

    Args:
        model: changed in place.
        make: called once for each module; None to leave it.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((parent, key))
    for of_one in places.values():
        parent, key = of_one[0]
        old = parent._modules[key]
        new = None if old is None else make(old)
        if new is not None:
            for parent, key in of_one:
                parent._modules[key] = new


def check_layers(model: nn.Module) -> None:
    """Raise ModelError if a packed matrix that is in memory is damaged; names it and its model."""
    config = getattr(model, "config", None)
    folder = getattr(config, "name_or_path", "")
    of = f" of '{folder}'" if folder else ""
    for name, layer in packed_layers(model).items():
        try:
            if layer.mask is not None and not layer.mask.is_meta:
                _ = layer.matrix
        except ModelError as error:
            raise ModelError(f"the packed matrix {name}{of} cannot be used: {error}.") from None
