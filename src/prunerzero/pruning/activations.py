"""Activations: what is summed over the input features of each matrix while the model runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunerzero.errors import ModelError
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration_pass import CalibrationPass

Measure = Callable[[Tensor], Tensor]
"""Features [..., in] → what is summed of them."""


def squares(features: Tensor) -> Tensor:
    """Sum of squares [in] over all but the last dimension."""
    rows = features.detach().reshape(-1, features.shape[-1])
    if rows.is_cuda:  # reads the features once
        norms: Tensor = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32)
        return norms.square_()
    return rows.float().square().sum(0)


@contextmanager
def watch_inputs(
    layers: Mapping[str, Matrix],
    totals: dict[str, Tensor],
    current: CalibrationPass,
    measure: Measure,
) -> Iterator[None]:
    """Add a measure of each matrix's input features to ``totals`` inside the ``with``.

    Where the matrix is a module, its input is the module's argument. Fused experts route tokens
    inside one module: there the matrix products are watched, and an expert's input is the other
    factor of a product with its slice of the parameter. Products are also watched in a module that
    runs without calling one of its parts, as some state-space layers multiply with a part's weight
    themselves.

    Args:
        layers: the matrices by full name.
        totals: fp32 zeros for each matrix, in the shape of the measure.
        current: the current pass.
        measure: what is summed of the features, such as `squares`.

    Raises:
        ModelError: experts ran, but no product with their weights was recognised.
    """
    hooks: list[Any] = []
    measured, called = _Last(measure), _Called()
    fused: dict[nn.Module, list[Matrix]] = {}
    around: dict[nn.Module, list[Matrix]] = {}
    for name, layer in layers.items():
        if layer.expert is not None:
            fused.setdefault(layer.module, []).append(layer)
            continue
        if layer.parent is not None:
            around.setdefault(layer.parent, []).append(layer)
        for module in (layer.module, *layer.sharing):
            add = _adder(totals, name, measured, current, called)
            hooks.append(module.register_forward_pre_hook(add))
    products = []
    for module, matrices in fused.items():
        products.append(watch := _Products(matrices, totals, current, measure))
        hooks += watch.hooks(module)
    for module, matrices in around.items():
        hooks += called.hooks(
            module, matrices, lambda parts: _Products(parts, totals, current, measure)
        )
    try:
        yield
    finally:
        for hook in (*hooks, *called.more_hooks):
            hook.remove()
    for watch in products:
        watch.check()


def _adder(
    totals: dict[str, Tensor],
    name: str,
    measured: _Last,
    current: CalibrationPass,
    called: _Called,
) -> Callable[[Any, tuple[Tensor, ...]], None]:
    def add(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        if not current.in_backward and not called.again:
            called.names.add(name)
            value = measured.of(inputs[0])
            current.once(("read", name), lambda: totals[name].add_(value))

    return add


class _Called:
    """Which matrices were called as modules; watches the products of those that were not.

    Attributes:
        names: of the matrices that were called.
        again: whether a module is run a second time, in which calls of its parts do not count.
        more_hooks: hooks that were added while the model ran.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.again = False
        self.more_hooks: list[Any] = []

    def hooks(
        self, module: nn.Module, parts: list[Matrix], watch: Callable[[list[Matrix]], _Products]
    ) -> list[Any]:
        """After a module's first run, watch the products of those ``parts`` it did not call."""

        def end(_module: Any, args: Any, kwargs: Any, _output: Any) -> None:
            hook.remove()
            if not (uncalled := [part for part in parts if part.name not in self.names]):
                return
            products = watch(uncalled)
            products.begin()
            self.again = True
            try:
                with torch.no_grad():
                    module.forward(*args, **kwargs)
            finally:
                self.again = False
                products.end()
            if products.seen:
                self.more_hooks += products.hooks(module)

        hook = module.register_forward_hook(end, with_kwargs=True)
        return [hook]


class _Last:
    """Caches the measure of the last features, which several matrices often read."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._seen: Callable[[], Tensor | None] = lambda: None
        self._version = 0
        self._value: Tensor | None = None

    def of(self, features: Tensor) -> Tensor:
        """The measure of these features."""
        if (
            self._value is None
            or self._seen() is not features
            or self._version != features._version
        ):
            self._value = self._measure(features)
            self._seen, self._version = weakref.ref(features), features._version
        return self._value


class _Products(TorchDispatchMode):
    """Watches the matrix products of a module for those with the weights of some matrices.

    Attributes:
        seen: whether there was such a product.
    """

    def __init__(
        self,
        matrices: list[Matrix],
        totals: dict[str, Tensor],
        current: CalibrationPass,
        measure: Measure,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._totals, self._current, self._measure = totals, current, measure
        self._within = False
        self._ran = self.seen = False
        self._copies: list[tuple[Tensor, Tensor, Tensor]] = []
        self._unseen = {matrix.parameter: matrix for matrix in matrices}
        self._addresses = {matrix.stored.data_ptr() for matrix in matrices}
        self._experts: dict[int, dict[int | None, Matrix]] = {}
        for matrix in matrices:
            self._experts.setdefault(id(matrix.stored), {})[matrix.expert] = matrix

    def hooks(self, module: nn.Module) -> list[Any]:
        """Watch this module."""
        return [
            module.register_forward_pre_hook(self.begin),
            module.register_forward_hook(self.end, always_call=True),
        ]

    def begin(self, *_: Any) -> None:
        """Called when the module starts."""
        if self._current.in_backward:
            return
        self._ran = self._within = True
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self, *_: Any) -> None:
        """Called when the module has finished, or failed."""
        if not self._within:
            return
        self._within = False
        self._copies.clear()
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Raise ModelError if the module ran and no product with one of the parameters was seen."""
        for key, matrix in self._unseen.items() if self._ran else ():
            pattern = matrix.name.removesuffix(f"{matrix.expert}.{key}") + f"*.{key}"
            raise ModelError(
                f"the inputs of the experts {pattern} cannot be measured in this model; leave them "
                f"out with `ignore={pattern!r}`."
            )

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if "mm" in operation.__name__:
            tensors = [arg for arg in args if torch.is_tensor(arg) and arg.dim() > 1]
            offsets = [arg for arg in args if torch.is_tensor(arg) and arg.dtype == torch.int32]
            for experts in self._experts.values():
                self._take(experts, tensors[-2:], offsets)
        elif operation.__name__.startswith("index.") and args[0].data_ptr() in self._addresses:
            self._copies.append((result, args[0], args[1][0]))
        return result

    def _take(
        self, experts: dict[int | None, Matrix], factors: list[Tensor], offsets: list[Tensor]
    ) -> None:
        """Count the product of two ``factors`` if one of them holds weights of these experts."""
        matrix = next(iter(experts.values()))
        for position, factor in enumerate(factors):
            held = self._experts_in(matrix, factor)
            if held is None:
                continue
            # in the dimension that is summed over, the factor has the stride of the inputs
            summed, weight = -2 if position else -1, matrix.weight
            if (factor.stride(summed), factor.shape[summed]) != (weight.stride(1), weight.shape[1]):
                raise ModelError(
                    f"{matrix.name} is multiplied along another dimension than was concluded from "
                    f"its shape; leave it alone with `ignore`."
                )
            self._unseen.pop(matrix.parameter, None)
            self.seen = True
            features = factors[1 - position] if position else factors[1 - position].mT
            if matrix.expert is None:
                self._count(matrix.name, features)
                continue
            for expert, rows in _by_expert(features, held, offsets):
                if expert in experts:
                    self._count(experts[expert].name, rows)

    def _count(self, name: str, features: Tensor) -> None:
        value = self._measure(features)
        self._current.once(("read", name), lambda: self._totals[name].add_(value))

    def _experts_in(self, matrix: Matrix, factor: Tensor) -> Tensor | None:
        """The expert of each matrix in a factor; None where it holds no weights of these experts.

        A factor with weights is a view of the parameter, or a copy of an expert for each token. It
        may hold some rows of each matrix only, such as the gate; it counts if the first row is
        among them.
        """
        stored = matrix.stored
        for copy, source, chosen in self._copies:
            if factor.data_ptr() == copy.data_ptr() and source.data_ptr() == stored.data_ptr():
                return chosen
        distance = factor.data_ptr() - stored.data_ptr()
        start, rest = divmod(distance, stored.nbytes // matrix.experts)
        if rest or not 0 <= start < matrix.experts:
            return None
        return torch.arange(start, start + (factor.shape[0] if factor.dim() == 3 else 1))


def _by_expert(
    features: Tensor, held: Tensor, offsets: list[Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """The features [tokens, in] of each expert.

    ``features`` are those of one expert [tokens, in]; those of all experts [tokens, in], separated
    by ``offsets``; or one matrix for each batch entry, whose experts are ``held``.
    """
    if features.dim() == 2 and not offsets:
        yield int(held), features
    elif offsets:
        begin = 0
        for expert, end in enumerate(offsets[0].tolist()):
            yield expert, features[begin:end]
            begin = end
    else:
        for expert in held.unique().tolist():
            yield expert, features[held == expert]
