"""The compiled engine does what the torch engine does, within rounding, and what a replicate gets is its own."""

import copy
import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fitting import forget, in_a_copy
from normdrop import engine
from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.networks.cnn import cnn
from normdrop.networks.layers import ACTIVATIONS, NOISES
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream

numba = pytest.importorskip("numba")

KNOWN = [name for name in ACTIVATIONS if name != "tanh"]
FEATURES, CLASSES, BATCH, ROWS, SEEDS = 6, 3, 16, 70, [4, 0, 9]
STEPS = math.ceil(ROWS / BATCH)  # the last has 6 rows
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
}


def network(seeds=SEEDS, **changes) -> StackedNetwork:
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.4, "width": [20, 13]} | changes
    plain = [initialise(mlp(FEATURES, CLASSES, **block), stream(seed, "init")) for seed in seeds]
    return StackedNetwork(plain, seeds, BATCH)


IMAGE, SIGNAL = (2, 5, 6), (2, 9)
CONVOLUTIONS: dict[tuple[int, ...], dict[str, Any]] = {
    IMAGE: {"channels": [5, 4], "kernel": [3, 2], "stride": [2, 1]},
    SIGNAL: {"channels": [5, 12, 4], "kernel": [5, 1, 3], "stride": [1, 3, 1]},
}


def convolutional(shape=IMAGE, seeds=SEEDS, **changes) -> StackedNetwork:
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.4} | CONVOLUTIONS[shape] | changes
    plain = [initialise(cnn(shape, CLASSES, **block), stream(seed, "init")) for seed in seeds]
    return StackedNetwork(plain, seeds, BATCH)


def data(seeds=SEEDS, features=FEATURES) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and an epoch's order of rows, a replicate's from its seed alone."""
    drawn = [np.random.default_rng(seed) for seed in seeds]
    x = torch.from_numpy(np.stack([g.normal(2, 3, (ROWS, features)) for g in drawn])).float()
    y = torch.from_numpy(np.stack([g.integers(CLASSES, size=ROWS) for g in drawn]))
    return x, y, torch.from_numpy(np.stack([g.permutation(ROWS) for g in drawn]))


def by_torch(net, optimizer, x, y, rows, rates=None, drift=None, clip=None) -> Tensor:
    """The same stretch in torch, in the precision of the network; the losses (steps, replicates)."""
    losses, index = [], torch.arange(len(rows))[:, None]
    for step, now in enumerate(rows.split(BATCH, dim=1)):
        batch = x[index, now].to(next(net.parameters()).dtype)
        if drift is not None:
            batch = batch * drift[step, 0] + drift[step, 1]
        loss = F.cross_entropy(net(batch).transpose(1, 2), y[index, now], reduction="none").mean(dim=1)
        optimizer.zero_grad()
        loss.sum().backward()
        if clip is not None:
            for replicate in range(len(rows)):
                slices = [parameter.grad[replicate] for parameter in net.parameters()]
                norm = torch.stack([part.norm() for part in slices]).norm()
                for part in slices:
                    part *= min(1, clip / (norm + 1e-6))
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def by_machine(net, optimizer, x, y, rows, rates=None, drift=None, clip=None, active=None) -> Tensor:
    assert engine.reason(net, optimizer) is None
    steps = math.ceil(rows.shape[1] / BATCH)
    rates = np.full(steps, optimizer.param_groups[0]["lr"]) if rates is None else rates
    drift = np.tile([1.0, 0.0], (steps, 1)) if drift is None else drift
    index = torch.arange(len(rows))[:, None]
    active = torch.ones(len(rows), dtype=torch.bool) if active is None else active
    from normdrop.engine.compiled import Compiled

    return Compiled(net, BATCH, clip).run(optimizer, x[index, rows], y[index, rows], rates, drift, active)


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.01)


def close(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> bool:
    """Within `tolerance` of the largest number of the reference."""
    return bool((ours.double() - reference.double()).abs().max() <= tolerance * reference.abs().max())


def everything(net: StackedNetwork) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


@pytest.mark.parametrize("activation", KNOWN)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_loss_and_gradients_are_those_of_torch(arrangement, position, noise, activation):
    net = network(arrangement=arrangement, position=position, noise=noise, activation=activation)
    assert_first_step_is_that_of_torch(net, *data())


@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.parametrize("noise", [*NOISES, "channel"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_loss_and_gradients_of_convolutions_are_those_of_torch(arrangement, position, noise, shape):
    net = convolutional(shape, arrangement=arrangement, position=position, noise=noise)
    assert_first_step_is_that_of_torch(net, *data(features=math.prod(shape)))


def assert_first_step_is_that_of_torch(net, x, y, rows) -> None:
    reference, optimizer = copy.deepcopy(net).double(), adam(net)
    loss = by_torch(reference, adam(reference), x, y, rows[:, :BATCH])
    assert close(by_machine(net, optimizer, x, y, rows[:, :BATCH]), loss)
    largest = max(parameter.grad.abs().max() for parameter in reference.parameters())
    for parameter, true in zip(net.parameters(), reference.parameters(), strict=True):
        gradient = optimizer.state[parameter]["exp_avg"] / (1 - 0.9)  # Adam's first moment after one step
        assert (gradient - true.grad).abs().max() <= 1e-5 * largest
    assert all(close(a, b) for a, b in zip(net.buffers(), reference.buffers(), strict=True))


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step_of_every_optimizer_is_the_one_of_torch(name, clip):
    net = network()
    reference, (x, y, rows) = copy.deepcopy(net).double(), data()
    optimizer, true = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](reference.parameters())
    by_torch(reference, true, x, y, rows[:, :BATCH], clip=clip)
    by_machine(net, optimizer, x, y, rows[:, :BATCH], clip=clip)
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        # Adam divides by a gradient's size: where it is rounding alone, so is the step. Those are the biases below BN.
        real = theirs.grad.abs() > 1e-4 if name.startswith("adam") else torch.ones_like(theirs, dtype=torch.bool)
        assert (ours - theirs).abs()[real].max() <= 1e-5
    before = [parameter.detach().clone() for parameter in network().parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_epoch_with_a_schedule_drift_and_a_short_last_batch_stays_close_to_torch():
    net = network(arrangement="dropout_bn")
    reference, (x, y, rows) = copy.deepcopy(net).double(), data()
    rates, drift = np.linspace(0.01, 0, STEPS), np.linspace([0.5, -1], [2, 3], STEPS)
    true = by_torch(reference, OPTIMIZERS["momentum"](reference.parameters()), x, y, rows, rates, drift)
    losses = by_machine(net, OPTIMIZERS["momentum"](net.parameters()), x, y, rows, rates, drift)
    assert losses.shape == (STEPS, len(SEEDS))
    assert close(losses, true, 1e-4)
    assert all(close(a, b, 1e-4) for a, b in zip(everything(net), everything(reference), strict=True))


def test_either_engine_goes_on_where_the_other_stopped():
    nets = [network() for _ in range(3)]
    x, y, rows = data()
    for net, engines in zip(nets, [(by_machine, by_torch), (by_torch, by_machine), (by_torch, by_torch)], strict=True):
        optimizer = adam(net)
        for steps in engines:
            losses = steps(net, optimizer, x, y, rows)
        assert {int(state["step"]) for state in optimizer.state.values()} == {2 * STEPS}
        net.losses = losses
    assert close(nets[0].losses, nets[2].losses, 1e-3)
    assert close(nets[1].losses, nets[2].losses, 1e-3)


@pytest.mark.parametrize("shape", [(FEATURES,), IMAGE])
@pytest.mark.parametrize("arrangement", ["bn_dropout", "ln_dropout"])
def test_a_replicate_does_not_depend_on_its_companions(arrangement, shape):
    def trained(seeds) -> list[Tensor]:
        own = {"seeds": seeds, "arrangement": arrangement}
        net = convolutional(shape, **own) if shape in CONVOLUTIONS else network(**own)
        losses = by_machine(net, adam(net), *data(seeds, math.prod(shape)))
        return [losses[:, 0], *(tensor.view(len(seeds), -1)[0] for tensor in everything(net))]

    alone = trained([4])
    for companions in ([9], list(range(10, 39))):
        assert all(torch.equal(a, b) for a, b in zip(alone, trained([4, *companions]), strict=True))


@pytest.mark.parametrize("shape", [(FEATURES,), *CONVOLUTIONS])
def test_results_do_not_depend_on_how_steps_are_cut_into_stretches(shape):
    whole, cut = (convolutional(shape) if shape in CONVOLUTIONS else network() for _ in range(2))
    x, y, rows = data(features=math.prod(shape))
    optimizer = adam(cut)
    losses = by_machine(whole, adam(whole), x, y, rows)
    pieces = [by_machine(cut, optimizer, x, y, part) for part in (rows[:, : 2 * BATCH], rows[:, 2 * BATCH :])]
    assert torch.equal(torch.cat(pieces), losses)
    assert all(torch.equal(a, b) for a, b in zip(everything(whole), everything(cut), strict=True))


def test_a_checkpoint_of_the_torch_optimizer_and_the_network_is_the_whole_state():
    first, second = network(), network()
    x, y, rows = data()
    optimizer, restored = adam(first), adam(second)
    by_machine(first, optimizer, x, y, rows)
    by_machine(second, adam(second), x, y, rows)  # only so that the streams stand where the first's stand
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(by_machine(first, optimizer, x, y, rows), by_machine(second, restored, x, y, rows))


def test_a_replicate_whose_search_has_ended_stays_as_it_is_and_disturbs_nobody():
    all_train, two_train = network(), network()
    x, y, rows = data()
    before = [parameter[1].clone() for parameter in two_train.parameters()]
    losses = by_machine(all_train, adam(all_train), x, y, rows)
    others = by_machine(two_train, adam(two_train), x, y, rows, active=torch.tensor([True, False, True]))
    assert torch.equal(losses[:, [0, 2]], others[:, [0, 2]])
    assert all(torch.equal(old, new[1]) for old, new in zip(before, two_train.parameters(), strict=True))


def test_a_diverged_replicate_stays_so_and_disturbs_nobody():
    healthy, ill = network(), network()
    x, y, rows = data()
    with torch.no_grad():
        for parameter in ill.parameters():
            parameter[1] = math.nan
    losses = by_machine(healthy, adam(healthy), x, y, rows, clip=1.0)
    others = by_machine(ill, adam(ill), x, y, rows, clip=1.0)
    assert others[:, 1].isnan().all()
    assert torch.equal(losses[:, [0, 2]], others[:, [0, 2]])
    assert all(parameter[1].isnan().all() for parameter in ill.parameters())


@pytest.mark.parametrize("output", KNOWN)
def test_an_output_activation_and_a_rate_of_zero_are_those_of_torch(output):
    net = network(output_activation=output, rate=0.0, width=33, depth=1)
    reference, (x, y, rows) = copy.deepcopy(net).double(), data()
    true = by_torch(reference, OPTIMIZERS["sgd"](reference.parameters()), x, y, rows)
    assert close(by_machine(net, OPTIMIZERS["sgd"](net.parameters()), x, y, rows), true)
    assert all(close(a, b) for a, b in zip(everything(net), everything(reference), strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net: (net.double(), adam(net)), "float32"),
        (lambda net: (net, torch.optim.Adam(net.parameters(), amsgrad=True)), "Adam with amsgrad"),
        (lambda net: (net, torch.optim.SGD(net.parameters(), momentum=0.9, nesterov=True)), "SGD with nesterov"),
        (lambda net: (net, torch.optim.RMSprop(net.parameters())), "RMSprop"),
        (lambda net: (net.layers.append(nn.Tanh()) and net, adam(net)), "Tanh"),
    ],
)
def test_what_it_does_not_know_it_says(change, words):
    assert words in engine.reason(*change(network()))


def test_without_numba_it_says_so(monkeypatch):
    monkeypatch.setattr(engine, "door", lambda: (None, "numba is not installed (pip install 'normdrop[fast]')"))
    net = network()
    assert "normdrop[fast]" in engine.reason(net, adam(net))


def test_a_process_that_compiles_and_one_that_reads_the_cache_get_the_same_bits(tmp_path, monkeypatch):
    def process() -> list[list[float]]:
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        forget("normdrop.engine")
        monkeypatch.setitem(globals(), "engine", importlib.import_module("normdrop.engine"))
        net = network()
        by_machine(net, adam(net), *data())
        return [tensor.tolist() for tensor in everything(net)]

    compiling = in_a_copy(process)
    (kept,) = tmp_path.rglob("*.nbc")
    made = kept.stat().st_mtime_ns
    assert in_a_copy(process) == compiling
    assert kept.stat().st_mtime_ns == made
