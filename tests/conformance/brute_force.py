"""X and G computed the slow and obvious way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from prunerzero.pruning.blocks import Matrix

FACTORS = {"linear": 0, "matmul": 0, "__matmul__": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""The position of the features among the arguments; the weights come next."""


class Products(TorchFunctionMode):
    """All products of features with a matrix that has the same values as one of the model's."""

    def __init__(self, layers: Mapping[str, Matrix]) -> None:
        super().__init__()
        self.layers = layers
        self.squares = {
            name: torch.zeros(layer.weight.shape[1], dtype=torch.float64)
            for name, layer in layers.items()
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in FACTORS and len(args) > FACTORS[name] + 1:  # no model gives weights by keyword
            features, weights = args[FACTORS[name] : FACTORS[name] + 2]
            self.look(features, weights if name == "linear" else weights.mT)
            if name != "linear":  # the weights may as well come first
                self.look(weights.mT, features)
        return function(*args, **(kwargs or {}))

    def look(self, features: Tensor, weights: Tensor) -> None:
        if weights.dim() > 2 and features.shape[:-2] == weights.shape[:-2]:
            for one, matrix in zip(features, weights, strict=True):
                self.look(one, matrix)
            return
        for name, layer in self.layers.items():
            if layer.weight.shape == weights.shape and torch.equal(layer.weight, weights):
                rows = features.detach().double().reshape(-1, features.shape[-1])
                self.squares[name] += (rows**2).sum(0)


def activations(model: Any, layers: Mapping[str, Matrix], windows: Tensor) -> dict[str, Tensor]:
    """X of each matrix; fused experts are run one after the other."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with torch.no_grad(), Products(layers) as products:
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return {name: squares / len(windows) for name, squares in products.squares.items()}


def gradients(model: Any, layers: Mapping[str, Matrix], windows: Tensor) -> dict[str, Tensor]:
    """G of each matrix."""
    squares = {name: torch.zeros(layer.weight.shape) for name, layer in layers.items()}
    model.requires_grad_(True)
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0]
        cross_entropy(logits[:-1], window[1:]).backward()
        for name, layer in layers.items():
            if layer.stored.grad is not None:
                squares[name] += (100 * layer.oriented(layer.stored.grad)) ** 2
        model.zero_grad()
    model.requires_grad_(False)
    return {name: total.sqrt() for name, total in squares.items()}
