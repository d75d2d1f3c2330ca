"""Where the models of a search are: together, each on a GPU of its worker's, or by turns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from prunerzero.errors import ModelError
from prunerzero.tasks import fits, places
from prunerzero.tasks.fits import Need
from prunerzero.tasks.places import Places, places_of

GB = 10**9
WITHOUT_GRAMS = Need(52 * GB, 52 * GB, 13 * GB, waiting=80 * GB)
SEVEN_B = replace(WITHOUT_GRAMS, grams=28 * GB, grams_on_host=44 * GB)


@pytest.fixture
def placed(monkeypatch):
    """Where models are, on so many GPUs with so much memory free."""

    def decide(
        needs: list[Need],
        gpus: int,
        free: int | list[int] = 80 * GB,
        *,
        workers: int | None = None,
        host: int = 10**13,
    ) -> Places:
        each = free if isinstance(free, list) else [free] * gpus
        monkeypatch.setattr(fits, "find_devices", lambda name: (torch.device(name),))
        monkeypatch.setattr(fits, "_free", lambda found: each[found[0].index])
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=host))
        names = [f"cuda:{number}" for number in range(gpus)]
        count = gpus if workers is None else workers
        return places_of(needs, [names[n % gpus] for n in range(count)], names, workers)

    return decide


def test_models_that_fit_together_keep_one_worker_for_each_gpu(placed):
    found = placed([WITHOUT_GRAMS] * 2, 4, 141 * GB)
    assert found == Places(tuple((f"cuda:{n}",) * 2 for n in range(4)))
    assert placed([SEVEN_B], 4) == Places(tuple((f"cuda:{n}",) for n in range(4)))


def test_others_stay_each_on_a_gpu_of_their_worker(placed):
    found = placed([WITHOUT_GRAMS] * 2, 4)
    assert found.workers == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")) and not found.by_turns
    assert found.told == (
        "the 2 models together need about 104.0 GB, and a GPU has 80.0 GB free: each model stays "
        "on one of 2 GPUs, and each of 2 workers has so many."
    )
    alone = placed([WITHOUT_GRAMS] * 2, 2)
    assert alone.workers == (("cuda:0", "cuda:1"),)
    assert alone.told.endswith("each model stays on one of 2 GPUs, and 1 worker has so many.")


def test_a_worker_has_the_fewest_gpus_on_which_the_models_fit_and_what_is_left_is_told(placed):
    small = Need(20 * GB, 20 * GB, 5 * GB)
    found = placed([small, WITHOUT_GRAMS, small], 5)
    assert found.workers == (("cuda:1", "cuda:0", "cuda:1"), ("cuda:3", "cuda:2", "cuda:3"))
    assert found.told.endswith("each of 2 workers has so many; 1 of 5 GPUs is left idle.")
    three = placed([WITHOUT_GRAMS] * 3, 5)
    assert three.workers == (("cuda:0", "cuda:1", "cuda:2"),)
    assert three.told.endswith("1 worker has so many; 2 of 5 GPUs are left idle.")


def test_models_take_turns_where_gpus_do_not_suffice_for_every_worker_that_is_wanted(placed):
    for gpus, workers in [(3, 2), (1, None), (1, 1), (4, 1)]:
        found = placed([WITHOUT_GRAMS] * 2, gpus, workers=workers)
        assert found.by_turns and "one model at a time" in found.told
        assert len(found.workers) == (workers or gpus)
    found = placed([WITHOUT_GRAMS] * 2, 4, workers=2)
    assert found.workers == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))


def test_the_fullest_gpu_stands_for_all(placed):
    assert not placed([WITHOUT_GRAMS] * 2, 2, [141 * GB, 80 * GB]).by_turns
    assert placed([WITHOUT_GRAMS] * 2, 4, [80 * GB, 80 * GB, 80 * GB, 60 * GB]).by_turns


def test_gram_matrices_have_to_fit_in_host_memory_where_a_gpu_has_no_room_for_them(placed):
    assert not placed([SEVEN_B] * 2, 4, 79 * GB, host=176 * GB).by_turns
    with pytest.raises(ModelError, match="GB of host memory"):  # nor is there any for turns
        placed([SEVEN_B] * 2, 4, 79 * GB, host=175 * GB)
    assert not placed([SEVEN_B] * 2, 4, 81 * GB, host=0).by_turns


def test_a_model_that_fits_on_no_gpu_is_refused(placed):
    with pytest.raises(ModelError, match="by turns the largest needs"):
        placed([WITHOUT_GRAMS] * 2, 4, 50 * GB)


sizes = st.integers(0, 60)


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    models=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=5),
    gpus=st.integers(1, 9),
    workers=st.one_of(st.none(), st.integers(1, 9)),
)
def test_every_gpu_has_room_for_what_is_on_it(placed, models, gpus, workers):
    needs = [Need(device * GB, device * GB, min(pruned, device) * GB) for device, pruned in models]
    try:
        found = placed(needs, gpus, 100 * GB, workers=workers)
    except ModelError:
        assert workers is not None and workers > gpus, "a GPU has room for any of them alone"
        return
    if workers is not None or not found.told or found.by_turns:
        assert len(found.workers) == (workers or gpus)
    if found.by_turns:
        return
    on_gpu: dict[str, list[Need]] = {}
    for worker in found.workers:
        for need, gpu in zip(needs, worker, strict=True):
            on_gpu.setdefault(gpu, []).append(need)
    for there in on_gpu.values():
        assert sum(need.device for need in there) <= 100 * GB
    if found.told:
        assert all(len(set(worker)) == len(set(found.workers[0])) > 1 for worker in found.workers)
        used = [gpu for worker in found.workers for gpu in set(worker)]
        assert len(used) == len(set(used)), "no GPU has two workers"
        for there in on_gpu.values():
            copy = max(need.pruned for need in there)
            assert sum(need.device for need in there) + copy <= 90 * GB


def test_the_largest_models_are_placed_first_each_where_least_is():
    assert places._balanced([Need(device=n) for n in (1, 5, 3, 3)], 2) == [0, 0, 1, 1]
