"""Linear maps in any form that models have, recognised by what they compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


def is_transposed(module: nn.Module) -> bool | None:
    """How a module that is a linear map stores its matrix.

    Returns:
        False for [out, in], as ``nn.Linear``; True for [in, out], as the ``Conv1D`` of GPT-2; None
        for a module that is no linear map.
    """
    if isinstance(module, nn.Linear):
        return False
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 2 or next(module.children(), None) is not None:
        return None
    if isinstance(module, nn.Embedding):
        return None
    shape = weight.shape[0], weight.shape[1]
    if shape[0] != shape[1]:
        return _probe(module, shape)
    # a square matrix needs values: the weight in row 0, column 1 maps input 1 to output 0
    one = torch.zeros(shape)
    one[0, 1] = 1
    features = torch.zeros(1, shape[1])
    features[0, 0] = 1
    answer = _call(module, one, features)
    if answer is None or answer.shape != features.shape:
        return None
    return bool(answer[0, 1] != 0)


def groups(module: nn.Module) -> int:
    """The number of blocks of a block-diagonal linear map; 1 for any other.

    A block-diagonal map with a matrix [out, in] takes features [..., groups, in] and returns
    [..., groups, out / groups].
    """
    if type(module).forward is nn.Linear.forward or not isinstance(module, nn.Linear):
        return 1
    out, width = module.weight.shape
    weight = torch.empty(module.weight.shape, device="meta")
    for count in (count for count in range(1, out) if out % count == 0):
        answer = _call(module, weight, torch.empty(1, count, width, device="meta"))
        if answer is not None:  # a plain map takes this number of groups too
            return count if answer.shape == (1, count, out // count) else 1
    return 1


@torch.no_grad()
def is_plain(module: nn.Module) -> bool:
    """Whether a linear map only multiplies with its weight and adds its bias."""
    if type(module).forward is nn.Linear.forward:
        return True
    transposed, weight = is_transposed(module), module.get_parameter("weight")
    if transposed is None:
        return False
    matrix = weight.t() if transposed else weight
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, matrix.shape[1], generator=generator).to(matrix)
    features[1] = 0
    answer = module(features)
    expected = torch.nn.functional.linear(features[:1], matrix)
    product = answer[:1] - answer[1:]  # without the bias
    return bool((product - expected).abs().amax() <= 1e-2 * expected.abs().amax())


def _probe(module: nn.Module, shape: tuple[int, int]) -> bool | None:
    """Try features of both widths on the meta device, without computing anything."""
    weight = torch.empty(shape, device="meta")
    for width, out, transposed in ((shape[1], shape[0], False), (shape[0], shape[1], True)):
        answer = _call(module, weight, torch.empty(1, width, device="meta"))
        if answer is not None and answer.shape == (1, out):
            return transposed
    return None


def _call(module: nn.Module, weight: Tensor, features: Tensor) -> Tensor | None:
    others = {
        name: torch.zeros(tensor.shape, device=weight.device)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    try:
        with torch.no_grad():
            answer = functional_call(module, {**others, "weight": weight}, (features,))
    except Exception:  # whatever it raises, a module that does not take features is no linear map
        return None
    return answer if isinstance(answer, Tensor) else None
