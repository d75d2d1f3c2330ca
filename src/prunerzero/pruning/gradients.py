"""Gradients: sums of squares of each window's gradient, for each matrix, in the pass backward.

The gradient of a linear map's weights is the product of its input with the gradient of its output.
The pass backward has both for each window. So windows are read in batches, the product of each
window is squared separately, and no gradient of the weights is stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration_pass import CalibrationPass, WindowsMixedError
from prunerzero.pruning.linear_maps import is_plain
from prunerzero.pruning.square_products import add_squared_products

GRADIENT_SCALE = 100.0
"""Gradients are multiplied by this before they are squared, as in the published method."""


@contextmanager
def watch_gradients(
    layers: Mapping[str, Matrix], squares: dict[str, Tensor], current: CalibrationPass
) -> Iterator[None]:
    """Put the sums over windows of (100 · gradient)² into ``squares`` [out, in].

    Where a weight is used without calling its module, as in fused experts, and where a module does
    more than multiply, torch computes the gradient, which is added and freed at once. Windows must
    then be read one at a time: ``current.separable`` turns false.

    Args:
        layers: the matrices by full name.
        squares: gets fp32 [out, in] for each matrix.
        current: the current pass.

    Raises:
        WindowsMixedError: in a pass, where the windows of its batch cannot be separated.
    """
    hooks: list[Any] = []
    factors = _Factors(squares, current)
    current.at_end.append(factors.end)
    wholes: dict[int, Tensor] = {}  # by id: experts are slices of one parameter with one gradient
    for name, layer in layers.items():
        stored = layer.stored
        if id(stored) in wholes:
            squares[name] = layer.oriented(wholes[id(stored)])
            continue
        if layer.expert is None and is_plain(layer.module):
            squares[name] = torch.zeros(layer.weight.shape, device=stored.device)
            for module in (layer.module, *layer.sharing):
                hooks += factors.hooks(name, module)
            whole = squares[name].t() if layer.transposed else squares[name]
        else:
            whole = wholes[id(stored)] = torch.zeros(stored.shape, device=stored.device)
            squares[name] = layer.oriented(whole)
        stored.requires_grad_(True)
        hooks.append(stored.register_post_accumulate_grad_hook(_adder(whole, current)))
    try:
        yield
        factors.end(failed=False)
    finally:
        current.at_end.remove(factors.end)  # a cycle would keep the sums in memory
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            layer.stored.requires_grad_(False)
            layer.stored.grad = None


def _adder(total: Tensor, current: CalibrationPass) -> Callable[[Tensor], None]:
    def add(stored: Tensor) -> None:
        gradient, stored.grad = stored.grad, None
        assert gradient is not None
        current.separable = False
        if current.windows > 1:
            raise WindowsMixedError
        # one operation, as memory bandwidth limits this in large models
        current.once(
            ("whole", id(stored)),
            lambda: total.addcmul_(gradient, gradient, value=GRADIENT_SCALE**2),
        )

    return add


class _Factors:
    """The factors of gradients: inputs of modules, and the gradients of their outputs."""

    def __init__(self, squares: dict[str, Tensor], current: CalibrationPass) -> None:
        self._squares, self._current = squares, current
        self._calls: dict[str, int] = defaultdict(int)  # in this pass
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._anchors: dict[torch.device, Tensor] = {}

    def hooks(self, name: str, module: nn.Module) -> list[Any]:
        """Watch a module that multiplies with the matrix ``name``."""
        weight = module.get_parameter("weight")

        def enter(_module: Any, _inputs: Any) -> None:
            weight.requires_grad_(False)

        def leave(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            weight.requires_grad_(True)
            if not torch.is_grad_enabled():
                return None
            features = inputs[0]
            if not self._current.in_backward:
                self._called(name, features)
            anchor = self._anchor(output.device)
            return _Product.apply(output, features, anchor, lambda x, g: self._take(name, x, g))  # type: ignore[no-any-return, no-untyped-call]

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _anchor(self, device: torch.device) -> Tensor:
        """A tensor that requires a gradient, so that the first block has a pass backward too."""
        if device not in self._anchors:
            self._anchors[device] = torch.zeros((), device=device, requires_grad=True)
        return self._anchors[device]

    def _called(self, name: str, features: Tensor) -> None:
        apart = features.dim() > 2 and features.shape[0] == self._current.windows
        self._current.separable &= apart
        if self._current.windows > 1 and not apart:
            raise WindowsMixedError
        if self._pairs[name]:  # from the pass before, whose loss did not depend on all calls
            self._finish(name)
        self._calls[name] += 1

    def _take(self, name: str, features: Tensor, gradient: Tensor) -> None:
        self._pairs[name].append((features, gradient))
        if len(self._pairs[name]) >= self._calls[name]:
            self._finish(name)

    def _finish(self, name: str) -> None:
        """Count the sum of all products of a pass: a matrix may be used more than once."""
        pairs, self._pairs[name], self._calls[name] = self._pairs[name], [], 0
        right, left = (
            torch.cat(
                [part.reshape(self._current.windows, -1, part.shape[-1]) for part in parts], 1
            )
            if len(parts) > 1
            else parts[0].reshape(self._current.windows, -1, parts[0].shape[-1])
            for parts in zip(*pairs, strict=True)
        )
        total = self._squares[name]
        self._current.once(
            ("product", name),
            lambda: add_squared_products(total, left, right, GRADIENT_SCALE**2),
        )

    def end(self, failed: bool) -> None:
        """At the end of a pass, finish matrices with gradients from some of their calls only."""
        for name, pairs in self._pairs.items():
            if pairs and not failed:
                self._finish(name)
        self._pairs.clear()
        self._calls.clear()


class _Product(torch.autograd.Function):
    """Returns a linear map's output unchanged; its pass backward gives both factors to ``take``."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        features: Tensor,
        _anchor: Tensor,
        take: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(features)
        ctx.take = take
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0].contiguous()
        ctx.take(ctx.saved_tensors[0], gradient)
        return gradient, None, None, None
