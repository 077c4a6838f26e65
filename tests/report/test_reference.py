"""The published studies give the estimates that an earlier report, of other code, made of the same replicates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from normdrop.asked import dotted
from normdrop.report import publish
from normdrop.report.study import load
from normdrop.report.verdicts import rows
from normdrop.study import config

REFERENCE = Path(__file__).parents[2] / "outputs/reference"
NUMBERS = ["n", "estimate", "ci_low", "ci_high", "new_low", "new_high"]
BEFORE = pd.read_csv(Path(__file__).with_name("reference.csv"))


@pytest.mark.parametrize("name", ["blog", "drift", "initialisation", "complexity_wide"])
def test_every_number_of_a_difference_a_loss_a_spread_and_a_ladder_is_what_it_was(name):
    (study,) = load(REFERENCE / name)
    before = BEFORE[BEFORE["experiment"] == name]
    place = [*BEFORE.columns.drop(["experiment", *NUMBERS])]
    now = rows(study).merge(before[place].drop_duplicates())
    assert len(now) == len(before) > 0
    # The parts of a claim had other names: those of one place are told apart by their numbers.
    one, two = (table.sort_values([*place, "estimate"])[NUMBERS].to_numpy(float) for table in (now, before))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in REFERENCE.glob("*/study.json.xz")), ids=lambda p: p.name
)
def test_an_experiment_still_trains_as_what_was_published_was_trained(folder):
    """What experiments share may change for one that is not published, never for the others."""
    records = [record for record, _ in publish.read(folder)[0]]
    experiment = records[0]["choices"]["experiment"]
    now = config.plain(config.compose(f"experiment={experiment}"), resolve=False)
    varied = {key for record in records for key in record["study"]["grid"]}
    for key in {"patience", "select_epoch", "batch_size", "first_seed", "trainer.max_epochs", "optimizer.lr"} - varied:
        assert dotted(now)[key] in [dotted(record["config"])[key] for record in records], key
