"""The fused expert tensors of a mixture of experts, and what routes tokens to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Size, nn


def fused_experts(block: nn.Module, width: int | None) -> dict[tuple[str, str], bool]:
    """The 3-D parameters that hold one matrix for each expert.

    A mixture of experts keeps them in pairs: one or more that read the block's features and write
    the hidden ones (``2 × hidden`` where gate and up are one), then one that goes back. Which of
    its two last dimensions is the input follows from how the shapes of the pair fit together and
    from the block's width. A 3-D parameter that belongs to no such pair is none of ours.

    Args:
        block: one block.
        width: of the features that go from block to block.

    Returns:
        (name of the owning module within the block, name of the parameter) → whether it is stored
        transposed, [experts, in, out].
    """
    groups: dict[str, list[tuple[str, str, Size]]] = {}
    for name, module in block.named_modules():
        owned = [
            (name, key, parameter.shape)
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.dim() == 3 and min(parameter.shape[1:]) > 1 and not _is_convolution(module)
        ]
        if owned:  # a module that owns one alone has its counterpart beside it
            home = name if len(owned) > 1 else name.rpartition(".")[0]
            groups.setdefault(home, []).extend(owned)
    forms = {
        home: _transposed([shape for *_, shape in group], width) for home, group in groups.items()
    }
    known = {  # where shapes fit both ways, the same class elsewhere in the block tells
        type(block.get_submodule(module)): forms[home]
        for home, group in groups.items()
        for module, *_ in group
        if forms[home] is not None
    }
    found = {}
    for home, group in groups.items():
        for module, key, _ in group:
            owner = block.get_submodule(module)
            form = forms[home]
            if form is None:
                form = known.get(type(owner), getattr(owner, "is_transposed", None))
            if form is not None:
                found[module, key] = bool(form)
    return found


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _transposed(shapes: list[Size], width: int | None) -> bool | None:
    """Whether the matrices are [in, out]; None where the shapes fit both ways, or neither."""

    def fits(transposed: bool, width: int | None = None) -> bool:
        """Down writes what up reads, and reads what up writes, or half of it."""
        turn = -1 if transposed else 1
        *ups, (written, read) = (tuple(shape[1:])[::turn] for shape in shapes)
        return bool(ups) and all(
            up[1] == written == (width or written) and up[0] in (read, 2 * read) for up in ups
        )

    fitting = [transposed for transposed in (False, True) if fits(transposed)]
    if len(fitting) > 1:
        fitting = [transposed for transposed in fitting if fits(transposed, width)]
    return fitting[0] if len(fitting) == 1 else None


def routers(
    block: nn.Module, linears: dict[str, int], fused: Iterable[tuple[str, str]]
) -> set[str]:
    """Those of a block's linear maps that route tokens to experts.

    Experts are fused tensors or a list of equal modules. Of what stands beside them, a part whose
    linear maps all have as many outputs as there are experts, or one, is a router or a gate.

    Args:
        block: one block.
        linears: outputs of each linear map in it, by name.
        fused: what ``fused_experts`` found in it.
    """
    found: set[str] = set()
    for path, count in _expert_counts(block, fused):
        scope, _, own = path.rpartition(".")
        parts: dict[str, list[str]] = {}
        prefix = f"{scope}." if scope else ""
        for name in linears:
            part = name.removeprefix(prefix).split(".")[0]
            if name.startswith(prefix) and part != own:
                parts.setdefault(part, []).append(name)
        for part, names in parts.items():
            if "router" in part or all(linears[name] in (1, count) for name in names):
                found.update(names)
    return found


def _expert_counts(block: nn.Module, fused: Iterable[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    for module, key in fused:
        yield module, block.get_submodule(module).get_parameter(key).shape[0]
    for name, module in block.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            yield name, len(module)
