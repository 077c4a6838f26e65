"""The numbers of the README's answer are those of the published tables."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from normdrop.report import verdicts
from normdrop.report.choose import pairs
from normdrop.report.compare import mean_interval
from normdrop.report.pooled import pool
from normdrop.report.study import Study, load

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "outputs/reference"
README = (ROOT / "README.md").read_text(encoding="utf-8").replace("− ", "-").replace("+ ", "+").replace("−", "-")


@pytest.fixture(scope="module")
def study() -> Study:
    (study,) = load(PUBLISHED / "population")
    return replace(study, declared=replace(study.declared, secondary=()))  # of which the README does not speak


def cells(position: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {position}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
@pytest.mark.parametrize("position", ["after", "before"])
def test_the_table_of_positions_says_what_the_seeds_say(study, position):
    own = replace(study, table=study.table[study.table["position"].eq(position)])
    rows = verdicts.rows(own, [pair for pair in pairs(own) if pair.rate in (None, 0.5)])
    rows = rows[~rows["dataset"].isin(study.declared.apart)]
    _, said_tuned, said_half = cells(position)
    for said, comparison in ((said_tuned, "best_vs_best"), (said_half, "same_rate")):
        estimates = rows.loc[rows["comparison"] == comparison, "estimate"]
        assert re.findall(r"[+-]\d+\.\d+", said) == [f"{100 * number:+.2f}" for number in mean_interval(estimates)]
        assert f"mean over {len(estimates)} tables" in README
    words = pd.read_csv(PUBLISHED / "report/words.csv", keep_default_na=False).query("experiment == 'population'")
    assert said_tuned.startswith(words.set_index("position").loc[position, "word"].lower())


@pytest.mark.slow
@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("first", [4000, 4020])
def test_each_half_of_the_seeds_says_what_is_told_of_it(study, first, position):
    half = study.table[study.table["seed"].between(first, first + 19) & study.table["position"].eq(position)]
    rows = verdicts.rows(study, pairs(replace(study, table=half), only="best_vs_best"))
    means = mean_interval(rows.loc[~rows["dataset"].isin(study.declared.apart), "estimate"])
    lines = (PUBLISHED / "README.md").read_text().replace("− ", "-").replace("+ ", "+").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {position} the activation | ")]
    said = re.findall(r"[+-]\d+\.\d+", line.split("|")[2 if first == 4000 else 3])
    assert said == [f"{100 * number:+.2f}" for number in means]


def test_the_claims_are_counted_as_on_the_page():
    words = pd.read_csv(PUBLISHED / "report/words.csv", keep_default_na=False).set_index("experiment")
    for experiment in ("overfitting", "reliance", "speed", "initialisation", "drift", "together"):
        (line,) = [line for line in README.splitlines() if f"`{experiment}`" in line]
        told = words.loc[experiment]
        for verdict in ("better", "worse"):
            count = re.search(rf"(\d+|none) {verdict}", line)
            assert count is not None, line
            assert int(count[1].replace("none", "0")) == told[verdict], line
        assert f"of {told['n']}" in line


@pytest.mark.slow
def test_what_gains_that_do_not_count_would_say_stands_beside_what_does():
    (study,) = load(PUBLISHED / "initialisation")
    every = replace(study, declared=replace(study.declared, core=None, secondary=()))
    said = verdicts.rows(every, pairs(every))["verdict_new_data"]
    better = (said == "better").sum()
    assert f"({better} with extreme gains)" in README
    doubts = (PUBLISHED / "README.md").read_text()
    assert f"BN is better in {better} of {len(said)}" in " ".join(doubts.split())


def test_what_a_single_table_is_expected_to_show_is_as_published():
    means = pd.read_csv(PUBLISHED / "report/pooled.csv").query("experiment == 'population' and variant == 'declared'")
    means = means[means["metric"] == "test_acc"]
    doubts = (PUBLISHED / "README.md").read_text(encoding="utf-8").replace("− ", "-").replace("+ ", "+")
    told = {}
    for rate, digits in ((None, 2), (0.5, 1)):
        for row in means[means["rate"].isna() if rate is None else means["rate"] == rate].to_dict("records"):
            low, high = (f"{100 * row[end]:+.{digits}f}" for end in ("pi_low", "pi_high"))
            told[row["position"], rate] = f"{low} to {high}"
    readme, doubts = " ".join(README.split()), " ".join(doubts.split())
    assert told["before", None].replace(" to ", " and ") in readme and told["before", 0.5] in readme
    assert all(told[key] in doubts for key in (("before", None), ("after", 0.5), ("before", 0.5)))


def test_what_more_data_does_is_counted_as_on_the_page():
    words = pd.read_csv(PUBLISHED / "report/words.csv", keep_default_na=False).set_index("experiment")
    (said,) = re.findall(r"in (\d+) of (\d+) comparisons, away from it in (\d+) \(`size`", " ".join(README.split()))
    assert [int(number) for number in said] == [words.loc["size", name] for name in ("better", "n", "worse")]


def test_what_tuning_leaves_of_the_order_and_of_the_position_is_as_published():
    rows = pd.read_csv(PUBLISHED / "report/verdicts.csv", keep_default_na=False, low_memory=False)
    tuned = rows[rows["experiment"].eq("size") & rows["comparison"].eq("best_vs_best") & rows["metric"].eq("test_acc")]
    most = tuned.loc[tuned["part"] == "12000", "estimate"].astype(float).abs()
    assert len(most) == 6 and most.max() < 0.01
    leads = tuned[tuned["part"].eq("12000") & tuned["verdict"].isin(["better", "worse"])]
    gains = [f"{100 * float(gain):.1f}" for gain in sorted(leads["estimate"])]
    assert set(leads["dataset"]) == {"synthetic_many"} and len(leads) == 2
    assert f"on the third BN first gains {' to '.join(gains)} points." in " ".join(README.split())
    networks = pd.read_csv(PUBLISHED / "report/networks.csv").query("experiment == 'population'")
    both = networks[networks["how"].eq("tuned") & networks["arrangement"].isin(["bn_dropout", "dropout_bn"])]
    (said,) = re.findall(r"tuned, all four networks reach (\S+) to (\S+) %", " ".join(README.split()))
    assert len(both) == 4 and (f"{100 * both['mean'].min():.1f}", f"{100 * both['mean'].max():.1f}") == said


def test_the_control_and_bn_lead_in_as_many_cells_as_is_told():
    both = pd.read_csv(PUBLISHED / "report/control.csv").query("experiment == 'size'")
    (said,) = re.findall(r"is ahead in (\d+) of (\d+) cells of `size`; BN first in (\d+)\.", " ".join(README.split()))
    ahead = both["word_control"].eq("ahead").sum(), len(both), both["word"].eq("ahead").sum()
    assert tuple(map(int, said)) == ahead


def test_the_doubts_say_what_the_tables_say():
    doubts = " ".join((PUBLISHED / "README.md").read_text().replace("− ", "-").replace("+ ", "+").split())
    means = pd.read_csv(PUBLISHED / "report/pooled.csv").query("experiment == 'population' and position == 'after'")
    size = pd.read_csv(PUBLISHED / "report/verdicts.csv", low_memory=False).query("experiment == 'size'")

    def told(row: pd.Series) -> str:
        estimate, low, high = (f"{100 * row[name]:+.2f}" for name in ("estimate", "ci_low", "ci_high"))
        return f"{estimate} ({low} to {high})"

    for metric, variant, rate, says in [
        ("test_balanced_acc", "declared", 0.5, "At 0.5 balanced accuracy gains"),
        ("test_acc", "declared", 0.2, "0.2 below:"),
        ("test_acc", "all data sets", 0.2, "After it, at rate 0.2:"),
    ]:
        (row,) = means.query(f"metric == '{metric}' and variant == '{variant}' and rate == {rate}").iloc
        assert f"{says} {told(row)}" in doubts
    networks = pd.read_csv(PUBLISHED / "report/networks.csv").query("experiment == 'population' and how == 'default'")
    by_order = networks.pivot(index="position", columns="arrangement", values="mean")[["bn_dropout", "dropout_bn"]]
    assert (by_order["bn_dropout"] - by_order["dropout_bn"]).abs().max() < 0.001
    size = size[size["metric"] == "test_acc"]
    letter = size[size["dataset"].eq("letter") & size["family"].eq("declared")]
    assert len(letter) == 8 and letter["verdict"].value_counts().to_dict() == {"inconclusive": 6, "better": 2}
    assert set(letter["verdict_new_data"]) == {"inconclusive"}
    tuned = size[size["comparison"].eq("best_vs_best") & size["part"].eq("1000") & size["model.width"].eq(128)]
    by_depth = tuned.set_index(["dataset", "position", "model.depth"])[["estimate", "ci_low", "ci_high"]]
    for position, says in (("before", "before the activation"), ("after", "after it")):
        gain, low, high = (f"{100 * number:+.1f}" for number in by_depth.loc["mnist1d_many", position, 4])
        assert f"{gain} ({low} to {high}) {says}" in doubts
    others = by_depth.drop("mnist1d_many")["estimate"].unstack()
    assert len(others) == 4 and (others[4] - others[2]).abs().max() < 0.01


@pytest.mark.slow
def test_the_word_before_the_activation_hangs_on_the_tables_that_are_named(study):
    own = replace(study, table=study.table[study.table["position"].eq("before")])
    rows = verdicts.rows(own, pairs(own, only="best_vs_best"))
    rows = rows[~rows["dataset"].isin(study.declared.apart)].set_index("dataset")
    errors = rows["sd"] / rows["n"] ** 0.5
    ends = {name: pool(rows["estimate"].drop(name), errors.drop(name), rope=0.005)["pi_low"] for name in rows.index}
    within = {name for name, end in ends.items() if end > -0.005}
    assert within == {"contraceptive", "letter", "mammographic"}
    assert "without contraceptive, letter or mammographic" in " ".join((PUBLISHED / "README.md").read_text().split())


def test_what_is_advised_holds_at_every_rate_and_position():
    means = pd.read_csv(PUBLISHED / "report/pooled.csv").query("experiment == 'population'")
    means = means[means["variant"].isin(["declared", "all data sets"])]
    means = means[means["metric"] == "test_acc"]
    said = r"reach below (\S+), and at (\S+) means gain (\S+) or"
    ((least, rate, gain),) = re.findall(said, " ".join(README.split()))
    assert len(means) == 24 and 100 * means["ci_low"].min() > float(least)
    high = means[means["rate"] == float(rate)]
    assert set(high["position"]) == {"after", "before"} and set(high["verdict"]) == {"better"}
    assert 100 * high["estimate"].min() >= float(gain)
