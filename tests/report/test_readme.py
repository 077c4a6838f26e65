"""The README's table of answers is what the published replicates give, number by number."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fake_study import fake_study
from normdrop.report import readme
from normdrop.report.__main__ import main

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "outputs/reference"
published = pytest.mark.skipif(
    not list(REFERENCE.glob("*/records.jsonl.xz")), reason="no replicates are published in this form yet"
)


def test_the_table_has_each_claims_words_and_amount(tmp_path: Path) -> None:
    fake_study(tmp_path / "all/ordering", replicates=8, rates=(0.3,))
    fake_study(tmp_path / "all/regime", replicates=8, rates=(0.3,), study={"family": None})
    fake_study(tmp_path / "all/sequel", replicates=8, rates=(0.3,))
    file = tmp_path / "README.md"
    file.write_text("before <!-- answer -->\nold\n<!-- /answer --> after")
    assert main([str(tmp_path / "all"), "--readme", str(file)]) == 0
    text = file.read_text()
    assert text.startswith("before <!-- answer -->\n| the post says |") and text.endswith("|\n<!-- /answer --> after")
    (row,) = (line.split(" | ") for line in text.splitlines() if "ordering" in line)  # what was not declared has none
    verdicts = pd.read_csv(tmp_path / "all/report/verdicts.csv")
    own = (verdicts["family"] == "declared") & (verdicts["experiment"] == "ordering")
    (declared,) = verdicts[own].to_dict("records")
    assert declared["estimate"] == pytest.approx(float(row[3].split()[0]) / 100, abs=5e-5)
    assert len(row) == 4
    assert "\n| the same (`sequel`) | " in text
    readme.put(file, tmp_path / "all/report")
    assert file.read_text() == text


@pytest.mark.parametrize(
    "text", ["", "<!-- /answer --> <!-- answer -->", "<!-- answer --> <!-- answer --> <!-- /answer -->"]
)
def test_a_readme_without_the_two_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.csv").write_text("sentence,experiment,these_rows\n")
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match="needs one <!-- answer -->"):
        readme.put(tmp_path / "README.md", tmp_path)
    assert (tmp_path / "README.md").read_text() == text


@published
def test_each_number_of_the_readme_stands_in_the_reference() -> None:
    assert readme.table(REFERENCE / "report") in (ROOT / "README.md").read_text()


@published
@pytest.mark.usefixtures("undrawn")
def test_the_published_replicates_give_the_published_verdicts_and_words(tmp_path: Path) -> None:
    """Of the experiment with the fewest replicates: all of them take minutes, and `normdrop-report` does it."""
    smallest = min(REFERENCE.glob("*/replicates.csv.xz"), key=lambda path: path.stat().st_size).parent
    shutil.copytree(smallest, tmp_path / smallest.name)
    assert main([str(tmp_path)]) == 0
    for name in ("verdicts", "words"):
        there, here = (pd.read_csv(root / f"report/{name}.csv") for root in (REFERENCE, tmp_path))
        there = there[there["experiment"] == smallest.name].reset_index(drop=True)
        pd.testing.assert_frame_equal(here, there.reindex(columns=here.columns), check_dtype=False, check_exact=True)
