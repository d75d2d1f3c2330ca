"""Devices that are neither CPU nor CUDA: of those, Apple's GPUs have no float64."""

import pytest
import torch
from tiny_model import tiny_model

from prunerzero.language import window_loss
from prunerzero.language.divergence import remember
from prunerzero.language.perplexity import perplexity, window_losses
from prunerzero.language.window_loss import WindowLoss
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning import calibration, fitness
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import collect_statistics

WINDOWS = torch.randint(0, 32, (5, 20), generator=torch.Generator().manual_seed(1))


class There(torch.Tensor):
    """A tensor on a device without float64; ``cpu`` brings it here."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, There) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def away(model):
    """The same model, there."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = parameter.detach().as_subclass(There)
                module._parameters[name] = torch.nn.Parameter(there, requires_grad=False)
    return model


@pytest.fixture(autouse=True)
def unknown_device(monkeypatch):
    """No table that is keyed by the type of the device knows it."""
    for table in (window_loss._LOGITS, calibration._LOGITS, calibration._TOKENS):
        monkeypatch.delitem(table, "cpu")
    monkeypatch.delitem(fitness._BATCH_TOKENS, "cpu")


def test_such_a_device_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        away(tiny_model())(input_ids=WINDOWS).logits.double()


def test_losses_are_the_same_there():
    here, there = tiny_model(), away(tiny_model())
    expected = window_losses(here, WINDOWS)
    torch.testing.assert_close(window_losses(there, WINDOWS), expected)
    torch.testing.assert_close(WindowLoss(there)(WINDOWS), expected, rtol=1e-6, atol=0)


def test_the_divergence_is_the_same_there():
    here, there = (
        perplexity(wrap(tiny_model(1)), WINDOWS, reference=remember(wrap(tiny_model()), WINDOWS))
        for wrap in (lambda model: model, away)
    )
    assert there.divergence.kl == pytest.approx(here.divergence.kl, rel=1e-5)
    assert there.divergence.agreement == here.divergence.agreement


def test_masks_are_the_same_there():
    pruned = []
    for wrap in (lambda model: model, away):
        model = wrap(tiny_model())
        layers = prunable_layers(model)
        statistics = collect_statistics(model, layers, WINDOWS)
        prune_model(layers, statistics, Expression.parse("W * sqrt(X) * G"), Sparsity.parse("0.5"))
        pruned.append([layer.weight.cpu() == 0 for layer in layers.values()])
    for here, there in zip(*pruned, strict=True):
        assert torch.equal(here, there)
