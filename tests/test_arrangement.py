"""The idea, written out by hand: every arrangement at every position, and which of them are one network."""

import itertools

import pytest
import torch
from torch import nn

from normdrop.arrangement import ARRANGEMENTS, POSITIONS, same_network
from normdrop.networks.layers import UniformNoise, block

LAYERS = {
    ("none", "after"): "Linear ReLU",
    ("none", "before"): "Linear ReLU",
    ("none", "around"): "Linear ReLU",
    ("dropout", "after"): "Linear ReLU Dropout",
    ("dropout", "before"): "Linear Dropout ReLU",
    ("dropout", "around"): "Linear ReLU Dropout",
    ("bn", "after"): "Linear ReLU BatchNorm1d",
    ("bn", "before"): "Linear BatchNorm1d ReLU",
    ("bn", "around"): "Linear BatchNorm1d ReLU",
    ("bn_dropout", "after"): "Linear ReLU BatchNorm1d Dropout",
    ("bn_dropout", "before"): "Linear BatchNorm1d Dropout ReLU",
    ("bn_dropout", "around"): "Linear BatchNorm1d ReLU Dropout",
    ("dropout_bn", "after"): "Linear ReLU Dropout BatchNorm1d",
    ("dropout_bn", "before"): "Linear Dropout BatchNorm1d ReLU",
    ("dropout_bn", "around"): "Linear Dropout ReLU BatchNorm1d",
    ("ln", "after"): "Linear ReLU LayerNorm",
    ("ln", "before"): "Linear LayerNorm ReLU",
    ("ln", "around"): "Linear LayerNorm ReLU",
    ("ln_dropout", "after"): "Linear ReLU LayerNorm Dropout",
    ("ln_dropout", "before"): "Linear LayerNorm Dropout ReLU",
    ("ln_dropout", "around"): "Linear LayerNorm ReLU Dropout",
    ("dropout_ln", "after"): "Linear ReLU Dropout LayerNorm",
    ("dropout_ln", "before"): "Linear Dropout LayerNorm ReLU",
    ("dropout_ln", "around"): "Linear Dropout ReLU LayerNorm",
}
POSITIONS_THAT_ARE_ONE_NETWORK = {
    "none": ["after before around"],
    "dropout": ["after before around"],
    "bn": ["after", "before around"],
    "bn_dropout": ["after", "before around"],
    "dropout_bn": ["after around", "before"],
    "ln": ["after", "before around"],
    "ln_dropout": ["after", "before around"],
    "dropout_ln": ["after around", "before"],
}
WITHOUT_COMMUTATION = {
    "none": ["after before around"],
    "dropout": ["after around", "before"],
    "bn": ["after", "before around"],
    "bn_dropout": ["after", "before", "around"],
    "dropout_bn": ["after", "before", "around"],
    "ln": ["after", "before around"],
    "ln_dropout": ["after", "before", "around"],
    "dropout_ln": ["after", "before", "around"],
}


@pytest.mark.parametrize(("arrangement", "position"), itertools.product(ARRANGEMENTS, POSITIONS))
def test_a_block_has_the_layers_that_the_arrangement_says_in_their_order(arrangement, position):
    layers = block(nn.Linear(7, 5), arrangement=arrangement, position=position, rate=0.3)
    assert " ".join(type(layer).__name__ for layer in layers) == LAYERS[arrangement, position]


@pytest.mark.parametrize(
    ("activation", "table"),
    [
        ("relu", POSITIONS_THAT_ARE_ONE_NETWORK),
        ("leaky_relu", POSITIONS_THAT_ARE_ONE_NETWORK),
        ("gelu", WITHOUT_COMMUTATION),
        ("tanh", WITHOUT_COMMUTATION),
    ],
)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_positions_that_are_one_network_are_these(arrangement, activation, table):
    for positions in table[arrangement]:
        for position in positions.split():
            expected = [(arrangement, other) for other in positions.split()]
            assert same_network(arrangement, position, activation) == expected


def test_uniform_noise_is_the_identity_in_eval_mode_and_bounded_with_mean_one_in_training():
    x = torch.ones(400, 50)
    layer = UniformNoise(0.4)
    assert torch.equal(layer.eval()(x), x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = layer.train()(x)
    assert y.min() >= 0.6 and y.max() <= 1.4
    assert abs(y.mean() - 1) < 5 * 0.4 / 3**0.5 / y.numel() ** 0.5
