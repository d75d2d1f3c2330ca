"""Figures that cannot be right, told in a sentence each; nothing is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from prunerzero.language.bootstrap import LEAST_WINDOWS, paired_bootstrap
from prunerzero.language.corpora import the_text

_LEAST_TOKENS = 200
"""Of fewer, the frequencies are those of this text alone, and better than any model."""


def frequency_perplexity(windows: Tensor) -> float:
    """What a model reaches that knows nothing but how often each token of this text occurs.

    Args:
        windows: token ids [count, length]; the first of each window is predicted by nothing.

    Source: entropy of the frequencies, with the correction for few tokens of Miller, Note on the
    bias of information estimates (1955).
    """
    _, counts = torch.unique(windows[:, 1:], return_counts=True)
    shares = counts.double() / counts.sum()
    entropy = -(shares * shares.log()).sum().item()
    return math.exp(entropy + (len(counts) - 1) / (2 * int(counts.sum())))


def dense_doubt(place: str, perplexity: float, windows: Tensor) -> str | None:
    """A sentence where the unpruned model predicts worse than token frequencies do."""
    doubt = model_doubt("The unpruned model", f"the {the_text(place)}", perplexity, windows)
    return doubt and f"{doubt} What is measured of its pruning then means little."


def model_doubt(who: str, where: str, perplexity: float, windows: Tensor) -> str | None:
    """A sentence where a model predicts worse than token frequencies do.

    Args:
        who: the model, at the beginning of a sentence.
        where: the text, in the middle of one.
        perplexity: of the model on the text.
        windows: token ids [count, length] of the text.
    """
    if windows[:, 1:].numel() < _LEAST_TOKENS:
        return None
    least = frequency_perplexity(windows)
    if perplexity <= least:
        return None
    return (
        f"{who} has perplexity {perplexity:,.4g} on {where}, where the mere frequencies of its "
        f"tokens give {least:,.4g}: no working model is worse than that, so the model is broken, "
        "or is not given the text as it expects it (tokenizer, beginning token, dtype)."
    )


def pruned_doubt(
    place: str, dense: Sequence[float], pruned: Sequence[float], by: str = ""
) -> str | None:
    """A sentence where pruning has made the model better, by more than the noise.

    Args:
        place: part of the text, or one of its texts.
        dense, pruned: losses of the same windows.
        by: what it was pruned with, where several metrics are compared.
    """
    if len(dense) < LEAST_WINDOWS:
        return None
    _, high = paired_bootstrap(dense, pruned).rise
    if high >= 0:
        return None
    return (
        f"On the {the_text(place)} the model pruned{by and f' with {by}'} is better than the "
        "unpruned one by more than the noise: that is no gain of pruning, but a sign that the "
        "unpruned model does not work on this text as it should."
    )


def gain_doubt(place: str, sparsity: str, name: str, known: float, evolved: float) -> str | None:
    """A sentence where a known metric is as good as the evolved one on text no choice has seen.

    Args:
        place: part of the text, or one of its texts.
        sparsity: what both prune to.
        name: of the known metric that was best on the validation text.
        known, evolved: perplexities.
    """
    if evolved < known:
        return None
    return (
        f"At {sparsity} on the {the_text(place)}, which no choice has seen, {name} has perplexity "
        f"{known:.4g} and the evolved metric {evolved:.4g}: what was gained on the validation text "
        f"does not carry over. Prune with {name}, or search with more validation text."
    )


def interval_doubt(place: str, windows: int) -> str | None:
    """A sentence where the windows are too few for an interval."""
    if windows >= LEAST_WINDOWS:
        return None
    count = "1 window is" if windows == 1 else f"{windows} windows are"
    few = f"too few for an interval, which takes {LEAST_WINDOWS}"
    return f"{count} read of the {the_text(place)}: {few}."


def one_text_doubt(names: Sequence[str]) -> str | None:
    """A sentence where weights are refitted to one text alone.

    Args:
        names: of the calibration texts, as ``Workspace.texts`` gives them.
    """
    if len(names) != 1:
        return None
    return (
        f"The weights are refitted to one text, {names[0]}; on text of another kind the model can "
        "be worse: give `calibration` several times."
    )


def told(doubts: Iterable[str | None]) -> tuple[str, ...]:
    """Those that there are, each once."""
    return tuple(dict.fromkeys(doubt for doubt in doubts if doubt is not None))
