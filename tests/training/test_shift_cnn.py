"""Variance shift in convolutional and residual networks: per channel over rows and positions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from normdrop.data.module import Part
from normdrop.networks.cnn import cnn
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training import shift

BATCH = 64
IMAGE = (2, 6, 6)


def parts_of(rows: int, features: int, replicates: int) -> dict[str, Part]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: Part.of(
            torch.randn(replicates, count, features, generator=generator),
            torch.zeros(replicates, count, dtype=torch.long),
        )
        for name, count in (("train", rows), ("val", rows // 4))
    }


def stacked(seeds=(0, 1, 2), shape=IMAGE, **changes) -> StackedNetwork:
    block = {
        "arrangement": "bn_dropout",
        "position": "after",
        "rate": 0.5,
        "channels": [24, 24, 24],
        "stride": [2, 1, 1],
    }
    plain = cnn(shape, 4, **block | changes)
    return StackedNetwork([initialise(copy.deepcopy(plain), stream(seed, "init")) for seed in seeds], seeds, BATCH)


@pytest.mark.parametrize(
    ("changes", "case"),
    [
        ({"arrangement": "dropout_bn"}, shift.DIRECT),
        ({"arrangement": "dropout_bn", "position": "before", "noise": "channel"}, shift.DIRECT),
        ({"arrangement": "dropout_bn", "noise": "uniform"}, shift.DIRECT),
        ({"position": "before"}, shift.LINEAR),
        ({"position": "before", "noise": "channel"}, shift.LINEAR),
        ({"position": "around", "noise": "uniform"}, shift.LINEAR),
        ({"position": "after"}, shift.APPROXIMATE),
        ({"position": "after", "noise": "channel"}, shift.APPROXIMATE),
        ({"arrangement": "dropout_bn", "residual": True}, shift.DIRECT),
    ],
    ids=str,
)
def test_measured_and_predicted_agree_within_two_percent_at_every_layer(monkeypatch, changes, case):
    monkeypatch.setattr(shift, "PASSES", 8)
    network = stacked(**changes)
    parts = parts_of(384, 72, len(network.seeds))
    shift_free = {shift.NO_NOISE} if changes.get("arrangement") != "dropout_bn" else {case}
    entries = shift.measure(network, parts, BATCH, rerun=0, epoch="end")
    for layer in (1, 2, 3):
        own = [entry for entry in entries if entry["layer"] == layer]
        assert {entry["case"] for entry in own} == (shift_free if layer == 1 else {case})
        assert {entry["units"] + entry["set_aside"] for entry in own} == {24}
        tolerance = 0.02 if case != shift.APPROXIMATE else 0.03
        assert np.mean([entry["measured"] / entry["predicted"] for entry in own]) == pytest.approx(1, abs=tolerance)


def test_behind_a_convolution_the_prediction_is_the_formula_on_patches():
    network = stacked([0], shape=(2, 12), channels=[6, 5], stride=1, position="before", rate=0.4)
    parts = parts_of(400, 24, 1)
    entry = shift.measure(network, parts, 400, rerun=0, epoch=0)[1]
    assert entry["case"] == shift.LINEAR
    plain = network.replicate(0)
    keep = 1 - round(0.4 * 2**16) / 2**16
    with torch.no_grad():
        x = parts["train"].x[0]
        noisy = copy.deepcopy(plain[:3]).train()(x).double().relu()
        noise_free = plain.eval()[:3](x).relu()
        conv = copy.deepcopy(plain[5]).double()
        here = conv(noise_free.double()).movedim(1, 0).flatten(1).var(dim=1, correction=0)
        signal = conv(noisy).movedim(1, 0).flatten(1).var(dim=1, correction=0)
        conv.weight.square_()
        conv.bias.zero_()
        noise = (1 - keep) / keep * conv(noisy.square()).movedim(1, 0).flatten(1).mean(dim=1)
    assert entry["predicted"] == pytest.approx(float(np.median(here / (signal + noise))), rel=0.01)


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_across_the_sum_of_a_residual_block_there_is_no_formula(model):
    if model == "cnn":
        network, features = stacked([0], residual=True), 72
    else:
        plain = mlp(8, 4, arrangement="bn_dropout", position="after", rate=0.5, width=12, depth=3, residual=True)
        network, features = StackedNetwork([plain], [0], BATCH), 8
    entries = shift.measure(network, parts_of(256, features, 1), BATCH, rerun=0, epoch=0)
    assert [entry["case"] for entry in entries] == [shift.NO_NOISE, shift.APPROXIMATE, shift.NO_FORMULA]
    assert [entry["predicted"] is None for entry in entries] == [False, False, True]
    assert all(entry["measured"] < 0.95 for entry in entries[1:])


@pytest.mark.parametrize("residual", [False, True])
def test_recalibrated_statistics_are_those_that_batch_norm_takes_from_one_batch_of_all_rows(residual):
    network = stacked(residual=residual)
    part = parts_of(700, 72, 3)["train"]  # more than one chunk
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


def test_activations_are_those_of_each_channel_over_rows_and_positions():
    network = stacked(residual=True)
    part = parts_of(100, 72, 3)["train"]
    seen = shift.activations(network, part, BATCH, rerun=0, seed=1)
    plain, taken = network.replicate(1).eval(), []
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, inputs, output: taken.append((inputs[0], output)))
    with torch.no_grad():
        plain(part.x[1])
    for number, both in enumerate(taken, start=1):
        for where, values in zip(("before_bn", "after_bn"), both, strict=True):
            ours = seen[number, where, "eval"]
            assert ours.shape == (24, 100 * 9)
            theirs = values.movedim(1, 0).flatten(1)
            torch.testing.assert_close(ours.sort(dim=1).values, theirs.sort(dim=1).values, rtol=1e-4, atol=1e-4)


def test_a_cnn_is_measured_the_same_whatever_its_companions():
    parts = parts_of(200, 72, 3)
    together = shift.measure(stacked([4, 5, 6], residual=True), parts, BATCH, rerun=0, epoch=0)
    own = {name: part.replicate(1) for name, part in parts.items()}
    alone = shift.measure(stacked([5], residual=True), own, BATCH, rerun=0, epoch=0)
    assert [entry for entry in together if entry["seed"] == 5] == alone
