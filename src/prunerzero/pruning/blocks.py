"""The blocks of a model and the matrices in them, recognised by structure, not by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.metrics import Sparsity
from prunerzero.pruning.experts import fused_experts, routers
from prunerzero.pruning.linear_maps import groups, is_transposed

Forward = Callable[..., Any]
"""The forward method of a block."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """One prunable linear map, in any form that a model may store it in.

    Attributes:
        name: full name; of an expert ``…experts.3.gate_up_proj``, of a group ``…proj.3``.
        module: the module that owns the parameter.
        parameter: the parameter's name in that module.
        transposed: whether it is stored [in, out], as in GPT-2, instead of [out, in].
        expert: index of the matrix in a parameter that holds several, those of experts or of groups
            with input features of their own; None where the parameter is one matrix.
        experts: number of matrices in the parameter, along its first dimension.
        sharing: other modules that own the same parameter.
        parent: the module around ``module``, where the parameter is one matrix.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    transposed: bool = False
    expert: int | None = None
    experts: int = 1
    sharing: tuple[nn.Module, ...] = ()
    parent: nn.Module | None = None

    @property
    def stored(self) -> nn.Parameter:
        """The whole parameter, as the model stores it."""
        parameter: nn.Parameter = getattr(self.module, self.parameter)
        return parameter

    @property
    def weight(self) -> Tensor:
        """The weights [out, in], a view without gradient: writing to it prunes the model."""
        return self.oriented(self.stored.detach())

    def oriented(self, stored: Tensor) -> Tensor:
        """This matrix's part [out, in] of a tensor that is laid out like the parameter."""
        part = stored
        if self.expert is not None:
            part = stored.view(self.experts, -1, stored.shape[-1])[self.expert]
        return part.t() if self.transposed else part


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and list of the model's blocks; the first of several ``block_lists``.

    Raises:
        ModelError: the model has no such list.
    """
    return block_lists(model)[0]


def block_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The names and lists of the model's blocks; most models have one list.

    Of all outermost lists of modules, the blocks are in the one closest to the embedding of text
    tokens, as in the text tower of a vision-language model; of several equally close, in the
    longest. Its modules may have different classes. Several lists of that length belong together,
    such as one of attentions and one of feed-forward parts.

    Raises:
        ModelError: the model has no such list.
    """
    embedding = _token_embedding(model)
    ranked: dict[tuple[int, int, int], list[tuple[str, nn.ModuleList]]] = {}
    for name, blocks in _outermost_lists(model):
        shared = _shared_depth(name, embedding)
        rank = shared, shared - len(name.split(".")), len(blocks)
        ranked.setdefault(rank, []).append((name, blocks))
    if not ranked:
        raise ModelError("the model has no list of equal blocks, so nothing in it can be pruned.")
    return ranked[max(ranked)]


def _outermost_lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Lists of modules with submodules, which are inside no other such list."""
    outer: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(o) for o in outer):
            continue
        if len(module) and all(next(child.children(), None) is not None for child in module):
            outer.append(f"{name}.")
            yield name, module


def _token_embedding(model: nn.Module) -> str:
    """The name of the text's embedding; empty where the model has no ``get_input_embeddings``."""
    ask = getattr(model, "get_input_embeddings", None)
    try:
        wanted = ask() if ask is not None else None
    except NotImplementedError:
        wanted = None
    return next((name for name, module in model.named_modules() if module is wanted), "")


def _shared_depth(one: str, other: str) -> int:
    depth = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        depth += 1
    return depth


def prunable_layers(
    model: nn.Module, ignore: tuple[str, ...] = (), target: tuple[str, ...] = ()
) -> dict[str, Matrix]:
    """Every linear map inside the blocks, by its full name, in the model's order.

    Left out are embeddings, norms and the output head, which are outside the blocks; routers of
    experts; and matrices that share their weights with an embedding. A parameter that several
    modules share appears once.

    Args:
        model: any model built of blocks.
        ignore: patterns of full names to leave out, such as ``"*.down_proj"``.
        target: patterns of full names to keep; empty for all.

    Raises:
        ModelError: nothing is left to prune.
    """
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(module)
    taken: set[tuple[int, int | None]] = {
        (id(module.weight), None) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    embedding = _token_embedding(model)
    width = model.get_parameter(f"{embedding}.weight").shape[1] if embedding else None
    layers: dict[str, Matrix] = {}
    example = ""
    blocks = (
        (f"{prefix}.{index}", block)
        for prefix, modules in block_lists(model)
        for index, block in modules.named_children()
    )
    for name, block in blocks:
        for matrix in _matrices(name, block, width, owners):
            example = matrix.name
            key = id(matrix.stored), matrix.expert
            if key not in taken and _wanted(matrix.name, ignore, target):
                taken.add(key)
                layers[matrix.name] = matrix
    if not layers:
        like = f"; its layers have names such as {example!r}" if example else ""
        asked = " by `target` and `ignore`" if ignore or target else ""
        raise ModelError(f"no linear layer of the model is left to prune{asked}{like}.")
    return layers


def _wanted(name: str, ignore: tuple[str, ...], target: tuple[str, ...]) -> bool:
    if target and not any(fnmatchcase(name, pattern) for pattern in target):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in ignore)


def _matrices(
    prefix: str, block: nn.Module, width: int | None, owners: dict[int, list[nn.Module]]
) -> Iterator[Matrix]:
    """The matrices of one block, without its routers."""
    forms = {name: is_transposed(module) for name, module in block.named_modules()}
    linears = {
        name: block.get_submodule(name).get_parameter("weight").shape[1 if transposed else 0]
        for name, transposed in forms.items()
        if transposed is not None
    }
    fused = fused_experts(block, linears, width)
    left_alone = routers(block, linears, fused, width)
    for name, module in block.named_modules():
        full = f"{prefix}.{name}" if name else prefix
        if name in linears and name not in left_alone and (count := groups(module)) > 1:
            for group in range(count):
                yield Matrix(f"{full}.{group}", module, expert=group, experts=count)
        elif name in linears and name not in left_alone:
            sharing = tuple(o for o in owners[id(module.weight)] if o is not module)
            parent = block.get_submodule(name.rpartition(".")[0]) if name else None
            transposed = bool(forms[name])
            yield Matrix(full, module, transposed=transposed, sharing=sharing, parent=parent)
        for key, _ in module.named_parameters(recurse=False):
            if (name, key) in fused:
                form = fused[name, key]
                for expert in range(form.count):
                    named = f"{full}.{expert}.{key}"
                    yield Matrix(named, module, key, form.transposed, expert, form.count)


def check_widths(layers: Mapping[str, Any], sparsity: Sparsity) -> None:
    """Raise SparsityError if the number of a layer's inputs does not fit the pattern."""
    for name, layer in layers.items():
        sparsity.check(layer.weight.shape[1], f"layer {name}")


def sharing_blocks(blocks: nn.ModuleList) -> tuple[str, str] | None:
    """The names of two blocks that share a parameter, so that they cannot be pruned one by one."""
    owner: dict[int, str] = {}
    for index, block in blocks.named_children():
        for parameter in block.parameters():
            if (other := owner.setdefault(id(parameter), index)) != index:
                return other, index
    return None


def check_apart(blocks: nn.ModuleList) -> None:
    """Raise ModelError if blocks share parameters: they cannot be pruned one by one then."""
    if (pair := sharing_blocks(blocks)) is not None:
        raise ModelError(
            f"blocks {pair[0]} and {pair[1]} of the model share weights; prune it as a whole, "
            "without `block_by_block`."
        )


def layers_inside(layers: Mapping[str, Matrix], block: str) -> dict[str, Matrix]:
    """The layers of the block of that full name."""
    return {name: layer for name, layer in layers.items() if name.startswith(f"{block}.")}


@contextmanager
def forwards_replaced(
    blocks: nn.ModuleList, replacement: Callable[[int, Forward], Forward]
) -> Iterator[None]:
    """Inside the ``with``, each block runs another forward method.

    Args:
        blocks: the blocks of a model.
        replacement: index of a block and its own forward method → the one to run instead.
    """
    before = [block.__dict__.get("forward") for block in blocks]
    for index, block in enumerate(blocks):
        block.forward = replacement(index, block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
