"""What the page says is what the tables hold: the word over a family, the checks, every cell of every table."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from exact import SPREAD, checks_of, normal, pair, rows_of, runs, study_of, write
from fake_study import STUDY, fake_study
from normdrop.metrics import METRICS
from normdrop.report import page
from normdrop.report.__main__ import main
from normdrop.report.against import compare_runs
from normdrop.report.answer import answer, harness
from normdrop.report.checks import largest
from normdrop.report.contrasts import contrasts
from normdrop.report.mechanism import recalibration
from normdrop.report.records import Study, load

SMALL = ", but practically equivalent"
REFUSED = "refused: 3 replicates, 6 needed"


def section(root: Path) -> page.Section:
    (only,) = page.write(load(root), "normdrop-report").sections
    return only


# --- the answer's word


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, pd.DataFrame]:
    """Three data sets with the differences 1, 2 and 3 points: the study and its rows."""
    root = tmp_path_factory.mktemp("three")
    for k, dataset in enumerate("abc", start=1):
        table = runs(0.8 + normal(k / 100), test_nll=0.3, test_ece=0.1)
        pair(root, table, runs(0.8, test_nll=0.4, test_ece=0.1), dataset=dataset)
    return study_of(root), rows_of(root)


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["better"] * 3, "Yes"),
        (["better", "better", "inconclusive"], "Sometimes: 2 of 3"),
        (["better", "equivalent", "equivalent"], "Sometimes: 1 of 3"),
        (["better", "better", REFUSED], "Sometimes: 2 of 3"),
        (["better", "better", "worse"], "It depends"),
        (["better" + SMALL, "inconclusive", "worse"], "Sometimes the opposite: 1 of 3"),
        (["better" + SMALL] * 3, "No practical difference"),
        (["worse"] * 3, "No: the opposite"),
        (["worse", "inconclusive", "equivalent"], "Sometimes the opposite: 1 of 3"),
        (["worse" + SMALL] * 3, "No practical difference"),
        (["equivalent"] * 3, "No practical difference"),
        (["equivalent", "equivalent", "inconclusive"], "Not shown"),
        (["equivalent", "equivalent", REFUSED], "Not shown"),
        (["inconclusive"] * 3, "Not shown"),
        ([REFUSED, REFUSED, "inconclusive"], "Not shown"),
        ([REFUSED] * 3, "Refused"),
    ],
)
@pytest.mark.parametrize("scope", ["verdict", "verdict_new_data"])
def test_the_word_over_a_family_is_of_new_data_where_it_can_be_had(
    three: tuple[Study, pd.DataFrame], scope: str, verdicts: list[str], word: str
) -> None:
    study, rows = three[0], three[1].copy()
    declared = rows["family"] == "declared"
    rows.loc[declared, ["verdict", "verdict_new_data"]] = "worse"
    rows.loc[declared, scope] = verdicts
    if scope == "verdict":
        rows["p_new_data"] = np.nan
    assert answer(study, rows).word == word


def test_the_sentence_counts_the_familys_verdicts_and_says_from_where_to_where_they_run(
    three: tuple[Study, pd.DataFrame],
) -> None:
    study, rows = three[0], three[1].copy()
    declared = rows["family"] == "declared"
    rows.loc[declared, "verdict"], rows.loc[declared, "verdict_new_data"] = (
        ["inconclusive", "better", "better"],
        "worse",
    )
    said = answer(study, rows)
    assert "test accuracy by +1.00 pp to +3.00 pp in 3 comparisons; for new data like it: worse in 3" in said.sentence
    assert said.sentence.startswith("With each side at its own best dropout rate, batch normalization first differed")
    assert said.amount == "+1.00 pp to +3.00 pp: better in 2, inconclusive in 1"
    assert (said.these_rows, said.new_data) == ("Sometimes: 2 of 3", "No: the opposite")


def test_one_comparison_is_told_with_its_own_interval(tmp_path: Path) -> None:
    pair(tmp_path, runs(0.8 + normal(0.02)), runs(0.8), study={"alpha": 0.1})
    (row,) = (row for _, row in rows_of(tmp_path, family="declared").iterrows())
    bounds = f"{100 * row['ci_low']:+.2f} to {100 * row['ci_high']:+.2f}"
    assert answer(study_of(tmp_path), pd.DataFrame([row])).amount == f"+2.00 pp ({bounds})"


def test_the_answer_is_of_the_grid_proper_and_further_settings_are_counted_apart(tmp_path: Path) -> None:
    for setting, effect in (({}, 0.05), ({"noise": "uniform"}, -0.05), ({"model.width": 8}, 0.0)):
        wheres: dict[str, Any] = {"setting": setting, "study": {"rope": {}}}
        pair(tmp_path, runs(0.8 + normal(effect)), runs(0.8), **wheres)
    said = answer(study_of(tmp_path), rows_of(tmp_path))
    assert said.word == "Yes"
    other = "Under the other settings (2 comparisons of the same family): **"
    (line,) = (line for line in said.beside if line.startswith(other))
    assert "**worse** in 1" in line
    assert "**inconclusive** in 1" in line


def test_of_a_ladder_the_trend_is_the_answer(tmp_path: Path) -> None:
    study = {"kind": "ladder", "over": "model.depth", "rope": {}, "secondary": []}
    for depth in (1, 2, 3):
        a = runs(0.9 - depth / 50 + normal(0.0) / 10)
        pair(tmp_path, a, runs(0.8), setting={"model.depth": depth}, study=study)
    said = answer(study_of(tmp_path), rows_of(tmp_path))
    assert said.word == "No: the opposite"
    assert "was 4.00 pp lower" in said.sentence
    assert any(re.match(r"At the single rungs \(3 comparisons.*\*\*better\*\* in 3\.", line) for line in said.beside)


def test_replicates_that_diverged_are_counted_once_and_by_condition(tmp_path: Path) -> None:
    a, b = 0.8 + normal(0.0), 0.8 + normal(0.0)
    a[[1, 2]] = b[3] = np.nan
    # At `around` bn_dropout trained before and dropout_bn trained after stand in: not counted again.
    grid = {"position": ["after", "before", "around"]}
    for position in ("after", "before"):
        pair(tmp_path, runs(a), runs(b), position=position, study={"grid": grid})
    lines = answer(study_of(tmp_path), rows_of(tmp_path)).caveats
    (line,) = (line for line in lines if "replicates diverged" in line)
    assert line.startswith("6 of 40 replicates diverged: ")
    assert "d/bn_dropout/after/q0.30 (2)" in line
    assert "d/dropout_bn/before/q0.30 (1)" in line


# --- the alarm


@pytest.mark.parametrize(("claims", "of", "alarm"), [(1, 1, False), (2, 2, True), (6, 40, False), (7, 40, True)])
def test_the_alarm_is_a_binomial_tail_of_the_a_a_rows_that_claim(
    three: tuple[Study, pd.DataFrame], claims: int, of: int, alarm: bool
) -> None:
    row = three[1].iloc[[0]].assign(family="a/a", verdict="equivalent", comparison="a/a")
    rows = pd.concat([row] * of, ignore_index=True).assign(estimate=range(of))
    rows = pd.concat([rows, rows])  # the same networks in another study count once
    rows = rows.reset_index(drop=True)
    claiming = rows["estimate"] < claims
    rows.loc[claiming, "verdict"] = "better" + SMALL
    rows.loc[rows["estimate"] == 0, "verdict"] = "worse"
    others = three[1].assign(verdict="better")
    said = harness(pd.concat([others, rows], ignore_index=True), 0.05)
    assert said is not None
    assert said.sentence.startswith(f"{claims} of {of} A/A rows of distinct networks claim")
    assert said.alarm is alarm
    assert alarm == (stats.binom.sf(claims - 1, of, 0.05) <= 0.005)
    assert harness(rows.assign(verdict="equivalent"), 0.05) is None
    assert harness(others, 0.05) is None


# --- the checks


@pytest.mark.parametrize(("best", "low", "high"), [("lowest", 100, 0), ("highest", 0, 100), ("middle", 0, 0)])
def test_choices_at_the_edges_are_counted_edge_by_edge(tmp_path: Path, best: str, low: int, high: int) -> None:
    for rate in (0.1, 0.3, 0.7):
        val = {"lowest": 1 - rate, "highest": rate, "middle": 1 - abs(rate - 0.3)}[best]
        pair(tmp_path, runs(0.8 + normal(0), val_acc=val), runs(0.8, val_acc=val), rate=rate)
    write(tmp_path, "dropout", runs(0.8), 0.9)
    line = checks_of(tmp_path)
    found = re.search(r"lowest of the grid \(0\.1\) in (\d+) % of 20 choices and the highest \(0\.9\) in (\d+) %", line)
    assert found is not None
    assert tuple(map(int, found.groups())) == (low, 0)
    (tmp_path / "d/dropout/after/q0.90/record.json").unlink()
    found = re.search(
        r"lowest of the grid \(0\.1\) in (\d+) % of 20 choices and the highest \(0\.7\) in (\d+) %",
        checks_of(tmp_path),
    )
    assert found is not None
    assert tuple(map(int, found.groups())) == (low, high)


def test_choices_of_further_settings_and_same_rates_are_no_choices(tmp_path: Path) -> None:
    for setting in ({}, {"noise": "uniform"}):
        for rate in (0.1, 0.7):
            val = rate if setting else 1 - rate
            of_b = np.where(np.arange(10) < 4, rate, val)
            wheres: dict[str, Any] = {"rate": rate, "setting": setting}
            pair(tmp_path, runs(0.8 + normal(0), val_acc=val), runs(0.8, val_acc=of_b), **wheres)
    assert "(0.1) in 80 % of 20 choices and the highest (0.7) in 20 %" in checks_of(tmp_path)


def test_room_is_of_side_b_at_its_best_from_the_lowest_place_to_the_highest(tmp_path: Path) -> None:
    for dataset, level in (("a", 0.7), ("b", 0.9), ("c", 0.8)):
        for rate in (0.1, 0.3):
            a, b = runs(0.99 + normal(0) / 10), runs(level + rate / 100 + normal(0), val_acc=rate)
            pair(tmp_path, a, b, dataset=dataset, rate=rate)
    text = checks_of(tmp_path)
    assert "of dropout_bn alone, test accuracy runs from 70.3 % (a, after) to 90.3 % (b, after)." in text


def test_the_positive_control_is_the_largest_of_the_same_rate_differences_on_the_primary_metric(tmp_path: Path) -> None:
    for rate, effect in ((0.1, 0.03), (0.3, -0.05), (0.5, 0.0)):
        a = runs(0.8 + normal(effect), test_nll=0.3 + normal(0.9))
        pair(tmp_path, a, runs(0.8, test_nll=0.3), rate=rate)
        pair(tmp_path, runs(0.8 + normal(0.2)), runs(0.8), rate=rate, setting={"noise": "uniform"})
    row = rows_of(tmp_path, comparison="same_rate", metric="test_acc", rate_a=0.3, setting="").iloc[0]
    bounds = f"{100 * row['ci_low']:+.2f} to {100 * row['ci_high']:+.2f}"
    text = checks_of(tmp_path)
    assert f"2 of 3 comparisons differ (exploratory), the most on d, after, rate 0.3: -5.00 pp ({bounds})." in text


def test_the_smallest_difference_found_follows_from_the_studys_alpha_and_the_whole_family(tmp_path: Path) -> None:
    study = {"alpha": 0.1, "metric": ["test_acc", "gap"], "secondary": ["test_nll"]}
    a = runs(0.8 + normal(0.0, 20), 20, gap=0.1 + 2 * normal(0, 20), test_nll=1 + 9 * normal(0, 20))
    pair(tmp_path, a, runs(0.8, 20, gap=0.1, test_nll=1.0), study=study)
    found = re.search(r"true difference of ([\d.]+) pp with 80 % power.*\(level 0\.1 / 2\)", checks_of(tmp_path))
    assert found is not None
    ncp = float(found[1]) / 20**-0.5  # in standard deviations of 1 pp
    limit = stats.t.isf(0.05 / 2, 19)
    assert stats.nct.sf(limit, 19, ncp) + stats.nct.cdf(-limit, 19, ncp) == pytest.approx(0.8, abs=0.02)


def test_runs_that_never_reached_the_level_are_counted_on_their_own_side(tmp_path: Path) -> None:
    study = {"metric": "steps_to_level", "kind": "ratio", "secondary": [], "rope": {}}
    steps = np.where(np.arange(10) < 2, np.nan, 50.0)
    for dataset, (a, b) in {"one": (steps, 60.0), "two": (70.0, steps[::-1])}.items():
        pair(tmp_path, runs(0.9, steps_to_level=a), runs(0.9, steps_to_level=b), dataset=dataset, study=study)
    assert (
        "longer than any that did: 2 of 10 of bn_dropout on one, after; 2 of 10 of dropout_bn on two, after."
        in checks_of(tmp_path)
    )


def test_a_gap_is_taken_apart_at_each_data_set_by_the_comparison_of_the_family(tmp_path: Path) -> None:
    study = {"metric": "gap", "secondary": ["train_acc", "test_acc"], "rope": {}}
    for dataset, train, test in (("one", 0.03, 0.01), ("two", -0.02, 0.04)):
        for rate, val in ((0.1, 0.5), (0.3, 0.9)):
            size = rate / 0.3
            a = runs(0.8 + size * normal(test), train_acc=0.9 + size * train, gap=0.1 + normal(0), val_acc=val)
            pair(tmp_path, a, runs(0.8, train_acc=0.9, gap=0.1, val_acc=val), dataset=dataset, rate=rate, study=study)
    assert "A - B: one: +3.0 and +1.0 pp; two: -2.0 and +4.0 pp." in checks_of(tmp_path)


# --- every table of the page


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[page.Section, pd.DataFrame, str]:
    """A study that has every table, its section, its verdicts.csv and its page."""
    root = tmp_path_factory.mktemp("told") / "mechanism"
    rng = np.random.default_rng(11)
    study = STUDY | {
        "kind": "mechanism",
        "claim": "mechanism",
        "alpha": 0.06,
        "rope": {"test_acc": 0.006, "test_nll": 0.02},
    }
    study |= {"grid": {"data": ["one", "two"], "rate": ["0.1", "0.5"]}}
    for dataset, effect in (("one", 0.02), ("two", 0.0)):
        for rate in (0.1, 0.5):
            for k, arrangement in enumerate(("bn_dropout", "dropout_bn")):
                acc = rng.normal(0.8 + (effect if k == 0 else 0) * (1 + rate), 0.01, 9)
                columns = {name: rng.normal(0.4, 0.02, 9) for name in ("val_acc", "test_nll", "test_ece")}
                columns["recal_test_acc"] = acc + 0.005 * k + rng.normal(0, 0.001, 9)
                if (dataset, rate, k) == ("one", 0.5, 1):
                    acc[0] = np.nan
                shift = [
                    {"layer": n, "seed": s, "epoch": "end", "case": f"case {n}"}
                    | dict(zip(("measured", "predicted", "running"), rng.uniform(0.2, 0.9, 3), strict=True))
                    for n in (1, 2)
                    for s in range(9)
                ]
                write(root, arrangement, runs(acc, 9, **columns), rate, dataset=dataset, study=study, shift=shift)
        again = {"setting": {"rerun": 1}, "dataset": dataset, "study": study}
        write(root, "bn_dropout", runs(rng.normal(0.8, 0.02, 9), 9, test_nll=0.4, test_ece=0.4), 0.1, **again)
        wheres: dict[str, Any] = {"setting": {"noise": "uniform"}, "dataset": dataset, "study": study}
        pair(root, runs(rng.normal(0.8, 0.01, 9), 9), runs(rng.normal(0.8, 0.01, 9), 9), rate=0.1, **wheres)
    only = section(root)
    return only, pd.read_csv(root / "report/verdicts.csv", keep_default_na=False, na_values=[""]), str(root)


def dashed(value: float, text: str) -> str:
    return "—" if pd.isna(value) else text


def cells(row: Any) -> dict[str, str]:
    """What the page shows of a row of verdicts.csv."""
    symbol, scale = METRICS[row.metric].unit, METRICS[row.metric].scale
    digits = 3 if symbol == "nats" else 2

    def span(low: float, high: float) -> str:
        return dashed(low, " to ".join(f"{round(end * scale, digits) + 0:+.{digits}f}" for end in (low, high)))

    def p(value: float) -> str:
        return dashed(value, "< .0001" if value < 1e-4 else f"{value:.4f}")

    rates = f"{row.rate_a:g}" if row.rate_a == row.rate_b else f"{row.rate_a:g} / {row.rate_b:g}"
    comparison = {
        "a/a": f"A/A: {row.a} again, rate {row.rate_a:g}",
        "way_out": f"way out: {row.a}",
        "same_rate": f"same rate {rates}",
        "best_vs_best": f"best vs best (mostly {rates})",
    }[row.comparison]
    return {
        "data set": row.dataset,
        "position": row.position,
        "setting": dashed(row.setting, str(row.setting)),
        "comparison": comparison,
        "metric": row.metric,
        "A - B": dashed(row.estimate, f"{round(row.estimate * scale, digits) + 0:+.{digits}f} {symbol}"),
        "interval": span(row.ci_low, row.ci_high),
        "verdict": row.verdict + (" (exploratory)" if row.family == "exploratory" else ""),
        "new data": row.verdict_new_data,
        "n": f"{row.n}" + (f" ({row.left_out} left out)" if row.left_out else ""),
        "d_z": dashed(row.d_z, f"{row.d_z:.2f}"),
        "P(A > B)": dashed(row.p_superior, f"{row.p_superior:.2f}"),
        "p": p(row.p_value),
        "p (Holm)": p(row.p_holm),
        "p (TOST)": p(row.p_tost),
        "BCa interval": span(row.bca_low, row.bca_high),
        "interval, new data": span(row.new_low, row.new_high),
        "p (Holm), new data": p(row.p_holm_new),
        "p (TOST, Holm)": p(row.p_tost_holm),
        "p (TOST), new data": p(row.p_tost_new),
        "replicates needed": dashed(row.needed, f"{row.needed:.0f}"),
    }


def as_rows(table: page.Table) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def test_every_cell_of_the_verdict_tables_is_that_of_its_column_in_verdicts_csv(told: Any) -> None:
    shown, rows, _ = told
    in_family = rows["family"].isin(["declared", "a/a"]) | (rows["comparison"] == "best_vs_best")
    assert (rows["verdict"].str.split(",").str[0] != rows["verdict_new_data"].str.split(",").str[0]).sum() > 3
    table, own = shown.family, rows[in_family]
    expected = [cells(row) for row in own.itertuples()]
    assert len(table.rows) == len(own) > 5
    for cell, wanted in zip(as_rows(table), expected, strict=True):
        assert cell == {key: wanted[key] for key in table.header}
    dropped = set(expected[0]) - set(table.header)
    assert all(wanted[key] == "—" for wanted in expected for key in dropped)


def test_every_cell_of_the_table_of_recalibration_is_that_of_its_column(told: Any) -> None:
    shown, _, _ = told
    table = recalibration(shown.study, contrasts(shown.study))
    assert len(table) == len(shown.mechanism.rows) > 5
    assert table["share"].notna().any() and table["share"].isna().any()
    for cell, row in zip(as_rows(shown.mechanism), table.itertuples(), strict=True):
        assert (cell["data set"], cell["position"], cell["n"]) == (row.dataset, row.position, str(row.n))
        comparison = "best vs best" if row.comparison == "best_vs_best" else f"same rate {row.rate:g}"
        assert cell["comparison"] == comparison
        assert (cell["before (pp)"], cell["after (pp)"]) == (f"{100 * row.before:+.2f}", f"{100 * row.after:+.2f}")
        p = "—" if np.isnan(row.p_holm) else "< .0001" if row.p_holm < 1e-4 else f"{row.p_holm:.4f}"
        assert cell["p (Holm)"] == p
        share, ends = "no effect to explain", "—"
        if np.isfinite(row.share):
            share, ends = f"{100 * row.share:.0f} %", f"{100 * row.low:.0f} to {100 * row.high:.0f} %"
        assert (cell["share explained"], cell["interval"]) == (share, ends)


def test_the_page_has_these_tables_in_both_forms(told: Any) -> None:
    shown, _, root = told
    markdown = (Path(root) / "report/report.md").read_text()
    page_html = (Path(root) / "report/report.html").read_text()
    in_html = [re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", block) for block in page_html.split("<table")[1:]]
    for table in (shown.short, shown.family, *(table for table, _ in shown.unfolded)):
        assert table.markdown() in markdown
        assert [cell for row in [table.header, *table.rows] for cell in row] == [*map(unescape, in_html.pop(0))]
    assert not in_html


def test_what_was_declared_is_the_studys_own_declaration(told: Any) -> None:
    shown, _, _ = told
    declared = dict(shown.declared)
    assert declared["Contrast"].startswith("A = bn_dropout, B = dropout_bn;")
    assert declared["Primary metric"] == "test_acc"
    assert declared["Secondary metrics"] == "test_nll, test_ece"
    assert declared["Practical equivalence (ROPE)"] == "test_acc ± 0.006, test_nll ± 0.02, test_ece ± 0.005"
    assert declared["Measured as"] == "mean paired difference, before and after recalibration"
    assert declared["Alpha"] == "0.06"
    assert declared["Tuned on validation"] == "rate"
    assert declared["Grid"] == "data: one, two; rate: 0.1, 0.5"
    assert "best_vs_best, test_acc; all else is exploratory" in declared["Family under Holm"]


def test_how_to_reproduce_sums_the_time_of_every_condition(told: Any) -> None:
    shown, _, _ = told
    said = dict(shown.reproduce)
    n = len(shown.study.records)
    assert n == 14
    assert said["Training time"] == f"{1.5 * n / 60:.1f} minutes of wall clock, summed over {n} conditions"
    assert said["Replicates"] == "9 per condition"
    assert said["Command"] == "normdrop -m experiment=fake"
    assert said["Hardware"] == "two test cores (cpu)"


def test_several_studies_are_one_table_and_one_alarm_at_the_most_lenient_alpha(tmp_path: Path) -> None:
    for name, claim, alpha in (("speed", "speed", 0.05), ("own", "ordering", 0.3), ("ordering", "ordering", 0.05)):
        study = {"claim": claim, "alpha": alpha}
        pair(tmp_path / name, runs(0.8 + normal(0.02)), runs(0.8), study=study, dataset=f"d_{name}")
        again = runs(0.8 + normal(0.02) - (0.02 if name == "speed" else 0.0))
        write(tmp_path / name, "bn_dropout", again, setting={"rerun": 1}, study=study, dataset=f"d_{name}")
    written = page.write(load(tmp_path), "normdrop-report")
    assert written.harness is not None
    assert written.harness.sentence.startswith("1 of 3 A/A rows of distinct networks claim")
    assert "where chance gives 0.9 (" in written.harness.sentence
    assert [s.slug for s in written.sections] == ["ordering", "own", "speed"]
    table = pd.read_csv(tmp_path / "report/verdicts.csv")
    assert table["experiment"].drop_duplicates().to_list() == ["ordering", "own", "speed"]
    replicates = pd.read_csv(tmp_path / "report/replicates.csv")
    assert replicates.groupby(["study", "dataset"]).size().to_dict() == {
        (name, f"d_{name}"): 30 for name in ("ordering", "own", "speed")
    }


def test_the_console_says_what_the_page_says_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = fake_study(tmp_path / "ordering", rates=(0.1, 0.3), replicates=8, study={"alpha": 0.1})
    assert main([str(directory)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    row = pd.read_csv(directory / "report/verdicts.csv").query("family == 'declared'").iloc[0]
    bounds = f"between {100 * row['new_low']:+.2f} and {100 * row['new_high']:+.2f} for new data like it"
    ahead = f"test accuracy was {100 * row['estimate']:.2f} pp higher with batch normalization first than with dropout"
    assert f"{ahead} first, {bounds}" in said
    markdown = " ".join((directory / "report/report.md").read_text().split())
    assert said.split("Beside it")[0].split("it. ", 1)[1].split(". ", 1)[1].strip() in markdown


def test_a_ratio_is_told_of_the_steps_of_the_other_side(tmp_path: Path) -> None:
    study = {"contrast": {"a": "bn", "b": "none"}, "metric": "steps_to_level", "kind": "ratio", "secondary": []}
    for arrangement, steps in (("bn", 50.0), ("none", 100.0)):
        write(tmp_path, arrangement, runs(0.9, 9, steps_to_level=steps + np.arange(9)), 0.0, study=study)
    said = answer(study_of(tmp_path), rows_of(tmp_path)).sentence
    assert said.startswith(
        "Steps to level with batch normalization came to ×0.519 of those with a network with neither, "
    )


# --- against a reference


def test_against_a_reference_each_row_meets_its_own(three: tuple[Study, pd.DataFrame]) -> None:
    own = three[1].assign(rate_a=0.3, rate_b=0.3)
    other = own.copy()
    changed = (own["dataset"] == "b") & (own["metric"] == "test_acc") & (own["comparison"] == "same_rate")
    other.loc[changed, ["estimate", "ci_low", "ci_high"]] += 0.02
    other.loc[changed, "verdict"] = "worse"
    other = other.iloc[::-1]
    both = compare_runs(own, other)
    assert len(both) == len(own)
    differing = both[both["differs"]]
    assert differing[["dataset", "metric", "comparison"]].to_numpy().tolist() == [["b", "test_acc", "same_rate"]]
    row = differing.iloc[0]
    se = (row["ci_high"] - row["ci_low"]) / 2 / stats.t.isf(0.025, 9)
    assert row["t"] == pytest.approx(-0.02 / (2**0.5 * se))
    assert row["estimate_reference"] - row["estimate"] == pytest.approx(0.02)
    raw = 2 * stats.t.sf(abs(row["t"]), 18)
    counted = both["p_holm"].notna().sum()
    assert raw * counted == pytest.approx(row["p_holm"], rel=1e-6, abs=0)
    assert 1e-4 < row["p_holm"] < 0.05
    assert both[both["verdict_differs"]]["dataset"].to_list() == ["b"]


def test_the_check_against_another_run_tells_the_largest_of_its_differences_from_both_sides(
    three: tuple[Study, pd.DataFrame],
) -> None:
    own = three[1].assign(rate_a=0.3, rate_b=0.3)
    own = own[(own["metric"] == "test_acc") & (own["comparison"] == "best_vs_best")]
    other = own.copy()
    other[["estimate", "ci_low", "ci_high"]] += np.array([[0.03], [-0.02], [0.0]])
    (line,) = largest(compare_runs(own, other), "there")
    t = 0.03 / (2**0.5 * SPREAD / 10**0.5)
    assert "Of 3 comparisons that `there` has as well, 2 estimates differ" in line
    assert f"the largest |t| is {t:.1f} (test_acc on a, best vs best: +1.00 pp here, +4.00 pp there)." in line
