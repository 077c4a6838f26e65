"""What a row is made from: which p, which alpha, which scope, which rates, which replicates, ties and direction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from exact import SPREAD, normal, one, pair, rows_of, runs, study_of, write
from normdrop.metrics import METRICS
from normdrop.report.checks import doubts, edges, family, neighbours
from normdrop.report.choose import pairs
from normdrop.report.compare import needed

NO_ROPE: dict[str, Any] = {"rope": {}, "secondary": []}


# --- which p


def test_the_declared_rows_are_judged_by_holms_p_and_the_exploratory_ones_by_their_own(tmp_path):
    for dataset in ("one", "two"):
        pair(tmp_path, runs(0.9 + normal(0.75 * SPREAD)), runs(), dataset=dataset, study=NO_ROPE)
    rows = rows_of(tmp_path)
    assert rows["p_value"].between(0.025, 0.05).all()
    assert (rows["ci_low"] > 0).all()
    declared = rows["family"] == "declared"
    assert (rows.loc[declared, "p_holm"] > 0.05).all()
    assert set(rows.loc[declared, "verdict"]) == {"inconclusive"}
    assert set(rows.loc[~declared, "verdict"]) == {"better"}
    assert rows["family"].to_list() == ["declared"] * 2 + ["exploratory"] * 2
    wanted = [needed(SPREAD, 10, METRICS["test_acc"].rope / 2, 0.05)] * 4  # for half of what is of no consequence
    assert rows["needed"].to_list() == pytest.approx(wanted)


def test_the_word_for_new_data_comes_from_holm_over_that_scopes_p_and_from_its_interval(tmp_path):
    effects = {"a": 6.0, "b": 2.0, "c": 1.2, "d": 1.2}
    for dataset, effect in effects.items():
        pair(tmp_path, runs(0.9 + normal(effect * SPREAD)), runs(), dataset=dataset, study=NO_ROPE)
    rows = rows_of(tmp_path, family="declared").set_index("dataset")
    assert set(rows["verdict"]) == {"better"}
    assert rows.loc["b", "p_new_data"] < 0.05 < multipletests(rows["p_new_data"], method="holm")[1][1]
    assert rows.loc["b", "new_low"] > 0
    assert rows["verdict_new_data"].to_list() == ["better", "inconclusive", "inconclusive", "inconclusive"]
    exploratory = rows_of(tmp_path, family="exploratory").set_index("dataset")
    assert exploratory["verdict_new_data"].to_list() == ["better", "better", "inconclusive", "inconclusive"]


def test_equivalence_for_new_data_is_of_that_scope_too(tmp_path):
    pair(tmp_path, runs(0.9 + normal(0.0)), runs(), study={"rope": {"test_acc": 0.012}})
    row = one(tmp_path, family="declared")
    assert (row["verdict"], row["verdict_new_data"]) == ("equivalent", "inconclusive")


# --- which alpha


def test_the_studys_alpha_is_the_level_of_intervals_differences_and_equivalence(tmp_path):
    effect, rope, n = 0.55 * SPREAD, 0.0093, 10
    for alpha in (0.05, 0.2):
        study = {"alpha": alpha, "rope": {"test_acc": rope}}
        root = pair(tmp_path / str(alpha), runs(0.9 + normal(effect)), runs(), study=study)
        row = one(root, family="declared")
        half = stats.t.isf(alpha / 2, n - 1) * SPREAD / n**0.5
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((effect - half, effect + half))
        wide = half * (1 + n * 0.4) ** 0.5  # 400 test rows, 1,000 training rows
        assert (row["new_low"], row["new_high"]) == pytest.approx((effect - wide, effect + wide))
        assert 0.05 < row["p_value"] < 0.2
        assert 0.05 < row["p_tost"] < 0.2
        assert row["verdict"] == ("inconclusive" if alpha == 0.05 else "better, but practically equivalent")


# --- which numbers


def test_every_column_of_a_row_follows_from_the_differences_pair_by_pair(tmp_path):
    n = 12
    rng = np.random.default_rng(5)
    columns = ("test_nll", "test_ece", "recal_test_acc")
    a, b = (runs(rng.normal(0.9, 0.02, n), n, **{k: rng.normal(0.5, 0.02, n) for k in columns}) for _ in "ab")
    a, b = (side.assign(**{k: [float(f"{x:.5g}") for x in side[k]] for k in columns[:2]}) for side in (a, b))
    a.loc[3, ["test_acc", *columns]] = b.loc[7, ["test_acc", *columns]] = np.nan
    a.loc[0, "test_acc"] = b.loc[0, "test_acc"]  # a tie
    b = b.iloc[::-1]  # the order of a table's rows is no pairing
    rope = {"test_acc": 0.013, "test_nll": 0.017, "test_ece": 0.019}
    pair(tmp_path, a, b, study={"secondary": list(columns), "rope": rope}, rows=(1000, 300, 250))
    rows = rows_of(tmp_path, comparison="best_vs_best").set_index("metric")
    assert list(rows.index) == ["test_acc", *columns]
    for metric, row in rows.iterrows():
        d = (a.set_index("seed")[metric] - b.set_index("seed")[metric]).dropna()
        assert (row["n"], row["left_out"]) == (10, 2)
        assert row["estimate"] == pytest.approx(d.mean())
        assert row["sd"] == pytest.approx(d.std(ddof=1))
        of_a, of_b = (side.set_index("seed")[metric].drop([3, 7]).mean() for side in (a, b))
        assert (row["mean_a"], row["mean_b"]) == pytest.approx((of_a, of_b))
        assert row["p_value"] == pytest.approx(stats.ttest_1samp(d, 0.0).pvalue)
        width = rope[str(metric).removeprefix("recal_")]
        t = stats.t(9, scale=d.std(ddof=1) / 10**0.5)
        assert row["p_tost"] == pytest.approx(max(t.sf(d.mean() + width), t.sf(width - d.mean())))
        scale = d.std(ddof=1) * (1 / 10 + 0.25) ** 0.5
        assert row["p_new_data"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / scale, 9))
        half = scale * stats.t.isf(0.025, 9)
        assert (row["new_low"], row["new_high"]) == pytest.approx((d.mean() - half, d.mean() + half))
        assert np.isnan(row["p_holm"]) == (metric != "test_acc")
        assert (row["a"], row["b"], row["experiment"]) == ("bn_dropout", "dropout_bn", tmp_path.name)


@pytest.mark.parametrize(("metric", "word"), [("test_acc", "better"), ("test_nll", "worse"), ("reliance", "worse")])
def test_each_metric_of_a_study_is_judged_in_its_own_direction(tmp_path, metric, word):
    high = 0.9 + normal(0.05)
    pair(
        tmp_path,
        runs(high, test_nll=high, reliance=high),
        runs(test_nll=0.9, reliance=0.9),
        study={"metric": "test_acc", "secondary": ["test_nll", "reliance"], "rope": {}},
    )
    rows = rows_of(tmp_path, metric=metric)
    assert set(rows["verdict"]) == set(rows["verdict_new_data"]) == {word}


def test_new_data_counts_test_rows_per_training_row_and_the_largest_ratio_of_a_comparison(tmp_path):
    write(tmp_path, "bn_dropout", runs(0.9 + normal(0.01)), rows=(1000, 300, 400), study=NO_ROPE)
    write(tmp_path, "dropout_bn", runs(), rows=(1000, 300, 200), study=NO_ROPE)
    row = one(tmp_path, family="declared")
    half = SPREAD * (1 / 10 + 0.4) ** 0.5 * stats.t.isf(0.025, 9)
    assert row["new_high"] - row["new_low"] == pytest.approx(2 * half)


def test_new_data_counts_the_ratio_of_a_rung_at_a_rung_and_the_largest_for_what_goes_over_rungs(tmp_path):
    for kind in ("ladder", "loss"):
        study = {"kind": kind, "over": "data.train_size", "rope": {}, "secondary": []}
        for size, train in ((1, 250), (2, 500), (3, 4000)):
            rows, setting = (train, 300, 400), {"data.train_size": size}
            write(tmp_path / kind, "bn_dropout", runs(0.9 + normal(0.01)), setting=setting, rows=rows, study=study)
            write(tmp_path / kind, "dropout_bn", runs(0.9), setting=setting, rows=rows, study=study)
        table = rows_of(tmp_path / kind, comparison="best_vs_best").set_index("part")
        ratio = ((table["new_high"] - table["new_low"]) / (table["ci_high"] - table["ci_low"])) ** 2
        told = {"1": 1.6, "2": 0.8, "3": 0.1, "trend": 1.6} if kind == "ladder" else {"2": 1.6, "3": 1.6, "": 1.6}
        assert {part: value / 10 - 0.1 for part, value in ratio[ratio > 0].items()} == pytest.approx(
            {part: told[part] for part in ratio[ratio > 0].index}
        )


@pytest.mark.parametrize(("of_a", "of_b"), [(True, False), (False, True), (False, False), (True, True)])
def test_the_scopes_are_one_only_if_both_sides_drew_fresh_rows(tmp_path, of_a, of_b):
    write(tmp_path, "bn_dropout", runs(0.9 + normal(0.01)), fresh_rows=of_a)
    write(tmp_path, "dropout_bn", runs(), fresh_rows=of_b)
    row = one(tmp_path, family="declared")
    assert (row["new_low"] == row["ci_low"]) == (of_a and of_b)
    assert (row["p_new_data"] == row["p_value"]) == (of_a and of_b)


# --- which rates, which replicates


def peak(root: Path, arrangement: str, rates: tuple[float, ...], best: float = 0.3, **where: Any) -> None:
    """Test accuracy tells the rate: .5 + rate; validation prefers `best`."""
    for rate in rates:
        table = runs(0.5 + rate, where.get("n", 8), val_acc=0.9 - abs(rate - best))
        write(root, arrangement, table, rate, **{k: v for k, v in where.items() if k != "n"})


@pytest.mark.parametrize("alone", ["bn_dropout", "dropout_bn"])
@pytest.mark.parametrize("key", ["rate", "optimizer.lr"])
def test_a_value_that_one_side_alone_was_given_is_no_candidate(tmp_path, key, alone):
    for arrangement in ("bn_dropout", "dropout_bn"):
        for value in (0.1, 0.2, 0.3)[: 3 if arrangement == alone else 2]:
            setting = {} if key == "rate" else {key: value}
            table, rate = runs(0.5 + value, 8, val_acc=value), value if key == "rate" else 0.3
            write(tmp_path, arrangement, table, rate, setting=setting, study={"tuned": [key], "secondary": []})
    assert one(tmp_path, family="declared")["estimate"] == pytest.approx(0.0)
    rates = rows_of(tmp_path, comparison="same_rate", metric="test_acc")["rate_a"].to_list()
    assert rates == ([0.1, 0.2] if key == "rate" else [0.3])


def test_a_replicate_that_lacks_a_candidate_is_left_out_of_the_choice(tmp_path):
    for arrangement in ("bn_dropout", "dropout_bn"):
        peak(tmp_path, arrangement, (0.1, 0.3), best=0.1)
    write(tmp_path, "bn_dropout", runs(0.8, 6, val_acc=0.7), 0.3)
    row = one(tmp_path, family="declared")
    assert (row["n"], row["left_out"]) == (6, 0)
    assert one(tmp_path, comparison="same_rate", metric="test_acc", rate_a=0.1)["n"] == 8


def test_the_rates_of_best_against_best_are_those_chosen_most_often_the_lower_of_two(tmp_path):
    for rate, wins in ((0.1, [0, 1, 2]), (0.3, [3, 4, 5, 6, 7]), (0.5, [8, 9])):
        write(tmp_path, "bn_dropout", runs(0.8, val_acc=np.isin(range(10), wins) * 0.5), rate)
    for rate, wins in ((0.1, range(4, 8)), (0.3, range(4)), (0.5, [8, 9])):
        write(tmp_path, "dropout_bn", runs(0.8, val_acc=np.isin(range(10), [*wins]) * 0.5), rate)
    row = one(tmp_path, family="declared")
    assert (row["rate_a"], row["rate_b"]) == (0.3, 0.1)


def test_ties_on_validation_accuracy_go_to_the_lower_nll_and_then_to_the_lower_rate(tmp_path):
    for rate, nll in ((0.1, [0.5, 0.3, 0.4]), (0.3, [0.3, 0.3, 0.4]), (0.5, [0.4, 0.4, 0.2])):
        table = runs(0.5 + rate, 9, val_nll=np.repeat(nll, 3))
        pair(tmp_path, table, runs(0.5, 9), rate=rate)
    row = one(tmp_path, family="declared")
    assert row["estimate"] == pytest.approx((0.3 + 0.1 + 0.5) / 3)


def test_a_side_of_two_is_whichever_of_them_validation_prefers_and_no_side_with_one_of_them(tmp_path):
    study = {"contrast": {"a": "bn_dropout", "b": ["bn", "dropout"]}, "secondary": []}
    ahead = np.arange(8) < 3
    write(tmp_path, "bn_dropout", runs(0.8, 8), study=study)
    write(tmp_path, "dropout", runs(np.where(ahead, 0.9, 0.7), 8, val_acc=0.5), study=study)
    assert rows_of(tmp_path).empty
    write(tmp_path, "bn", runs(np.where(ahead, 0.6, 0.9), 8, val_acc=np.where(ahead, 0.9, 0.1)), 0.0, study=study)
    for row in (one(tmp_path, family="declared"), one(tmp_path, comparison="same_rate")):
        assert row["estimate"] == pytest.approx(0.8 - (3 * 0.6 + 5 * 0.7) / 8)
        assert row["b"] == "bn or dropout"


def test_a_same_rate_row_has_the_rate_of_each_side_and_an_arrangement_without_dropout_has_0(tmp_path):
    study = {"contrast": {"a": "none", "b": "dropout"}, "secondary": []}
    write(tmp_path, "none", runs(0.9 + normal(0)), 0.0, study=study)
    for rate in (0.2, 0.6):
        write(tmp_path, "dropout", runs(0.8 - rate), rate, study=study)
    peak(tmp_path, "bn_dropout", (0.7,), study=study)  # of no concern to this contrast
    rows = rows_of(tmp_path, comparison="same_rate")
    assert rows[["rate_a", "rate_b"]].to_numpy().tolist() == [[0.0, 0.2], [0.0, 0.6]]
    assert rows["estimate"].to_list() == pytest.approx([0.3, 0.7])


def test_without_dropout_on_either_side_the_two_comparisons_are_one(tmp_path):
    study = {"contrast": {"a": "bn", "b": "none"}, "secondary": [], "family": "same_rate"}
    write(tmp_path, "bn", runs(0.9 + normal(0)), 0.0, study=study)
    write(tmp_path, "none", runs(0.8), 0.0, study=study)
    row = one(tmp_path)
    assert (row["comparison"], row["family"], row["estimate"]) == ("same_rate", "declared", pytest.approx(0.1))


def test_without_dropout_there_may_still_be_something_to_tune(tmp_path):
    study = {"contrast": {"a": "bn", "b": "none"}, "tuned": ["rate", "optimizer.lr"], "secondary": []}
    for lr in (0.01, 0.1):
        for arrangement in ("bn", "none"):
            table = runs(0.5 + lr * (arrangement == "bn"), val_acc=lr)
            write(tmp_path, arrangement, table, 0.0, setting={"optimizer.lr": lr}, study=study)
    rows = rows_of(tmp_path)
    assert rows["comparison"].to_list() == ["best_vs_best", "same_rate"]
    assert rows["estimate"].to_list() == pytest.approx([0.1, 0.1])


def test_an_a_a_run_takes_no_part_in_the_comparison_of_the_arrangements(tmp_path):
    pair(tmp_path, runs(0.9 + normal(0.01)), runs())
    write(tmp_path, "bn_dropout", runs(0.1, val_acc=0.99), setting={"rerun": 1})
    for row in (one(tmp_path, family="declared"), one(tmp_path, comparison="same_rate", metric="test_acc")):
        assert (row["estimate"], row["n"]) == (pytest.approx(0.01), 10)


# --- data sets that are the same


def test_the_same_rows_under_several_names_count_once_unless_they_are_served_in_another_way(tmp_path):
    for dataset, rows, pca in (("a", "x", None), ("copy", "x", None), ("fewer", "x", 3), ("other", "y", None)):
        data = {"data": {"fingerprint": rows, "pca": pca}}
        for position in ("after", "before")[: 1 if dataset == "a" else 2]:
            where: dict[str, Any] = {"dataset": dataset, "config": data, "position": position}
            pair(tmp_path, runs(0.9 + normal(0.02), test_nll=0.3), runs(test_nll=0.4), **where)
            write(tmp_path, "bn_dropout", runs(0.9), setting={"rerun": 1}, **where)
    declared = rows_of(tmp_path, family="declared")
    assert declared["dataset"].to_list() == ["a", "copy", "fewer", "fewer", "other", "other"]
    assert declared["p_holm"].to_list() == pytest.approx((6 * declared["p_value"]).clip(upper=1).to_list())
    copies = rows_of(tmp_path, dataset="copy", position="after", metric="test_acc")
    assert set(copies["family"]) == {"exploratory"} and not copies["counted"].any()
    assert rows_of(tmp_path, family="a/a")["dataset"].to_list() == declared["dataset"].to_list()
    study = study_of(tmp_path)
    assert set(neighbours(study, family(study, pairs(study)))["n"]) == {6}
    same = "a, copy: the same rows under several names; they count once."
    assert [*doubts(study)] == [same]
    for record in study.records:
        record["data"] = {"notes": ["id: like an identifier", "of less weight"] if record["dataset"] == "a" else []}
    assert [*doubts(study)] == ["a: id: like an identifier.", same]


# --- A/A rows


def test_an_a_a_row_is_the_first_run_minus_the_second_seed_by_seed(tmp_path):
    study = {"kind": "spread", "over": "model.init_gain"}
    pair(tmp_path, runs(0.9 + normal(0.0)), runs(), study=study)
    again = runs(0.85 + normal(0.0)[2:], 8, seed=range(2, 10)).iloc[::-1]
    write(tmp_path, "bn_dropout", again, rows=(1000, 300, 500), setting={"rerun": 1}, study=study)
    row = one(tmp_path, family="a/a")
    assert row["n"] == 8
    assert row["estimate"] == pytest.approx(0.05)
    assert row["verdict"] == "better"  # of the runs themselves, whatever the study makes of them
    assert (row["a"], row["b"]) == ("bn_dropout", "bn_dropout again")
    assert (row["rate_a"], row["rate_b"], row["comparison"]) == (0.3, 0.3, "a/a")


def test_the_a_a_row_has_the_ratio_of_its_own_rows(tmp_path):
    pair(tmp_path, runs(0.9 + normal(0.02)), runs(), rows=(1000, 300, 100))
    write(tmp_path, "bn_dropout", runs(0.9), setting={"rerun": 1}, rows=(1000, 300, 500))
    row = one(tmp_path, family="a/a")
    half = SPREAD * (1 / 10 + 0.5) ** 0.5 * stats.t.isf(0.025, 9)
    assert row["new_high"] - row["new_low"] == pytest.approx(2 * half)
    assert row["verdict"] == "better"


def test_an_a_a_row_belongs_to_the_rung_and_the_rate_that_were_trained_again(tmp_path):
    study = {"kind": "ladder", "over": "model.depth"}
    for depth in (1, 2):
        for rate in (0.1, 0.3):
            table = runs(0.5 + depth / 10 + rate, 6)
            pair(tmp_path, table, runs(n=6), setting={"model.depth": depth}, study=study, rate=rate)
    write(tmp_path, "bn_dropout", runs(0.6, 6), setting={"model.depth": 2, "rerun": 1}, study=study)
    row = one(tmp_path, family="a/a")
    assert row["estimate"] == pytest.approx(0.5 + 0.2 + 0.3 - 0.6)


# --- grids that a study consumes

DEPTH = "model.depth"


def along(root: Path, kind: str, a: dict[Any, Any], b: dict[Any, Any], over: str = DEPTH, **study: Any) -> Path:
    """bn and none along a grid: the test accuracies of each value of `over`."""
    declared = {"contrast": {"a": "bn", "b": "none"}, "kind": kind, "over": over, "secondary": [], **study}
    for arrangement, side in (("bn", a), ("none", b)):
        for value, test_acc in side.items():
            n = len(np.atleast_1d(test_acc))
            write(root, arrangement, runs(test_acc, n if n > 1 else 8), 0.0, setting={over: value}, study=declared)
    return root


@pytest.mark.parametrize("rung", [0.0, 0.5, -0.4])
def test_a_spread_and_a_loss_are_of_each_seed_and_leave_out_what_diverged(tmp_path, rung):
    rng = np.random.default_rng(4)
    a, b = ({k: rng.normal(0.8, 0.05, 8) for k in (-0.4, 0.0, 0.5)} for _ in "ab")
    b[rung][2] = np.nan
    spreads = [np.std([*side.values()], axis=0, ddof=1) for side in (a, b)]
    losses = [side[0.0] - (side[-0.4] + side[0.5]) / 2 for side in (a, b)]
    for kind, (of_a, of_b) in (("spread", spreads), ("loss", losses)):
        root = along(tmp_path / kind, kind, a, b, "drift.scale")
        row = one(root, family="declared", part="")
        assert (row["n"], row["left_out"]) == (7, 1)
        assert row["estimate"] == pytest.approx(np.nanmean(of_a - of_b))
    for other in (-0.4, 0.5):
        at = one(root, family="declared", part=f"{other:g}")["estimate"]
        assert at == pytest.approx(np.nanmean((a[0.0] - a[other]) - (b[0.0] - b[other])))


def test_a_trend_is_the_fitted_change_from_the_first_rung_to_the_last_and_leaves_out_what_diverged(tmp_path):
    rng = np.random.default_rng(5)
    a, b = ({k: rng.normal(0.8, 0.05, 8) for k in (1, 2, 10, 40)} for _ in "ab")
    a[10][0] = np.nan
    rows = rows_of(along(tmp_path, "ladder", a, b)).set_index("part").loc[["1", "2", "10", "40", "trend"]]
    row = rows.loc["trend"]
    assert (row["n"], row["left_out"]) == (7, 1)
    difference = np.array([a[k] - b[k] for k in a])[:, 1:]
    assert row["estimate"] == pytest.approx(3 * np.polyfit(range(4), difference, 1)[0].mean())
    for k in a:
        assert rows.loc[str(k), "estimate"] == pytest.approx(np.nanmean(a[k] - b[k]))
    assert rows["n"].to_list() == [8, 8, 7, 8, 7]
    assert rows["family"].to_list() == ["exploratory"] * 4 + ["declared"]  # the trend alone confirms


@pytest.mark.parametrize("kind", ["spread", "loss", "ladder"])
def test_a_rung_that_one_side_lacks_does_not_count(tmp_path, kind):
    rng = np.random.default_rng(6)
    a, b = ({k: rng.normal(0.8, 0.05, 8) for k in (1, 2, 3, 4)} for _ in "ab")
    whole = rows_of(along(tmp_path / "whole", kind, {k: a[k] for k in (1, 2, 3)}, {k: b[k] for k in (1, 2, 3)}))
    b.pop(4)
    assert rows_of(along(tmp_path / "more", kind, a, b))["estimate"].to_list() == whole["estimate"].to_list()
    a[5] = a.pop(4)
    other = rows_of(along(tmp_path / "other", kind, b, a))
    assert other["estimate"].to_list() == pytest.approx((-whole["estimate"]).to_list())


@pytest.mark.parametrize(
    ("kind", "estimate"), [("spread", np.std([0.11, 0.21, 0.35], ddof=1)), ("loss", -0.17), ("ladder", 0.24)]
)
def test_a_rung_is_of_the_candidates_that_both_sides_have_there(tmp_path, kind, estimate):
    """A was given rate .5 at depths 2 and 3, B at depth 3 alone; validation prefers the higher rate."""
    study = {"kind": kind, "over": DEPTH, "secondary": []}
    for depth, of_a, of_b in ((1, [0.1], [0.1]), (2, [0.1, 0.5], [0.1]), (3, [0.1, 0.5], [0.1, 0.5])):
        where: dict[str, Any] = {"setting": {DEPTH: depth}, "study": study}
        for rate in of_a:
            write(tmp_path, "bn_dropout", runs((depth + rate) / 10, 8, val_acc=rate), rate, **where)
        for rate in of_b:
            write(tmp_path, "dropout_bn", runs(0.5, 8, val_acc=rate), rate, **where)
    row = one(tmp_path, family="declared", part="trend" if kind == "ladder" else "")
    assert (row["n"], row["estimate"]) == (8, pytest.approx(estimate))
    (line,) = doubts(study_of(tmp_path))
    assert "Not every candidate was trained at every depth" in line


@pytest.mark.parametrize("kind", ["difference", "spread", "loss", "ladder"])
def test_only_seeds_that_both_sides_have_make_a_pair(tmp_path, kind):
    declared = {"contrast": {"a": "bn", "b": "none"}, "kind": kind, "over": DEPTH, "secondary": []}
    for arrangement, seeds in (("bn", range(9)), ("none", range(2, 11))):
        for depth in (1, 2):
            table = runs(0.5 + depth * np.array(seeds) ** 2 / 1000, 9, seed=seeds)
            write(tmp_path, arrangement, table, 0.0, setting={DEPTH: depth}, study=declared)
    rows = rows_of(tmp_path, family="declared")
    assert (rows[["n", "left_out"]].to_numpy() == [7, 0]).all()
    assert rows["estimate"].to_list() == pytest.approx([0.0] * len(rows), abs=1e-12)


@pytest.mark.parametrize("kind", ["spread", "loss", "ladder"])
def test_a_seed_that_lacks_a_rung_has_not_diverged(tmp_path, kind):
    a, b = ({k: np.random.default_rng(k + 2).normal(0.8, 0.05, 8 + 4 * (k == 2)) for k in (1, 2, 3)} for _ in "ab")
    root = along(tmp_path, kind, a, b)
    part = "trend" if kind == "ladder" else ""
    row = one(root, family="declared", part=part)
    assert (row["n"], row["left_out"]) == (8, 0)
    found = study_of(root)
    assert any("Not every seed was trained at every candidate" in line for line in doubts(found))


def test_two_tuned_keys_have_the_points_that_both_sides_have(tmp_path):
    study = {"tuned": ["rate", "optimizer.lr"]}
    for rate in (0.1, 0.5):
        for lr in (0.01, 0.1):
            best = (rate, lr) == (0.5, 0.1)
            where = {"rate": rate, "setting": {"optimizer.lr": lr}, "study": study}
            write(tmp_path, "dropout_bn", runs(0.9 if best else 0.7, val_acc=0.9 if best else 0.7), **where)
            if not best:
                write(tmp_path, "bn_dropout", runs(0.7, val_acc=0.7), **where)
    assert one(tmp_path, comparison="best_vs_best", metric="test_acc")["estimate"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("kind", "word"), [("spread", "worse"), ("loss", "worse"), ("ladder", "better")])
def test_more_of_a_spread_or_of_a_loss_is_worse_more_of_a_trend_is_better(tmp_path, kind, word):
    noise = normal(0.0, 8)
    sign = -1 if kind == "loss" else 1
    a = {k: 0.5 + sign * 0.1 * k * (1 + noise) for k in (1, 2, 3)}
    rows = rows_of(along(tmp_path, kind, a, {k: 0.5 for k in a}, rope={}), family="declared")
    assert rows["verdict"].iloc[-1] == word


# --- networks that stand for others


def test_a_network_trained_at_a_position_counts_there_before_one_that_equals_it(tmp_path):
    study = {"contrast": {"a": "none", "b": "bn"}, "secondary": [], "grid": {"position": ["before", "after"]}}
    for position, value in (("after", 0.7), ("before", 0.6)):
        write(tmp_path, "none", runs(value), 0.0, position=position, study=study)
        write(tmp_path, "bn", runs(0.5 + normal(0.0)), 0.0, position=position, study=study)
    rows = rows_of(tmp_path).set_index("position")
    assert rows["estimate"].to_dict() == pytest.approx({"after": 0.2, "before": 0.1})


def test_a_rung_outside_of_the_declared_ones_decides_nothing(tmp_path):
    study = {"kind": "ladder", "over": DEPTH, "core": [1, 2], "rope": {}, "secondary": []}
    for depth, best in ((1, 0.1), (2, 0.1), (9, 0.5)):
        for rate in (0.1, 0.3, 0.5):
            seeds = 8 if depth == 9 else 12
            a = runs(0.8 + depth * normal(0, seeds), seeds, val_acc=0.9 - abs(rate - best))
            b = runs(0.7, seeds, val_acc=0.9 - abs(rate - 0.3))
            where = {"rows": (100 if depth == 9 else 1000, 300, 400), "setting": {DEPTH: depth}, "study": study}
            pair(tmp_path, a, b, rate=rate, **where)
    row, found = one(tmp_path, comparison="best_vs_best", part="trend"), study_of(tmp_path)
    assert (row["n"], row["rate_a"]) == (12, 0.1)
    widths = (row["new_high"] - row["new_low"]) / (row["ci_high"] - row["ci_low"])
    assert widths**2 == pytest.approx((1 / 12 + 0.4) * 12)
    compared = [*pairs(found)]
    assert not list(doubts(found))
    ends = edges(found, family(found, compared)).set_index("key")
    assert ends.loc["rate", ["at_low", "at_high"]].to_list() == [0.5, 0.0]


def test_the_rates_of_a_rung_are_those_chosen_there(tmp_path):
    study = {"kind": "ladder", "over": DEPTH, "secondary": []}
    for depth, best in ((1, 0.1), (2, 0.5)):
        for rate in (0.1, 0.5):
            table = runs(0.8, 6, val_acc=0.9 - abs(rate - best))
            pair(tmp_path, table, runs(0.7, 6), setting={DEPTH: depth}, study=study, rate=rate)
    rows = rows_of(tmp_path, comparison="best_vs_best").set_index("part")
    assert rows["rate_a"].to_dict() == {"1": 0.1, "2": 0.5, "trend": 0.1}


def test_a_single_rung_stands_beside_a_ladder_without_a_trend(tmp_path):
    study = {"kind": "ladder", "over": DEPTH, "secondary": []}
    for setting in ({DEPTH: 1}, {DEPTH: 2}, {DEPTH: 1, "model.width": 8}):
        pair(tmp_path, runs(0.8 + normal(0.0)), runs(0.7), setting=setting, study=study)
    rows = rows_of(tmp_path, comparison="best_vs_best").set_index(["model.width", "part"])
    assert [*rows.index] == [(128, "trend"), (128, "1"), (128, "2"), (8, "1")]
    assert rows["family"].to_list() == ["declared"] + ["exploratory"] * 3
