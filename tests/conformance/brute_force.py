"""X, G and D computed the slow and obvious way."""

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
        self.rows = {
            name: [torch.zeros(0, layer.weight.shape[1], dtype=torch.float64)]
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
                self.rows[name].append(rows)


def activations(
    model: Any, layers: Mapping[str, Matrix], windows: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """X and D of each matrix; fused experts are run one after the other."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with torch.no_grad(), Products(layers) as products:
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    read = {name: torch.cat(rows) for name, rows in products.rows.items()}
    X = {name: (rows**2).sum(0) / len(windows) for name, rows in read.items()}
    return X, {name: irreplaceable(rows) for name, rows in read.items()}


def irreplaceable(rows: Tensor) -> Tensor:
    """D [in] of the rows [tokens, in] that a matrix reads, in float64."""
    H = rows.T @ rows
    alive = H.diagonal() > 0
    A = (H + 0.01 * torch.diag(H.diagonal()))[alive][:, alive]
    D = torch.zeros(rows.shape[1], dtype=torch.float64)
    D[alive] = torch.linalg.inv(A).diagonal() ** -0.5
    return D


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
