"""Variance shift as measured against its closed forms; recalibration; nothing else is touched."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from normdrop.data.module import BatchOrder, Part, ReplicateData
from normdrop.data.sources import digits
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training import shift
from normdrop.training.module import cross_entropy

BATCH = 64
CLASSES = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussian(rows: int, features: int, replicates: int = 1) -> Part:
    """Standard normal rows, of mean 0 exactly, with labels that a network can learn."""
    x = torch.randn(replicates, rows, features, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(dim=1, keepdim=True)
    return Part.of(x, (x[..., 0] > 0).long() + 2 * (x[..., 1] * x[..., 2] > 0).long())


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


def unit_by_unit(position: str, rate: float, noise: str = "bernoulli", mean: float = 0.0) -> dict:
    """The shift entry of a first BN layer whose units are normal with variance 1 before the activation."""
    network = build(32, [0], arrangement="dropout_bn", position=position, rate=rate, noise=noise, width=32, depth=1)
    linear = network.layers[0]
    with torch.no_grad():
        linear.weight[0, : 32 * 32] = torch.eye(32).flatten()
        linear.bias.fill_(mean)
    (entry,) = shift.measure(network, gaussian(20_000, 32), 2000, rerun=0, epoch="end")
    return entry


def closed_form(mean: float, variance: float, noise: float) -> float:
    """Δ of a unit with this mean and variance before a factor of mean 1 and this variance: q / (1 − q), or β² / 3."""
    return variance / (variance + noise * (mean**2 + variance))


CLOSED = [("bernoulli", rate, mean, rate / (1 - rate)) for rate in (0.2, 0.5, 0.7) for mean in (0.0, 2.0)]
CLOSED += [("uniform", beta, 1.5, beta**2 / 3) for beta in (0.3, 0.9)]


@pytest.mark.parametrize(("noise", "rate", "mean", "variance"), CLOSED)
def test_directly_behind_noise_the_shift_is_the_closed_form(noise, rate, mean, variance):
    entry = unit_by_unit("before", rate, noise, mean)
    assert entry["case"] == shift.NOISE
    assert entry["measured"] == pytest.approx(closed_form(mean, 1.0, variance), rel=0.015)


def test_the_relu_of_a_standard_normal_at_rate_one_half_shifts_by_0_405():
    mean, square = 1 / math.sqrt(2 * math.pi), 0.5
    assert closed_form(mean, square - mean**2, 1.0) == pytest.approx(0.405, abs=0.001)
    assert unit_by_unit("after", 0.5)["measured"] == pytest.approx(0.405, abs=0.005)


def test_behind_a_linear_layer_the_shift_is_the_covariance_formula():
    q = 0.5
    part = gaussian(4096, 16)
    network = build(16, [3], arrangement="bn_dropout", position="before", rate=q, width=48, depth=2)
    first, second = shift.measure(network, part, 512, rerun=0, epoch=0)
    assert (first["case"], second["case"]) == (shift.NO_NOISE, shift.NOISE)
    with torch.no_grad():
        # Large batches: the batch statistics that train mode normalises by are then those of all rows.
        linear, bn, _, relu, output = list(copy.deepcopy(network).train().layers)[:5]
        before = relu(bn(linear(part.x.transpose(1, 2))))[0].double()
        weight = output.weight.double().view(48, 48)
        noise = q / (1 - q) * weight.square() @ before.square().mean(dim=1)
        evaluated = part.x.transpose(1, 2)
        for layer in list(copy.deepcopy(network).eval().layers)[:5]:
            evaluated = layer(evaluated)
    signal = torch.einsum("oi,ij,oj->o", weight, before.cov(), weight)
    expected = evaluated[0].double().var(dim=1) / (signal + noise)
    assert second["measured"] == pytest.approx(float(np.median(expected)), rel=0.03)


def test_with_dropout_in_the_last_block_alone_only_bn_behind_it_shifts():
    part = gaussian(2048, 16)
    block = {"position": "after", "rate": 0.5, "width": 64, "depth": 3, "dropout_layers": "last"}
    network = train(build(16, [0], arrangement="dropout_bn", **block), part, epochs=4)
    first, second, last = shift.measure(network, part, BATCH, rerun=0, epoch="end")
    assert [entry["case"] for entry in (first, second, last)] == [shift.NO_NOISE, shift.NO_NOISE, shift.NOISE]
    assert first["measured"] == pytest.approx(1, abs=1e-5)
    assert second["measured"] == pytest.approx(1, abs=0.05)
    assert last["measured"] < 0.6
    network = build(16, [0], arrangement="bn_dropout", **block)
    assert {entry["case"] for entry in shift.measure(network, part, BATCH, 0, 0)} == {shift.NO_NOISE}


def test_rate_zero_counts_as_no_noise_and_a_network_without_bn_has_no_shift():
    block, part = {"position": "after", "width": 16, "depth": 1}, gaussian(256, 16)
    (entry,) = shift.measure(build(16, [0], arrangement="dropout_bn", rate=0.0, **block), part, BATCH, 0, 0)
    assert entry["case"] == shift.NO_NOISE
    assert shift.measure(build(16, [0], arrangement="dropout", rate=0.5, **block), part, BATCH, 0, 0) == []


def test_a_rate_so_near_to_one_that_nothing_is_kept_leaves_no_variance_to_shift_and_no_error():
    plain = nn.Sequential(nn.Linear(16, 8), nn.Dropout(1 - 1e-6), nn.BatchNorm1d(8), nn.Linear(8, 2))
    (entry,) = shift.measure(StackedNetwork([plain], [0], BATCH), gaussian(256, 16), BATCH, rerun=0, epoch=0)
    assert (entry["units"], entry["measured"]) == (0, None)


def test_units_without_variance_are_set_aside():
    network = build(16, [0, 1], arrangement="dropout_bn", position="after", rate=0.5, width=32, depth=1)
    part = gaussian(1024, 16, replicates=2)
    with torch.no_grad():
        network.layers[0].bias[1, :5] = -100.0
    whole, dead = shift.measure(network, part, BATCH, rerun=0, epoch=0)
    assert (whole["units"], dead["units"]) == (32, 27)
    assert dead["measured"] == pytest.approx(whole["measured"], rel=0.2)


def test_a_diverged_replicate_has_empty_figures():
    network = build(16, [0, 1], arrangement="bn_dropout", position="after", rate=0.5, width=32, depth=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[0].fill_(math.nan)
    entries = shift.measure(network, gaussian(512, 16, replicates=2), BATCH, rerun=0, epoch=0)
    figures = ("measured", "running")
    for entry in entries:
        assert [entry[key] is None for key in figures] == [entry["seed"] == 0] * len(figures)


# ---------------------------------------------------------------------------------------------------------------------
# Recalibration


@pytest.fixture(scope="module")
def trained_on_digits() -> tuple[Part, StackedNetwork]:
    data = ReplicateData(digits, [0, 1, 2], BATCH)
    data.setup()
    block = {"arrangement": "dropout_bn", "position": "after", "rate": 0.5, "width": 64, "depth": 2}
    return data.parts["train"], train(build(64, data.seeds, 10, **block), data.parts["train"], epochs=2)


def test_recalibration_removes_the_shift_and_leaves_the_weights(trained_on_digits):
    part, network = trained_on_digits
    recalibrated = shift.recalibrated(network, part)
    rows = part.y.shape[1]
    for entry in shift.measure(recalibrated, part, BATCH, rerun=0, epoch="end"):
        assert entry["running"] == pytest.approx((rows - 1) / rows, abs=1e-4)
    for ours, theirs in zip(network.parameters(), recalibrated.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert network.training
    assert not recalibrated.training


# ---------------------------------------------------------------------------------------------------------------------
# What measuring reads and leaves alone


def test_measuring_leaves_network_mask_streams_and_global_random_state_as_they_were(trained_on_digits):
    part, network = trained_on_digits
    network = copy.deepcopy(network)
    twin = copy.deepcopy(network)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    shift.measure(network, part, BATCH, rerun=0, epoch=1)
    shift.recalibrated(network, part)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert network.training
    for (name, ours), theirs in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    batch = part.x[:, :BATCH]
    assert torch.equal(network(batch), twin(batch))  # the same masks come next


def test_measuring_twice_gives_the_same_and_another_rerun_other_draws(trained_on_digits):
    part, network = trained_on_digits
    first, again, other = (shift.measure(network, part, BATCH, rerun=rerun, epoch="end") for rerun in (0, 0, 1))
    assert first == again
    assert all(a["measured"] != b["measured"] for a, b in zip(first, other, strict=True))


class HalfFrozen(nn.Module):
    """The first of its BN layers stays in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.free = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.frozen.running_mean.fill_(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.free(self.frozen.eval()(x))


def test_recalibration_leaves_a_layer_that_its_network_keeps_in_eval_mode():
    seeds = [0, 1]
    network = StackedNetwork([nn.Sequential(HalfFrozen(), nn.Linear(6, CLASSES)) for _ in seeds], seeds, BATCH)
    again = shift.recalibrated(network, gaussian(300, 6, replicates=2))
    for number in range(len(seeds)):
        own = again.replicate(number)[0]
        assert torch.equal(own.frozen.running_mean, torch.full((6,), 3.0))
        assert own.free.running_mean.numpy() == pytest.approx(-3, abs=1e-4)  # what it is given: rows of mean 0, less 3
