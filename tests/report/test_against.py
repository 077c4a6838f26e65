"""A run beside a reference: only what their intervals do not allow is called different."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from exact import rows_of, study_of
from fake_study import fake_study
from normdrop.report.__main__ import main
from normdrop.report.against import compare_runs, read_reference, seeds_apart


def study_at(directory: Path, effect: float, **options: Any) -> Path:
    def accuracy(arrangement: str, *_: Any) -> float:
        return 0.9 + (effect if arrangement == "bn_dropout" else 0.0)

    return fake_study(directory, accuracy=accuracy, rates=(0.2, 0.5), replicates=10, **options)


def rows_at(directory: Path, effect: float, **options: Any) -> pd.DataFrame:
    return rows_of(study_at(directory, effect, **options))


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    directory = study_at(tmp_path / "own", 0.01)
    assert main([str(directory)]) == 0
    rows = read_reference(directory)
    both = compare_runs(rows, rows)
    assert len(both) == len(rows)
    assert (both["t"] == 0).all()
    assert not both["differs"].any()
    assert not both["verdict_differs"].any()


def test_t_is_the_difference_of_the_estimates_over_both_standard_errors(tmp_path: Path) -> None:
    own, reference = (rows_at(tmp_path / f"s{i}", 0.01, seed=i) for i in (0, 1))
    row = compare_runs(own, reference).query("comparison == 'best_vs_best' and metric == 'test_acc'").iloc[0]
    errors = []
    for i in (0, 1):
        replicates = study_of(tmp_path / f"s{i}").replicates
        best = replicates[replicates["rerun"] == 0].sort_values("val_acc", ascending=False)
        sides = best.groupby(["arrangement", "seed"]).first()["test_acc"]
        errors.append((sides["bn_dropout"] - sides["dropout_bn"]).sem())
    assert row["t"] == pytest.approx((row["estimate"] - row["estimate_reference"]) / np.hypot(*errors))


def test_runs_that_declare_another_alpha_have_the_same_standard_errors(tmp_path: Path) -> None:
    ts = []
    for alpha in (0.05, 0.3):
        options = {"study": {"alpha": alpha}}
        own, reference = (rows_at(tmp_path / f"s{i}-{alpha}", 0.01, seed=i, **options) for i in (0, 1))
        ts.append(compare_runs(own, reference)["t"])
    assert ts[0].to_list() == pytest.approx(ts[1].to_list())


def test_another_effect_is_said_to_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = study_at(tmp_path / "reference", 0.03)
    own = study_at(tmp_path / "own", -0.03, seed=1)
    assert main([str(reference)]) == 0
    both = compare_runs(rows_of(own), read_reference(reference))
    accuracy = both[(both["metric"] == "test_acc") & (both["comparison"] != "a/a")]
    assert accuracy["differs"].all()
    assert accuracy["verdict_differs"].all()
    assert not both.loc[both["metric"] == "test_ece", "differs"].any()
    assert main([str(own), "--against", str(reference)]) == 0
    markdown = (own / "report/report.md").read_text()
    assert f"{len(both)} comparisons are in both. {both['differs'].sum()} estimates differ" in markdown
    assert f"Against {reference}" in (own / "report/report.html").read_text()


def test_of_several_experiments_on_one_claim_the_one_of_the_same_name_is_the_reference(tmp_path: Path) -> None:
    reference = pd.concat([rows_at(tmp_path / "reference" / n, e) for n, e in (("a", 0.05), ("b", 0.01))])
    own = rows_at(tmp_path / "b", 0.01)
    both = compare_runs(own, reference)
    assert set(both["experiment_reference"]) == {"b"}
    assert not both["differs"].any()


def test_what_an_experiment_of_the_same_name_lacks_is_not_taken_from_another(tmp_path: Path) -> None:
    others = rows_at(tmp_path / "reference" / "a", 0.05, datasets=("digits", "wine"))
    reference = pd.concat([others, rows_at(tmp_path / "reference" / "b", 0.01)])
    own = rows_at(tmp_path / "b", 0.01, datasets=("digits", "wine"))
    assert set(compare_runs(own, reference)["dataset"]) == {"digits"}


def test_rows_of_other_data_are_not_compared(tmp_path: Path) -> None:
    own, reference = rows_at(tmp_path / "own", 0.01), rows_at(tmp_path / "reference", 0.01, datasets=("wine",))
    assert compare_runs(own, reference).empty


def test_a_run_that_shares_nothing_with_the_reference_still_gets_its_report(tmp_path: Path) -> None:
    own, reference = study_at(tmp_path / "own", 0.01), study_at(tmp_path / "other", 0.01, datasets=("wine",))
    assert main([str(reference)]) == 0
    assert main([str(own), "--against", str(reference)]) == 0
    assert "0 comparisons are in both" in (own / "report/report.md").read_text()


def test_what_was_declared_in_a_pilot_is_told_beside_the_confirmation(tmp_path: Path) -> None:
    sets = [f"d{i}" for i in range(8)]
    pilot = study_at(tmp_path / "pilot/ordering", 0.03, datasets=sets)
    own = study_at(tmp_path / "own/ordering", -0.03, datasets=sets, seed=1, first_seed=1000)
    assert main([str(pilot)]) == main([str(own), "--against", str(pilot)]) == 0
    table = pd.read_csv(own / "report/replicated.csv").set_index("level")
    assert table["verdict"].to_dict() | {} == {"claim": "No: the opposite", "pooled": "worse", "row": "worse"}
    assert table.loc["row", "dataset"].to_list() == sets
    assert (table.loc["pooled", "estimate"], table.loc["pooled", "estimate_reference"]) == pytest.approx(
        (-0.03, 0.03), abs=0.01
    )
    assert not table["replicated"].any()
    assert not table.loc["row", "same_sign"].any()
    markdown = (own / "report/report.md").read_text()
    assert (
        "No seed is in both: 1000-1009 here, 0-9 there. Of 10 claims, pooled means and rows that were declared, 0 have"
        in markdown
    )
    assert "| ordering | the claim | — | No: the opposite | Yes | no |" in markdown


def test_a_confirmation_on_the_seeds_of_its_pilot_is_warned_of(tmp_path: Path) -> None:
    one, other = (rows_at(tmp_path / name / "s", 0.03) for name in ("one", "other"))
    assert seeds_apart(one, other).startswith("Warning: the two runs share seeds (s)")
    assert seeds_apart(one, other.drop(columns="seeds")).startswith("Which seeds the other run has is not known")


def test_a_reference_without_verdicts_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = study_at(tmp_path / "own", 0.01)
    (tmp_path / "empty").mkdir()
    assert main([str(own), "--against", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err == f"--against {tmp_path / 'empty'}: no verdicts.csv in it\n"


def test_few_replicates_are_judged_by_the_t_law_of_their_number() -> None:
    row = {"claim": "c", "dataset": "d", "position": "after", "comparison": "best_vs_best", "metric": "test_acc"}
    row |= {
        "setting": "",
        "a": "x",
        "b": "y",
        "rate_a": 0.1,
        "rate_b": 0.1,
        "experiment": "e",
        "verdict": "inconclusive",
        "family": "declared",
    }

    def run(values: np.ndarray) -> pd.DataFrame:
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        return pd.DataFrame([row | {"n": len(values), "estimate": values.mean(), "ci_low": low, "ci_high": high}])

    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 6), rng.normal(3, 2, 9)
    both = compare_runs(run(a), run(b))
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert both["t"].item() == pytest.approx(welch.statistic)
    assert both["p_holm"].item() == pytest.approx(welch.pvalue)
