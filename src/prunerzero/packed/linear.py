"""A linear layer whose weights are packed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.packed import kernels
from prunerzero.packed.files import Facts
from prunerzero.packed.layout import PackedMatrix, matrix_of, unpack_matrix


class PackedLinear(nn.Module):
    """Computes what ``nn.Linear``, or the ``Conv1D`` of GPT-2, computes with the dense weights.

    The packed matrix lies in buffers, which conversions to another dtype leave as they are: they
    convert what is dense, and the products take inputs of any floating-point dtype. ``weight`` is
    empty: it has the dtype and the device that the dense weight would have, and whoever takes it
    for a matrix gets an error about its shape. ``dense_weight`` expands it.

    Args:
        facts: of the matrix; its buffers get their sizes from them.
        bias: of the layer, if it has one.
        dtype, device: of ``weight``, and the device of the buffers.
        dense: the layer without weights that it stands for, which ``to_dense`` fills.
    """

    mask: Tensor
    values: Tensor
    weight: Tensor
    scales: Tensor | None
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
        """The matrix, checked once for every tensor that comes into a buffer.

        Raises:
            ModelError: the buffers do not belong together.
        """
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

    def dense_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as the dense layer has it, outputs × inputs or, in a ``Conv1D``, transposed.

        Args:
            dtype: by default that of ``weight``.
        """
        dense = unpack_matrix(self.matrix, dtype or self.weight.dtype)
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
        return kernels.product(inputs, self.matrix, self.bias)

    def extra_repr(self) -> str:
        facts = self.facts
        share = facts.kept / (facts.rows * facts.columns)
        return (
            f"in_features={facts.columns}, out_features={facts.rows}, "
            f"bias={self.bias is not None}, values={facts.values}, kept={share:.1%}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Move and convert; scales move, but stay as they are."""
        before = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None and self.scales is not None and self.scales.dtype != before.dtype:
            device = self.scales.device
            self.scales = (
                torch.empty_like(before, device=device) if before.is_meta else before.to(device)
            )
        return self


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
    """Raise ModelError if a packed matrix that is in memory is damaged; names it."""
    for name, layer in packed_layers(model).items():
        try:
            if not layer.mask.is_meta:
                _ = layer.matrix
        except ModelError as error:
            raise ModelError(f"the packed matrix {name} cannot be used: {error}.") from None
