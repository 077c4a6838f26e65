"""The CNN's shape, what it refuses, residual blocks, and products on unfolded patches against PyTorch's convolution."""

import pytest
import torch
from torch import nn

from normdrop.networks.cnn import cnn
from normdrop.networks.convolution import Convolution
from normdrop.networks.layers import Residual
from normdrop.networks.mlp import initialise, mlp
from normdrop.streams import stream


def names(network: nn.Sequential) -> str:
    return " ".join(type(layer).__name__ for layer in network)


BLOCK = {"arrangement": "bn_dropout", "position": "after", "rate": 0.5}


def build(shape=(1, 8, 8), **changes) -> nn.Sequential:
    return cnn(shape, 3, **BLOCK | {"channels": [4, 6]} | changes)


@pytest.mark.parametrize(
    ("shape", "noise", "block"),
    [
        ((1, 8, 8), "bernoulli", "Conv2d ReLU BatchNorm2d Dropout"),
        ((1, 40), "bernoulli", "Conv1d ReLU BatchNorm1d Dropout"),
        ((1, 8, 8), "channel", "Conv2d ReLU BatchNorm2d Dropout2d"),
        ((1, 40), "channel", "Conv1d ReLU BatchNorm1d Dropout1d"),
        ((3, 8, 8), "uniform", "Conv2d ReLU BatchNorm2d UniformNoise"),
    ],
)
def test_the_shape_of_a_row_decides_the_dimensions_of_its_blocks(shape, noise, block):
    network = build(shape, noise=noise)
    assert names(network) == f"Unflatten {block} {block} Flatten Linear"
    assert network(torch.randn(5, torch.Size(shape).numel())).shape == (5, 3)


@pytest.mark.parametrize("network", [build(), mlp(6, 3, **BLOCK)], ids=["cnn", "mlp"])
def test_batch_normalization_is_pytorchs_own_unless_a_config_says_otherwise(network):
    norms = [layer for layer in network if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    usual = nn.BatchNorm1d(1)
    assert {(norm.eps, norm.momentum) for norm in norms} == {(usual.eps, usual.momentum)}


def test_layer_normalization_is_a_group_norm_of_one_group_with_a_weight_for_each_channel():
    norm = build(arrangement="dropout_ln")[4]
    assert (norm.num_groups, norm.num_channels) == (1, 4)


def test_the_shape_of_the_mnist_1d_authors_has_their_number_of_weights():
    network = cnn((1, 40), 10, arrangement="none", position="after", rate=0, channels=[25] * 3, kernel=[5, 3, 3])
    assert sum(parameter.numel() for parameter in network.parameters()) == 5210
    assert network[-1].in_features == 125


@pytest.mark.parametrize(
    ("network", "at", "fan_in"),
    [(build((8, 16, 16), channels=[64]), 1, 8 * 3 * 3), (mlp(100, 3, **BLOCK, width=200), 0, 100)],
    ids=["convolution", "linear"],
)
def test_weights_and_biases_start_evenly_in_pytorchs_interval(network, at, fan_in):
    layer, bound = initialise(network, stream(0, "init"))[at], fan_in**-0.5
    assert layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
    deciles = torch.histc(layer.weight.detach(), bins=10, min=-bound, max=bound) / layer.weight.numel()
    assert (deciles - 0.1).abs().max() < 5 * (0.09 / layer.weight.numel()) ** 0.5


def test_initial_weights_do_not_depend_on_the_arrangement_or_on_residual_blocks():
    def weights(**changes):
        network = initialise(build(channels=[4, 4], stride=[2, 1], **changes), stream(3, "init"))
        return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    for changes in ({"arrangement": "dropout"}, {"arrangement": "dropout_ln"}, {"residual": True}):
        assert all(torch.equal(a, b) for a, b in zip(weights(), weights(**changes), strict=True))


def test_a_block_of_one_shape_in_and_out_becomes_x_plus_the_block():
    network = build(channels=[4, 4, 6], stride=[2, 1, 1], residual=True, arrangement="none")
    assert names(network) == "Unflatten Conv2d ReLU Residual Conv2d ReLU Flatten Linear"
    x = torch.randn(2, 4, 4, 4)
    assert torch.equal(network[3](x), x + network[3][1](network[3][0](x)))


def test_an_mlps_block_of_one_width_in_and_out_does_so_too():
    network = mlp(6, 3, arrangement="none", position="after", rate=0, width=[6, 5, 5], depth=3, residual=True)
    assert names(network) == "Residual Linear ReLU Residual Linear"
    assert isinstance(network[0], Residual)


def test_an_mlp_takes_rows_of_any_shape_as_flat():
    assert mlp((3, 4, 2), 3, arrangement="none", position="after", rate=0)[0].in_features == 24


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((30,), {}, r"shape \(30,\).*data.shape="),
        ((8, 8, 3), {}, "channels first"),
        ((1, 8, 8), {"channels": []}, r"model.channels=\[\]"),
        ((1, 8, 8), {"channels": 16}, "model.channels=16"),
        ((1, 8, 8), {"channels": [16, 1]}, "each hidden block"),
        ((1, 8, 8), {"kernel": 9}, r"\(8, 8\) is smaller than its kernel of 9"),
        ((1, 8, 8), {"stride": 10}, "its stride of 10"),
        ((1, 40, 2), {"kernel": 3}, r"\(40, 2\)"),
        ((1, 8, 8), {"channels": [4] * 4}, r"\(2, 2\)"),
        ((1, 8, 8), {"kernel": [3]}, r"model.kernel=\[3\].*each of the 2 blocks"),
        ((1, 8, 8), {"stride": 0}, "model.stride=0"),
        ((1, 8, 8), {"kernel": 2.5}, "model.kernel=2.5"),
        ((1, 8, 8), {"residual": True}, "nothing is added"),
    ],
)
def test_what_cannot_be_a_cnn_is_refused_in_one_line(shape, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        build(shape, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"residual": True, "width": [6, 5], "depth": 2}, r"nothing is added"), ({"noise": "channel"}, "no channels")],
)
def test_an_mlp_refuses_residual_blocks_that_add_nothing_and_noise_on_channels(changes, message):
    with pytest.raises(ValueError, match=message):
        mlp(10, 3, **{"arrangement": "none", "position": "after", "rate": 0} | changes)


@pytest.mark.parametrize("at_a_time", [1, 2**30], ids=["one by one", "together"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((1, 9), (1, 4), (1, 2), (0, 1)),
        ((5, 6), (5, 5), (5, 6), (2, 2)),
        ((7, 6), (3, 3), (1, 1), (1, 1)),
        ((8, 5), (2, 4), (3, 1), (0, 1)),
    ],
)
def test_products_on_unfolded_patches_are_pytorchs_convolution(monkeypatch, size, kernel, stride, padding, at_a_time):
    monkeypatch.setattr("normdrop.networks.convolution.AT_A_TIME", {"cpu": at_a_time})
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *size, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 2 * kernel[0] * kernel[1], generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 4, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    ours = Convolution.apply(x, weight, bias, kernel, stride, padding)
    theirs = torch.stack(
        [
            nn.functional.conv2d(x[k].movedim(-1, 0), weight[k].view(4, 2, *kernel), bias[k, :, 0], stride, padding)
            for k in range(3)
        ]
    ).movedim(1, -1)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    both = [torch.autograd.grad(out, (x, weight, bias), gradient) for out in (ours, theirs)]
    for own, their in zip(*both, strict=True):
        torch.testing.assert_close(own, their)
