"""A run beside a reference: Welch's test, and what else differs."""

import pytest
from scipy import stats

from exact import normal, pair, runs, write
from normdrop.report.against import compare_runs, differences
from normdrop.report.study import load


def test_a_run_does_not_differ_from_itself_and_shares_its_seeds(tmp_path):
    pair(tmp_path, runs(0.9 + normal(0.01) / 3), runs(0.8))
    both = compare_runs(load(tmp_path), load(tmp_path))
    assert len(both)
    assert (both["t"] == 0).all()
    assert not both[["differs", "verdict_differs"]].any(axis=None)
    assert set(both["shared_seeds"]) == {10}
    assert differences(load(tmp_path), load(tmp_path)).empty


def test_t_is_welchs(tmp_path):
    one, two = 0.01 + normal(0.0, 8), 0.03 + 2 * normal(0.0, 12)
    pair(tmp_path / "a" / "x", runs(0.8 + one, 8), runs(0.8, 8))
    pair(tmp_path / "b" / "x", runs(0.8 + two, 12, seed=range(50, 62)), runs(0.8, 12, seed=range(50, 62)))
    both = compare_runs(load(tmp_path / "a"), load(tmp_path / "b")).query("metric == 'test_acc'")
    welch = stats.ttest_ind(one, two, equal_var=False)
    assert both["t"].to_list() == pytest.approx([welch.statistic] * len(both))
    assert both["p"].to_list() == pytest.approx([welch.pvalue] * len(both))
    assert (both["shared_seeds"] == 0).all()


def test_another_effect_differs_and_what_else_differs_is_named(tmp_path):
    other = {"batch_size": 7, "data": {"fingerprint": "other"}}
    for name, effect, config in (("a", 0.05, {}), ("b", -0.05, other)):
        pair(tmp_path / name / "x", runs(0.8 + effect + normal(0.0)), runs(0.8), config=config)
    both = compare_runs(load(tmp_path / "a"), load(tmp_path / "b"))
    assert both["differs"].all()
    assert both["verdict_differs"].all()
    pair(tmp_path / "c" / "x", runs(0.8), runs(0.7), study={"alpha": 0.1, "rope": {}, "sentence": "Another."})
    named = differences(load(tmp_path / "a"), load(tmp_path / "c")).set_index("key")
    assert set(named.index) == {"study.alpha", "study.rope"} and named.loc["study.alpha", "there"] == "0.1"
    named = differences(load(tmp_path / "a"), load(tmp_path / "b")).set_index("key")
    assert (named.loc["batch_size", "here"], named.loc["batch_size", "there"]) == ("64", "7")
    assert named.loc["data.fingerprint", "there"] == "other"
    assert not {"replicates", "rate", "arrangement"} & set(named.index)


def test_a_key_that_one_run_alone_varies_is_compared_where_the_other_has_its_value(tmp_path):
    for depth, effect in ((3, 0.02), (5, 0.2)):
        pair(tmp_path / "a" / "x", runs(0.8 + effect + normal(0.0)), runs(0.8), setting={"model.depth": depth})
    pair(tmp_path / "b" / "x", runs(0.82 + normal(0.0)), runs(0.8))
    both = compare_runs(load(tmp_path / "a"), load(tmp_path / "b"))
    assert set(both["model.depth"]) == {"3"}
    assert not both["differs"].any()


def test_a_group_that_one_run_alone_varies_is_compared_where_the_other_chose_it(tmp_path):
    for optimizer in ("adam", "sgd"):
        pair(tmp_path / "a" / "x", runs(0.82 + normal(0.0)), runs(0.8), setting={"optimizer": optimizer})
    pair(tmp_path / "b" / "x", runs(0.82 + normal(0.0)), runs(0.8))
    both = compare_runs(load(tmp_path / "a"), load(tmp_path / "b"))
    assert len(both) and set(both["optimizer"]) == {"adam"}


def test_the_study_of_the_same_name_is_meant_and_without_one_those_of_the_same_claim(tmp_path):
    for name in ("b/one", "b/two"):
        pair(tmp_path / name, runs(0.8 + normal(0.0)), runs(0.8))
    pair(tmp_path / "a" / "two", runs(0.8 + normal(0.0)), runs(0.8))
    pair(tmp_path / "c" / "other", runs(0.8 + normal(0.0)), runs(0.8))
    assert set(compare_runs(load(tmp_path / "a"), load(tmp_path / "b"))["reference"]) == {"two"}
    assert set(compare_runs(load(tmp_path / "c"), load(tmp_path / "b"))["reference"]) == {"one", "two"}
    pair(tmp_path / "d" / "x", runs(0.8), runs(0.8), study={"claim": "speed"})
    nothing = compare_runs(load(tmp_path / "d"), load(tmp_path / "b"))
    assert nothing.empty and not nothing["differs"].sum()


def test_the_grid_of_a_choice_may_differ_and_a_key_of_one_data_set_is_no_difference_in_another(tmp_path):
    for name, rates in (("a", (0.1, 0.3)), ("b", (0.1, 0.5))):
        for rate in rates:
            pair(tmp_path / name / "x", runs(0.9), runs(0.8), rate=rate)
        write(tmp_path / name / "x", "bn", runs(0.9), 0.0)
    config = {"data": {"name": "other", "classes": "as_is"}}
    pair(tmp_path / "b" / "x", runs(0.9), runs(0.8), dataset="other", rate=0.1, config=config)
    (row,) = differences(load(tmp_path / "a"), load(tmp_path / "b")).to_dict("records")
    assert (row["dataset"], row["key"], row["here"], row["there"]) == ("d", "rate", "0.1, 0.3", "0.1, 0.5")
