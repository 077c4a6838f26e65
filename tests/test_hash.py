"""What a condition's hash holds: every leaf of the resolved config that a replicate's numbers depend on."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from normdrop.asked import dotted, leaves
from normdrop.data import SERVED
from normdrop.data.module import ReplicateData
from normdrop.study import facts
from normdrop.study.config import canonical, config_hash
from normdrop.study.plan import missing
from normdrop.study.record import write
from normdrop.training.check import check_fit
from normdrop.training.module import decisive

# Who trains beside a replicate, where, under which name, what is kept of it, declared of it and drawn of it.
EXEMPT = {
    *("first_seed", "replicates", "replicates_at_a_time", "name", "logging", "study", "trainer.accelerator"),
    *("checkpoint_minutes", "save_networks"),
}


def changed(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The config with another value of the same kind at a dotted key."""
    config = copy.deepcopy(config)
    *parents, last = key.split(".")
    node = dotted(config)[".".join(parents)] if parents else config
    value = node[last]
    if isinstance(value, bool) or value is None:
        node[last] = not value
    elif isinstance(value, int | float):
        node[last] = value + 1
    else:
        node[last] = [*value, 7] if isinstance(value, list) else f"{value}_"
    return config


@pytest.fixture(scope="module")
def config(tiny: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny("data=synthetic", "optimizer=sgd", "replicates=2")


def test_another_value_of_any_leaf_that_is_not_exempt_is_another_hash(config):
    keys = list(leaves(config))
    assert len(keys) > 40
    assert {key.split(".")[0] for key in keys} == set(config)
    whole = config_hash(config)
    same = {key for key in keys if config_hash(changed(config, key)) == whole}
    assert same == EXEMPT
    hashes = [config_hash(changed(config, key)) for key in keys if key not in EXEMPT]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("key", ["trainer.new", "model.new", "data.new", "drift.new", "measure.new", "new"])
def test_a_key_that_comes_new_is_in_the_hash(config, key):
    more = copy.deepcopy(config)
    *parents, last = key.split(".")
    (dotted(more)[".".join(parents)] if parents else more)[last] = 1
    assert config_hash(more) != config_hash(config)


def test_a_study_that_is_declared_is_not_in_the_hash_and_the_order_of_keys_is_not(config):
    assert config_hash(config | {"study": {"claim": "ordering"}}) == config_hash(config)
    assert config_hash(dict(reversed(config.items()))) == config_hash(config)


def recorded(directory: Path, config: dict[str, Any], **more: Any) -> Path:
    record = {"config": config, "config_hash": config_hash(config), "seeds": [0, 1]} | more
    write(directory, record, pd.DataFrame({"seed": [0, 1]}), pd.DataFrame({"seed": [0, 1]}))
    return directory


@pytest.mark.parametrize("key", ["trainer.max_epochs", "optimizer.lr", "model.init_gain", "data.level", "drift.scale"])
def test_a_folder_of_another_value_is_refused_by_the_name_of_its_key(config, tmp_path, key):
    recorded(tmp_path, config)
    assert missing(config, tmp_path) == []
    other = changed(config, key)
    line = f"another config \\({key} was {dotted(config)[key]}, now {dotted(other)[key]}\\)"
    with pytest.raises(ValueError, match=line.replace("+", r"\+")):
        missing(other, tmp_path)


def test_of_a_folder_of_the_same_config_only_the_seeds_that_it_lacks_are_missing(config, tmp_path):
    recorded(tmp_path, config, batches=[])
    assert missing(config | {"first_seed": 1, "replicates": 3, "name": "other"}, tmp_path) == [2, 3]
    assert missing(config | {"replicates": 4}, tmp_path) == [2, 3]
    with pytest.raises(ValueError, match=r"another config \(study.claim was None, now speed\)"):
        missing(config | {"study": {"claim": "speed"}}, tmp_path)
    assert missing(config | {"first_seed": 1, "study": {"later": None}}, tmp_path) == [2]


def test_a_folder_that_does_not_say_when_its_seeds_were_trained_counts_and_does_not_grow(config, tmp_path):
    recorded(tmp_path, config)
    assert missing(config, tmp_path) == []
    with pytest.raises(ValueError, match="an older version trained its seeds and cannot be grown"):
        missing(config | {"replicates": 4}, tmp_path)


# Beside them, what a checkpoint may go on with: how long training is, how it is computed, and what is measured.
LOOSE = {
    *("engine", "trainer.max_epochs", "trainer.val_check_interval"),
    *("measure.shift", "measure.shift_epochs", "measure.silencing"),
}


def test_another_value_of_any_leaf_that_training_depends_on_is_another_checkpoint(config):
    def tied(config: dict[str, Any]) -> dict[str, Any]:
        return decisive({"config": config, "row_shape": [20], "classes": 4, "seeds": [0]})

    rows = {f"data.{key}" for key in config["data"].keys() - {"source", *SERVED}}  # the data module knows them
    keys = leaves(config).keys() - rows
    assert {key for key in keys if tied(changed(config, key)) == tied(config)} == EXEMPT | LOOSE


# --- one condition of equal ones


def test_a_condition_is_recorded_under_the_first_of_its_equals_and_without_dropout_at_rate_0(tiny):
    def of(arrangement: str, position: str, activation: str = "relu") -> tuple[str, float]:
        given = tiny(f"arrangement={arrangement}", f"position={position}", "rate=0.4", f"model.activation={activation}")
        found = canonical(given)
        assert {key for key in given if found[key] != given[key]} <= {"position", "rate"}
        return found["position"], found["rate"]

    assert of("none", "before") == of("bn", "after") == ("after", 0.0)
    assert of("bn", "around") == of("bn", "before") == ("before", 0.0)
    assert of("dropout", "before") == of("dropout", "around") == ("after", 0.4)
    assert of("dropout", "before", "gelu") == ("before", 0.4)
    assert of("bn_dropout", "around") == ("before", 0.4)
    assert of("dropout_bn", "around") == ("after", 0.4)
    assert of("dropout_bn", "around", "gelu") == ("around", 0.4)


def test_the_hash_of_a_configuration_is_the_one_of_the_folders_that_earlier_versions_finished(tiny):
    assert config_hash(tiny("data=digits"))[:16] == "0da2d41a6f4cf988"
    assert config_hash(tiny("data=synthetic"))[:16] == "c2577f0b0a5fb09b"


# --- what is checked before anything trains


def fits(*configs: dict[str, Any]) -> str:
    """What the check before training says of the conditions of a grid."""
    try:
        facts.check_fits([(config, 0) for config in configs])
    except ValueError as error:
        return str(error)
    return ""


def test_every_condition_with_bn_is_checked_whatever_stands_before_it_in_the_grid(tiny):
    """A batch of one row has no batch statistics."""
    none, bn = (tiny("batch_size=1", f"arrangement={name}") for name in ("none", "bn_dropout"))
    assert fits(none) == ""
    assert fits(none, bn) == fits(bn, none) == fits(bn) != ""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_size=4096", "batch_size=4096"),
        ("trainer.val_check_interval=99", "trainer.val_check_interval=99"),
        ("model.width=[200000,200000]", "model.width="),
        ("data.train_size=1000000", "train_size"),
    ],
)
def test_every_condition_that_differs_in_what_a_fit_needs_is_checked(tiny, override, said):
    good = tiny()
    assert said in fits(good, tiny(override))
    assert fits(good, good) == ""


@pytest.mark.parametrize("interval", ["1", "3", "5", "0.2", "0.5", "1.0"])
def test_validations_may_come_at_any_number_or_share_of_an_epochs_steps(tiny, interval):  # which are five
    assert fits(tiny(f"trainer.val_check_interval={interval}")) == ""


def test_a_gpu_may_be_asked_for_where_one_is(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fits(tiny("trainer.accelerator=gpu", "engine=torch")) == ""


def test_the_data_of_a_condition_is_checked_with_a_seed_that_is_to_be_trained(tiny, monkeypatch):
    asked = []

    def fitted(config: dict[str, Any], seed: int) -> ReplicateData:
        asked.append((config["arrangement"], seed))
        return check_fit(config, seed)

    monkeypatch.setattr(facts, "check_fit", fitted)
    bn, none = tiny("arrangement=bn"), tiny("arrangement=none")
    facts.check_fits([(bn, 4), (bn, 6), (none, 2)])
    assert asked == [("bn", 4), ("none", 2)]


def test_where_one_configuration_cannot_be_compiled_all_train_on_one_engine(tiny, monkeypatch):
    monkeypatch.setattr(facts, "reason_for", lambda config: "why" if config["noise"] == "uniform" else None)
    grid = [tiny(f"noise={noise}") for noise in ("bernoulli", "uniform")]
    assert [facts.one_engine(grid), facts.one_engine(grid[:1])] == ["torch", "compiled"]


@pytest.mark.parametrize(
    ("base", "key", "values"),
    [
        (("data=mnist1d", "data.rows=500", "data.train_size=70"), "data.test_fraction", "0.1,0.3"),
        (("data=digits",), "data.train_most", "2000,3000"),
        (("data=digits",), "data.copies", "together,apart"),
    ],
)
def test_a_key_that_gives_the_same_rows_whatever_its_value_cannot_be_swept(tiny, base, key, values):
    configs = [(tiny(*base, f"{key}={value}"), 0) for value in values.split(",")]
    assert facts.check_fits(configs, ["rate"]) and facts.check_fits(configs[:1], [key])
    with pytest.raises(
        ValueError, match=f"{key}={values.split(',')[1]}: has no effect on {configs[0][0]['data']['name']}"
    ):
        facts.check_fits(configs, [key])
    other = [(config | {"batch_size": 7 + config["batch_size"]}, seed) for config, seed in configs]
    assert facts.check_fits([configs[0], other[1]], [key, "batch_size"])  # another key tells them apart


def test_a_key_that_moves_rows_between_parts_can_be_swept(tiny):
    configs = [(tiny("data=digits", f"data.val_fraction={share}"), 0) for share in (0.2, 0.3)]
    assert facts.check_fits(configs, ["data.val_fraction"])


@pytest.mark.parametrize("given", ["t.csv", "./t.csv", "'~/t.csv'"])
def test_the_path_of_a_table_is_recorded_such_that_any_folder_finds_it(composed, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    known = canonical(composed("data=table", f"data.path={given}", "data.target=label"))
    assert known["data"]["path"] == str(tmp_path / "t.csv")


def test_the_config_that_trains_is_the_one_spelling_of_what_was_given(composed):
    known = canonical(composed("data=synthetic", "optimizer=sgd", "replicates=2"))
    assert canonical(known) == known
