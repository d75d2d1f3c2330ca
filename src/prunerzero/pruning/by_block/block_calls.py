"""The arguments of each block's call, captured from the model's own forward pass, and replayed.

No mask, position or rotary embedding is built by hand here. While the model reads a window, the
forward methods of its blocks are replaced: each notes its arguments and returns the hidden states
that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.pruning.blocks import Forward, forwards_replaced


class NotOneByOneError(ModelError):
    """The blocks of a model cannot be run one by one.

    Attributes:
        reason: why, as the beginning of a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}, so they cannot be pruned one by one; leave out `block_by_block`, "
            "`propagate` and `gradient`, and use a device that holds the model."
        )
        self.reason = reason


@dataclass(frozen=True)
class Call:
    """The arguments of one block for one window, without the hidden states.

    Attributes:
        args, kwargs: all other arguments.
        keyword: the name of the argument for hidden states; None where they are the first one.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None = None

    @classmethod
    def split(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
        """The hidden states, which are the first argument, and the call without them."""
        if args:
            return args[0], cls(args[1:], kwargs)
        keyword = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        rest = {name: value for name, value in kwargs.items() if name != keyword}
        return kwargs[keyword], cls((), rest, keyword)

    def run(self, block: nn.Module, hidden: Tensor) -> Any:
        """Call the block with these hidden states.

        Raises:
            NotOneByOneError: the block passes something to later blocks, such as its keys and
                values, or reads what an earlier block returned besides hidden states.
        """
        args, kwargs = _map((self.args, self.kwargs), lambda tensor: _moved(tensor, hidden.device))
        others = (*args, *kwargs.values())
        empty = [o for o in others if isinstance(o, MutableMapping) and not o]
        if self.keyword is None:
            output = block(hidden, *args, **kwargs)
        else:
            output = block(*args, **kwargs, **{self.keyword: hidden})
        if any(empty):
            raise NotOneByOneError("blocks hand on more than hidden states")
        return output


class _Withheld(Tensor):
    """Stands for what a block returns besides hidden states: may be passed on, but not read."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise NotOneByOneError("blocks hand on more than hidden states")


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if isinstance(tensor, _Withheld) else tensor.to(device)


class BlockCalls:
    """The calls of a model's blocks on some windows.

    Args:
        model: a transformers causal language model; the weights outside its blocks must be loaded
            for ``capture`` and ``resume``.
        blocks: its blocks; the first must be loaded for the first ``capture``.
    """

    def __init__(self, model: Any, blocks: nn.ModuleList) -> None:
        self._model, self._blocks = model, blocks
        self._calls: list[list[Call]] = [[] for _ in blocks]
        self._windows = 0
        self._tensors: dict[tuple[Any, ...], list[Tensor]] = {}
        self._returned: tuple[type, list[_Withheld | None]] | None = None
        """Tuple or list, with a stand-in for each item but the first; None where blocks return a
        tensor."""

    @torch.no_grad()
    def capture(self, ids: Tensor) -> Tensor:
        """Capture the calls for one more window of ids [1, length].

        Returns:
            the input of the first block.

        Raises:
            NotOneByOneError: the model computes something between its blocks.
        """
        if not self._calls[0]:
            self._learn_what_blocks_return(ids)
        hidden: list[Tensor] = []
        known: dict[int, tuple[Tensor, Tensor]] = {}  # by id: a tensor, and the equal one kept

        def keep(tensor: Tensor) -> Tensor:
            return tensor if isinstance(tensor, _Withheld) else self._keep(tensor, known)

        def note(index: int, states: Tensor, call: Call) -> Tensor:
            if index == 0:
                hidden.append(states)
            if states is not hidden[0]:
                raise NotOneByOneError("the model computes between its blocks")
            args, kwargs = _map((call.args, call.kwargs), keep)
            self._calls[index].append(Call(args, kwargs, call.keyword))
            return states

        with self._replaced(note):
            self._model(input_ids=ids, use_cache=False)
        self._windows += 1
        if any(len(calls) != self._windows for calls in self._calls):
            raise NotOneByOneError("the model does not call each of its blocks once")
        return hidden[0]

    def run(self, index: int, window: int, hidden: Tensor) -> Tensor:
        """The output of block ``index`` for these hidden states of the given window."""
        output = self._calls[index][window].run(self._blocks[index], hidden)
        after: Tensor = output[0] if isinstance(output, tuple | list) else output
        return after

    @contextmanager
    def resume(self, hidden: Tensor) -> Iterator[None]:
        """Inside the ``with``, ``hidden`` is the output of the last block in a forward pass."""
        last = len(self._blocks) - 1
        with self._replaced(lambda index, states, _: hidden if index == last else states):
            yield

    def _learn_what_blocks_return(self, ids: Tensor) -> None:
        first = self._blocks[0]

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, tuple | list):
                others = [_Withheld() if torch.is_tensor(o) else None for o in output[1:]]
                self._returned = type(output), others
            raise _StopReadingError

        hook = first.register_forward_hook(stop)
        try:
            self._model(input_ids=ids, use_cache=False)
        except _StopReadingError:
            pass
        finally:
            hook.remove()

    def _keep(self, tensor: Tensor, known: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """An equal tensor that is kept already, else this one: most are equal in every call."""
        if id(tensor) not in known:
            alike = self._tensors.setdefault((tensor.shape, tensor.dtype, tensor.device), [])
            same = (kept for kept in alike if torch.equal(kept, tensor))
            if (equal := next(same, None)) is None:
                alike.append(equal := tensor.detach())
            known[id(tensor)] = tensor, equal
        return known[id(tensor)][1]

    @contextmanager
    def _replaced(self, act: Callable[[int, Tensor, Call], Tensor]) -> Iterator[None]:
        """Inside the ``with``, each block returns what ``act`` does: the hidden states alone."""

        def replacement(index: int, _forward: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = act(index, *Call.split(args, kwargs))
                if self._returned is None:
                    return output
                kind, others = self._returned
                return kind([output, *others])

            return forward

        with forwards_replaced(self._blocks, replacement), _nothing_else_returned(self._model):
            yield


@contextmanager
def _nothing_else_returned(model: Any) -> Iterator[None]:
    """Inside the ``with``, the config asks for no outputs of blocks, such as router logits."""
    if not hasattr(model, "config"):
        yield
        return
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    wanted = [
        (config, name)
        for config in configs
        for name, value in vars(config).items()
        if name.startswith("output_") and value is True
    ]
    for config, name in wanted:
        setattr(config, name, False)
    try:
        yield
    finally:
        for config, name in wanted:
            setattr(config, name, True)


class _StopReadingError(Exception):
    """Ends a forward pass after the first block."""


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure of tuples, lists and dicts with the function applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_map(item, function) for item in value)
    if type(value) is dict:
        return {key: _map(item, function) for key, item in value.items()}
    return value
