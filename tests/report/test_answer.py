"""The numbers of the README's answer are those of the published tables."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from normdrop.report import pooled, verdicts
from normdrop.report.study import load

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "outputs/reference"
README = (ROOT / "README.md").read_text(encoding="utf-8").replace("− ", "-").replace("+ ", "+").replace("−", "-")


@pytest.fixture(scope="module")
def population() -> pd.DataFrame:
    """The means over data sets, made anew of every seed of the published population."""
    (study,) = load(PUBLISHED / "population")
    study = replace(study, declared=replace(study.declared, secondary=()))  # of which the README does not speak
    made = pooled.pooled(study, verdicts.rows(study))
    return made[(made["variant"] == pooled.AS_DECLARED) & (made["metric"] == "test_acc")]


def cells(position: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {position}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
@pytest.mark.parametrize("position", ["after", "before"])
def test_the_table_of_positions_says_what_the_seeds_say(population, position):
    own = population[population["position"] == position]
    (tuned,) = own[own["comparison"] == "best_vs_best"].to_dict("records")
    (half,) = own[(own["comparison"] == "same_rate") & (own["rate"] == 0.5)].to_dict("records")
    _, said_tuned, said_half, rests = cells(position)
    for said, row in ((said_tuned, tuned), (said_half, half)):
        numbers = [f"{100 * row[name]:+.2f}" for name in ("estimate", "ci_low", "ci_high")]
        assert re.findall(r"[+-]\d+\.\d+", said) == numbers
    assert f"{tuned['k']} tables" in rests
    words = pd.read_csv(PUBLISHED / "report/words.csv", keep_default_na=False).query("experiment == 'population'")
    assert said_tuned.startswith(words.set_index("position").loc[position, "word"].lower())


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


def test_what_more_data_does_is_counted_as_on_the_page():
    words = pd.read_csv(PUBLISHED / "report/words.csv", keep_default_na=False).set_index("experiment")
    (said,) = re.findall(r"in (\d+) of (\d+) comparisons, away from it in (\d+) \(`size`\)", " ".join(README.split()))
    assert [int(number) for number in said] == [words.loc["size", name] for name in ("better", "n", "worse")]


def test_what_tuning_leaves_of_the_order_and_of_the_position_is_as_published():
    rows = pd.read_csv(PUBLISHED / "report/verdicts.csv", keep_default_na=False, low_memory=False)
    tuned = rows[rows["experiment"].eq("size") & rows["comparison"].eq("best_vs_best") & rows["metric"].eq("test_acc")]
    most = tuned.loc[tuned["part"] == "12000", "estimate"].astype(float).abs()
    assert len(most) == 6 and most.max() < 0.01
    networks = pd.read_csv(PUBLISHED / "report/networks.csv").query("experiment == 'population'")
    best = networks[networks["how"].eq("tuned") & networks["arrangement"].eq("bn_dropout")]
    (said,) = re.findall(r"BN first reaches (\S+) %", README)
    assert [f"{100 * mean:.1f}" for mean in best["mean"]] == [said, said]
