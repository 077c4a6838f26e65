"""Which network to use: with a default from the other data sets, tuned, and with hindsight."""

import numpy as np
import pytest
from scipy import stats

from exact import runs, study_of, write
from normdrop.report.ranks import networks

# Data set → rate → (validation accuracy, test accuracy) of bn_dropout. On `odd` validation and test disagree.
TRUTH = {
    "one": {0.1: (0.8, 0.70), 0.5: (0.9, 0.80)},
    "two": {0.1: (0.7, 0.60), 0.5: (0.8, 0.75)},
    "odd": {0.1: (0.9, 0.50), 0.5: (0.1, 0.90)},
}


def test_default_tuned_and_oracle_are_told_apart_and_paired_against_the_best(tmp_path):
    for dataset, by_rate in TRUTH.items():
        for rate, (val, test) in by_rate.items():
            write(tmp_path, "bn_dropout", runs(test, 6, val_acc=val), rate, dataset=dataset)
            write(tmp_path, "bn_dropout", runs(test / 2, 6, val_acc=val), rate, dataset=dataset, position="before")
        write(tmp_path, "none", runs(0.65, 6), 0.0, dataset=dataset)
    table = networks(study_of(tmp_path)).set_index(["network", "how"])
    assert len(table) == 9
    own = table.loc["bn_dropout · after"]
    assert own.loc["tuned", "mean"] == pytest.approx(np.mean([0.8, 0.75, 0.5]))
    assert own.loc["oracle", "mean"] == pytest.approx(np.mean([0.8, 0.75, 0.9]))
    # By the others' validation: for `one` .1 (.7 + .9 against .8 + .1), for `two` .1, for `odd` .5.
    assert own.loc["default", "mean"] == pytest.approx(np.mean([0.7, 0.6, 0.9]))
    assert own.loc["tuned", "best"]
    assert own["mean_rank"].to_dict() == pytest.approx({"default": 4 / 3, "tuned": 4 / 3, "oracle": 1.0})
    row = table.loc[("none", "tuned")]
    difference = 0.65 - np.array([0.8, 0.75, 0.5])
    low, high = stats.ttest_1samp(difference, 0).confidence_interval()
    assert [row["difference"], row["diff_low"], row["diff_high"]] == pytest.approx([difference.mean(), low, high])
    assert (row["k"], row["rate"]) == (3, 0.0)


def test_a_data_set_that_lacks_a_network_or_is_set_apart_has_no_part(tmp_path):
    for dataset in ("one", "two", "apart", "lacking"):
        study = {"apart": ["apart"]}
        write(tmp_path, "bn_dropout", runs(0.9, 6), dataset=dataset, study=study)
        if dataset != "lacking":
            write(tmp_path, "none", runs(0.8, 6), 0.0, dataset=dataset, study=study)
    assert set(networks(study_of(tmp_path))["k"]) == {2}


def test_one_data_set_has_no_table_whatever_it_was_tried_at(tmp_path):
    for rate in (0.01, 0.03):
        write(tmp_path, "bn", runs(0.9, 6), 0.0, setting={"optimizer.lr": rate})
    assert networks(study_of(tmp_path)).empty


def test_a_data_set_counts_once_at_the_settings_that_all_networks_have(tmp_path):
    for dataset, accuracy in (("one", 0.5), ("two", 0.7)):
        for depth in (1, 2, 3):
            own = runs(accuracy + depth / 100, 6, val_acc=[0.9] * 6)
            write(tmp_path, "bn", own, 0.0, dataset=dataset, setting={"model.depth": depth})
            if depth < 3:
                write(tmp_path, "none", runs(0.4, 6), 0.0, dataset=dataset, setting={"model.depth": depth})
    table = networks(study_of(tmp_path)).set_index(["network", "how"])
    assert set(table["k"]) == {2}
    assert table.loc[("bn", "tuned"), "mean"] == pytest.approx(0.615)


def test_a_mean_over_the_seeds_that_did_not_diverge_is_no_score(tmp_path):
    lost = [0.9] * 5 + [np.nan]
    for dataset in ("one", "two", "three"):
        write(tmp_path, "bn_dropout", runs(0.6, 6, val_acc=[0.6] * 6), 0.1, dataset=dataset)
        high = lost if dataset == "one" else [0.9] * 6
        write(tmp_path, "bn_dropout", runs(high, 6, val_acc=high), 0.5, dataset=dataset)
        write(tmp_path, "none", runs(lost if dataset == "three" else 0.8, 6, val_acc=0.8), 0.0, dataset=dataset)
    table = networks(study_of(tmp_path)).set_index(["network", "how"])
    assert set(table["k"]) == {2} and set(table["lost"]) == {1}
    # The sixth seed of `one` prefers .1 where it diverged at .5; a default must not diverge anywhere.
    own = table.loc["bn_dropout", "mean"]
    assert own.to_dict() == pytest.approx({"default": 0.6, "tuned": (5 * 0.9 + 0.6) / 12 + 0.45, "oracle": 0.75})


def test_the_seeds_are_those_that_every_candidate_has(tmp_path):
    for dataset in ("one", "two"):
        write(tmp_path, "bn_dropout", runs(np.arange(8) / 10, 8), 0.1, dataset=dataset)
        write(tmp_path, "none", runs(np.arange(6) / 10, 6), 0.0, dataset=dataset)
    assert networks(study_of(tmp_path))["mean"].to_list() == pytest.approx([0.25] * 6)


def test_a_network_without_a_candidate_that_never_diverged_has_no_default_and_grids_may_differ(tmp_path):
    lost = [np.nan] + [0.8] * 5
    for dataset, rates in {"one": (0.1, 0.5), "two": (0.1, 0.5), "three": (0.5, 0.7)}.items():
        for rate in rates:
            own = lost if (dataset, rate) in (("one", 0.1), ("two", 0.5)) else [0.8] * 6
            write(tmp_path, "bn_dropout", runs(own, 6, val_acc=own), rate, dataset=dataset)
        write(tmp_path, "none", runs(0.7, 6), 0.0, dataset=dataset)
    table = networks(study_of(tmp_path)).set_index(["network", "how"])
    assert set(table["k"]) == {3}
    assert set(table.loc["bn_dropout"].index) == {"tuned", "oracle"} and table.loc[("bn_dropout", "tuned"), "best"]
