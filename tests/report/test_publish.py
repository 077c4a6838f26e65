"""A published study is read as the folders that it was made of."""

import json
import lzma
import shutil
from pathlib import Path

import pandas as pd
import pytest

from exact import study_of
from fake_study import fake_study
from normdrop.report.mechanism import shifts
from normdrop.report.publish import STUDY, write
from normdrop.report.study import load
from normdrop.report.verdicts import rows


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a study, and what was published of it. To be read, not written."""
    folder = tmp_path_factory.mktemp("publish")
    entry = {"epoch": "end", "layer": 1, "case": "noise", "running": None}
    shift = [entry | {"seed": seed, "measured": seed / 7} for seed in range(3)]
    live = fake_study(folder / "live" / "x", positions=("after", "before"), rates=(0.2, 0.5), replicates=6,
                      settings=({"model.depth": 2}, {"model.depth": 4}), shift=shift)  # fmt: skip
    (live / "digits" / "bn" / "after" / "q0.00" / "error.txt").parent.mkdir(parents=True, exist_ok=True)
    (live / "digits" / "bn" / "after" / "q0.00" / "error.txt").write_text("ValueError: no")
    write(load(folder / "live"), folder / "out")
    return live, folder / "out" / "x"


def test_its_rows_are_those_of_the_folders_to_the_last_bit(published, tmp_path):
    live, there = map(study_of, published)
    pd.testing.assert_frame_equal(rows(live), rows(there))
    pd.testing.assert_frame_equal(shifts(live), shifts(there))
    assert (live.keys, live.declared, live.failed) == (there.keys, there.declared, there.failed)
    assert there.failed
    assert not there.unfinished
    write([there], tmp_path)  # what is published can be published again
    pd.testing.assert_frame_equal(study_of(tmp_path / "x").table, there.table)


def test_what_recalibration_makes_of_the_declared_metric_is_kept(tmp_path):
    live = fake_study(tmp_path / "live" / "x", rates=(0.5,), replicates=6, study={"metric": "test_nll"})
    write(load(tmp_path / "live"), tmp_path / "out")
    assert study_of(tmp_path / "out" / "x").table["recal_test_nll"].equals(study_of(live).table["recal_test_nll"])


def test_its_table_says_where_each_row_stands(published):
    table = pd.DataFrame(json.loads(lzma.decompress((published[1] / STUDY).read_bytes()))["table"])
    assert {"dataset", "arrangement", "position", "rate", "model.depth", "seed", "test_acc"} <= set(table)
    assert len(table) == len(study_of(published[0]).table.query("not stands_in"))


@pytest.mark.parametrize("byte", [-9, 900], ids=["its end is gone", "a byte in its middle is another"])
def test_damage_is_named(published, tmp_path, byte):
    damaged = shutil.copytree(published[1], tmp_path / "x")
    content = bytearray((damaged / STUDY).read_bytes())
    if byte < 0:
        content = content[:byte]
    else:
        content[byte] ^= 1
    (damaged / STUDY).write_bytes(content)
    study = study_of(damaged)
    assert study.table.empty
    assert "damaged" in study.damaged["."]
