import pytest
from tiny_model import tiny_model

from prunerzero.pruning.blocks import prunable_layers


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def layers(model):
    return prunable_layers(model)
