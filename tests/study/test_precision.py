"""A study with a precision trains in two stages: what it was asked for, then what Stein's rule says of each set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fake_study import fake_study
from normdrop.report.precision import replicates_for
from normdrop.report.statistics import replicates_needed


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two data sets of 12 replicates, at two positions, rate 0.3 alone."""
    root = tmp_path_factory.mktemp("study")
    return fake_study(root, datasets=("a", "b"), positions=("after", "before"), rates=(0.3,), replicates=12)


def differences(root, dataset, position, seeds):
    sides = [
        pd.read_csv(root / f"{dataset}/{arrangement}/{position}/q0.30/replicates.csv").set_index("seed")["test_acc"]
        for arrangement in ("bn_dropout", "dropout_bn")
    ]
    return (sides[0] - sides[1]).loc[list(seeds)].to_numpy()


@pytest.mark.parametrize("first", [range(12), range(7)], ids=["all", "the first stage alone"])
def test_each_data_set_and_position_gets_what_its_own_spread_asks_for(study, first):
    found = replicates_for(study, 0.0005, list(first), most=10_000)
    assert set(found) == {(d, p) for d in ("a", "b") for p in ("after", "before")}
    for (dataset, position), replicates in found.items():
        sd = np.std(differences(study, dataset, position, first), ddof=1)
        assert replicates == replicates_needed(sd, len(first), 0.0005) > len(first)


def test_a_wide_interval_asks_for_no_more_and_a_narrow_one_for_the_most(study):
    assert set(replicates_for(study, 1.0, list(range(12)), most=300).values()) == {12}
    assert set(replicates_for(study, 1e-6, list(range(12)), most=300).values()) == {300}


def test_without_a_declared_study_there_is_nothing_to_be_precise_about(tmp_path):
    root = fake_study(tmp_path, replicates=6, rates=(0.3,), study={"family": None})
    with pytest.raises(ValueError, match=r"precision=0.01: .* holds no declared study"):
        replicates_for(root, 0.01, list(range(6)), most=300)
