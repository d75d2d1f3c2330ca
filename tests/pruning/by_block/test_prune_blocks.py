"""Block by block, against the model as a whole and against the same by brute force."""

import functools
import gc
import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig

from prunerzero.language.loading import load_model
from prunerzero.language.perplexity import window_losses
from prunerzero.language.source import ModelSource
from prunerzero.language.streaming import open_streamed
from prunerzero.metrics import Sparsity, find_metric
from prunerzero.pruning.blocks import find_blocks, prunable_layers
from prunerzero.pruning.by_block.block_passes import Resources, losses_by_block
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks, block_names
from prunerzero.pruning.by_block.partial_checkpoint import FinishedBlocks, PartialCheckpoint
from prunerzero.pruning.by_block.prune_blocks import Plan, prune_by_block
from prunerzero.pruning.by_block.shards import ShardWriter
from prunerzero.pruning.gram import collect_grams, collect_inverse_diagonals
from prunerzero.pruning.pruner import is_unreached, masks, prune_model
from prunerzero.pruning.refit import Refit, budgets_of, output_errors, refit_layer, refit_model
from prunerzero.pruning.statistics import LayerStatistics, collect_statistics

CPU = torch.device("cpu")
WINDOWS = torch.randint(0, 32, (5, 20), generator=torch.Generator().manual_seed(1))
HALF = Sparsity.parse("0.5")
SQUARES = Refit(update="least-squares")
REFITS = [SQUARES, Refit(refine="admm"), Refit("least-squares", "admm")]


def random_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def gpt2():
    """Weights are stored transposed, and blocks have buffers."""
    return random_model(
        GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=3, n_head=2, bos_token_id=0)
    )


def mixtral():
    """The files hold each expert separately, the model all of them in one parameter."""
    return random_model(
        MixtralConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )


MODELS = {"llama": lambda: tiny_model(num_hidden_layers=3), "gpt2": gpt2, "mixtral": mixtral}


class Kept:
    """Keeps pruned blocks; interrupts the run after ``stop_after`` of them."""

    def __init__(self, stop_after=None):
        self.blocks, self.layers, self.stop_after = {}, {}, stop_after

    def finished(self, index):
        return index in self.blocks

    def zeros(self, index):
        return {name: (tensor == 0).flatten() for name, tensor in self.blocks[index].items()}

    def weights(self, index):
        return self.blocks[index]

    def keep(self, index, tensors, layers):
        self.blocks[index] = {name: tensor.clone() for name, tensor in tensors.items()}
        self.layers[index] = layers
        if self.stop_after is not None and len(self.blocks) == self.stop_after:
            raise KeyboardInterrupt

    def tensors(self):
        return {k: t for _, block in sorted(self.blocks.items()) for k, t in block.items()}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """A checkpoint in bfloat16, in several shards."""
    folder = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param]().bfloat16()
    model.save_pretrained(folder / "model", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder / "model")
    return folder


@functools.cache
def streamed(folder):
    (folder / "scratch").mkdir(exist_ok=True)
    return open_streamed(ModelSource(str(folder / "model")), block_names, folder / "scratch")


def open_blocks(folder, dtype=torch.float32):
    model = deepcopy(streamed(folder).language_model.model)
    return OffloadedBlocks(model, streamed(folder).files, dtype, prunable_layers(model))


@functools.cache
def opened(folder):
    """For runs that end: they leave the blocks as they found them."""
    return open_blocks(folder)


@functools.cache
def dense(folder):
    """The whole model, which nobody changes."""
    return load_model(ModelSource(str(folder / "model"))).model


@functools.cache
def dense_statistics(folder):
    return statistics_of(dense(folder), prunable_layers(dense(folder)))


@functools.cache
def dense_grams(folder):
    return collect_grams(dense(folder), prunable_layers(dense(folder)), WINDOWS)


def whole_model(folder):
    """A copy to prune, and its layers."""
    model = deepcopy(dense(folder))
    return model, prunable_layers(model)


def pruned(folder, scratch, metric, kept=None, *, devices=1, memory=10_000, blocks=None, **plan):
    kept = kept or Kept()
    scratch.mkdir(exist_ok=True)
    blocks = blocks or opened(folder)
    resources = Resources((CPU,) * devices, memory, scratch)
    expression = find_metric(metric).expression
    prune_by_block(blocks, WINDOWS, Plan(expression, HALF, **plan), resources, kept)
    return kept


@pytest.mark.parametrize("metric", ["magnitude", "wanda", "power-law", "obs", "W * D + G * X"])
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_block_by_block_prunes_what_the_whole_model_prunes(folder, tmp_path, metric, devices):
    kept = pruned(folder, tmp_path, metric, devices=devices)
    whole, layers = whole_model(folder)
    report = prune_model(layers, dense_statistics(folder), find_metric(metric).expression, HALF)
    for name, tensor in kept.tensors().items():
        assert torch.equal(tensor, whole.get_parameter(name).bfloat16()), name
    assert tuple(row for _, rows in sorted(kept.layers.items()) for row in rows) == report


def statistics_of(model, layers):
    D = collect_inverse_diagonals(model, layers, WINDOWS)
    found = collect_statistics(model, layers, WINDOWS)
    return {name: replace(known, D=D[name]) for name, known in found.items()}


def masks_of(layers, statistics, metric):
    expression = find_metric(metric).expression
    unreached = [name for name in layers if is_unreached(statistics[name], expression)]
    weights = {name: layer.weight.clone() for name, layer in layers.items()}
    return dict(masks(weights, statistics, expression, HALF, unreached))


def assert_same(found, expected):
    """The same to the last bit of bfloat16, of sums that are added up in another order."""
    for name, tensor in found.items():
        wanted = expected.get_parameter(name).bfloat16()
        assert torch.equal(tensor == 0, wanted == 0), name
        torch.testing.assert_close(tensor, wanted, rtol=2**-7, atol=1e-5)


@functools.cache
def refitted_whole(folder, metric, refit):
    """The model, its layers and their errors."""
    whole, layers = whole_model(folder)
    chosen = masks_of(layers, dense_statistics(folder), metric)
    errors = refit_model(layers, chosen.items(), dense_grams(folder), refit, HALF)
    return whole, layers, errors


@pytest.mark.parametrize(
    ("metric", "refit", "devices"),
    [
        (metric, refit, 1 + (row + column) % 2)
        for row, metric in enumerate(["magnitude", "W * D + G * X"])
        for column, refit in enumerate(REFITS)
    ],
    ids=str,
)
def test_a_refit_of_dense_blocks_is_that_of_the_whole_model(
    folder, tmp_path, metric, refit, devices
):
    kept = pruned(folder, tmp_path, metric, devices=devices, refit=refit)
    whole, layers, errors = refitted_whole(folder, metric, refit)
    assert_same(kept.tensors(), whole)
    rows = [row for _, rows in sorted(kept.layers.items()) for row in rows]
    assert [row.name for row in rows] == list(layers)
    for row in rows:
        assert row.zeros == int((layers[row.name].weight.bfloat16() == 0).sum())
        assert row.error_of_mask == pytest.approx(errors[row.name].mask, rel=1e-4, abs=1e-9)
        assert row.error == pytest.approx(errors[row.name].refitted, rel=1e-2, abs=1e-4)


STAGES = ["q_proj|k_proj|v_proj|c_attn", "o_proj|attn.c_proj", "gate|up_proj|c_fc", "down|mlp.c_"]


def refitted_by_hand(folder, metric, refit, gradient):
    """``--propagate pruned`` on the whole model: a block's masks, then stage after stage of it."""
    model, layers = whole_model(folder)
    prefix, blocks = find_blocks(model)
    for index, block in enumerate(blocks):
        mine = {n: x for n, x in layers.items() if n.startswith(f"{prefix}.{index}.")}
        known = statistics_of_pruned(folder, model, block, mine, gradient)
        chosen = masks_of(mine, known, metric)
        left = dict(mine)
        for stage in STAGES:
            names = [name for name in left if re.search(stage, name)]
            grams = collect_grams(model, {name: left.pop(name) for name in names}, WINDOWS)
            for name in names:
                weight = mine[name].weight
                found, _ = refit_layer(
                    weight.clone(), grams[name], chosen[name], refit, budgets_of(HALF)
                )
                weight.copy_(found.bfloat16())
        assert not left
    return model


@pytest.mark.parametrize(
    ("metric", "gradient", "refit"),
    [
        ("magnitude", "full", SQUARES),
        ("W * D + G * X", "full", REFITS[2]),
        ("W * D + G * X", "block", SQUARES),
        ("W * D + G * X", "block", REFITS[2]),
    ],
    ids=str,
)
def test_a_refit_of_pruned_blocks_goes_stage_by_stage(folder, tmp_path, metric, refit, gradient):
    kept = pruned(folder, tmp_path, metric, propagate="pruned", refit=refit, gradient=gradient)
    assert_same(kept.tensors(), refitted_by_hand(folder, metric, refit, gradient))


def with_an_unreached_expert(folder):
    """Of the logits a, -a, b, -b and 0 that the router gives, the last is never among the top 2."""
    torch.manual_seed(0)
    config = mixtral().config
    config.num_local_experts = 5
    model = AutoModelForCausalLM.from_config(config)
    for block in model.model.layers:
        with torch.no_grad():
            gate = block.mlp.gate.weight
            gate[1], gate[3], gate[4] = -gate[0], -gate[2], 0
    model.bfloat16().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return model


@pytest.mark.parametrize("propagate", ["dense", "pruned"])
@pytest.mark.parametrize("metric", ["magnitude", "wanda"])
def test_an_expert_that_no_token_reaches_is_masked_alone(tmp_path, propagate, metric):
    dense = with_an_unreached_expert(tmp_path)
    kept = pruned(tmp_path, tmp_path / "scratch", metric, propagate=propagate, refit=REFITS[2])
    by_hand = prune_model(
        prunable_layers(dense),
        dict.fromkeys(prunable_layers(dense), LayerStatistics(None, None)),
        find_metric("magnitude").expression,
        HALF,
    )
    assert {row.name for row in by_hand} == {r.name for rows in kept.layers.values() for r in rows}
    for rows in kept.layers.values():
        for row in rows:
            assert row.unreached == (metric == "wanda" and ".4." in row.name)
            assert (row.error == 0) == (".4." in row.name)
    for name, tensor in kept.tensors().items():
        if "experts" in name:
            assert torch.equal(tensor[4], dense.get_parameter(name)[4])
            assert not torch.equal(tensor[3], dense.get_parameter(name)[3])


@pytest.mark.parametrize("propagate", ["dense", "pruned"])
@pytest.mark.parametrize("refit", [SQUARES, Refit(refine="admm")], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("work", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_go_on_with_the_weights_that_the_checkpoint_gets(
    tmp_path, stored, work, refit, propagate
):
    """The next block reads what they give, rounded as they are saved."""
    model = tiny_model(num_hidden_layers=2).to(stored)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    blocks = open_blocks(tmp_path, work)

    class Compared(Kept):
        def keep(self, index, tensors, layers):
            super().keep(index, tensors, layers)
            for name, parameter in blocks.blocks[index].named_parameters():
                saved = tensors[f"model.layers.{index}.{name}"]
                assert parameter.dtype == work
                assert saved.dtype == stored
                assert torch.equal(saved.to(work), parameter), name
                dense = model.get_parameter(f"model.layers.{index}.{name}")
                if refit.update == "none":
                    assert torch.equal(saved, torch.where(parameter == 0, 0, dense))

    kept = pruned(None, tmp_path, "wanda", Compared(), blocks=blocks, refit=refit,
                  propagate=propagate)  # fmt: skip
    for rows in kept.layers.values():
        assert all(row.zeros * 2 >= row.shape[0] * row.shape[1] for row in rows)
    blocks = open_blocks(tmp_path, work)
    for index, tensors in kept.blocks.items():
        with blocks.loaded(index, CPU):
            blocks.set(index, tensors)
            again = blocks.pruned(index)
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_the_error_told_is_that_of_the_weights_kept(folder, tmp_path):
    kept = pruned(folder, tmp_path, "wanda", refit=SQUARES)
    layers = prunable_layers(dense(folder))
    after = kept.tensors()
    names = {id(parameter): name for name, parameter in dense(folder).named_parameters()}
    for row in (row for rows in kept.layers.values() for row in rows):
        layer = layers[row.name]
        found = layer.oriented(after[names[id(layer.stored)]])
        [error] = output_errors(layer.weight, [found], dense_grams(folder)[row.name])
        assert row.error == pytest.approx(error, rel=1e-4)
        assert row.error < row.error_of_mask


@pytest.mark.parametrize("batch", [1, 2])
def test_the_gradient_of_each_block_takes_a_pass_forward_alone(folder, batch):
    model, layers = whole_model(folder)
    found = collect_statistics(model, layers, WINDOWS, of="block", batch=batch)
    prefix, blocks = find_blocks(model)
    for index, block in enumerate(blocks):
        mine = {n: x for n, x in layers.items() if n.startswith(f"{prefix}.{index}.")}
        for name, G in gradients_of_norm(model, block, mine).items():
            torch.testing.assert_close(found[name].G, G, rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(found[name].X, dense_statistics(folder)[name].X)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "plan", [{}, {"refit": SQUARES}, {"refit": SQUARES, "propagate": "pruned"}]
)
def test_nothing_of_a_block_outlives_its_visit(folder, tmp_path, plan):
    """Nor until the next garbage collection: cycles would hold memory of the device."""

    class Counted(Kept):
        def keep(self, index, tensors, layers):
            alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))

    alive = []
    gc.freeze()  # what is there already is not counted
    gc.disable()
    try:
        blocks = open_blocks(folder)
        pruned(folder, tmp_path, "power-law", Counted(), blocks=blocks, **plan)
    finally:
        gc.enable()
        gc.unfreeze()
    assert alive == [alive[0]] * len(alive)


def test_losses_are_those_of_the_whole_model(folder, tmp_path):
    blocks = open_blocks(folder)
    visited = []
    resources = Resources((CPU, CPU), 0, tmp_path)
    losses = losses_by_block(blocks, WINDOWS, resources, lambda: visited.append(1))
    assert losses == [float(window_losses(dense(folder), ids[None])) for ids in WINDOWS]
    assert len(visited) == len(blocks)


def test_weights_are_on_the_meta_device_unless_their_block_is_loaded(folder, tmp_path):
    blocks = open_blocks(folder)

    def there():
        return [not any(p.is_meta for p in block.parameters()) for block in blocks.blocks]

    assert not any(there())
    with blocks.loaded(1, CPU):
        assert there() == [index == 1 for index in range(len(blocks))]
    assert not any(there())


def block_by_hand(folder, metric, gradient):
    """``--propagate pruned`` on the whole model: statistics, prune a block, and again."""
    model, layers = whole_model(folder)
    prefix, blocks = find_blocks(model)
    for index, block in enumerate(blocks):
        mine = {n: x for n, x in layers.items() if n.startswith(f"{prefix}.{index}.")}
        known = statistics_of_pruned(folder, model, block, mine, gradient)
        prune_model(mine, known, find_metric(metric).expression, HALF)
    return model


def statistics_of_pruned(folder, model, block, layers, gradient):
    """Of a block's layers in a model whose blocks before are pruned; G may be the dense model's."""
    known = collect_statistics(model, layers, WINDOWS, gradients=False)
    D = collect_inverse_diagonals(model, layers, WINDOWS)
    if gradient == "block":
        G = gradients_of_norm(model, block, layers)
    else:
        G = {name: dense_statistics(folder)[name].G for name in layers}
    return {name: LayerStatistics(known[name].X, G[name], D[name]) for name in layers}


def gradients_of_norm(model, block, layers):
    """G of each layer: of the norm of what the block puts out, window by window."""
    matrices = {id(layer.stored): layer.stored for layer in layers.values()}
    totals = dict.fromkeys(matrices, 0)
    for matrix in matrices.values():
        matrix.requires_grad_(True)
    for ids in WINDOWS:
        outputs = []
        hook = block.register_forward_hook(lambda _m, _a, out, seen=outputs: seen.append(out))
        model(input_ids=ids[None], use_cache=False)
        hook.remove()
        norm = (outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]).norm()
        found = torch.autograd.grad(norm, [*matrices.values()])
        for key, gradient in zip(matrices, found, strict=True):
            totals[key] = totals[key] + (100 * gradient).square()
    for matrix in matrices.values():
        matrix.requires_grad_(False)
    return {name: x.oriented(totals[id(x.stored)]).sqrt() for name, x in layers.items()}


@pytest.mark.parametrize("metric", ["power-law", "obs", "W * D * G"])
@pytest.mark.parametrize("gradient", ["full", "block"])
def test_statistics_of_the_pruned_model_are_those_by_brute_force(
    folder, tmp_path, gradient, metric
):
    kept = pruned(folder, tmp_path, metric, propagate="pruned", gradient=gradient)
    expected = block_by_hand(folder, metric, gradient)
    for name, tensor in kept.tensors().items():
        assert torch.equal(tensor, expected.get_parameter(name).bfloat16()), name


@functools.cache
def pruned_at_once(folder, **plan):
    """On one device."""
    return pruned(folder, folder / "at once", "power-law", **plan).tensors()


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"gradient": "block"},
        {"propagate": "pruned"},
        {"propagate": "pruned", "gradient": "block"},
        {"refit": SQUARES},
        {"refit": REFITS[2], "propagate": "pruned"},
    ],
)
def test_a_run_resumed_after_any_block_is_the_same_to_the_bit(folder, tmp_path, plan):
    """Also on another number of devices."""
    at_once = pruned_at_once(folder, **plan)
    for stop_after in range(1, len(opened(folder))):
        kept, scratch = Kept(stop_after), tmp_path / str(stop_after)
        before, after = (1, 2) if stop_after % 2 else (2, 1)
        with pytest.raises(KeyboardInterrupt):
            stopped = open_blocks(folder)
            pruned(folder, scratch, "power-law", kept, devices=before, blocks=stopped, **plan)
        kept.stop_after = None
        again = open_blocks(folder)
        pruned(folder, scratch, "power-law", kept, devices=after, blocks=again, **plan)
        resumed = kept.tensors()
        assert list(resumed) == list(at_once), stop_after
        for name, tensor in at_once.items():
            assert torch.equal(resumed[name], tensor), (stop_after, name)


def test_shards_make_a_checkpoint_in_which_only_pruned_weights_changed(folder, tmp_path):
    kept = pruned(folder, tmp_path, "wanda")
    blocks = open_blocks(folder)
    output = tmp_path / "output"
    output.mkdir()
    writer = ShardWriter(output, blocks.model, len(blocks) + 1)
    writer.write(0, blocks.outside())
    for index, tensors in kept.blocks.items():
        writer.write(index + 1, tensors)
    writer.finish()
    before, after = (
        AutoModelForCausalLM.from_pretrained(path) for path in (folder / "model", output)
    )
    assert after.dtype == torch.bfloat16
    prunable = {id(layer.stored) for layer in prunable_layers(after).values()}
    for (name, tensor), original in zip(after.named_parameters(), before.parameters(), strict=True):
        if id(tensor) in prunable:
            assert torch.equal(tensor[tensor != 0], original[tensor != 0]), name
        else:
            assert torch.equal(tensor, original), name


def test_finished_blocks_are_read_back_from_their_shards(folder, tmp_path):
    """What a shard holds in another form, such as experts one by one, is kept beside it."""
    kept = pruned(folder, tmp_path, "wanda", refit=SQUARES, propagate="pruned")
    blocks = open_blocks(folder)
    with PartialCheckpoint(tmp_path / "output") as partial:
        partial.begin({})
        writer = ShardWriter(partial.folder, blocks.model, len(blocks) + 1)
        record = FinishedBlocks(partial, writer, "weights")
        for index, tensors in kept.blocks.items():
            assert not record.finished(index)
            record.keep(index, tensors, kept.layers[index])
            assert record.finished(index)
            found = record.weights(index)
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
            apart = load_file(partial.apart_file(index))
            assert sorted(apart) == sorted(
                name for name in tensors if "mlp.experts" in name or "mlp.gate.w" in name
            )
            partial.apart_file(index).unlink()
            assert not record.finished(index)


def test_parameters_that_modules_of_a_block_share_stay_shared():
    model = tiny_model(num_hidden_layers=2)
    for block in model.model.layers:
        block.mlp.up_proj.weight = block.mlp.gate_proj.weight
    files = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    blocks = OffloadedBlocks(model, files, torch.float32, prunable_layers(model))
    for _ in range(2):
        with blocks.loaded(1, CPU):
            mlp = blocks.blocks[1].mlp
            assert mlp.up_proj.weight is mlp.gate_proj.weight
            blocks.layers(1)["model.layers.1.mlp.gate_proj"].weight[0] = 7
            found = blocks.pruned(1)
        for name in ("gate_proj", "up_proj"):
            assert found[f"model.layers.1.mlp.{name}.weight"][0].unique().tolist() == [7]
