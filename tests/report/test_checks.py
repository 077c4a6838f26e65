"""What was checked: each line says a number that the study's own tables give, and the doubt that it answers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from exact import checks_of, rows_of
from fake_study import fake_study
from normdrop.report import page
from normdrop.report.__main__ import main
from normdrop.report.checks import largest, theory
from normdrop.report.records import load


def ahead(effects: dict[str, float]) -> Any:
    return lambda arrangement, *_: 0.9 + effects.get(arrangement, 0.0)


def test_the_smallest_difference_that_is_found_follows_from_the_spread_and_the_size_of_the_family(
    tmp_path: Path,
) -> None:
    directory = fake_study(tmp_path, rates=(0.3,), positions=("after", "before"), replicates=20)
    found = re.search(r"true difference of ([\d.]+) to ([\d.]+) pp with 80 % power.*0\.05 / 2", checks_of(directory))
    assert found is not None
    table = rows_of(directory, family="declared")
    # Power, computed afresh from the noncentral t.
    spread = (table["estimate"] / table["d_z"]).sort_values()
    for shown, sd in zip(map(float, found.groups()), spread, strict=True):
        ncp = shown / 100 / sd * 20**0.5
        limit = stats.t.ppf(1 - 0.025 / 2, 19)
        power = stats.nct.sf(limit, 19, ncp) + stats.nct.cdf(-limit, 19, ncp)
        assert power == pytest.approx(0.8, abs=0.02)


def test_the_level_of_the_other_side_is_told(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, rates=(0.3,), accuracy=ahead({"dropout_bn": -0.2}), replicates=8)
    mean = 100 * pd.read_csv(directory / "digits/dropout_bn/after/q0.30/replicates.csv")["test_acc"].mean()
    assert f"of dropout_bn alone, test accuracy is {mean:.1f} % (digits, after)" in checks_of(directory)


def test_an_effect_at_one_rate_is_the_positive_control_of_a_comparison_at_each_sides_best(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 - (0.1 if (arrangement, rate) == ("dropout_bn", 0.7) else 0.0)

    text = checks_of(fake_study(tmp_path, accuracy=accuracy, replicates=10, rates=(0.3, 0.7), seed=1))
    assert re.search(r"1 of 2 comparisons differ .*the most on digits, after, rate 0\.7: \+(9|10)\.\d+ pp", text)


def test_without_any_effect_the_positive_control_says_so(tmp_path: Path) -> None:
    text = checks_of(fake_study(tmp_path, accuracy=ahead({}), own_sd=0.001, replicates=12, rates=(0.1, 0.3), seed=1))
    assert "none of 2 comparisons differs either" in text


def test_a_gap_is_taken_apart_into_its_two_accuracies(tmp_path: Path) -> None:
    study = {"metric": "gap", "secondary": ["train_acc", "test_acc"], "rope": {"gap": 0.005}}
    directory = fake_study(tmp_path, rates=(0.3,), study=study, replicates=8)
    a, b = (
        pd.read_csv(directory / f"digits/{name}/after/q0.30/replicates.csv") for name in ("bn_dropout", "dropout_bn")
    )
    train, test = (100 * (a[name] - b[name]).mean() for name in ("train_acc", "test_acc"))
    assert f"digits: {train:+.1f} and {test:+.1f} pp" in checks_of(directory)


def test_runs_that_never_reached_the_level_are_counted_side_by_side(tmp_path: Path) -> None:
    study = {"metric": "steps_to_level", "kind": "ratio", "rope": {"steps_to_level": 1.1}}
    directory = fake_study(tmp_path, rates=(0.3,), study=study, replicates=12, max_steps=100)
    missed = pd.read_csv(directory / "digits/dropout_bn/after/q0.30/replicates.csv")["steps_to_level"].isna().sum()
    assert f"{missed} of 12 of dropout_bn on digits, after" in checks_of(directory)


def test_where_every_run_reached_the_level_that_is_said(tmp_path: Path) -> None:
    study = {"metric": "steps_to_level", "kind": "ratio", "rope": {"steps_to_level": 1.1}}
    directory = fake_study(tmp_path, rates=(0.3,), study=study, replicates=12)
    assert "Every one of 24 runs reached the level" in checks_of(directory)


def test_choices_at_an_end_of_the_grid_are_counted(tmp_path: Path) -> None:
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 - (rate if arrangement == "bn_dropout" else 1 - rate)

    text = checks_of(fake_study(tmp_path, accuracy=accuracy, replicates=6))
    assert "the lowest of the grid (0.1) in 50 % of 12 choices and the highest (0.7) in 50 %" in text


def test_a_ladder_says_how_far_it_goes_down(tmp_path: Path) -> None:
    study = {"kind": "ladder", "over": "data.clusters_per_class"}
    settings = [{"data.clusters_per_class": rung} for rung in (1, 2, 4)]

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 1 - 0.1 * setting["data.clusters_per_class"]

    text = checks_of(
        fake_study(tmp_path, study=study, settings=settings, accuracy=accuracy, rates=(0.3,), shared_sd=0, own_sd=1e-6)
    )
    assert "test accuracy of dropout_bn goes from 90.0 % at the first data.clusters_per_class to 60.0" in text


def test_a_ladder_of_which_one_rung_is_there_gets_its_report(tmp_path: Path) -> None:
    study = {"kind": "ladder", "over": "data.clusters_per_class"}
    directory = fake_study(tmp_path, study=study, settings=[{"data.clusters_per_class": 1}], rates=(0.3,), replicates=6)
    (section,) = page.write(load(directory), "normdrop-report").sections
    assert "The ladder is one" not in " ".join(section.checks)


def test_only_exact_forms_count_for_the_agreement_of_theory_and_measurement() -> None:
    shift = pd.DataFrame(
        [
            ("noise→bn", 0.5, 0.5),
            ("noise→linear→bn", 0.44, 0.4),
            ("noise→linear→activation→bn (approximate)", 1.0, 0.1),
            ("no noise above", 3.0, 1.0),
            ("no formula", 1.0, np.nan),
        ],
        columns=["case", "measured", "predicted"],
    )
    line = theory(shift)
    assert line is not None
    assert "at 2 BN layers" in line
    assert "1.050 times the predicted (from 1.000 to 1.100)" in line
    assert theory(shift.tail(3)) is None
    assert theory(pd.DataFrame()) is None


def test_another_run_of_the_same_comparisons_is_counted_in_its_section(tmp_path: Path) -> None:
    for name in ("plain", "own"):
        fake_study(tmp_path / name / "ordering", rates=(0.3,), replicates=8, seed=len(name))
    assert main([str(tmp_path / "plain")]) == 0
    written = page.write(load(tmp_path / "own"), "normdrop-report", tmp_path / "plain")
    n = len(pd.read_csv(tmp_path / "own/report/verdicts.csv"))
    (section,) = written.sections
    assert f"Of {n} comparisons that `{tmp_path / 'plain'}` has as well, 0 estimates differ" in section.checks[-1]
    assert largest(pd.DataFrame({"t": [np.nan]}), "elsewhere") == []
