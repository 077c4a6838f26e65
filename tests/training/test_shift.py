"""Variance shift as measured against its closed forms; recalibration; nothing else is touched."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normdrop.data.module import BatchOrder, Part, ReplicateData
from normdrop.data.sources import digits
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedBatchNorm, StackedNetwork
from normdrop.streams import stream
from normdrop.training import shift
from normdrop.training.module import accuracy, cross_entropy

BATCH = 64
CLASSES = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussian_parts(rows: int, features: int, replicates: int = 1) -> dict[str, Part]:
    """Standard normal rows, of mean 0 exactly, with labels that a network can learn."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, count in (("train", rows), ("val", rows // 4)):
        x = torch.randn(replicates, count, features, generator=generator)
        x = x - x.mean(dim=1, keepdim=True)
        parts[name] = Part.of(x, (x[..., 0] > 0).long() + 2 * (x[..., 1] * x[..., 2] > 0).long())
    return parts


def build(features: int, seeds: list[int], classes: int = CLASSES, **block) -> StackedNetwork:
    networks = [initialise(mlp(features, classes, **block), stream(seed, "init")) for seed in seeds]
    return StackedNetwork(networks, seeds, BATCH)


def train(network: StackedNetwork, part: Part, epochs: int) -> StackedNetwork:
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    order = BatchOrder(part.rows, network.seeds, BATCH)
    for _ in range(epochs):
        for rows in order:
            optimizer.zero_grad()
            x, y = part.table.gather(rows)
            cross_entropy(network(x), y).mean(dim=1).sum().backward()
            optimizer.step()
    return network


@torch.no_grad()
def evaluated(network: StackedNetwork, part: Part) -> Tensor:
    return accuracy(copy.deepcopy(network).eval()(part.x), part.y)


def unit_by_unit(position: str, rate: float, noise: str = "bernoulli", mean: float = 0.0) -> dict:
    """The shift entry of a first BN layer whose units are normal with variance 1 before the activation."""
    network = build(32, [0], arrangement="dropout_bn", position=position, rate=rate, noise=noise, width=32, depth=1)
    linear = network.layers[0]
    with torch.no_grad():
        linear.weight[0, : 32 * 32] = torch.eye(32).flatten()
        linear.bias.fill_(mean)
    (entry,) = shift.measure(network, gaussian_parts(20_000, 32), 2000, rerun=0, epoch="end")
    return entry


def closed_form(mean: float, variance: float, noise: float) -> float:
    """Δ of a unit with this mean and variance before a factor of mean 1 and this variance: q / (1 − q), or β² / 3."""
    return variance / (variance + noise * (mean**2 + variance))


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_directly_behind_dropout_the_shift_is_the_closed_form(rate, mean):
    entry = unit_by_unit("before", rate, mean=mean)
    expected = closed_form(mean, 1.0, rate / (1 - rate))
    assert expected == pytest.approx(1 / ((mean**2 + 1) / (1 - rate) - mean**2))  # as the paper writes it
    assert entry["case"] == shift.NOISE
    assert entry["measured"] == pytest.approx(expected, rel=0.015)


def test_the_relu_of_a_standard_normal_at_rate_one_half_shifts_by_0_405():
    mean, square = 1 / math.sqrt(2 * math.pi), 0.5
    assert closed_form(mean, square - mean**2, 1.0) == pytest.approx(0.405, abs=0.001)
    assert unit_by_unit("after", 0.5)["measured"] == pytest.approx(0.405, abs=0.005)


@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_uniform_noise_shifts_as_its_formula_says(beta):
    entry = unit_by_unit("before", beta, noise="uniform", mean=1.5)
    assert entry["measured"] == pytest.approx(closed_form(1.5, 1.0, beta**2 / 3), rel=0.01)


def test_dropout_leaves_the_mean_of_what_bn_sees_where_it_was():
    entry = unit_by_unit("before", 0.5, mean=1.0)
    assert entry["mean_shift"] < 0.02  # in standard deviations, of 20,000 rows
    assert entry["running_mean_shift"] == pytest.approx(1.0, abs=0.01)  # an untrained layer's running mean is 0


def test_behind_a_linear_layer_the_shift_is_the_covariance_formula():
    q = 0.5
    parts = gaussian_parts(4096, 16)
    network = build(16, [3], arrangement="bn_dropout", position="before", rate=q, width=48, depth=2)
    first, second = shift.measure(network, parts, 512, rerun=0, epoch=0)
    assert (first["case"], second["case"]) == (shift.NO_NOISE, shift.NOISE)
    with torch.no_grad():
        # Large batches: the batch statistics that train mode normalises by are then those of all rows.
        linear, bn, _, relu, output = list(copy.deepcopy(network).train().layers)[:5]
        before = relu(bn(linear(parts["train"].x.transpose(1, 2))))[0].double()
        weight = output.weight.double().view(48, 48)
        noise = q / (1 - q) * weight.square() @ before.square().mean(dim=1)
        evaluated = parts["train"].x.transpose(1, 2)
        for layer in list(copy.deepcopy(network).eval().layers)[:5]:
            evaluated = layer(evaluated)
    signal = torch.einsum("oi,ij,oj->o", weight, before.cov(), weight)
    expected = evaluated[0].double().var(dim=1) / (signal + noise)
    assert second["measured"] == pytest.approx(float(np.median(expected)), rel=0.03)


def test_with_dropout_in_the_last_block_alone_only_bn_behind_it_shifts():
    parts = gaussian_parts(2048, 16)
    block = {"position": "after", "rate": 0.5, "width": 64, "depth": 3, "dropout_layers": "last"}
    network = train(build(16, [0], arrangement="dropout_bn", **block), parts["train"], epochs=4)
    first, second, last = shift.measure(network, parts, BATCH, rerun=0, epoch="end")
    assert [entry["case"] for entry in (first, second, last)] == [shift.NO_NOISE, shift.NO_NOISE, shift.NOISE]
    assert first["measured"] == pytest.approx(1, abs=1e-5)
    assert second["measured"] == pytest.approx(1, abs=0.05)
    assert last["measured"] < 0.6
    network = build(16, [0], arrangement="bn_dropout", **block)
    assert {entry["case"] for entry in shift.measure(network, parts, BATCH, 0, 0)} == {shift.NO_NOISE}


def test_rate_zero_counts_as_no_noise():
    network = build(16, [0], arrangement="dropout_bn", position="after", rate=0.0, width=16, depth=1)
    (entry,) = shift.measure(network, gaussian_parts(256, 16), BATCH, rerun=0, epoch=0)
    assert entry["case"] == shift.NO_NOISE


def test_a_rate_so_near_to_one_that_nothing_is_kept_leaves_no_variance_to_shift_and_no_error():
    plain = nn.Sequential(nn.Linear(16, 8), nn.Dropout(1 - 1e-6), nn.BatchNorm1d(8), nn.Linear(8, 2))
    (entry,) = shift.measure(StackedNetwork([plain], [0], BATCH), gaussian_parts(256, 16), BATCH, rerun=0, epoch=0)
    assert (entry["units"], entry["measured"]) == (0, None)


def test_units_without_variance_are_counted_and_set_aside():
    network = build(16, [0, 1], arrangement="dropout_bn", position="after", rate=0.5, width=32, depth=1)
    parts = gaussian_parts(1024, 16, replicates=2)
    with torch.no_grad():
        network.layers[0].bias[1, :5] = -100.0
    whole, dead = shift.measure(network, parts, BATCH, rerun=0, epoch=0)
    assert (whole["units"], whole["set_aside"]) == (32, 0)
    assert (dead["units"], dead["set_aside"]) == (27, 5)
    assert dead["measured"] == pytest.approx(whole["measured"], rel=0.2)


def test_a_diverged_replicate_has_empty_figures():
    network = build(16, [0, 1], arrangement="bn_dropout", position="after", rate=0.5, width=32, depth=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[0].fill_(math.nan)
    entries = shift.measure(network, gaussian_parts(512, 16, replicates=2), BATCH, rerun=0, epoch=0)
    figures = ("measured", "running", "mean_shift", "running_mean_shift", "val_measured", "val_running")
    for entry in entries:
        assert [entry[key] is None for key in figures] == [entry["seed"] == 0] * len(figures)


def test_a_network_without_bn_has_no_shift():
    network = build(16, [0], arrangement="dropout", position="after", rate=0.5, width=16, depth=2)
    assert shift.measure(network, gaussian_parts(256, 16), BATCH, rerun=0, epoch=0) == []


def test_running_statistics_of_all_rows_give_the_ratio_to_the_running_variance():
    network = build(16, [0], arrangement="bn", position="after", rate=0.0, width=32, depth=2)
    parts = gaussian_parts(1024, 16)
    exact = shift.recalibrated(network, parts["train"])
    for entry in shift.measure(exact, parts, BATCH, rerun=0, epoch=0):
        assert entry["running"] == pytest.approx(1023 / 1024, abs=1e-5)
        assert entry["running_mean_shift"] == pytest.approx(0, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Recalibration


@pytest.fixture(scope="module")
def trained_on_digits() -> tuple[dict[str, Part], dict[str, StackedNetwork]]:
    data = ReplicateData(digits, [0, 1, 2], BATCH)
    data.setup()
    networks = {
        arrangement: train(
            build(64, data.seeds, 10, arrangement=arrangement, position="after", rate=0.5, width=64, depth=2),
            data.parts["train"],
            epochs=12,
        )
        for arrangement in ("bn", "dropout_bn")
    }
    return data.parts, networks


@pytest.mark.parametrize("arrangement", ["bn", "dropout_bn"])
def test_recalibration_restores_the_accuracy_of_spoiled_running_statistics(trained_on_digits, arrangement):
    parts, networks = trained_on_digits
    spoiled = copy.deepcopy(networks[arrangement])
    for layer in spoiled.layers:
        if isinstance(layer, StackedBatchNorm):
            layer.running_mean.add_(3.0)
            layer.running_var.mul_(torch.linspace(0.01, 100, layer.running_var.numel()))
    before = evaluated(networks[arrangement], parts["test"])
    assert (evaluated(spoiled, parts["test"]) < before - 0.3).all()
    assert (evaluated(shift.recalibrated(spoiled, parts["train"]), parts["test"]) > before - 0.02).all()


def test_recalibrating_a_network_trained_without_dropout_changes_accuracy_by_no_more_than_a_few_rows(
    trained_on_digits,
):
    parts, networks = trained_on_digits
    change = evaluated(shift.recalibrated(networks["bn"], parts["train"]), parts["test"]) - evaluated(
        networks["bn"], parts["test"]
    )
    assert change.abs().max() <= 4 / parts["test"].y.shape[1]


def test_recalibration_removes_the_shift_and_leaves_the_weights(trained_on_digits):
    parts, networks = trained_on_digits
    network = networks["dropout_bn"]
    recalibrated = shift.recalibrated(network, parts["train"])
    rows = parts["train"].y.shape[1]
    for entry in shift.measure(recalibrated, parts, BATCH, rerun=0, epoch="end"):
        assert entry["running"] == pytest.approx((rows - 1) / rows, abs=1e-4)
    for ours, theirs in zip(network.parameters(), recalibrated.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert network.training
    assert not recalibrated.training


def test_recalibrated_statistics_are_those_that_batch_norm_takes_from_one_batch_of_all_rows(trained_on_digits):
    parts, networks = trained_on_digits
    recalibrated = shift.recalibrated(networks["bn"], parts["train"])
    plain = networks["bn"].replicate(1).train()
    for layer in plain:
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0
    with torch.no_grad():
        plain(parts["train"].x[1])
    for ours, theirs in zip(recalibrated.replicate(1), plain, strict=True):
        if isinstance(ours, nn.BatchNorm1d):
            torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=5e-3, atol=1e-3)
            torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=5e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# What measuring reads and leaves alone


def test_only_the_figures_named_val_depend_on_validation_rows_and_none_on_test_rows(trained_on_digits):
    parts, networks = trained_on_digits
    other = {"train": parts["train"], "val": Part.of(parts["val"].x * 2 + 1, parts["val"].y)}
    entries, others = (shift.measure(networks["dropout_bn"], p, BATCH, rerun=0, epoch=3) for p in (parts, other))
    for ours, theirs in zip(entries, others, strict=True):
        assert {key for key in ours if ours[key] != theirs[key]} == {
            "val_measured",
            "val_running",
            "val_mean_shift",
            "val_running_mean_shift",
        }


def test_measuring_leaves_network_mask_streams_and_global_random_state_as_they_were(trained_on_digits):
    parts, networks = trained_on_digits
    network = copy.deepcopy(networks["dropout_bn"])
    twin = copy.deepcopy(network)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    shift.measure(network, parts, BATCH, rerun=0, epoch=1)
    shift.recalibrated(network, parts["train"])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert network.training
    for (name, ours), theirs in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    batch = parts["train"].x[:, :BATCH]
    assert torch.equal(network(batch), twin(batch))  # the same masks come next


def test_measuring_twice_gives_the_same_and_another_rerun_other_draws(trained_on_digits):
    parts, networks = trained_on_digits
    first, again, other = (
        shift.measure(networks["dropout_bn"], parts, BATCH, rerun=rerun, epoch="end") for rerun in (0, 0, 1)
    )
    assert first == again
    assert all(a["measured"] != b["measured"] for a, b in zip(first, other, strict=True))


def test_a_replicate_is_measured_the_same_whatever_its_companions():
    parts = gaussian_parts(512, 16, replicates=3)
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.5, "width": 32, "depth": 2}
    together = shift.measure(build(16, [4, 5, 6], **block), parts, BATCH, rerun=0, epoch=0)
    own = {name: Part.of(part.x[1:2], part.y[1:2]) for name, part in parts.items()}
    alone = shift.measure(build(16, [5], **block), own, BATCH, rerun=0, epoch=0)
    assert [entry for entry in together if entry["seed"] == 5] == alone
