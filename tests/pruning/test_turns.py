"""Models that take turns on a device: each gives the losses that it gives alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from moved_tensors import Moves, poisoned_moves
from tiny_model import tiny_gemma, tiny_model

from prunerzero.metrics import CATALOG, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import collect_statistics
from prunerzero.pruning.turns import Turns, Visitor

if not torch.cuda.is_available():
    warnings.warn("no GPU here: models are not moved between host and device", stacklevel=1)

WINDOWS = torch.randint(0, 32, (24, 20), generator=torch.Generator().manual_seed(1))
SPARSITIES = [Sparsity.parse(text) for text in ("0.5", "2:4")]
METRIC, OTHER = CATALOG["pruner-zero"].expression, CATALOG["wanda"].expression
REFITS = [Refit(), Refit("least-squares", solver_steps=4), Refit("none", "admm")]


class One:
    """A model with all that belongs to it, and the fitness of it at each sparsity."""

    def __init__(
        self, model: Any, refit: Refit, turns: Turns | None, sparsities: list[Sparsity] = SPARSITIES
    ) -> None:
        self.model, self.layers = model, prunable_layers(model)
        self.statistics = collect_statistics(model, self.layers, WINDOWS)
        grams = collect_grams(model, self.layers, WINDOWS, on_host=turns is not None)
        self.visitor = None if turns is None else Visitor(turns, self._tensors)
        if self.visitor is not None:
            self.visitor.come()
        first = PrunedLoss(
            model, self.layers, self.statistics, sparsities[0], WINDOWS,
            windows_per_chunk=2, race_chunks=7, refit=refit, grams=grams if refit else None,
            visitor=self.visitor,
        )  # fmt: skip
        self.cases = [first, *map(first.at, sparsities[1:])]
        self.dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from (*self.model.parameters(), *self.model.buffers())
        for layer in self.statistics.values():
            yield from (t for t in (layer.X, layer.G, layer.D) if t is not None)

    def is_dense(self) -> bool:
        if self.visitor is not None:
            self.visitor.come()
        now = self.model.state_dict()
        return all(torch.equal(now[name], tensor) for name, tensor in self.dense.items())


def models() -> list[Callable[[], Any]]:
    return [tiny_model, tiny_gemma]


def alone(refit: Refit) -> list[list[float]]:
    """The losses of each case, of models that are on the device together."""
    return [
        list(case.losses(METRIC)) for make in models() for case in One(make(), refit, None).cases
    ]


EXPECTED = {refit: alone(refit) for refit in REFITS}


@pytest.mark.parametrize("refit", REFITS, ids=str)
@examples(max_examples=6, deadline=None)
@given(order=st.lists(st.integers(0, 3), max_size=60))
def test_each_gives_the_losses_that_it_gives_alone_however_turns_are_taken(refit, order):
    with poisoned_moves() as moves:
        turns = Turns()
        found = [One(make(), refit, turns) for make in models()]
        readings = [case.losses(METRIC) for one in found for case in one.cases]
        read: list[list[float]] = [[] for _ in readings]
        for turn in [*order, *sorted([0, 1, 2, 3] * 12)]:
            read[turn] += [loss for loss in [next(readings[turn], None)] if loss is not None]
        assert read == EXPECTED[refit]
        assert moves.left and all(one.is_dense() for one in found)


@pytest.fixture
def moves() -> Iterator[Moves]:
    with poisoned_moves() as moves:
        yield moves


def test_a_candidate_that_is_left_in_the_middle_leaves_dense_models(moves):
    turns = Turns()
    found = [One(make(), Refit(), turns) for make in models()]
    readings = [case.losses(OTHER) for one in found for case in one.cases]
    for reading in readings:
        next(reading)
    for reading in readings:
        reading.close()
    assert all(one.is_dense() for one in found)
    assert [list(c.losses(METRIC)) for one in found for c in one.cases] == EXPECTED[Refit()]


def test_one_model_at_a_time_has_memory_on_the_device(moves):
    turns = Turns()
    one, other = (One(make(), Refit(), turns) for make in models())
    next(one.cases[0].losses(METRIC))
    owned = {t.untyped_storage()._cdata for t in [*other._tensors()]}
    copies = {t.untyped_storage()._cdata for t in other.cases[0]._weights._dense.values()}
    assert set(moves.away) == owned | copies


def test_a_model_is_copied_to_host_memory_once_and_comes_when_it_is_needed_alone(moves):
    turns = Turns()
    one, other = (One(make(), Refit(), turns) for make in models())
    list(one.cases[0].losses(METRIC))
    copies = {key: host.data_ptr() for key, (_, host) in one.visitor._waiting.items()}
    list(other.cases[0].losses(METRIC))
    left = moves.left
    list(other.cases[1].losses(METRIC))
    assert moves.left == left, "the other sparsity of a model that is there"
    list(one.cases[0].losses(METRIC))
    assert {key: host.data_ptr() for key, (_, host) in one.visitor._waiting.items()} == copies


def test_a_model_that_has_no_room_leaves_nothing_of_it_on_the_device(moves, monkeypatch):
    turns, come = Turns(), []
    one, other = (One(make(), Refit(), turns) for make in models())

    def allocate(storage: torch.UntypedStorage, size: int) -> None:
        if len(come) == 5:
            raise torch.OutOfMemoryError
        come.append(storage)
        moves.allocate(storage, size)

    monkeypatch.setattr("prunerzero.pruning.turns.allocate", allocate)
    with pytest.raises(ValueError, match="memory does not suffice"):
        next(one.cases[0].losses(METRIC))
    assert {t.untyped_storage()._cdata for t in (*one._tensors(), *other._tensors())} <= {
        *moves.away
    }


@examples(max_examples=15, deadline=None)
@given(
    after=st.integers(0, 400), error=st.sampled_from([KeyboardInterrupt, torch.OutOfMemoryError])
)
def test_what_fails_in_the_midst_of_a_move_changes_no_figure_after_it(after, error):
    with poisoned_moves() as moves:
        turns = Turns()
        found = [One(make(), Refit(), turns) for make in models()]
        for one in found:  # each has left once
            one.visitor.come()
        moves.fails_at, moves.error = after, error
        readings = [case.losses(OTHER) for one in found for case in one.cases]
        try:
            for _ in range(3):
                for reading in readings:
                    next(reading)
        except (KeyboardInterrupt, ValueError) as raised:
            assert isinstance(raised, KeyboardInterrupt) or "memory does not suffice" in str(raised)
        finally:
            moves.fails_at = None
            for reading in readings:
                reading.close()
        assert [list(c.losses(METRIC)) for one in found for c in one.cases] == EXPECTED[Refit()]
        assert all(one.is_dense() for one in found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("group", ["row", "layer", "model"])
@pytest.mark.parametrize("refit", REFITS, ids=str)
def test_on_a_gpu_moved_models_give_the_bits_of_models_that_stay(dtype, group, refit):
    """Memory that was freed is taken in between, so that a model comes back to other addresses."""
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    sparsities = [Sparsity(0.5, group=group), Sparsity(0.6, group=group)]
    if group == "row":
        sparsities.append(SPARSITIES[1])

    def cases(turns: Turns | None) -> list[One]:
        made = [lambda: tiny_model(**sizes), lambda: tiny_model(5, **sizes), tiny_gemma]
        return [One(m().to(dtype).cuda(), refit, turns, sparsities) for m in made]

    together = [list(case.losses(METRIC)) for one in cases(None) for case in one.cases]
    found = cases(Turns())
    owners = [one for one in found for _ in sparsities]
    sizes_of_all = {p.numel() for one in found for p in one.model.parameters()}
    addresses: dict[int, set[int]] = {}
    taken: list[torch.Tensor] = []  # of each size, so that none finds its old place free
    for _ in range(3):
        readings = [case.losses(METRIC) for one in found for case in one.cases]
        read: list[list[float]] = [[] for _ in readings]
        for stop in (1, 2, 4, 8, 12):
            for place, reading in enumerate(readings):
                while len(read[place]) < stop:
                    read[place].append(next(reading))
                weight = next(iter(owners[place].layers.values())).weight
                addresses.setdefault(place, set()).add(weight.data_ptr())
                taken += [torch.ones(n, dtype=dtype, device="cuda") for n in sizes_of_all]
        assert read == together
    assert any(len(seen) > 1 for seen in addresses.values()), "all came back to where they were"
    assert all(one.is_dense() for one in found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_what_waits_takes_none_of_its_memory():
    torch.cuda.empty_cache()
    turns = Turns()
    large = {"hidden_size": 1024, "intermediate_size": 2048}
    one = One(tiny_model(**large).cuda(), Refit(), turns)
    there = torch.cuda.memory_allocated()
    other = Visitor(turns, lambda: [])
    other.come()
    size = sum(parameter.nbytes for parameter in one.model.parameters())
    assert torch.cuda.memory_allocated() < there - 2.9 * size  # weights, their copy, and G
    one.visitor.come()
    assert torch.cuda.memory_allocated() == pytest.approx(there, rel=0.01)
