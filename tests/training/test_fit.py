"""From config to tables: what a replicate's numbers depend on, and what they do not."""

import importlib.metadata
import io
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fitting import of, trained
from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.data import sources
from normdrop.data.module import BatchOrder, Part, ReplicateData
from normdrop.data.rows import Rows
from normdrop.data.sources import BUILT_IN, digits
from normdrop.networks import network_of
from normdrop.networks.stacked import StackedLinear, StackedNoise
from normdrop.study import config as configs
from normdrop.study import job
from normdrop.study import record as results
from normdrop.training import fit
from normdrop.training.module import ReplicatedClassifier

ADAM, SGD, ADAMW = ("optimizer=adam",), ("optimizer=sgd",), ("optimizer=adamw", "optimizer.schedule=cosine")
EVERY_PLACE = [*itertools.product(ARRANGEMENTS, POSITIONS)]


def finish(config: dict, directory: Path) -> dict[str, bytes]:
    directory.mkdir(parents=True, exist_ok=True)
    study = {"condition": "digits/x", "setting": {}, "choices": {}, "grid": {}, "columns": {}}
    study["command"] = "normdrop"
    job.finish(config, directory, study, lambda *_: None)
    return {name: (directory / name).read_bytes() for name in results.TABLES}


def plant(monkeypatch: pytest.MonkeyPatch, seed: int, part: str, value: float) -> None:
    """Put a value into the first row of one replicate's part."""
    setup = ReplicateData.setup

    def planted(self, stage: str = "fit") -> None:
        setup(self, stage)
        if seed in self.seeds:
            x, y = self.parts[part].x, self.parts[part].y
            x[self.seeds.index(seed), 0, 0] = value
            self.parts[part] = Part.of(x, y)
            self.order.rows = self.parts["train"].rows

    monkeypatch.setattr(ReplicateData, "setup", planted)


# --- invariant 1: equal networks


@pytest.mark.parametrize(
    ("arrangement", "one", "other", "noise"),
    [
        ("bn_dropout", "before", "around", "bernoulli"),
        ("dropout_bn", "after", "around", "uniform"),
        ("dropout", "before", "after", "uniform"),
        ("bn", "before", "around", "bernoulli"),
    ],
)
def test_equal_networks_train_to_the_same_rows_replicate_by_replicate(tiny, arrangement, one, other, noise):
    config = tiny(f"arrangement={arrangement}", f"noise={noise}")
    tables = [trained(config | {"position": position}, [0, 1])[:2] for position in (one, other)]
    assert all(of(a, 0, 1) == of(b, 0, 1) for a, b in zip(*tables, strict=True))


# --- invariant 3: companions, repetition, extension


@pytest.mark.parametrize(
    ("arrangement", "optimizer"), [("bn_dropout", ADAM), ("dropout_bn", SGD), ("dropout_bn", ADAMW)]
)
def test_a_replicates_numbers_are_the_same_bit_for_bit_whoever_trains_beside_it(tiny, arrangement, optimizer):
    config = tiny(f"arrangement={arrangement}", "measure.silencing=true", "measure.shift_epochs=[1]", *optimizer)
    replicates, history, facts = trained(config, [0, 1, 2, 3, 4, 5, 6])
    for seeds in ([0], [6], [1, 3, 6]):
        alone = trained(config, seeds)
        assert of(alone[0], *seeds) == of(replicates, *seeds)
        assert of(alone[1], *seeds) == of(history, *seeds)
        shifts = [sorted(str(e) for e in f["shift"] if e["seed"] in seeds) for f in (alone[2], facts)]
        assert shifts[0] and shifts[0] == shifts[1]


@pytest.mark.parametrize(
    "overrides",
    [
        *((f"model.width={width}",) for width in (2, 16, 37, 64)),
        ("data=breast_cancer", "batch_size=45"),  # two classes
        ("arrangement=dropout", "data.train_size=65"),  # a last batch of one row
        ("optimizer.clip=0.3", "engine=torch", "model.width=16"),
    ],
    ids=" ".join,
)
def test_it_is_so_at_every_width_and_where_the_products_are_narrow(tiny, overrides):
    config = tiny("measure.shift=false", "trainer.max_epochs=1", *overrides)
    together, history, _ = trained(config, [0, 1, 2, 3, 4])
    for seed in (0, 4):
        alone = trained(config, [seed])
        assert of(alone[0], seed) == of(together, seed) and of(alone[1], seed) == of(history, seed)


def test_how_many_train_at_a_time_changes_no_byte(tiny, tmp_path):
    config = tiny("replicates=5", "measure.silencing=true", "drift.scale=0.5")
    together = finish(config, tmp_path / "all")
    for at_a_time in (1, 3):
        assert finish(config | {"replicates_at_a_time": at_a_time}, tmp_path / f"{at_a_time}") == together


def test_what_is_not_in_the_hash_changes_no_number(tiny):
    config = tiny("measure.silencing=true", "measure.shift_epochs=[1]")
    other = {"first_seed": 3, "replicates": 2, "name": "other", "logging": "full", "replicates_at_a_time": 1}
    other |= {"study": {"claim": "ordering"}, "save_networks": True, "checkpoint_minutes": 1}
    assert other.keys() == {*results.FIXED}
    for one, again in zip(trained(config, [3, 4]), trained(config | other, [3, 4]), strict=True):
        if isinstance(one, pd.DataFrame):
            assert of(one, 3, 4) == of(again, 3, 4)
        else:
            assert sorted(map(str, one["shift"])) == sorted(map(str, again["shift"]))


def test_groups_tell_how_much_of_all_is_done_and_the_history_so_far(tiny):
    shares, seeds = [], []

    def tell(share: float, epoch: str, history) -> None:
        shares.append(share)
        seeds.append({*history()["seed"]})

    fit.fit(tiny("replicates_at_a_time=2"), [0, 1, 2], tell)
    assert shares == pytest.approx([1 / 3, 2 / 3, 5 / 6, 1])
    assert seeds == [{0, 1}] * 2 + [{0, 1, 2}] * 2


def test_an_extension_trains_the_new_replicates_alone_and_ends_with_the_same_bytes(tiny, tmp_path, monkeypatch):
    whole = finish(tiny("replicates=6"), tmp_path / "whole")
    finish(tiny("replicates=4"), tmp_path / "grown")
    asked = []
    original = job.fit
    monkeypatch.setattr(job, "fit", lambda config, seeds, *_: asked.append(seeds) or original(config, seeds))
    assert finish(tiny("replicates=6"), tmp_path / "grown") == whole
    assert asked == [[4, 5]]
    grown, at_once = (results.read(tmp_path / name).record for name in ("grown", "whole"))
    assert grown["seeds"] == [0, 1, 2, 3, 4, 5]
    key = lambda entry: (entry["seed"], entry["layer"])  # noqa: E731
    assert sorted(grown["shift"], key=key) == sorted(at_once["shift"], key=key)


# --- invariant 4: what arrangements share


@pytest.fixture(scope="module")
def shared(tiny):
    """The data of two replicates and the config that gave it."""
    config = tiny("arrangement=none")
    made = fit.data_of(config, [0, 3])
    return config, made


@pytest.mark.parametrize("taken", [0, 2, 5])
def test_an_order_that_is_saved_again_before_it_goes_on_is_where_it_was(taken):
    def order() -> BatchOrder:
        return BatchOrder(torch.arange(2 * 70).view(2, 70), [0, 3], 16)

    first, again = order(), order()
    list(first)
    list(itertools.islice(first, taken))
    saved = first.state(5)
    again.restore(saved)
    assert again.state(5) == saved
    list(first)
    first.restart()
    assert first.state(5) == order().state(5)


def linear_weights(config: dict, seeds=(0, 3)) -> list[torch.Tensor]:
    network = network_of(config, 64, 10, list(seeds))
    return [p for layer in network.layers if isinstance(layer, StackedLinear) for p in (layer.weight, layer.bias)]


def epochs(order, count: int = 2) -> list[torch.Tensor]:
    return [rows for _ in range(count) for rows in order]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("arrangement", "position"), EVERY_PLACE)
def test_every_arrangement_shares_split_initial_linear_weights_and_batch_order(shared, arrangement, position):
    config, made = shared
    other = config | {"arrangement": arrangement, "position": position, "rate": 0.3}
    its = fit.data_of(other, [0, 3])
    for name, part in made.parts.items():
        assert torch.equal(its.parts[name].x, part.x) and torch.equal(its.parts[name].y, part.y)
    order = BatchOrder(made.parts["train"].rows, [0, 3], 16)
    assert same(epochs(its.train_dataloader()), epochs(order))
    assert same(linear_weights(other), linear_weights(config))


def mask_bits(config: dict) -> list[torch.Tensor]:
    network = network_of(config, 64, 10, [0, 3])
    noises = [layer for layer in network.layers if isinstance(layer, StackedNoise)]
    return [layer.bits.draw(layer.features * 16, torch.device("cpu")) for layer in noises]


def test_arrangements_with_dropout_share_the_mask_bits_of_each_layer(shared):
    config, _ = shared
    both = mask_bits(config | {"arrangement": "dropout_bn"})
    assert len(both) == 2 and not torch.equal(both[0][:, :100], both[1][:, :100])
    for arrangement, position in itertools.product(("dropout", "bn_dropout"), POSITIONS):
        assert same(mask_bits(config | {"arrangement": arrangement, "position": position}), both)
    last = config | {"arrangement": "dropout", "model": config["model"] | {"dropout_layers": "last"}}
    assert same(mask_bits(last), both[1:])


def test_the_a_a_run_shares_the_split_and_draws_weights_orders_and_masks_anew(shared):
    config, made = shared
    config = config | {"arrangement": "bn_dropout"}
    again = config | {"rerun": 1}
    its = fit.data_of(again, [0, 3])
    assert all(torch.equal(its.parts[name].x, part.x) for name, part in made.parts.items())
    order, its_order = (next(iter(m.order)) for m in (made, its))
    for k in range(2):
        assert not torch.equal(order[k], its_order[k])
        assert not torch.equal(mask_bits(config)[0][k], mask_bits(again)[0][k])
        assert not torch.equal(linear_weights(config)[0][k], linear_weights(again)[0][k])


# --- invariant 5: test rows


@pytest.mark.parametrize("pca", ["null", "5"])
def test_nothing_about_test_rows_reaches_training_or_a_choice(tiny, monkeypatch, pca):
    """Other features and labels in an official test part change the test columns and nothing else."""
    monkeypatch.setattr(sources, "_given", sources._given.__wrapped__)  # which keeps the rows it has read
    config = tiny(f"data.pca={pca}", "data.level=2.2", "measure.silencing=true")
    rows, official = digits(), np.arange(1797) >= 1500
    other_x, other_y = rows.x.copy(), rows.y.copy()
    other_x[official] = 1000 - 7 * other_x[official]
    other_y[official] = (other_y[official] + 3) % 10
    outcomes = []
    for x, y in ((rows.x, rows.y), (other_x, other_y)):
        monkeypatch.setitem(BUILT_IN, "digits", lambda x=x, y=y: Rows(x.copy(), y.copy(), rows.classes, official))
        outcomes.append(trained(config, [0, 1]))
    (a, a_history, a_facts), (b, b_history, b_facts) = outcomes
    blind = [name for name in a if "test" not in name and "gap" not in name and not name.startswith(("silenced", "re"))]
    assert {"train_acc", "train_nll", "val_acc", "val_nll", "steps_to_level", "diverged"} <= set(blind)
    assert a[blind].to_csv() == b[blind].to_csv()
    assert a_history.to_csv() == b_history.to_csv()
    assert a_facts["shift"] == b_facts["shift"]
    assert (a["test_nll"] != b["test_nll"]).all()


# --- global state


def test_training_neither_reads_nor_writes_global_random_state(tiny):
    config = tiny("measure.silencing=true", "measure.shift_epochs=[1]", "drift.scale=0.3", "noise=uniform")

    def states() -> tuple:
        kind, key, *rest = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().tolist(), random.getstate(), kind, key.tolist(), rest

    tables = []
    for number in (1, 2):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(number)
        before = states()
        tables.append(of(trained(config, [0, 1])[0], 0, 1))
        assert states() == before
    assert tables[0] == tables[1]


# --- divergence


METRICS = ["train_acc", "train_nll", "val_acc", "test_acc", "test_nll", "test_ece", "gap", "nll_gap", "recal_test_acc"]


@pytest.mark.parametrize("arrangement", ["none", "bn_dropout"])
def test_a_replicate_whose_loss_is_not_finite_is_marked_and_others_go_on_bit_for_bit(tiny, monkeypatch, arrangement):
    config = tiny(f"arrangement={arrangement}", "measure.silencing=true", "data.level=2.3")
    alone = trained(config, [0, 2])
    plant(monkeypatch, seed=1, part="train", value=float("inf"))
    replicates, history, _ = trained(config, [0, 1, 2])
    assert replicates["diverged"].tolist() == [False, True, False]
    assert replicates.loc[1, [*METRICS, "reliance", "steps_to_level"]].isna().all()
    assert replicates.loc[[0, 2], METRICS].notna().all(axis=None)
    assert of(replicates, 0, 2) == of(alone[0], 0, 2)
    assert of(history, 0, 2) == of(alone[1], 0, 2)


def test_a_loss_that_was_not_finite_once_leaves_no_result_whatever_comes_later(tiny, monkeypatch):
    step = ReplicatedClassifier._step

    def once(self, x, y):
        loss = step(self, x, y)
        return loss.index_fill(1, torch.tensor([1]), torch.inf) if self.steps == 2 else loss

    monkeypatch.setattr(ReplicatedClassifier, "_step", once)
    found = fit.fit(tiny("engine=torch", "trainer.max_epochs=3"), [0, 1, 2])
    assert found.replicates["diverged"].tolist() == [False, True, False]
    assert found.history.query("seed == 1")["val_nll"].notna().tolist() == [True, False, False]
    lost = [{bool(p.isnan().all()) for p in found.network(seed).parameters()} for seed in (0, 1, 2)]
    assert lost == [{False}, {True}, {False}]


def test_a_replicate_that_cannot_be_evaluated_is_marked_as_diverged(tiny, monkeypatch):
    plant(monkeypatch, seed=1, part="test", value=float("inf"))
    replicates, _, _ = trained(tiny("arrangement=none"), [0, 1])
    assert replicates["diverged"].tolist() == [False, True]
    assert replicates.loc[1, METRICS].isna().all()


def test_a_condition_in_which_every_replicate_diverges_is_recorded_with_empty_metrics(tiny, tmp_path):
    config = tiny("optimizer=sgd", "optimizer.lr=1e30", "replicates=2", "measure.silencing=true")
    table = pd.read_csv(io.BytesIO(finish(config, tmp_path)["replicates.csv"]))
    assert table["diverged"].tolist() == [True, True]
    assert table[METRICS].isna().all(axis=None)
    assert results.read(tmp_path).record["seeds"] == [0, 1]


# --- history, steps to the level, schedules, drift


def test_history_has_a_row_for_each_replicate_and_validation_sorted_by_seed(tiny):
    _, history, _ = trained(tiny("trainer.max_epochs=3"), [0, 4])
    assert list(history) == ["seed", "epoch", "step", "train_loss", "val_nll", "val_acc"]
    assert history["seed"].tolist() == [0, 0, 0, 4, 4, 4]
    assert history["epoch"].tolist() == [0, 1, 2] * 2
    assert history["step"].tolist() == [5, 10, 15] * 2
    assert history.notna().all(axis=None)


def test_validations_within_an_epoch_show_in_history_and_change_no_training(tiny):
    often = trained(tiny("trainer.val_check_interval=2"), [0, 1])
    once = trained(tiny(), [0, 1])
    assert often[1].query("seed == 1")["step"].tolist() == [2, 4, 7, 9]
    assert of(often[0], 0, 1) == of(once[0], 0, 1)


def test_steps_to_level_is_the_first_step_at_or_below_it_and_empty_where_it_is_never_reached(tiny):
    config = tiny("trainer.max_epochs=4", "trainer.val_check_interval=2", "arrangement=bn")
    seeds = [0, 1, 2, 3, 4]
    _, history, _ = trained(config, seeds)
    level = float(history.groupby("seed")["val_nll"].min().median())
    replicates, _, _ = trained(config | {"data": config["data"] | {"level": level}}, seeds)
    for seed, steps in zip(seeds, replicates["steps_to_level"], strict=True):
        reached = [row.step for row in history[history["seed"] == seed].itertuples() if row.val_nll <= level]
        assert (pd.isna(steps) and not reached) or steps == reached[0]
    assert replicates["steps_to_level"].isna().sum() == 2


def test_drift_is_asked_for_at_every_step_of_training(tiny, monkeypatch):
    times = []
    swing = ReplicatedClassifier.swing
    monkeypatch.setattr(ReplicatedClassifier, "swing", lambda self, step: times.append(step) or swing(self, step))
    trained(tiny("drift.scale=0.5"), [0])
    assert times == [*range(10)]


# --- silencing and recalibration in a row


def test_without_batch_normalization_recalibration_changes_nothing(tiny):
    replicates, _, _ = trained(tiny("arrangement=dropout"), [0, 1])
    assert (replicates["recal_test_acc"] == replicates["test_acc"]).all()
    assert (replicates["recal_test_nll"] == replicates["test_nll"]).all()


def test_measuring_shift_leaves_every_other_column_as_it_is(tiny):
    with_it, (without, _, facts) = (trained(tiny(f"measure.shift={flag}"), [0, 1]) for flag in ("true", "false"))
    with_it = with_it[0]
    assert facts["shift"] == [] and not {"recal_test_acc", "recal_test_nll"} & {*without.dropna(axis=1, how="all")}
    assert (with_it["recal_test_nll"] != with_it["test_nll"]).all()
    untouched = [name for name in with_it if name in without and not name.startswith("recal")]
    assert {"test_acc", "test_nll", "val_nll"} < set(untouched)
    assert of(with_it[untouched], 0, 1) == of(without[untouched], 0, 1)


# --- the record


def test_a_record_says_what_was_trained_on_what_and_stands_for_its_equals(tiny, tmp_path):
    config = tiny("replicates=2", "arrangement=dropout_bn")
    finish(config, tmp_path)
    record = json.loads((tmp_path / results.RECORD).read_text())
    assert record["rows"] == {"train": 70, "val": 288, "test": 360, "features": 64, "classes": 10, "fixed_test": False}
    assert record["stands_for"] == [["dropout_bn", "after"], ["dropout_bn", "around"]]
    assert record["config"] == config and record["config_hash"] == configs.config_hash(config)
    assert {(entry["layer"], entry["seed"]) for entry in record["shift"]} == {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert record["device"] == "cpu" and record["versions"]["torch"] == importlib.metadata.version("torch")
    assert record["wall_seconds"] > 0


def test_a_record_that_grows_holds_the_time_of_all_its_seeds_and_the_most_steps(tiny, tmp_path, monkeypatch):
    original = job.fit

    def taken_up(config: dict, seeds: list[int], *more) -> fit.Fitted:
        """As after a stop, which had come far."""
        fitted = original(config, seeds, *more)
        fitted.facts |= {"earlier_seconds": 1000.0, "steps": 99 - seeds[0]}
        return fitted

    monkeypatch.setattr(job, "fit", taken_up)
    for count in (1, 2):
        finish(tiny(f"replicates={count}", "measure.shift=false"), tmp_path)
    record = results.read(tmp_path).record
    assert record["steps"] == 99 and 2000 <= record["wall_seconds"] < 3000
    assert all(1000 <= batch["finished"] - batch["began"] < 2000 for batch in record["batches"])


def test_rows_that_have_changed_since_they_were_planned_are_not_trained_on(tiny, tmp_path):
    config = tiny()
    config["data"]["fingerprint"] = "0" * 64
    with pytest.raises(ValueError, match="data=digits: its rows have changed since the sweep began"):
        finish(config, tmp_path)


def test_replicates_csv_has_the_published_columns_in_order(tiny, tmp_path):
    table = pd.read_csv(io.BytesIO(finish(tiny("replicates=2"), tmp_path)["replicates.csv"]))
    published = (
        "dataset arrangement position rate setting depth width seed rerun epoch epochs_after train_acc train_nll "
        "val_acc val_nll test_acc test_balanced_acc test_nll test_ece gap nll_gap steps_to_level diverged "
        "recal_test_acc recal_test_nll"
    )
    assert list(table)[:25] == published.split()
    assert table["width"].tolist() == ["20-13"] * 2 and table["depth"].tolist() == [2, 2]
    assert table["gap"].tolist() == pytest.approx((table["train_acc"] - table["test_acc"]).tolist())
    assert table["nll_gap"].tolist() == pytest.approx((table["test_nll"] - table["train_nll"]).tolist())


def test_a_fit_takes_the_gpu_that_its_process_is_bound_to(tiny, monkeypatch):
    def trainer(**arguments):
        raise StopIteration(arguments["accelerator"], arguments["devices"])

    monkeypatch.setattr(fit.pl, "Trainer", trainer)
    monkeypatch.setattr(fit, "on_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    with pytest.raises(StopIteration) as asked:
        fit.fit(tiny(), [0])
    assert asked.value.args == ("gpu", [2])


def test_an_accuracy_in_the_table_is_the_very_fraction_of_rows(tiny, tmp_path):
    table = pd.read_csv(io.BytesIO(finish(tiny("replicates=3"), tmp_path)["replicates.csv"]))
    for name, count in {"train_acc": 70, "val_acc": 288, "test_acc": 360, "recal_test_acc": 360}.items():
        right = table[name] * count
        assert np.abs(right - right.round()).max() < 1e-9
