"""``prunerzero prune`` block by block: chosen, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from bisect import bisect_left
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import psutil
import pytest
import torch
from forked import ForkedProcess
from installed_command import CommandLine
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from prunerzero import Setup, prune
from prunerzero.errors import InputError, ModelError, OutputError
from prunerzero.exponential import exp
from prunerzero.language import locate
from prunerzero.metrics import MetricError, Sparsity, find_metric
from prunerzero.pruning.by_block.partial_checkpoint import PartialCheckpoint
from prunerzero.pruning.by_block.shards import ShardWriter
from prunerzero.tasks.by_block import BlockByBlock, Way, read_size
from prunerzero.tasks.fits import fits
from prunerzero.tasks.options import RefitOptions

METRIC = "W * sqrt(X) * G"


@pytest.fixture(scope="module")
def setup(workplace: Path) -> Setup:
    """A checkpoint of four blocks in several shards, and its texts."""
    folder = workplace / "four-blocks"
    model = tiny_model(num_hidden_layers=4, tie_word_embeddings=False).bfloat16()
    model.save_pretrained(folder, max_shard_size="10KB")
    tiny_tokenizer().save_pretrained(folder)
    return Setup(
        model=str(folder),
        calibration=workplace / "calibration.txt",
        test=workplace / "test.txt",
        num_calibration_samples=4,
        num_test_samples=4,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model*.safetensors*")}


@pytest.fixture(scope="module")
def whole(setup: Setup, workplace: Path) -> Path:
    prune(setup, METRIC, "2:4", workplace / "as-a-whole")
    return workplace / "as-a-whole"


def test_the_command_writes_what_pruning_as_a_whole_does(here: CommandLine, setup, whole):
    result = here.json(
        *("prune", "--model", setup.model, "--calibration", "calibration.txt"),
        *("--test", "test.txt", "--num-calibration-samples", "4", "--num-test-samples", "4"),
        *("--metric", METRIC, "--sparsity", "2:4", "--output-dir", "by-block"),
        *("--block-by-block", "--device", "cpu,cpu", "--activation-memory", "20KiB"),
    )
    output = here.folder / "by-block"
    expected, found = weights(whole), weights(output)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    figures = json.loads((whole / "figures.json").read_text())
    assert result["perplexity"]["test"] == pytest.approx(figures["perplexity"]["test"], rel=1e-5)
    assert result["layers"] == figures["layers"]
    assert {path.name for path in output.iterdir()} - set(files(output)) == {
        path.name for path in whole.iterdir()
    } - set(files(whole))
    assert (output / "config.json").read_text() == (whole / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    assert not list(here.folder.glob(".by-block*"))


def test_with_the_blocks_own_gradient_both_ways_write_the_same_bytes(setup, whole, tmp_path):
    locally = replace(setup, gradient="block")
    prune(locally, METRIC, "2:4", tmp_path / "whole")
    prune(locally, METRIC, "2:4", tmp_path / "blocks", way=Way(block_by_block=True))
    written = [weights(tmp_path / name) for name in ("whole", "blocks")]
    assert all(torch.equal(tensor, written[1][name]) for name, tensor in written[0].items())
    assert files(tmp_path / "whole") != files(whole)


BOTH = RefitOptions(update="least-squares", refine="admm")


@pytest.mark.parametrize("propagate", ["dense", "pruned"])
def test_weights_are_refitted_block_by_block_and_the_perplexity_told_is_theirs(
    setup, tmp_path, propagate
):
    way = Way(block_by_block=True, propagate=propagate)
    result = prune(setup, "wanda", "0.5", tmp_path / "blocks", way=way, refit=BOTH)
    again = BlockByBlock(replace(setup, model=str(tmp_path / "blocks")), way, tmp_path / "scratch")
    losses = again.measure(again.source, "test", "")
    assert result.perplexity["test"]["pruned"] == exp(fmean(losses))
    assert {k: result.settings[k] for k in asdict(BOTH)} == asdict(BOTH)
    assert all(row.error < row.error_of_mask for row in result.layers)
    masked = prune(setup, "wanda", "0.5", tmp_path / "masked", way=way)
    assert all(row.error is None for row in masked.layers)
    assert [row.zeros for row in masked.layers] == [row.zeros for row in result.layers]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "blocks").dtype == torch.bfloat16


@pytest.mark.parametrize("metric", ["magnitude", METRIC])
def test_a_refit_block_by_block_is_that_of_the_whole_model(setup, tmp_path, metric):
    whole, blocks = tmp_path / "whole", tmp_path / "blocks"
    expected = prune(setup, metric, "2:4", whole, refit=BOTH)
    found = prune(setup, metric, "2:4", blocks, way=Way(block_by_block=True), refit=BOTH)
    for name, tensor in weights(blocks).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=2**-7, atol=1e-4)
    for row, wanted in zip(found.layers, expected.layers, strict=True):
        assert row.error == pytest.approx(wanted.error, rel=1e-2)
        assert row.error_of_mask == pytest.approx(wanted.error_of_mask, rel=1e-3)


@pytest.mark.parametrize("way", [Way(), Way(block_by_block=True), Way(propagate="pruned")], ids=str)
def test_tensors_of_another_dtype_than_the_config_names_keep_it(setup, tmp_path, way):
    """What is refitted is rounded as the model holds it; what stays has its bits of before."""
    folder, key = tmp_path / "mixed", "model.layers.1.mlp.up_proj.weight"
    shutil.copytree(setup.model, folder)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if key in tensors:
            precise = tensors[key].float() * 1.001
            save_file(tensors | {key: precise}, file, metadata={"format": "pt"})
    mixed = replace(setup, model=str(folder))
    for refit in (RefitOptions(), RefitOptions(refine="admm"), BOTH):
        output = tmp_path / (refit.in_words or "masks")
        prune(mixed, "wanda", "0.5", output, way=way, refit=refit)
        found = weights(output)[key]
        assert found.dtype == torch.float32
        assert (found == 0).float().mean() == 0.5
        stays = found[found != 0] == precise[found != 0]
        assert bool(stays.all()) == (refit.update == "none")


@pytest.mark.parametrize(
    ("way", "gradient", "refit"),
    [
        (Way(block_by_block=True), "full", RefitOptions()),
        (Way(propagate="pruned"), "full", RefitOptions()),
        (Way(propagate="pruned"), "block", RefitOptions()),
        (Way(block_by_block=True), "full", BOTH),
        (Way(propagate="pruned"), "full", BOTH),
        (Way(propagate="pruned"), "block", RefitOptions(refine="admm")),
    ],
)
def test_a_run_stopped_at_any_shard_and_resumed_writes_the_same_bytes(
    setup, tmp_path, monkeypatch, way, gradient, refit
):
    setup = replace(setup, gradient=gradient)
    prune(setup, METRIC, "0.5", tmp_path / "at-once", way=way, refit=refit)
    write, left = ShardWriter.write, 0

    def stop(self, piece, tensors):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(self, piece, tensors)

    monkeypatch.setattr(ShardWriter, "write", stop)
    for left in (0, 2, 1, 99):  # of each run; some end before they have finished a block
        if left < 99:
            with pytest.raises(KeyboardInterrupt):
                prune(setup, METRIC, "0.5", tmp_path / "resumed", way=way, refit=refit)
            assert not (tmp_path / "resumed").exists()
        else:
            prune(setup, METRIC, "0.5", tmp_path / "resumed", way=way, refit=refit)
    assert files(tmp_path / "resumed") == files(tmp_path / "at-once")
    assert not list(tmp_path.glob(".*"))


def prune_and_die(setup, output, left):
    """After so many blocks are kept."""
    keep = PartialCheckpoint.keep

    def keep_and_die(self, index, layers, digests):
        nonlocal left
        keep(self, index, layers, digests)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    PartialCheckpoint.keep = keep_and_die
    prune(setup, METRIC, "0.5", output, way=Way(block_by_block=True))


def test_a_killed_process_is_resumed_to_the_same_bytes(setup, tmp_path):
    killed = ForkedProcess(prune_and_die, setup, tmp_path / "killed", 2)
    assert killed.wait(300) == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    prune(setup, METRIC, "0.5", tmp_path / "killed", way=Way(block_by_block=True))
    prune(setup, METRIC, "0.5", tmp_path / "at-once", way=Way(block_by_block=True))
    assert files(tmp_path / "killed") == files(tmp_path / "at-once")


def test_a_whole_model_cannot_be_compared_block_by_block(setup, tmp_path):
    sparsity = Sparsity.parse("0.5", "model")
    with pytest.raises(InputError, match='pass `group="layer"`'):
        prune(setup, METRIC, sparsity, tmp_path / "out", way=Way(block_by_block=True))
    assert not (tmp_path / "out").exists()


def test_several_steps_are_refused_before_the_work(setup, tmp_path):
    with pytest.raises(InputError, match="as asked, and `steps` need the whole model"):
        prune(setup, METRIC, "0.5", tmp_path / "out", way=Way(block_by_block=True), steps=2)
    assert not list(tmp_path.iterdir())


def test_training_is_refused_before_the_work(setup, tmp_path):
    with pytest.raises(InputError, match="as asked, and training needs the whole model"):
        prune(setup, METRIC, "0.5", tmp_path / "out", way=Way(block_by_block=True), reconstruct=2)
    assert not list(tmp_path.iterdir())


def test_gram_matrices_and_steps_count_where_a_model_has_to_fit(setup, monkeypatch):
    def fits_in(kib: int, refit: RefitOptions) -> bool:
        free = SimpleNamespace(available=kib << 10)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
        return fits(setup, find_metric("wanda"), refit)

    refits = [RefitOptions(), RefitOptions(update="least-squares"), BOTH]
    refits += [RefitOptions(steps=2), RefitOptions(reconstruct=1)]
    needed = {
        refit.in_words: bisect_left(range(2000), True, key=partial(fits_in, refit=refit))
        for refit in refits
    }
    assert max(needed.values()) < 2000
    assert needed[""] < needed["2 steps"] < needed["least-squares"] < needed["admm, least-squares"]
    assert needed["2 steps"] < needed["trained, 1 steps a block"]


@pytest.mark.parametrize(
    ("metric", "sparsity", "way", "gradient", "named"),
    [
        ("W * G", "0.5", Way(block_by_block=True), "full", "metric"),
        (METRIC, "2:4", Way(block_by_block=True), "full", "sparsity"),
        (METRIC, "0.5", Way(), "block", "gradient"),
        (METRIC, "0.5", Way(propagate="pruned"), "full", "propagate"),
    ],
)
def test_a_stopped_run_is_not_gone_on_with_as_another(
    setup, tmp_path, monkeypatch, metric, sparsity, way, gradient, named
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prune(setup, METRIC, "0.5", tmp_path / "output", way=Way(block_by_block=True))
    with pytest.raises(OutputError, match=rf"unfinished run with {named}"):
        other = replace(setup, gradient=gradient)
        prune(other, metric, sparsity, tmp_path / "output", way=way)
    with pytest.raises(
        OutputError, match="unfinished run with update left out, not 'least-squares';"
    ):
        prune(setup, METRIC, "0.5", tmp_path / "output", update="least-squares")
    monkeypatch.undo()
    prune(setup, METRIC, "0.5", tmp_path / "output")  # it goes on block by block by itself


def test_what_can_never_be_finished_leaves_nothing(setup, tmp_path):
    with pytest.raises(MetricError):
        prune(setup, "mms(W - W)", "0.5", tmp_path / "output", way=Way(block_by_block=True))
    with pytest.raises(InputError):
        missing = Setup(model=str(tmp_path / "missing"))
        prune(missing, "magnitude", "0.5", tmp_path / "output", way=Way(block_by_block=True))
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit_is_pruned_block_by_block_and_it_is_said(
    in_workplace, setup, monkeypatch
):
    command = ["prune", "--model", setup.model, "--metric", "magnitude", "--output-dir"]
    assert "block by block" not in in_workplace(*command, "fits").stderr
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20_000))
    done = in_workplace(*command, "does-not-fit")
    assert done.exit_code == 0, done.output
    assert "block by block, as the whole model does not fit" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4GiB", 4 * 2**30), ("1.5 kb", 1500), ("20MiB", 20 * 2**20)]
)
def test_a_size_is_read_as_people_write_it(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize(
    "options",
    [
        ["--activation-memory", "plenty"],
        ["--propagate", "both"],
        ["--gradient", "none"],
        ["--block-by-block", "--device", "cpu,nonsense"],
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(in_workplace, options):
    done = in_workplace("prune", "--model", "model", "--output-dir", "refused", *options)
    assert done.exit_code == 2
    assert options[-1].split(",")[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_nowhere_is_refused_before_transformers_asks_the_hub(monkeypatch):
    monkeypatch.setattr(locate, "ask_hub", lambda *_: "unreachable")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", pytest.fail)
    with pytest.raises(ModelError, match="nobody/nothing"):
        fits(Setup(model="nobody/nothing"), find_metric("wanda"))
