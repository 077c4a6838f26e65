"""Data sets as units: each alike, their spread, which of them count, and the word that follows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from exact import normal, pair, rows_of, runs, study_of
from normdrop.report import page
from normdrop.report.pooled import pool, pooled
from normdrop.report.study import Study
from normdrop.report.words import words

RNG = np.random.default_rng(11)
EFFECTS, ERRORS = RNG.normal(0.004, 0.02, 9), RNG.uniform(0.001, 0.02, 9)


def population(root: Path, effects: dict[str, np.ndarray], **where: Any) -> Study:
    """Data sets d0, d1 … with these differences, by position; ten test rows each."""
    for position, values in effects.items():
        for k, effect in enumerate(values):
            own = {"config": {"data": {"fingerprint": f"rows of {k}"}}} | where
            pair(root, runs(0.8 + effect + normal(0, 6), 6), runs(0.8, 6), dataset=f"d{k}", position=position, **own)
    return study_of(root)


def test_the_mean_is_unweighted_with_a_t_interval_on_k_minus_1():
    found = pool(EFFECTS, ERRORS, rope=0.005, alpha=0.1)
    test = stats.ttest_1samp(EFFECTS, 0.0)
    assert (found["estimate"], found["p_value"]) == pytest.approx((EFFECTS.mean(), test.pvalue))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(test.confidence_interval(0.9)))
    error = EFFECTS.std(ddof=1) / 3
    assert found["p_tost"] == pytest.approx(stats.t.sf((0.005 - abs(EFFECTS.mean())) / error, 8))
    assert pool(EFFECTS, ERRORS * 3, rope=0.005)["estimate"] == found["estimate"]


def test_tau_is_paule_and_mandels_and_the_prediction_interval_rests_on_it():
    found = pool(EFFECTS, ERRORS, rope=0.005)
    tau2 = combine_effects(EFFECTS, ERRORS**2, method_re="pm", maxiter=1000).tau2
    assert found["tau"] == pytest.approx(math.sqrt(tau2))
    reach = stats.t.isf(0.025, 7) * math.sqrt(tau2 + EFFECTS.var(ddof=1) / 9)
    assert (found["pi_low"], found["pi_high"]) == pytest.approx((EFFECTS.mean() - reach, EFFECTS.mean() + reach))
    assert 0 < found["i2"] < 1
    zero = ERRORS.copy()
    zero[2] = 0.0
    assert math.isfinite(pool(EFFECTS, zero, rope=0.005)["tau"])
    assert "7 data sets, 8 needed" in pool(EFFECTS[:7], ERRORS[:7], rope=0.005)["refused"]


def test_each_position_has_its_mean_and_holm_goes_over_the_positions(tmp_path):
    effects = {"after": normal(0.0, 8) / 4, "before": 0.02 + normal(0.0, 8)}
    study = population(tmp_path, effects)
    table = pooled(study, rows_of(tmp_path))
    declared = table[table["family"] == "declared"].set_index("position")
    assert set(declared["variant"]) == {"declared"}
    for position, values in effects.items():
        row = declared.loc[position]
        assert (row["k"], row["estimate"], row["comparison"]) == (8, pytest.approx(values.mean()), "best_vs_best")
        assert row["p_value"] == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
        assert 0 < row["detectable"] < 0.05
    for p_value, p_holm in (("p_value", "p_holm"), ("p_tost", "p_tost_holm")):
        assert declared[p_holm].to_list() == pytest.approx(multipletests(declared[p_value], method="holm")[1])
    exploratory = table[table["family"] != "declared"]
    assert exploratory["p_holm"].isna().all()
    assert {"same_rate", "best_vs_best"} == set(exploratory["comparison"])
    said = words(study, rows_of(tmp_path), table).set_index("position")
    assert said["word"].to_dict() == {"after": "No practical difference", "before": "Yes"}


def test_a_position_on_too_few_data_sets_is_told_beside_one_that_has_a_mean(tmp_path):
    study = population(tmp_path, {"after": normal(0.02, 8), "before": normal(0.0, 3)})
    rows = rows_of(tmp_path)
    said = words(study, rows, pooled(study, rows)).set_index("position")
    assert said["word"].to_dict() == {"after": "Yes", "before": ""}
    assert said["scope"].to_dict() == {"after": "data sets at large", "before": "new samples"}
    assert said["n"].to_dict() == {"after": 8, "before": 3}
    answer = page.texts(page.section(study))["answer"]
    assert "**After the activation (post-activation): yes, BN first is better.**" in answer
    (line,) = [line for line in answer.splitlines() if line.startswith("**Before")]
    assert "of 3 comparisons; -1.00 to +1.00 pp" in line and "(new samples)" in line


def test_data_sets_set_apart_and_copies_of_another_count_in_a_row_of_their_own_or_once(tmp_path):
    effects = np.append(normal(0.01, 9), 0.3)
    study = population(tmp_path, {"after": effects}, study={"apart": ["d9"]})
    pair(tmp_path, runs(0.9, 6), runs(0.1, 6), dataset="copy", config={"data": {"fingerprint": "rows of 0"}},
         study={"apart": ["d9"]})  # fmt: skip
    study = study_of(tmp_path)
    table = pooled(study, rows_of(tmp_path)).query("comparison == 'best_vs_best' and metric == 'test_acc'")
    rows = table.set_index("variant")
    # Of the two names of one table the first counts: `copy`.
    assert rows.loc["declared", "left_out"] == "d0 d9"
    assert rows.loc["declared", "k"] == 9
    assert rows.loc["declared", "estimate"] == pytest.approx(np.append(effects[1:9], 0.8).mean())
    assert rows.loc["all data sets", "estimate"] == pytest.approx(np.append(effects[1:], 0.8).mean())
    assert rows.loc["all data sets", "family"] == "exploratory"


def test_log_odds_and_choice_by_nll_stand_beside(tmp_path):
    for k in range(8):
        for rate, nll in ((0.3, 0.2), (0.5, 0.4)):  # accuracy prefers .5, NLL .3
            a = runs(0.9 - rate / 10 + normal(0, 6) / 10, 6, val_acc=rate, val_nll=nll)
            pair(tmp_path, a, runs(0.8 + rate / 100, 6), dataset=f"d{k}", rate=rate)
    table = pooled(study_of(tmp_path), rows_of(tmp_path)).query("comparison == 'best_vs_best' and metric == 'test_acc'")
    rows = table.set_index("variant")
    assert rows.loc["declared", "estimate"] == pytest.approx(0.85 - 0.803)
    assert rows.loc["chosen by NLL", "estimate"] == pytest.approx(0.87 - 0.803)
    n = 6 * 400
    odds = [math.log((x * n + 0.5) / ((1 - x) * n + 0.5)) for x in (0.15, 0.197)]
    assert rows.loc["log odds of error", "estimate"] == pytest.approx(odds[0] - odds[1], abs=1e-6)
    assert rows.loc["log odds of error", "verdict"] == "better"  # fewer errors


def test_the_spread_of_log_odds_is_that_beyond_their_errors(tmp_path):
    odds, errors = [], []
    for k in range(8):
        a, n = 0.85 + k / 100, 6 * 400
        pair(tmp_path, runs(a + normal(0, 6) / 10, 6), runs(0.8, 6), dataset=f"d{k}")
        wrong = np.array([((1 - x) * n + 0.5) / (n + 1) for x in (a, 0.8)])
        odds.append(np.diff(np.log(wrong / (1 - wrong))))
        errors.append(0.001 / math.sqrt(6) * (1 / (wrong * (1 - wrong))).mean())  # the slope of log odds
    table = pooled(study_of(tmp_path), rows_of(tmp_path)).query("comparison == 'best_vs_best' and metric == 'test_acc'")
    tau2 = combine_effects(np.concatenate(odds), np.square(errors), method_re="pm", maxiter=1000).tau2
    found = table.set_index("variant").loc["log odds of error"]
    typical = 7 / (np.sum(np.power(errors, -2.0)) - np.sum(np.power(errors, -4.0)) / np.sum(np.power(errors, -2.0)))
    assert (found["tau"], found["i2"]) == pytest.approx((math.sqrt(tau2), tau2 / (tau2 + typical)), rel=1e-6)


def test_seven_data_sets_are_not_pooled_and_what_was_refused_is_left_out_by_name(tmp_path):
    study = population(tmp_path, {"after": normal(0.01, 7)})
    assert pooled(study, rows_of(tmp_path)).empty
    said = words(study, rows_of(tmp_path), pooled(study, rows_of(tmp_path)))
    assert said["word"].to_list() == [""]  # a study of the order that cannot speak in general
    assert said["n"].to_list() == [7]
    pair(tmp_path, runs(0.9, 3), runs(0.8, 3), dataset="few")
    row = pooled(study_of(tmp_path), rows_of(tmp_path)).iloc[0]
    assert (row["left_out"], row["k"]) == ("few", 7)
    assert row["verdict"].startswith("refused")


def test_a_data_set_that_is_set_apart_stands_for_none_of_its_copies(tmp_path):
    study = population(tmp_path, {"after": normal(0.01, 10)}, study={"apart": ["d0"]})
    pair(tmp_path, runs(0.9, 6), runs(0.8, 6), dataset="later", config={"data": {"fingerprint": "rows of 0"}},
         study={"apart": ["d0"]})  # fmt: skip
    study = study_of(tmp_path)
    table = pooled(study, rows_of(tmp_path)).query("comparison == 'best_vs_best' and metric == 'test_acc'")
    rows = table.set_index("variant")
    assert (rows.loc["declared", "k"], rows.loc["declared", "left_out"]) == (10, "d0")
    assert rows.loc["declared", "family"] == "declared"
    assert rows.loc["all data sets", "k"] == 10


def test_each_setting_has_its_mean_its_word_and_its_line(tmp_path):
    for lr, effect in ((0.003, 0.03), (0.1, -0.03)):
        for k, own in enumerate(normal(effect, 8)):
            for rate in (0.3, 0.5):
                pair(tmp_path, runs(0.8 + own + normal(0, 6) / 9, 6), runs(0.8, 6), rate=rate, dataset=f"d{k}",
                     setting={"optimizer.lr": lr})  # fmt: skip
    section = page.section(study_of(tmp_path))
    said = section.tables["words"].set_index("setting")
    assert said["word"].to_dict() == {"learning rate 0.003": "Yes", "learning rate 0.1": "No: the opposite"}
    assert said["n"].to_list() == [8, 8]
    text = page.texts(section)["answer"]
    assert [line.count("learning rate 0.1") for line in text.splitlines() if "0.1" in line] == [1, 1]
    drawn = dict(page.draw(section))
    assert [ax.get_title() for ax in drawn["answer"].axes] == [f"after · learning rate {lr}" for lr in ("0.003", "0.1")]
    marks = [label.get_text() for label in drawn["forest"].axes[0].get_yticklabels()]
    assert marks[-2:] == ["mean learning rate 0.003", "mean learning rate 0.1"]
