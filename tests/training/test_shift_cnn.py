"""Variance shift in convolutional and residual networks: per channel over rows and positions."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from normdrop.data.module import Part
from normdrop.networks.cnn import cnn
from normdrop.networks.mlp import initialise
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training import shift

BATCH = 64
IMAGE = (2, 6, 6)


def part_of(rows: int, features: int, replicates: int) -> Part:
    x = torch.randn(replicates, rows, features, generator=torch.Generator().manual_seed(0))
    return Part.of(x, torch.zeros(replicates, rows, dtype=torch.long))


def stacked(seeds=(0, 1, 2), shape=IMAGE, **changes) -> StackedNetwork:
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.5}
    block |= {"channels": [24] * 3, "stride": 1 if "channels" in changes else [2, 1, 1]}
    plain = cnn(shape, 4, **block | changes)
    return StackedNetwork([initialise(copy.deepcopy(plain), stream(seed, "init")) for seed in seeds], seeds, BATCH)


def test_behind_a_convolution_the_shift_is_the_formula_on_patches():
    network = stacked([0], shape=(2, 12), channels=[6, 5], stride=1, position="before", rate=0.4)
    part = part_of(400, 24, 1)
    entry = shift.measure(network, part, 400, rerun=0, epoch=0)[1]
    plain = network.replicate(0)
    keep = 1 - round(0.4 * 2**16) / 2**16
    with torch.no_grad():
        x = part.x[0]
        noisy = copy.deepcopy(plain[:3]).train()(x).double().relu()
        noise_free = plain.eval()[:3](x).relu()
        conv = copy.deepcopy(plain[5]).double()
        here = conv(noise_free.double()).movedim(1, 0).flatten(1).var(dim=1, correction=0)
        signal = conv(noisy).movedim(1, 0).flatten(1).var(dim=1, correction=0)
        conv.weight.square_()
        conv.bias.zero_()
        noise = (1 - keep) / keep * conv(noisy.square()).movedim(1, 0).flatten(1).mean(dim=1)
    assert entry["measured"] == pytest.approx(float(np.median(here / (signal + noise))), rel=0.03)


@pytest.mark.parametrize("noise", ["bernoulli", "channel"])
def test_directly_behind_dropout_a_channel_shifts_by_the_closed_form(noise):
    network = stacked(arrangement="dropout_bn", noise=noise, rate=0.5, channels=[24])
    part = part_of(384, 72, 3)
    plain = network.replicate(1).eval()
    with torch.no_grad():
        values = plain[:3](part.x[1]).double().movedim(1, 0).flatten(1)
    mean, variance = values.mean(dim=1), values.var(dim=1, correction=0)
    expected = variance / (variance + (mean.square() + variance))
    entries = shift.measure(network, part, BATCH, rerun=0, epoch="end")
    assert len(entries) == 3 and all(0 < entry["units"] <= 24 for entry in entries)
    assert entries[1]["measured"] == pytest.approx(expected.median().item(), rel=0.05)


@pytest.mark.parametrize("residual", [False, True])
def test_recalibrated_statistics_are_those_that_batch_norm_takes_from_one_batch_of_all_rows(residual):
    network = stacked(residual=residual)
    part = part_of(700, 72, 3)  # more than one chunk
    recalibrated = shift.recalibrated(network, part)
    plain = network.replicate(1).eval()
    norms = [layer for layer in plain.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
        layer.train()
    with torch.no_grad():
        plain(part.x[1])
    own = [layer for layer in recalibrated.replicate(1).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 3
    for ours, theirs in zip(own, norms, strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-3, atol=1e-5)
