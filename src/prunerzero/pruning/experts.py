"""Mixtures of experts: parameters that hold several experts, and routers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Size, nn


@dataclass(frozen=True)
class Fused:
    """How a parameter holds one matrix for each expert.

    Attributes:
        count: number of experts, along the first dimension: [experts, …, …] or [experts · …, …].
        transposed: whether a matrix is stored [in, out] instead of [out, in].
    """

    count: int
    transposed: bool


FusedExperts = dict[tuple[str, str], Fused]
"""Fused parameters by the name of their module in the block, and their own name."""


def fused_experts(block: nn.Module, linears: dict[str, int], width: int | None) -> FusedExperts:
    """The parameters of a block that hold one matrix for each expert.

    Args:
        block: one block.
        linears: number of outputs of each linear map in it, by name.
        width: of the hidden states between blocks.
    """
    return _pairs(block, width) | _stacks(block, linears, width)


def _pairs(block: nn.Module, width: int | None) -> FusedExperts:
    """3-D parameters, [experts, …, …].

    They come in pairs: one or more that map the hidden states up (to twice the width where gate and
    up are one), then one that maps down. Which of the last two dimensions is the input follows from
    the shapes of the pair and the width of the hidden states. A 3-D parameter that is in no such
    pair is not pruned.
    """
    groups: dict[str, list[tuple[str, str, Size]]] = {}
    for name, module in block.named_modules():
        owned = [
            (name, key, parameter.shape)
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.dim() == 3 and min(parameter.shape[1:]) > 1 and not _is_convolution(module)
        ]
        if owned:  # a module with one such parameter has its counterpart in a module beside it
            home = name if len(owned) > 1 else name.rpartition(".")[0]
            groups.setdefault(home, []).extend(owned)
    forms = {
        home: _transposed([shape for *_, shape in group], width) for home, group in groups.items()
    }
    known = {  # where shapes fit both ways, the same class elsewhere in the block decides
        type(block.get_submodule(module)): forms[home]
        for home, group in groups.items()
        for module, *_ in group
        if forms[home] is not None
    }
    fused: FusedExperts = {}
    for home, group in groups.items():
        for module, key, shape in group:
            owner = block.get_submodule(module)
            form = forms[home]
            if form is None:
                form = known.get(type(owner), getattr(owner, "is_transposed", None))
            if form is not None:
                fused[module, key] = Fused(shape[0], bool(form))
    return fused


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _transposed(shapes: list[Size], width: int | None) -> bool | None:
    """Whether the matrices are [in, out]; None where the shapes fit both ways or neither."""

    def fits(transposed: bool, width: int | None = None) -> bool:
        """Whether down writes what up reads, and reads what up writes or half of it."""
        turn = -1 if transposed else 1
        *ups, (written, read) = (tuple(shape[1:])[::turn] for shape in shapes)
        return bool(ups) and all(
            up[1] == written == (width or written) and up[0] in (read, 2 * read) for up in ups
        )

    fitting = [transposed for transposed in (False, True) if fits(transposed)]
    if len(fitting) > 1:
        fitting = [transposed for transposed in fitting if fits(transposed, width)]
    return fitting[0] if len(fitting) == 1 else None


def _stacks(block: nn.Module, linears: dict[str, int], width: int | None) -> FusedExperts:
    """2-D parameters of one shape, [experts · hidden, width], as in DBRX.

    All but the last of a module map up. The number of experts is the number of outputs of the
    router, the only linear map beside them.
    """
    fused: FusedExperts = {}
    for name, module in block.named_modules():
        owned = {
            key: parameter.shape
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.dim() == 2 and parameter.shape[1] == width
        }
        if name in linears or len(owned) < 2 or len(set(owned.values())) > 1:
            continue
        _, near = _nearest(name, linears)
        rows, count = next(iter(owned.values()))[0], linears[near[0]] if len(near) == 1 else 1
        if count > 1 and rows > count and rows % count == 0:
            last = list(owned)[-1]
            fused.update({(name, key): Fused(count, transposed=key == last) for key in owned})
    return fused


def routers(
    block: nn.Module, linears: dict[str, int], fused: FusedExperts, width: int | None
) -> set[str]:
    """The names of a block's linear maps that route tokens to experts.

    Experts are fused parameters or a list of modules. Looked at are the modules closest to them. A
    module is a router or a gate if each of its linear maps has one output, or as many as there are
    experts. It is a router with hidden layers if it has several linear maps, none of which has the
    width of the hidden states, and the last has fewer than twice as many outputs as there are
    experts: some outputs may stand for other choices, such as to skip all experts.

    Args:
        block: one block.
        linears: number of outputs of each linear map in it, by name.
        fused: what ``fused_experts`` returned for it.
        width: of the hidden states between blocks.
    """
    counts: dict[str, set[int]] = {}
    for (name, _), form in fused.items():
        counts.setdefault(name, set()).add(form.count)
    for name, module in block.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            counts.setdefault(name, set()).add(len(module))
    routing: set[str] = set()
    for path, of_experts in counts.items():
        depth, near = _nearest(path, linears)
        parts: dict[str, list[str]] = {}
        for name in near:
            parts.setdefault(name.split(".")[depth], []).append(name)
        for part, names in parts.items():
            outputs = [linears[name] for name in names]
            alone = all(count in {1, *of_experts} for count in outputs)
            deep = len(names) > 1 and width not in outputs and outputs[-1] < 2 * max(of_experts)
            if "router" in part or alone or deep:
                routing.update(names)
    return routing


def _nearest(path: str, names: Iterable[str]) -> tuple[int, list[str]]:
    """The length of the longest prefix of ``path`` shared with names outside it, and those names.

    >>> _nearest("mlp.experts.up", ["mlp.experts.up.0", "mlp.router", "mlp.shared", "attention"])
    (1, ['mlp.router', 'mlp.shared'])
    """
    way = path.split(".")
    for depth in reversed(range(len(way))):
        outside = [
            name
            for name in names
            if (parts := name.split("."))[:depth] == way[:depth] and parts[: len(way)] != way
        ]
        if outside:
            return depth, outside
    return 0, []
