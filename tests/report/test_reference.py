"""The published studies give the estimates that an earlier report, of other code, made of the same replicates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from normdrop.report.study import load
from normdrop.report.verdicts import rows

REFERENCE = Path(__file__).parents[2] / "outputs/reference"
NUMBERS = ["n", "estimate", "ci_low", "ci_high", "new_low", "new_high"]
BEFORE = pd.read_csv(Path(__file__).with_name("reference.csv"))


@pytest.mark.parametrize("name", ["blog", "drift", "initialisation", "complexity_wide"])
def test_every_number_of_a_difference_a_loss_a_spread_and_a_ladder_is_what_it_was(name: str) -> None:
    (study,) = load(REFERENCE / name)
    before = BEFORE[BEFORE["experiment"] == name]
    place = [*BEFORE.columns.drop(["experiment", *NUMBERS])]
    now = rows(study).merge(before[place].drop_duplicates())
    assert len(now) == len(before) > 0
    # The parts of a claim had other names: those of one place are told apart by their numbers.
    one, two = (table.sort_values([*place, "estimate"])[NUMBERS].to_numpy(float) for table in (now, before))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
