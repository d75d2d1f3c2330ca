"""Where the models of a search are: together, each on a GPU of its worker's, or by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunerzero.tasks.fits import Need, check_room, free_of_host, free_on, has_room, on_device


@dataclass(frozen=True)
class Places:
    """Where the models of a search are.

    Attributes:
        workers: of each worker, the device of each model.
        by_turns: whether those on one device are there one at a time.
        told: why they are not together on one device, in a sentence; empty where they are.
    """

    workers: tuple[tuple[str, ...], ...]
    by_turns: bool = False
    told: str = ""


def places_of(
    needs: Sequence[Need], devices: Sequence[str], gpus: Sequence[str], wanted: int | None
) -> Places:
    """Decide where the models of a search are.

    Models that fit on a GPU together are together on that of their worker. Others stay each on one
    of several GPUs of their worker, the fewest on which they fit, where every worker that is wanted
    can have so many. Else they take turns.

    Args:
        needs: of each model.
        devices: of each worker, where each has one.
        gpus: all GPUs; none where the user chose among them.
        wanted: how many workers; None for as many as there can be.

    Raises:
        ModelError: they do not fit, not even by turns.
    """
    spread = None
    if min(len(needs), len(devices), len(gpus)) > 1:  # one worker alone leaves the other GPUs free
        spread = _spread(needs, gpus, wanted)
    if spread is not None:
        return spread
    crowded = check_room(needs, devices)
    return Places(tuple((device,) * len(needs) for device in devices), bool(crowded), crowded)


def _spread(needs: Sequence[Need], gpus: Sequence[str], wanted: int | None) -> Places | None:
    """Each model on one of the GPUs of its worker; None where that is not needed or not possible.

    The GPU with the least free memory stands for all.
    """
    free, all_of = min(map(free_on, gpus)), len(gpus)
    for count in range(1, min(len(needs), all_of // (wanted or 1)) + 1):
        places = _balanced(needs, count)
        on_each = [
            [n for n, p in zip(needs, places, strict=True) if p == gpu] for gpu in range(count)
        ]
        if all(has_room(there, free) for there in on_each):
            break
    else:
        return None
    workers = wanted or all_of // count
    full = [there for there in on_each if on_device(there) + sum(n.grams for n in there) > free]
    in_host = workers * sum(need.grams_on_host for there in full for need in there)
    if count == 1 or in_host > free_of_host():
        return None
    idle = all_of - workers * count
    return Places(
        tuple(tuple(gpus[w * count + place] for place in places) for w in range(workers)),
        told=f"the {len(needs)} models together need about {on_device(needs) / 1e9:.1f} GB, and a "
        f"GPU has {free / 1e9:.1f} GB free: each model stays on one of {count} GPUs, and "
        f"{'1 worker has' if workers == 1 else f'each of {workers} workers has'} so many"
        + (f"; {idle} of {all_of} GPUs {'is' if idle == 1 else 'are'} left idle." if idle else "."),
    )


def _balanced(needs: Sequence[Need], gpus: int) -> list[int]:
    """The GPU of each model: the largest first, each to the GPU that has the least.

    A model's weights are what a GPU reads for a chunk, so the GPUs have about as much to do.
    """
    taken, places = [0] * gpus, [0] * len(needs)
    for model in sorted(range(len(needs)), key=lambda m: needs[m].device, reverse=True):
        places[model] = taken.index(min(taken))
        taken[places[model]] += needs[model].device
    return places
