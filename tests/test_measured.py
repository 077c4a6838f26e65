"""What the columns of a run hold, measured again on the fitted networks by plain PyTorch; what training is given."""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fitting import trained
from normdrop.networks import network_of
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training.fit import data_of, fit
from normdrop.training.shift import measure

SEEDS = [0, 3]


@dataclass
class Fitted:
    replicates: pd.DataFrame
    """indexed by seed"""
    history: pd.DataFrame
    facts: Mapping[str, Any]
    networks: dict[int, nn.Sequential]
    """the plain network of each seed, in eval mode"""
    parts: Mapping[str, Any]
    """x (replicates, rows, features) and y of train, val and test, drawn afresh"""
    stack: StackedNetwork
    """the same networks, as they were trained"""

    def part(self, seed: int, name: str) -> tuple[Tensor, Tensor]:
        index = list(self.networks).index(seed)
        return self.parts[name].x[index], self.parts[name].y[index]


def fitted(config: Mapping[str, Any], seeds: list[int] = SEEDS) -> Fitted:
    """Train, and draw the parts again."""
    found = fit(config, seeds)
    data = data_of(config, seeds)
    networks = {seed: found.network(seed) for seed in seeds}
    stack = StackedNetwork([*networks.values()], seeds, config["batch_size"])
    return Fitted(found.replicates.set_index("seed"), found.history, found.facts, networks, data.parts, stack)


SMALL = ("data.val_fraction=0.1", "data.test_fraction=0.15", "trainer.max_epochs=3", "optimizer.lr=0.01")
DRIFT = ("drift.scale=0.9", "drift.offset=2.0", "drift.cycles=0.3")


@pytest.fixture(scope="module")
def bn_dropout(tiny) -> Fitted:
    return fitted(tiny("arrangement=bn_dropout", "rate=0.3", "measure.silencing=true", *SMALL))


@pytest.fixture(scope="module")
def still(tiny) -> pd.DataFrame:
    """The history of a training without drift."""
    return trained(tiny(*SMALL), SEEDS)[1]


@pytest.fixture(scope="module")
def drifting(tiny) -> Fitted:
    """Drift that does not end at 0, so that it would show in whatever is evaluated."""
    return fitted(tiny(*DRIFT, *SMALL))


@torch.no_grad()
def measured(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, NLL and calibration error of Guo et al., row by row."""
    probabilities = network(x).double().softmax(dim=1)
    confidence, guess = probabilities.max(dim=1)
    right = (guess == y).double()
    ece = 0.0
    for low in range(15):
        here = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if here.any():
            ece += float(here.double().mean() * (right[here].mean() - confidence[here].mean()).abs())
    nll = -probabilities[torch.arange(len(y)), y].log().mean()
    return {"acc": float(right.mean()), "nll": float(nll), "ece": ece}


@torch.no_grad()
def with_statistics_of(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """A copy whose running statistics are those of the rows x, dropout off."""
    network = copy.deepcopy(network).eval()
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean, layer.running_var = x.mean(dim=0), x.var(dim=0)
        x = layer(x)
    return network


@pytest.mark.parametrize("name", ["bn_dropout", "drifting"])
def test_the_metrics_are_those_of_the_fitted_network_on_each_part(name, request):
    run: Fitted = request.getfixturevalue(name)
    for seed, network in run.networks.items():
        row = run.replicates.loc[seed]
        expected = {
            f"{part}_{metric}": value
            for part in ("train", "val", "test")
            for metric, value in measured(network, *run.part(seed, part)).items()
        }
        assert len({round(value, 4) for value in expected.values()}) == 9, "no two columns are alike"
        assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-5)
        assert row["gap"] == pytest.approx(expected["train_acc"] - expected["test_acc"])
        assert row["nll_gap"] == pytest.approx(expected["test_nll"] - expected["train_nll"], abs=1e-5)


def test_drift_reaches_no_row_that_is_evaluated_and_moves_training(drifting, still):
    assert (drifting.history["train_loss"] != still["train_loss"]).all()
    last = drifting.history.groupby("seed").last()
    for seed, network in drifting.networks.items():
        val = measured(network, *drifting.part(seed, "val"))
        assert (last.loc[seed, "val_acc"], last.loc[seed, "val_nll"]) == pytest.approx((val["acc"], val["nll"]))


@pytest.mark.parametrize("without", ["drift.offset=0.0", "drift.scale=0.0"])
def test_drift_of_either_kind_alone_moves_training(tiny, still, drifting, without):
    alone = trained(tiny(*DRIFT, *SMALL, without), SEEDS)[1]
    assert (alone["train_loss"] != still["train_loss"]).all()
    assert (alone["train_loss"] != drifting.history["train_loss"]).all()


def test_recalibration_takes_its_statistics_from_the_training_rows_and_is_measured_on_test(bn_dropout):
    for seed, network in bn_dropout.networks.items():
        row = bn_dropout.replicates.loc[seed]
        again = with_statistics_of(network, bn_dropout.part(seed, "train")[0])
        expected = measured(again, *bn_dropout.part(seed, "test"))
        assert (row["recal_test_acc"], row["recal_test_nll"]) == pytest.approx((expected["acc"], expected["nll"]))
        for other in ("val", "test"):
            wrong = with_statistics_of(network, bn_dropout.part(seed, other)[0])
            found = measured(wrong, *bn_dropout.part(seed, "test"))["nll"]
            assert row["recal_test_nll"] != pytest.approx(found, rel=1e-4)
        assert row["recal_test_nll"] != pytest.approx(row["test_nll"], rel=1e-3)


def test_silenced_columns_are_test_accuracy_without_their_share_of_each_hidden_layers_units(bn_dropout):
    shares = (10, 20, 30, 40, 50)
    for seed, network in bn_dropout.networks.items():
        row, (x, y) = bn_dropout.replicates.loc[seed], bn_dropout.part(seed, "test")
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        for share in shares:
            draws = stream(seed, "silencing")
            found = []
            for _ in range(20):
                widths = [layer.in_features for layer in linear[1:]]
                lost = [draws.permutation(width)[: round(share / 100 * width)] for width in widths]
                silenced = copy.deepcopy(network)
                behind = [layer for layer in silenced if isinstance(layer, nn.Linear)][1:]
                with torch.no_grad():
                    for layer, units in zip(behind, lost, strict=True):
                        layer.weight[:, units] = 0  # what a silent unit sends on
                found.append(measured(silenced, x, y)["acc"])
            assert row[f"silenced_{share}"] == pytest.approx(np.mean(found))
        assert row["reliance"] == pytest.approx(row["test_acc"] - np.mean([row[f"silenced_{s}"] for s in shares]))


def test_the_most_used_units_are_those_of_the_largest_outgoing_contribution_on_training_rows(bn_dropout):
    for seed, network in bn_dropout.networks.items():
        row, (x, y) = bn_dropout.replicates.loc[seed], bn_dropout.part(seed, "test")
        order: list[torch.Tensor] = []
        x_behind, _ = bn_dropout.part(seed, "train")
        with torch.no_grad():
            for i, layer in enumerate(network):
                if i and isinstance(layer, nn.Linear):
                    order.append((x_behind.abs().mean(0) * layer.weight.abs().sum(0)).argsort(descending=True))
                x_behind = layer(x_behind)
        lost = []
        for share in (10, 20, 30, 40, 50):
            silenced = copy.deepcopy(network)
            with torch.no_grad():
                for layer, units in zip([la for la in silenced if isinstance(la, nn.Linear)][1:], order, strict=True):
                    layer.weight[:, units[: round(share / 100 * len(units))]] = 0
            lost.append(row["test_acc"] - measured(silenced, x, y)["acc"])
        assert row["reliance_most_used"] == pytest.approx(np.mean(lost))


def test_the_shift_on_record_is_that_of_the_fitted_network_at_the_end(bn_dropout):
    entries = bn_dropout.facts["shift"]
    places = [(layer, seed, "end") for layer in (1, 2) for seed in SEEDS]
    assert [(e["layer"], e["seed"], e["epoch"]) for e in entries] == places
    assert entries == measure(bn_dropout.stack, bn_dropout.parts["train"], 16, 0, "end")
    for entry in entries:
        network, (x, _) = bn_dropout.networks[entry["seed"]], bn_dropout.part(entry["seed"], "train")
        at = [i for i, layer in enumerate(network) if isinstance(layer, nn.BatchNorm1d)][entry["layer"] - 1]
        with torch.no_grad():
            values = network[:at](x).double()
        running = network[at].running_var.double()
        counted = values.var(dim=0, correction=0) >= network[at].eps
        ratio = values.var(dim=0, correction=0) / running
        assert entry["running"] == pytest.approx(np.median(ratio[counted]), rel=1e-4)
        assert entry["units"] == int(counted.sum())


def test_shift_is_measured_after_the_epochs_asked_for_and_at_the_end(tiny):
    config = tiny("arrangement=dropout_bn", "rate=0.3", "measure.shift_epochs=[1,2]", *SMALL)
    entries = fitted(config).facts["shift"]
    assert [e["epoch"] for e in entries] == [1] * 4 + [2] * 4 + ["end"] * 4
    config["trainer"]["max_epochs"], config["measure"]["shift_epochs"] = 1, []
    at_1 = fitted(config).facts["shift"]
    assert [e["measured"] for e in entries[:4]] == pytest.approx([e["measured"] for e in at_1])


def test_history_has_the_mean_loss_of_the_steps_since_the_last_validation(tiny):
    often = trained(tiny("trainer.val_check_interval=1", "rate=0.3"), SEEDS)[1]
    once = trained(tiny("rate=0.3"), SEEDS)[1]
    for seed in SEEDS:
        steps = often[often["seed"] == seed].set_index("step")["train_loss"]
        epochs = once[once["seed"] == seed].set_index("step")["train_loss"]
        assert list(steps.index) == list(range(1, 11))
        assert epochs.to_dict() == pytest.approx({5: steps.loc[1:5].mean(), 10: steps.loc[6:10].mean()})


# --- what a network starts from


def test_a_condition_starts_from_its_configs_gain_in_the_weights_of_every_layer_none_of_which_repeats_a_draw(tiny):
    plain, scaled = (network_of(tiny(f"model.init_gain={gain}"), 64, 10, SEEDS).replicate(1) for gain in ("1.0", "3.0"))
    for one, three in zip(plain.parameters(), scaled.parameters(), strict=True):
        factor = 3.0 if one.dim() == 2 else 1.0
        torch.testing.assert_close(three, factor * one, rtol=1e-6, atol=0)
    linear = [layer for layer in plain if isinstance(layer, nn.Linear)]
    draws = [parameter.flatten()[:3] for layer in linear for parameter in (layer.weight, layer.bias)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


# --- what the optimizer is given


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.7, weight_decay=0.3),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_fit_is_torchs_optimizer_with_every_one_of_its_arguments(tiny, name, schedule):
    config = tiny(f"optimizer={name}", "arrangement=bn", f"optimizer.schedule={schedule}")
    config["optimizer"] |= {"lr": 0.02, "weight_decay": 0.3} | ({"momentum": 0.7} if name == "sgd" else {})
    run = fitted(config, [3])
    data = data_of(config, [3])
    data.setup()
    network = network_of(config, data.features, data.classes, [3]).replicate(0).train()
    stepper = OPTIMIZERS[name](network.parameters())
    slowing = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, 10)
    for _ in range(2):
        for rows in data.train_dataloader():
            (x,), (y,) = data.parts["train"].table.gather(rows)
            stepper.zero_grad()
            F.cross_entropy(network(x), y).backward()
            stepper.step()
            if schedule == "cosine":
                slowing.step()
    for ours, torchs in zip(run.networks[3].parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-3, atol=1e-5)
