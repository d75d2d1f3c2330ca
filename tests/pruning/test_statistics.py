import errno
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from conformance import brute_force
from safetensors.torch import load_file
from tiny_model import tiny_model

from prunerzero.pruning import activations, gradients
from prunerzero.pruning import statistics as statistics_module
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.statistics import cached_statistics, collect_statistics, probes_of

WINDOWS = torch.randint(0, 32, (3, 20), generator=torch.Generator().manual_seed(1))


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


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_a_batch_of_windows_gives_the_statistics_of_each_window_alone(model, layers, batch):
    windows = torch.randint(0, 32, (7, 20), generator=torch.Generator().manual_seed(2))
    alone = collect_statistics(model, layers, windows, batch=1)
    seen = []
    together = collect_statistics(model, layers, windows, batch=batch, on_window=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert_alike(together, alone)


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_that_does_not_fit_in_memory_is_read_in_parts_and_counted_once(
    model, layers, seed, monkeypatch
):
    """Batches are halved; for a single window, blocks run again in the pass backward."""
    windows = torch.randint(0, 32, (7, 20), generator=torch.Generator().manual_seed(2))
    alone = collect_statistics(model, layers, windows, batch=1)
    rng, batches = random.Random(seed), []
    products, norms = gradients.add_squared_products, activations.squares

    def fail(room):
        if room < rng.random():
            raise torch.OutOfMemoryError

    def scarce_products(total, left, right, scale):
        batches.append(len(left))
        fail(1 if batches.count(1) > 20 and len(left) == 1 else 1.1 - 0.1 * len(left))
        products(total, left, right, scale)

    def scarce_norms(features):
        fail(1.02 - 0.02 * len(features))
        return norms(features)

    monkeypatch.setattr(gradients, "add_squared_products", scarce_products)
    monkeypatch.setattr(statistics_module, "squares", scarce_norms)
    assert_alike(collect_statistics(model, layers, windows, batch=6), alone)
    assert len(set(batches)) > 1
    assert not any("forward" in vars(block) for block in model.model.layers)


def test_where_one_window_does_not_fit_its_blocks_run_twice(model, layers, monkeypatch):
    alone = collect_statistics(model, layers, WINDOWS, batch=1)
    products, runs, failures = gradients.add_squared_products, [], [torch.OutOfMemoryError()]
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(failures.copy()))

    def scarce(*arguments):
        if failures:
            raise failures.pop()
        products(*arguments)

    monkeypatch.setattr(gradients, "add_squared_products", scarce)
    assert_alike(collect_statistics(model, layers, WINDOWS, batch=1), alone)
    assert runs.count([]) == 2 * len(WINDOWS)


def test_where_nothing_fits_the_error_is_raised_and_the_model_is_unchanged(
    model, layers, monkeypatch
):
    def none(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gradients, "add_squared_products", none)
    with pytest.raises(torch.OutOfMemoryError):
        collect_statistics(model, layers, WINDOWS)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not any("forward" in vars(block) for block in model.model.layers)


def assert_alike(found, expected):
    for name, layer in expected.items():
        torch.testing.assert_close(found[name].X, layer.X)
        torch.testing.assert_close(found[name].G, layer.G)


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_of_a_matrix_used_twice_are_added_before_they_are_squared(batch):
    model, reference = tiny_model(), tiny_model()
    for one in (model, reference):
        first, second = one.model.layers
        second.self_attn.q_proj.weight = first.self_attn.q_proj.weight
    assert_gradients(model, reference, batch)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("weight_first", [False, True])
def test_a_matrix_that_is_used_without_calling_its_module_is_seen(batch, weight_first):
    model, reference = tiny_model(), tiny_model()
    for one in (model, reference):
        linear = one.model.layers[1].mlp.up_proj
        one.model.layers[1].mlp.up_proj = Past(linear, weight_first)
    assert_gradients(model, reference, batch)
    found = collect_statistics(model, prunable_layers(model), WINDOWS, batch=batch)
    gate, up = (f"model.layers.1.mlp.{name}" for name in ("gate_proj", "up_proj.linear"))
    torch.testing.assert_close(found[up].X, found[gate].X)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class Past(torch.nn.Module):
    """Multiplies with the weight of a module that it does not call."""

    def __init__(self, linear, weight_first):
        super().__init__()
        self.linear, self.weight_first = linear, weight_first

    def forward(self, features):
        if self.weight_first:
            return (self.linear.weight @ features.mT).mT
        return features @ self.linear.weight.t()


def test_each_block_of_a_block_diagonal_map_is_a_matrix_of_its_own():
    class Grouped(torch.nn.Linear):  # like the output projection of DeepSeek-V4
        def forward(self, features):
            rows = features.reshape(-1, 2, 8).transpose(0, 1)
            products = torch.bmm(rows, self.weight.view(2, -1, 8).transpose(1, 2))
            return products.transpose(0, 1).reshape(*features.shape[:-1], -1)

    class Halves(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped = Grouped(8, 16, bias=False)

        def forward(self, features):
            return self.grouped(features.unflatten(-1, (2, 8))).flatten(-2)

    model = tiny_model()
    mlp = model.model.layers[1].mlp
    mlp.gate_proj = torch.nn.Sequential(Halves(), mlp.gate_proj)
    layers = prunable_layers(model, target=("*grouped*", "*up_proj"))
    names = [f"model.layers.1.mlp.gate_proj.0.grouped.{group}" for group in (0, 1)]
    assert [layers[name].weight.shape for name in names] == [(8, 8), (8, 8)]
    found = collect_statistics(model, layers, WINDOWS)
    together = torch.cat([found[name].X for name in names])
    torch.testing.assert_close(together, found["model.layers.1.mlp.up_proj"].X)
    G = brute_force.gradients(model, layers, WINDOWS)
    for name in names:
        torch.testing.assert_close(found[name].G, G[name])


def assert_gradients(model, reference, batch):
    layers = prunable_layers(model)
    found = collect_statistics(model, layers, WINDOWS, batch=batch)
    expected = brute_force.gradients(reference, prunable_layers(reference), WINDOWS)
    for name in layers:
        torch.testing.assert_close(found[name].G, expected[name])


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

    first = cached_statistics({"text": "a"}, layers, collect)
    again = cached_statistics({"text": "a"}, layers, collect)
    assert len(calls) == 1
    for name in layers:
        assert torch.equal(first[name].X, again[name].X)
        assert torch.equal(first[name].G, again[name].G)
    cached_statistics({"text": "b"}, layers, collect)
    assert len(calls) == 2


def only_file_in(cache: Path) -> Path:
    (file,) = (path for path in (cache / "statistics").iterdir() if path.suffix != ".lock")
    return file


def test_a_cache_file_cut_short_is_computed_again(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    calls = []

    def collect():
        calls.append(1)
        return collect_statistics(model, layers, WINDOWS)

    cached_statistics({}, layers, collect)
    file = only_file_in(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    cached_statistics({}, layers, collect)
    assert len(calls) == 2
    assert load_file(file)


def test_statistics_that_are_measured_sooner_than_read_are_not_kept(
    model, layers, tmp_path, monkeypatch
):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    monkeypatch.setattr(statistics_module, "_PACE", 1.0)
    calls = []

    def collect():
        calls.append(1)
        return collect_statistics(model, layers, WINDOWS)

    for _ in range(2):
        cached_statistics({}, layers, collect)
    assert len(calls) == 2
    assert not [path for path in (tmp_path / "statistics").iterdir() if path.suffix != ".lock"]


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
    for statistics in given:
        assert all(torch.equal(statistics[name].G, whole[name].G) for name in layers)


def test_another_worker_takes_over_from_a_killed_one(model, layers, tmp_path, monkeypatch):
    """It held the lock and had written half of the file."""
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def collect():
        return collect_statistics(model, layers, WINDOWS)

    cached_statistics({}, layers, collect)
    file = only_file_in(tmp_path)
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
        assert waiting.result(timeout=60)
    assert load_file(file)
    assert not file.with_suffix(".partial").exists()


def test_a_full_disk_costs_the_cache_alone(model, layers, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(statistics_module, "write_tensors", full)
    assert cached_statistics({}, layers, lambda: collect_statistics(model, layers, WINDOWS))
    (told,) = caplog.messages
    assert "no space left on device" in told and "PRUNERZERO_CACHE" in told


def test_probes_sample_layers_from_first_to_last(model, layers):
    statistics = collect_statistics(model, layers, WINDOWS)
    probes = probes_of(layers, statistics, count=3)
    assert len(probes) == 3
    first, last = list(layers.values())[0], list(layers.values())[-1]
    assert torch.equal(probes[0].W, first.weight.abs().double())
    assert torch.equal(probes[-1].W, last.weight.abs().double())
