"""A stacked network, with convolutions and residual blocks or without, is N plain networks, whatever trains beside."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.networks.layers import Residual
from normdrop.networks.stacked import StackedNetwork
from normdrop.training.module import cross_entropy
from plain_copies import (
    BATCH,
    FLAT,
    IMAGE,
    SEEDS,
    SIGNAL,
    adam,
    assert_close,
    assert_trains_like_plain_networks,
    plain_networks,
    rows,
    sgd,
)

WIDTHS = {"width": [6, 20, 20], "depth": 3, "residual": True}


@pytest.mark.parametrize("shape", [FLAT, IMAGE, SIGNAL], ids=["flat", "image", "signal"])
@pytest.mark.parametrize(("arrangement", "position"), [*itertools.product(ARRANGEMENTS, POSITIONS)])
def test_a_stacked_network_trains_like_plain_networks_with_the_same_weights_and_masks(shape, arrangement, position):
    assert_trains_like_plain_networks(shape, arrangement=arrangement, position=position)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (IMAGE, {"noise": "channel"}),
        (SIGNAL, {"noise": "channel", "arrangement": "dropout_bn"}),
        (IMAGE, {"noise": "uniform", "activation": "tanh"}),
        (SIGNAL, {"kernel": [5, 2], "arrangement": "ln_dropout"}),
        (IMAGE, {"kernel": 1, "stride": 1}),
        (IMAGE, {"channels": [4, 4, 4], "stride": [2, 1, 1], "residual": True}),
        (
            IMAGE,
            {"channels": [4, 4], "stride": [2, 1], "residual": True, "noise": "channel", "arrangement": "dropout_bn"},
        ),
        (SIGNAL, {"channels": [2, 2], "stride": 1, "residual": True, "arrangement": "ln_dropout"}),
        (FLAT, WIDTHS),
        (FLAT, WIDTHS | {"arrangement": "dropout_ln", "position": "before"}),
        (FLAT, {"rerun": 1}),
    ],
    ids=str,
)
def test_it_does_so_with_every_kind_of_noise_kernel_and_residual_block_and_in_the_a_a_run(shape, block):
    assert_trains_like_plain_networks(shape, **block)


@pytest.mark.parametrize(
    "block",
    [
        {"arrangement": "dropout_bn"},
        {"noise": "uniform"},
        {"activation": "gelu", "position": "before"},
        {"activation": "tanh", "noise": "uniform", "arrangement": "dropout_bn"},
        {"dropout_layers": "last"},
        {"width": 16, "depth": 1, "output_activation": "relu"},
        {"width": [33, 1, 17], "depth": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_it_does_so_with_every_optimizer_activation_and_width(optimizer, block):
    assert_trains_like_plain_networks(FLAT, optimizer, steps=(BATCH, 5, BATCH, BATCH), **block)


def trained(shape, chosen: list[int], batch: int = BATCH, **block) -> tuple[Tensor, list[Tensor]]:
    """Logits in eval mode, and all parameters, of these replicates after a few steps of Adam side by side."""
    networks = plain_networks(shape, [SEEDS[k] for k in chosen], **block)
    stacked = StackedNetwork(networks, [SEEDS[k] for k in chosen], batch)
    optimizer = torch.optim.Adam(stacked.parameters(), lr=0.01, fused=True)
    for number, size in enumerate((batch, batch - batch // 3, batch)):
        x, y = rows(shape, size, seed=number)
        optimizer.zero_grad()
        cross_entropy(stacked.train()(x[chosen].float()), y[chosen]).mean(dim=1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        evaluated = torch.cat([stacked.eval()(rows(shape, size)[0][chosen].float()) for size in (20, 1)], dim=1)
    return evaluated, [parameter.detach() for parameter in stacked.parameters()]


@pytest.mark.parametrize("batch", [BATCH, 64])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (IMAGE, {}),
        (SIGNAL, {}),
        ((1, 11), {"kernel": 1}),
        ((1, 3, 3), {"kernel": [3, 1], "stride": [3, 1], "channels": [2, 2]}),
        (IMAGE, {"noise": "channel"}),
        (IMAGE, {"arrangement": "dropout_ln", "channels": [16, 32]}),
        (IMAGE, {"channels": [4, 4], "residual": True}),
        (FLAT, WIDTHS),
    ],
    ids=str,
)
def test_a_replicates_bits_are_the_same_whatever_trains_beside_it(shape, block, batch):
    together, parameters = trained(shape, [0, 1, 2], batch, **block)
    for k in range(3):
        alone, own = trained(shape, [k], batch, **block)
        assert torch.equal(alone[0], together[k])
        assert all(torch.equal(a[0], b[k]) for a, b in zip(own, parameters, strict=True))


@pytest.mark.parametrize("residual", [False, True])
def test_silencing_takes_whole_channels_out_of_sight(residual):
    networks = plain_networks(IMAGE, arrangement="none", channels=[4, 4], residual=residual)
    stacked = StackedNetwork(networks, SEEDS, BATCH).eval()
    assert stacked.widths == [4, 4]
    x = rows(IMAGE, BATCH)[0].float()
    keep = [torch.ones(len(SEEDS), 4, 1) for _ in range(2)]
    keep[0][1, 2] = keep[1][1, 3] = 0
    silenced = stacked(x, keep)
    assert torch.equal(silenced[0], stacked(x)[0])
    for network in networks:
        blocks = [layer for layer in network if isinstance(layer, nn.ReLU | Residual)]
        for layer, channel in zip(blocks, (2, 3), strict=True):
            mask = torch.ones(4, 1, 1)
            mask[channel] = 0
            layer.register_forward_hook(lambda _, __, out, mask=mask: out * mask)
    torch.testing.assert_close(silenced[1], networks[1].eval()(x[1]))


def test_a_large_image_is_evaluated_a_few_rows_at_a_time_with_the_same_result():
    stacked = StackedNetwork(plain_networks(IMAGE), SEEDS, BATCH).double().eval()
    x, _ = rows(IMAGE, 20)
    whole = stacked(x)
    stacked.rows_at_a_time = 7
    assert_close(stacked(x), whole)
