"""A published study says what the folders that it was made of say, and is refused where it is not whole."""

import lzma
from pathlib import Path
from typing import Any

import pytest

from fake_study import fake_study
from normdrop.report.__main__ import main
from normdrop.report.records import PUBLISHED, REPLICATES, load

SHIFT = [
    {
        "seed": seed,
        "epoch": epoch,
        "layer": 1,
        "case": "noise→bn",
        "measured": 0.4 + seed / 7,
        "predicted": None,
        "running": 0.4,
    }
    for seed in range(7)
    for epoch in (1, "end")
]
KINDS: dict[str, dict[str, Any]] = {
    "ordering": {
        "settings": ({"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}),
        "study": {"tuned": ["rate", "optimizer.lr"]},
        "datasets": [f"d{i}" for i in range(8)],
        "rates": (0.1, 0.5),
    },
    "speed": {"study": {"kind": "ratio", "metric": "steps_to_level"}, "max_steps": 105.0, "rates": (0.3,)},
    "drift": {
        "study": {"kind": "loss", "over": "drift.scale", "contrast": {"a": "bn", "b": "none"}},
        "arrangements": ("none", "bn"),
        "settings": tuple({"drift.scale": scale} for scale in (0.0, 0.2, 0.4)),
    },
    "mechanism": {
        "study": {"kind": "mechanism"},
        "settings": ({}, {"noise": "uniform"}),
        "rates": (0.5,),
        "shift": SHIFT,
    },
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of four experiments with its report, and its published form with its own."""
    root = tmp_path_factory.mktemp("published")
    for name, made in KINDS.items():
        fake_study(root / "claims" / name, replicates=7, **made)
    (root / "claims/ordering/d0/dropout_bn/after/q0.90").mkdir()
    (root / "claims/ordering/d0/dropout_bn/after/q0.90/error.txt").write_text("ValueError: no rows")
    assert main([str(root / "claims")]) == main([str(root / "claims"), "--publish", str(root / "reference")]) == 0
    return root / "claims", root / "reference"


@pytest.mark.parametrize("table", ["verdicts", "pooled", "sensitivity", "ranks", "shift", "recalibration"])
def test_a_table_of_the_published_form_is_that_of_the_folders_to_the_byte(both: tuple[Path, Path], table: str) -> None:
    folders, published = ((where / "report" / f"{table}.csv").read_bytes() for where in both)
    assert folders == published


def test_the_sensitivity_has_the_levels_that_learning_curves_were_needed_for(both: tuple[Path, Path]) -> None:
    assert "level × 0.8" in (both[1] / "report/sensitivity.csv").read_text()
    assert "Learning curves are not published" in (both[1] / "report/report.md").read_text()
    drawn = [{path.stem.rpartition("-")[2] for path in where.glob("report/*.png")} for where in both]
    left_out = drawn[0] - drawn[1]
    assert {"curves", "pairs", "by_rate"} <= left_out <= {"curves", "pairs", "by_rate", "who_beats_whom"}


def test_what_failed_is_still_named(both: tuple[Path, Path]) -> None:
    assert load(both[1]).failed == load(both[0]).failed == {"ordering/d0/dropout_bn/after/q0.90": "ValueError: no rows"}
    assert load(both[1] / "ordering").failed == {"d0/dropout_bn/after/q0.90": "ValueError: no rows"}


def test_a_published_form_gives_the_same_bytes_again_and_is_not_published_again(
    both: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    from normdrop.report import publish

    publish.write(load(both[0]), tmp_path)
    for file in (PUBLISHED, REPLICATES):
        assert (tmp_path / "speed" / file).read_bytes() == (both[1] / "speed" / file).read_bytes()
    assert main([str(both[1]), "--publish", str(tmp_path)]) == 1
    assert "is published already" in capsys.readouterr().err


def test_a_published_table_that_was_changed_is_damaged(both: tuple[Path, Path], tmp_path: Path) -> None:
    from normdrop.report import publish

    publish.write(load(both[0] / "speed"), tmp_path)
    table = tmp_path / "speed" / REPLICATES
    table.write_bytes(lzma.compress(lzma.decompress(table.read_bytes()).replace(b"False", b"True", 1)))
    found = load(tmp_path)
    assert not found.studies
    assert "its checksum is not that in" in found.damaged["speed"]
