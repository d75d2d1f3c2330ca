import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_model import tiny_model

from prunerzero.errors import OutputError
from prunerzero.pruning import statistics as statistics_module
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.statistics import cached_statistics, collect_statistics, probes_of

WINDOWS = torch.randint(0, 32, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def layers(model):
    return prunable_layers(model)


def test_activation_norms_equal_a_brute_force_computation(model, layers):
    found = collect_statistics(model, layers, WINDOWS)
    for name, layer in layers.items():
        inputs = []
        hook = layer.module.register_forward_hook(
            lambda _m, args, _out, seen=inputs: seen.append(args[0])
        )
        with torch.no_grad():
            for window in WINDOWS:
                model(input_ids=window[None])
        hook.remove()
        expected = torch.stack([x[0].norm(dim=0) ** 2 for x in inputs]).mean(0)
        torch.testing.assert_close(found[name].X, expected)


def test_gradient_magnitudes_equal_a_brute_force_computation(model, layers):
    found = collect_statistics(model, layers, WINDOWS)
    squares = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for window in WINDOWS:
        reference = tiny_model()
        reference.requires_grad_(True)
        logits = reference(input_ids=window[None]).logits[0]
        torch.nn.functional.cross_entropy(logits[:-1], window[1:]).backward()
        for name, layer in prunable_layers(reference).items():
            squares[name] += (100 * layer.oriented(layer.stored.grad)) ** 2
    for name in layers:
        torch.testing.assert_close(found[name].G, squares[name].sqrt())


def test_without_gradients_only_the_activation_norms_are_measured(model, layers):
    found = collect_statistics(model, layers, WINDOWS, gradients=False)
    assert all(layer.X is not None and layer.G is None for layer in found.values())


def test_the_model_is_left_as_it_was(model, layers):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    collect_statistics(model, layers, WINDOWS)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None and not parameter.requires_grad
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_progress_counts_windows(model, layers):
    seen = []
    collect_statistics(model, layers, WINDOWS, on_window=seen.append)
    assert seen == [1, 2, 3]


def test_statistics_are_computed_once_and_then_read(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    calls = []

    def collect():
        calls.append(1)
        return collect_statistics(model, layers, WINDOWS)

    first, was_there = cached_statistics({"text": "a"}, layers, collect)
    again, was_there_again = cached_statistics({"text": "a"}, layers, collect)
    assert (was_there, was_there_again, len(calls)) == (False, True, 1)
    for name in layers:
        assert torch.equal(first[name].X, again[name].X)
        assert torch.equal(first[name].G, again[name].G)
    cached_statistics({"text": "b"}, layers, collect)
    assert len(calls) == 2


def test_a_cache_file_cut_short_is_computed_again(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def collect():
        return collect_statistics(model, layers, WINDOWS)

    cached_statistics({}, layers, collect)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    _, was_there = cached_statistics({}, layers, collect)
    assert not was_there
    assert load_file(file)


def test_several_workers_at_once_compute_statistics_once(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    whole = collect_statistics(model, layers, WINDOWS)
    calls = []

    def collect():
        calls.append(1)
        time.sleep(0.2)
        return whole

    with ThreadPoolExecutor(4) as workers:
        given = list(workers.map(lambda _: cached_statistics({}, layers, collect), range(4)))
    assert len(calls) == 1
    assert sorted(was_there for _, was_there in given) == [False, True, True, True]
    for statistics, _ in given:
        assert all(torch.equal(statistics[name].G, whole[name].G) for name in layers)


def test_the_work_of_a_killed_worker_is_taken_over(model, layers, tmp_path, monkeypatch):
    """It held the lock and had written half of the file."""
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def collect():
        return collect_statistics(model, layers, WINDOWS)

    cached_statistics({}, layers, collect)
    (file,) = tmp_path.rglob("*.safetensors")
    file.with_suffix(".partial").write_bytes(file.read_bytes()[:100])
    file.unlink()
    hold = "import sys, time, filelock; l = filelock.FileLock(sys.argv[1]); l.acquire(); "
    hold += "print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", hold, f"{file}.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder, ThreadPoolExecutor() as pool:
        holder.stdout.readline()
        waiting = pool.submit(cached_statistics, {}, layers, collect)
        assert not wait([waiting], timeout=0.2).done
        holder.kill()
        assert waiting.result(timeout=60)[1] is False
    assert load_file(file)
    assert not file.with_suffix(".partial").exists()


def test_a_full_disk_is_told_in_a_sentence(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(statistics_module, "save_file", full)
    with pytest.raises(OutputError, match="cannot be kept in .* no space left on device"):
        cached_statistics({}, layers, lambda: collect_statistics(model, layers, WINDOWS))


def test_probes_sample_layers_from_first_to_last(model, layers):
    statistics = collect_statistics(model, layers, WINDOWS)
    probes = probes_of(layers, statistics, count=3)
    assert len(probes) == 3
    first, last = list(layers.values())[0], list(layers.values())[-1]
    assert torch.equal(probes[0].W, first.weight.abs().double())
    assert torch.equal(probes[-1].W, last.weight.abs().double())
