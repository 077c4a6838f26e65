"""Which numbers are compared: each kind of study on a case whose answer is known."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fake_study import fake_study, write_condition
from normdrop.kinds import kind_of
from normdrop.metrics import METRICS
from normdrop.report.__main__ import main
from normdrop.report.contrasts import contrasts
from normdrop.report.figures import looks
from normdrop.report.mechanism import explained, recalibration, shifts
from normdrop.report.records import load
from normdrop.report.verdicts import COLUMNS, verdicts

CONTRACT = [
    *("claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low", "ci_high"),
    *("d_z", "p_superior", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data"),
    "setting",
]
EXACT: dict[str, Any] = {"shared_sd": 0.01, "own_sd": 0.0, "replicates": 8}


def rows_of(directory: Path, **where: Any) -> pd.DataFrame:
    (study,) = load(directory).studies
    table = verdicts(study, contrasts(study))
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def one(directory: Path, **where: Any) -> pd.Series:
    (row,) = (row for _, row in rows_of(directory, **where).iterrows())
    return row


def test_the_columns_are_the_contract_in_its_order(reported: Path) -> None:
    columns = list(pd.read_csv(reported / "report/verdicts.csv").columns)
    assert columns[:20] == CONTRACT
    assert columns == COLUMNS


def test_the_same_rate_compares_both_sides_at_every_rate(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 + (rate / 10 if arrangement == "bn_dropout" else 0)

    rows = rows_of(fake_study(tmp_path, accuracy=accuracy, **EXACT), comparison="same_rate", metric="test_acc")
    assert rows["rate_a"].to_list() == rows["rate_b"].to_list() == [0.1, 0.2, 0.3, 0.5, 0.7]
    assert rows["estimate"].to_list() == pytest.approx([0.01, 0.02, 0.03, 0.05, 0.07])
    assert set(rows["family"]) == {"exploratory"}
    assert rows["p_holm"].isna().all()


def test_best_against_best_lets_each_side_choose_on_validation(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        best = {"bn_dropout": 0.2, "dropout_bn": 0.5}.get(arrangement, 0.3)
        return 0.9 - abs(rate - best) / 10 + (0.01 if arrangement == "bn_dropout" else 0)

    row = one(fake_study(tmp_path, accuracy=accuracy, **EXACT), family="declared")
    assert (row["rate_a"], row["rate_b"]) == (0.2, 0.5)
    assert row["estimate"] == pytest.approx(0.01)


def candidates(root: Path, val_acc: dict[float, list[float]], val_nll: dict[float, list[float]]) -> Path:
    """bn_dropout whose test accuracy is its rate, so that the choice shows; dropout_bn at 0."""
    for rate in val_acc:
        for arrangement in ("bn_dropout", "dropout_bn"):
            n = len(val_acc[rate])
            table = {"seed": range(n), "val_acc": val_acc[rate], "val_nll": val_nll[rate]}
            table |= {"test_acc": rate if arrangement == "bn_dropout" else 0.0, "diverged": np.isnan(val_acc[rate])}
            frame = pd.DataFrame(table)
            frame.loc[frame["diverged"], "test_acc"] = np.nan
            write_condition(root, frame, dataset="d", arrangement=arrangement, position="after", rate=rate)
    return root


def chosen(root: Path) -> list[float]:
    (study,) = load(root).studies
    (best,) = (contrast for contrast in contrasts(study) if contrast.comparison == "best_vs_best")
    return best.a["test_acc"].to_list()


def test_each_replicate_chooses_for_itself_and_ties_go_to_the_lower_nll_then_the_lower_rate(tmp_path: Path) -> None:
    acc = {0.1: [0.9, 0.8, 0.8, 0.8], 0.5: [0.8, 0.9, 0.8, 0.8]}
    nll = {0.1: [0.9, 0.1, 0.9, 0.5], 0.5: [0.1, 0.9, 0.1, 0.5]}
    assert chosen(candidates(tmp_path, acc, nll)) == [0.1, 0.5, 0.5, 0.1]


def test_a_diverged_candidate_is_never_chosen(tmp_path: Path) -> None:
    acc = {0.1: [np.nan, 0.1], 0.5: [0.2, 0.2]}
    assert chosen(candidates(tmp_path, acc, {0.1: [np.nan, 1.0], 0.5: [1.0, 1.0]})) == [0.5, 0.5]


def test_both_sides_choose_among_the_rates_that_both_have(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, replicates=8)
    for path in (directory / "digits/dropout_bn/after/q0.30").iterdir():
        path.unlink()
    row = one(directory, family="declared")
    assert row["rate_a"] != 0.3
    assert 0.3 not in rows_of(directory, comparison="same_rate")["rate_a"].to_list()


def test_tuning_reaches_every_declared_key(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        good = {"bn_dropout": 0.01, "dropout_bn": 0.001}.get(arrangement, 0.001)
        return 0.9 + (0.02 if setting["optimizer.lr"] == good else 0)

    settings = ({"optimizer.lr": 0.001}, {"optimizer.lr": 0.01})
    study = {"tuned": ["rate", "optimizer.lr"]}
    directory = fake_study(tmp_path, settings=settings, accuracy=accuracy, study=study, rerun=None, **EXACT)
    row = one(directory, family="declared")
    assert row["estimate"] == pytest.approx(0, abs=1e-12)
    assert row["setting"] == ""


def test_holm_covers_the_declared_family_alone(tmp_path: Path) -> None:
    from statsmodels.stats.multitest import multipletests

    directory = fake_study(tmp_path, datasets=("a", "b", "c"), positions=("after", "before"), replicates=10)
    rows = rows_of(directory, family="declared")
    assert len(rows) == 6
    assert set(rows["comparison"]) == {"best_vs_best"}
    assert set(rows["metric"]) == {"test_acc"}
    assert rows["p_holm"].to_list() == pytest.approx(multipletests(rows["p_value"], method="holm")[1])


def test_a_claim_of_two_things_has_both_in_its_family_and_both_in_its_answer(tmp_path: Path) -> None:
    def steps(arrangement: str, setting: dict[str, Any]) -> float:
        return 50.0 if arrangement == "bn_dropout" else 100.0

    study = {"metric": ["gap", "steps_to_level"], "secondary": ["test_acc"]}
    directory = fake_study(tmp_path, study=study, steps=steps, rates=(0.3,), replicates=12, seed=2)
    rows = rows_of(directory, family="declared")
    assert rows["metric"].to_list() == ["gap", "steps_to_level"]
    assert rows["p_holm"].max() == pytest.approx(max(2 * rows["p_value"].min(), rows["p_value"].max()))
    assert set(rows_of(directory, family="a/a")["metric"]) == {"gap", "steps_to_level"}
    assert one(directory, family="declared", metric="steps_to_level")["estimate"] == pytest.approx(0.5, rel=0.15)
    assert main([str(directory)]) == 0
    markdown = (directory / "report/report.md").read_text()
    assert re.search(r"accuracy gap was \d\.\d\d pp (higher|lower) with batch normalization first", markdown)
    assert re.search(r"Steps to level with batch normalization first came to ×0\.\d+ of .*: better", markdown)


def test_a_pair_of_networks_that_every_position_shares_is_one_comparison(tmp_path: Path) -> None:
    study = {"contrast": {"a": "dropout", "b": "none"}}
    directory = fake_study(tmp_path, positions=("after", "before", "around"), study=study, replicates=8)
    assert rows_of(directory, family="declared")["position"].to_list() == ["after"]


def test_an_arrangement_without_dropout_is_compared_at_each_rate_of_the_other(tmp_path: Path) -> None:
    study = {"contrast": {"a": "dropout", "b": "none"}}
    rows = rows_of(fake_study(tmp_path, study=study, replicates=8), comparison="same_rate", metric="test_acc")
    assert rows["rate_a"].to_list() == [0.1, 0.2, 0.3, 0.5, 0.7]
    assert set(rows["rate_b"]) == {0.0}


@pytest.mark.parametrize(("effect", "expected"), [(-0.02, "better"), (0.02, "worse"), (0.0, "equivalent")])
def test_of_a_loss_the_smaller_is_better(tmp_path: Path, effect: float, expected: str) -> None:
    study = {"contrast": {"a": "dropout", "b": "none"}, "metric": "test_nll", "secondary": []}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 - (effect if arrangement == "dropout" else 0)  # test_nll is 1.2 - accuracy

    directory = fake_study(tmp_path, study=study, accuracy=accuracy, shared_sd=0.01, own_sd=0.001, replicates=10)
    row = one(directory, family="declared")
    assert row["estimate"] == pytest.approx(effect, abs=0.002)
    assert expected in row["verdict"]


def test_speed_is_a_median_ratio_and_a_censored_run_counts_as_longer(tmp_path: Path) -> None:
    study = {"contrast": {"a": "bn", "b": "none"}, "metric": "steps_to_level", "kind": "ratio", "secondary": []}

    def steps(arrangement: str, setting: dict[str, Any]) -> float:
        return 60.0 if arrangement == "bn" else 100.0

    directory = fake_study(tmp_path, study=study, steps=steps, max_steps=100.0, replicates=15)
    row = one(directory, family="declared")
    table = pd.read_csv(directory / "digits/none/after/q0.00/replicates.csv")["steps_to_level"]
    bn = pd.read_csv(directory / "digits/bn/after/q0.00/replicates.csv")["steps_to_level"]
    assert table.isna().any()
    assert row["n"] == 15
    assert row["estimate"] == pytest.approx((bn / table.fillna(np.inf)).median())
    assert row["verdict"] == "better"


def test_a_spread_is_the_standard_deviation_over_the_grid_within_a_replicate(tmp_path: Path) -> None:
    study = {"contrast": {"a": "bn", "b": "none"}, "kind": "spread", "over": "model.init_gain", "secondary": []}
    offsets = {0.1: -0.1, 1.0: 0.0, 10.0: 0.1}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.8 + offsets[setting["model.init_gain"]] * (0.2 if arrangement == "bn" else 1.0)

    settings = [{"model.init_gain": gain} for gain in offsets]
    directory = fake_study(tmp_path, study=study, settings=settings, accuracy=accuracy, rerun=None, own_sd=0.001)
    row = one(directory, family="declared")
    tables = [
        pd.concat(
            [
                pd.read_csv(directory / f"digits/{name}/after/q0.00/model.init_gain={gain}/replicates.csv")
                for gain in offsets
            ]
        )
        .groupby("seed")["test_acc"]
        .std()
        for name in ("bn", "none")
    ]
    assert row["estimate"] == pytest.approx((tables[0] - tables[1]).mean())
    assert row["verdict"] == "better"


def test_a_drift_that_costs_nothing_loses_nothing_and_one_that_costs_is_counted_from_no_drift(tmp_path: Path) -> None:
    study = {"contrast": {"a": "bn", "b": "none"}, "kind": "loss", "over": "drift.scale", "secondary": []}
    cost = {"bn": 0.02, "none": 0.06}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 - cost.get(arrangement, 0) * setting["drift.scale"]

    settings = [{"drift.scale": scale} for scale in (0.0, 0.5, 1.0)]
    harmed = fake_study(
        tmp_path / "harm", study=study, settings=settings, accuracy=accuracy, rerun=None, shared_sd=0, own_sd=1e-6
    )
    row = one(harmed, family="declared", setting="")
    assert row["estimate"] == pytest.approx(0.75 * (0.02 - 0.06), abs=1e-5)
    assert row["verdict"] == "better"
    cost.clear()
    unharmed = fake_study(
        tmp_path / "none", study=study, settings=settings, accuracy=accuracy, rerun=None, shared_sd=0, own_sd=1e-6
    )
    row = one(unharmed, family="declared", setting="")
    assert row["estimate"] == pytest.approx(0, abs=1e-5)
    assert row["verdict"] == "equivalent"


def test_a_ladder_compares_with_the_better_of_two_at_each_rung_and_tests_the_trend(tmp_path: Path) -> None:
    over = "data.clusters_per_class"
    study = {"contrast": {"a": "bn_dropout", "b": ["bn", "dropout"]}, "kind": "ladder", "over": over, "secondary": []}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        rung = {1: 0, 2: 1, 4: 2, 8: 3}[setting[over]]
        better = "bn" if rung < 2 else "dropout"
        return 0.8 + {"bn_dropout": 0.01 * rung, better: 0.0}.get(arrangement, -0.05)

    settings = [{over: value} for value in (1, 2, 4, 8)]
    directory = fake_study(
        tmp_path, study=study, settings=settings, accuracy=accuracy, rerun=None, shared_sd=0, own_sd=1e-6
    )
    rows = rows_of(directory, family="declared").set_index("setting")
    assert [rows.loc[f"{over}={value}", "estimate"] for value in (1, 2, 4, 8)] == pytest.approx(
        [0.0, 0.01, 0.02, 0.03], abs=1e-5
    )
    assert rows.loc[f"trend over {over}", "estimate"] == pytest.approx(0.03, abs=1e-5)
    assert rows.loc[f"trend over {over}", "verdict"] == "better"


@pytest.mark.parametrize(
    ("metric", "kind", "expected"),
    [
        ("test_acc", "difference", True),
        ("silenced_30", "difference", True),
        ("reliance", "difference", False),
        ("gap", "difference", False),
        ("test_ece", "difference", False),
        ("steps_to_level", "ratio", False),
        ("test_acc", "ratio", True),
        ("test_acc", "spread", False),
        ("test_acc", "loss", False),
        ("test_nll", "loss", True),
    ],
)
def test_the_good_direction_of_a_metric(metric: str, kind: str, expected: bool) -> None:
    assert kind_of(kind, metric).good(METRICS[metric]) is expected


def test_recalibration_explains_the_share_of_the_effect_that_it_removes(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, shared_sd=0.0, own_sd=1e-5)
    (study,) = load(directory).studies
    own = study.replicates["arrangement"] == "dropout_bn"  # a quarter of its 1 pp deficit goes
    study.replicates.loc[own, "recal_test_acc"] = study.replicates.loc[own, "test_acc"] + 0.0025
    table = recalibration(study, contrasts(study))
    best = table[table["comparison"] == "best_vs_best"].iloc[0]
    assert best["share"] == pytest.approx(0.25, abs=0.01)
    assert best["low"] <= best["share"] <= best["high"]
    assert best["p_holm"] == 2 / 2 ** best["n"] and (table["p_holm"] < 0.001).all()


@pytest.mark.parametrize(
    ("p_holm", "shares", "word"),
    [
        ((0.01, 0.01, 0.9, 0.9), ((0.6, 0.9), (0.7, 1.0), (0.0, 0.2), (0.0, 0.2)), "Yes"),
        # Tuned there is one that merely looks like an effect: the word is of those at equal rates.
        ((0.2, math.nan, 0.01, 0.01), ((0.6, 0.9), (0.6, 0.9), (-0.5, 0.2), (0.0, 0.2)), "No"),
        ((0.01, 0.01, 0.01, 0.01), ((0.6, 0.9), (0.1, 0.9), (0.0, 0.2), (0.0, 0.2)), "Sometimes: 1 of 2"),
        ((0.2, 0.2, 0.2, math.nan), ((0.6, 0.9), (0.6, 0.9), (0.6, 0.9), (0.6, 0.9)), "Not shown"),
    ],
)
def test_the_word_of_the_mechanism_is_of_effects_that_are_there_after_holm(
    p_holm: Sequence[float], shares: Sequence[tuple[float, float]], word: str
) -> None:
    ends = pd.DataFrame(shares, columns=["low", "high"])
    kinds = ["best_vs_best", "best_vs_best", "same_rate", "same_rate"]
    told, sentence = explained(ends.assign(comparison=kinds, p_holm=p_holm, share=ends.mean(axis=1)), 0.05)
    assert told == word
    assert ("at equal rates" in sentence) == (word == "No")


def test_no_share_is_explained_where_there_is_no_effect(tmp_path: Path) -> None:
    (study,) = load(fake_study(tmp_path, accuracy=lambda *_: 0.9, replicates=8)).studies
    table = recalibration(study, contrasts(study)).set_index("rate")
    row = one(tmp_path, comparison="same_rate", metric="test_acc", rate_a=0.3)
    assert row["ci_low"] < 0 < row["ci_high"]
    assert np.isnan(table.loc[0.3, "share"])


def test_the_shift_of_a_layer_is_its_mean_over_replicates_at_the_end(tmp_path: Path) -> None:
    entry = {"layer": 1, "predicted": 0.4, "running": 0.45, "case": "noise→bn"}
    shift = [entry | {"seed": s, "measured": m, "epoch": "end"} for s, m in ((0, 0.4), (1, 0.5))]
    shift.append(entry | {"seed": 0, "measured": 9.0, "epoch": 1})
    (study,) = load(fake_study(tmp_path, arrangements=("dropout_bn",), rates=(0.5,), replicates=2, shift=shift)).studies
    (row,) = (row for _, row in shifts(study).query("epoch == 'end'").iterrows())
    assert (row["measured"], row["predicted"], row["seeds"]) == (pytest.approx(0.45), 0.4, 2)


def test_a_way_out_is_compared_with_the_arrangement_as_it_was(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 + (0.03 if setting.get("noise") and arrangement == "dropout_bn" else 0)

    directory = fake_study(
        tmp_path, study={"kind": "mechanism"}, settings=({}, {"noise": "uniform"}), accuracy=accuracy, **EXACT
    )
    rows = rows_of(directory, comparison="way_out").set_index("a")
    assert set(rows["setting"]) == {"noise=uniform"}
    assert rows.loc["dropout_bn", "b"] == "dropout_bn, as it was"
    shared = {
        q: pd.read_csv(directory / f"digits/dropout_bn/after/q0.30{q}/replicates.csv")["test_acc"]
        for q in ("", "/noise=uniform")
    }
    assert rows.loc["dropout_bn", "estimate"] == pytest.approx((shared["/noise=uniform"] - shared[""]).mean())


def test_a_way_out_is_compared_at_the_same_value_of_whatever_else_is_swept(tmp_path: Path) -> None:
    settings = ({"model.depth": 1}, {"model.depth": 3}, {"model.depth": 3, "noise": "uniform"})

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.8 + setting["model.depth"] / 100 + (0.02 if "noise" in setting else 0)

    study = {"kind": "mechanism"}
    directory = fake_study(tmp_path, study=study, settings=settings, accuracy=accuracy, rerun=None, **EXACT)
    rows = rows_of(directory, comparison="way_out")
    assert rows["b"].to_list() == ["bn_dropout, model.depth=3", "dropout_bn, model.depth=3"]
    assert rows["estimate"].to_list() == pytest.approx([0.02, 0.02])


def test_the_same_arrangement_against_itself_is_a_row_of_its_own(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, replicates=10)
    row = one(directory, comparison="a/a")
    first, again = (
        pd.read_csv(directory / f"digits/bn_dropout/after/q0.10{name}/replicates.csv")["test_acc"]
        for name in ("", "/rerun=1")
    )
    assert row["estimate"] == pytest.approx((first - again).mean())
    assert np.isnan(row["p_holm"])


def test_fewer_than_six_replicates_get_no_verdict(tmp_path: Path) -> None:
    rows = rows_of(fake_study(tmp_path, replicates=5))
    assert rows["verdict"].str.startswith("refused: 5 replicates").all()


def test_divergence_on_one_side_gets_no_verdict(tmp_path: Path) -> None:
    root = tmp_path
    for arrangement in ("bn_dropout", "dropout_bn"):
        table = pd.DataFrame({"seed": range(20), "val_acc": 0.9, "val_nll": 0.3, "test_acc": 0.9, "diverged": False})
        table["test_acc"] += np.linspace(0, 0.02, 20) * (1 if arrangement == "bn_dropout" else 2)
        if arrangement == "dropout_bn":
            table.loc[:5, ["val_acc", "val_nll", "test_acc"]] = np.nan
            table.loc[:5, "diverged"] = True
        write_condition(root, table, dataset="d", arrangement=arrangement, position="after", rate=0.5)
    row = one(root, family="declared")
    assert (row["n"], row["left_out"]) == (14, 6)
    assert row["verdict"].startswith("refused: 6 of 20 pairs diverged")


def test_fresh_rows_make_the_two_scopes_one(tmp_path: Path) -> None:
    row = one(fake_study(tmp_path, replicates=10, fresh_rows=True), family="declared")
    assert row["p_new_data"] == row["p_value"]
    assert row["verdict_new_data"] == row["verdict"]


def test_resamples_without_an_effect_do_not_spoil_the_interval_of_the_share(tmp_path: Path) -> None:
    """Few test rows and few differing replicates: some resamples have no effect at all, before and after."""
    for arrangement in ("bn_dropout", "dropout_bn"):
        ahead = (np.arange(30) < 5) * (0.01 if arrangement == "bn_dropout" else 0.0)
        table = pd.DataFrame({"seed": range(30), "val_acc": 0.9, "val_nll": 0.3, "test_acc": 0.9, "diverged": False})
        table["test_acc"] += ahead
        table["recal_test_acc"] = 0.9 + np.roll(ahead, 3)
        write_condition(tmp_path, table, dataset="d", arrangement=arrangement, position="after", rate=0.5)
    (study,) = load(tmp_path).studies
    row = recalibration(study, contrasts(study)).iloc[0]
    assert row["share"] == pytest.approx(0)
    assert row["low"] < 0 < row["high"]


@pytest.mark.parametrize("pair", [("ln_dropout", "dropout_ln"), ("gn_dropout", "dropout_gn")])
def test_arrangements_that_the_report_has_never_heard_of_get_their_rows_and_every_figure(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    study = {"contrast": dict(zip("ab", pair, strict=True))}
    options: dict[str, Any] = {"study": study, "rates": (0.2, 0.3, 0.5), "replicates": 8, "rerun": pair[0]}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.92 + (0.01 if arrangement == pair[0] else 0.0) - 0.1 * (rate - 0.3) ** 2

    directory = fake_study(tmp_path, arrangements=("bn", *pair), accuracy=accuracy, **options)
    assert main([str(directory)]) == 0
    rows = rows_of(directory, comparison="same_rate", metric="test_acc")
    assert rows["rate_a"].to_list() == rows["rate_b"].to_list() == [0.2, 0.3, 0.5]
    figures = ("effects", "difference", "pairs", "by_rate", "curves", "who_beats_whom")
    assert {path.stem for path in (directory / "report").glob("*.png")} == {f"ordering-{name}" for name in figures}
    (study_there,) = load(directory).studies
    assert set(looks(study_there)) == {"bn", *pair}
    assert len(set(looks(study_there).values())) == 3


def test_without_a_declared_region_a_metric_has_its_own(tmp_path: Path) -> None:
    rows = rows_of(fake_study(tmp_path, rates=(0.3,), study={"rope": {"test_acc": 0.1}}), comparison="best_vs_best")
    regions = {"test_acc": 0.1, "test_nll": METRICS["test_nll"].rope, "test_ece": METRICS["test_ece"].rope}
    for row in rows.to_dict("records"):
        sd = row["estimate"] / row["d_z"] / row["n"] ** 0.5
        low, high = ((sign * row["estimate"] + regions[row["metric"]]) / abs(sd) for sign in (1, -1))
        assert row["p_tost"] == pytest.approx(stats.t.sf(min(low, high), row["n"] - 1), rel=1e-6)
