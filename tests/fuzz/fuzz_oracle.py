"""What must be true of a pruned folder, computed the slow and plain way, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_formulas import Tree, evaluate
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D


@dataclass
class Asked:
    """What a command was asked for, in the words of the oracle."""

    model: Path
    calibration: Path
    length: int
    calibration_windows: int | None
    tree: Tree
    ratio: float | None
    pattern: tuple[int, int] | None
    group: str


def load(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return model.eval().requires_grad_(False)


def windows_of(tokenizer: Any, path: Path, length: int, count: int | None) -> torch.Tensor:
    text = (
        path.read_bytes()
        .decode("utf-8")
        .removeprefix("\ufeff")
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    windows = ids[: len(ids) // length * length].view(-1, length)
    if count is None or count >= len(windows):
        return windows
    return windows[torch.arange(count) * len(windows) // count]


def perplexity(model: Any, windows: torch.Tensor) -> float:
    losses: list[float] = []
    with torch.no_grad():
        for window in windows:
            logits = model(input_ids=window[None]).logits[0, :-1].double()
            losses.append(cross_entropy(logits, window[1:]).item())
    if not losses:
        return math.nan
    loss = math.fsum(losses) / len(losses)
    return math.exp(loss) if loss < 700 else math.inf


def matrices(model: Any) -> dict[str, Any]:
    """The linear maps inside the blocks, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and "lm_head" not in name
    }


def oriented(module: Any, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t() if isinstance(module, Conv1D) else tensor


def statistics(model: Any, windows: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
    """W, X and G of each matrix."""
    layers = matrices(model)
    squares = {name: 0.0 for name in layers}
    gradients = {name: 0.0 for name in layers}

    def watch(name: str) -> Any:
        def add(_module: Any, inputs: Any, _output: Any) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            squares[name] = squares[name] + rows.square().sum(0)

        return add

    hooks = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    for window in windows:
        model.requires_grad_(True)
        model.zero_grad()
        logits = model(input_ids=window[None]).logits[0]
        cross_entropy(logits[:-1], window[1:]).backward()
        for name, module in layers.items():
            gradients[name] = gradients[name] + (100 * module.weight.grad) ** 2
    model.requires_grad_(False)
    for hook in hooks:
        hook.remove()
    return {
        name: {
            "W": oriented(module, module.weight).abs().numpy(),
            "X": (squares[name] / len(windows))[None].numpy(),
            "G": oriented(module, gradients[name].sqrt()).numpy(),
        }
        for name, module in layers.items()
    }


def check_pruned(asked: Asked, output: Path, chosen: Any = lambda name: True) -> None:
    """The folder at ``output`` is ``asked.model`` without the weights of the lowest scores."""
    dense, pruned = load(asked.model), load(output)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    windows = windows_of(tokenizer, asked.calibration, asked.length, asked.calibration_windows)
    known = statistics(dense, windows)
    after = matrices(pruned)
    names = [name for name in known if chosen(name)]
    largest = max(float(tensor.abs().max()) for tensor in dense.state_dict().values())
    if not largest < 1e12:  # in float32, sums of squares of a damaged model overflow
        return
    for name, before in matrices(dense).items():
        zero = after[name].weight == 0
        assert name in names or not zero.any(), f"{name} was to be left alone"
        assert torch.equal(after[name].weight[~zero], before.weight[~zero]), f"{name} has changed"
    others = {name: tensor for name, tensor in dense.state_dict().items()}
    for name, tensor in pruned.state_dict().items():
        if name.removesuffix(".weight") not in known:
            assert torch.equal(tensor, others[name]), f"{name} has changed"
    scores, noise, masks = [], [], []
    random = np.random.default_rng(0)
    for name in names:
        exact = evaluate(asked.tree, known[name])
        near = {
            key: value * (1 + (2e-5 if key != "W" else 0) * random.uniform(-1, 1, value.shape))
            for key, value in known[name].items()
        }
        others_ = [evaluate(asked.tree, near), evaluate(asked.tree, known[name], np.float32)]
        with np.errstate(all="ignore"):
            error = np.max([np.abs(exact - other) for other in others_], axis=0)
        scores.append(exact)
        noise.append(4 * error + 1e-6 * np.abs(exact))
        masks.append((oriented(after[name], after[name].weight) == 0).numpy())
    if asked.group == "model":
        flat = [
            np.concatenate([part.ravel() for part in parts])[None]
            for parts in (scores, noise, masks)
        ]
        _check_groups("the model", *flat, int(flat[0].size * asked.ratio))
        return
    for name, score, error, mask in zip(names, scores, noise, masks, strict=True):
        if asked.pattern:
            keep, of = asked.pattern
            parts = [part.reshape(-1, of) for part in (score, error, mask)]
            _check_groups(name, *parts, of - keep)
        elif asked.group == "layer":
            parts = [part.reshape(1, -1) for part in (score, error, mask)]
            _check_groups(name, *parts, int(score.size * asked.ratio))
        else:
            _check_groups(name, score, error, mask, int(score.shape[1] * asked.ratio))


def _check_groups(name: str, scores: Any, noise: Any, masks: Any, count: int) -> None:
    """In each row ``count`` are pruned, of the lowest scores but for ``noise``."""
    found = masks.sum(1)
    assert (found == count).all(), f"{name}: {sorted(set(found.tolist()))} are zero, not {count}"
    for score, error, mask in zip(scores, noise, masks, strict=True):
        if not count or not (np.isfinite(score).all() and np.isfinite(error).all()):
            continue
        lowest_kept = (score + error)[~mask].min()
        wrong = mask & (score - error > lowest_kept)
        assert not wrong.any(), f"{name}: {wrong.sum()} of {count} are not of the lowest scores"
