"""When does order matter: the cells of the map, what is said of them, and how they are drawn."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exact import drawn, normal, rows_of, runs, study_of, write
from fake_study import fake_study
from normdrop.report.mechanism import shifts
from normdrop.report.regime import counted, regime, told

N = 8
LEARNING_RATES, LENGTHS = (0.001, 0.01), (15, 50)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of learning rate × epochs and its map: BN first is ahead in the short, slow cell, LN first nowhere."""
    root = tmp_path_factory.mktemp("regime")
    shift = [
        {"layer": n, "seed": s, "epoch": "end", "case": case, "measured": n / 10, "predicted": None, "running": 1.0}
        for n, case in ((1, "no noise above"), (2, "noise→linear→bn"))
        for s in range(N)
    ]
    for lr, epochs, arrangement in itertools.product(
        LEARNING_RATES, LENGTHS, ("bn_dropout", "dropout_bn", "ln_dropout", "dropout_ln")
    ):
        ahead = (lr, epochs, arrangement) == (0.001, 15, "bn_dropout")
        where: dict[str, Any] = {"setting": {"optimizer.lr": lr, "trainer.max_epochs": epochs}}
        where |= {"shift": shift if "bn" in arrangement else None, "study": {"family": None, "secondary": []}}
        table = runs(0.8 + 0.05 * ahead + normal(0, N), N, steps_to_level=50.0 if ahead else 100.0)
        table["recal_test_acc"] = table["test_acc"] - 0.04 * ahead * (1 + normal(0, N))
        write(root, arrangement, table, 0.5, **where)
    study = study_of(root)
    return study, regime(study, shifts(study)), root


def test_the_map_has_a_cell_for_each_contrast_learning_rate_and_length_with_its_interval(mapped: Any) -> None:
    _, table, root = mapped
    cells = table.set_index(["contrast", "lr", "epochs"])
    assert len(cells) == 2 * 2 * 2
    row = cells.loc[("bn_dropout - dropout_bn", 0.001, 15)]
    (of_verdicts,) = rows_of(root, comparison="same_rate", setting="optimizer.lr=0.001,trainer.max_epochs=15").to_dict(
        "records"
    )
    assert [row[key] for key in ("estimate", "ci_low", "ci_high")] == pytest.approx(
        [of_verdicts[key] for key in ("estimate", "ci_low", "ci_high")]
    )
    assert row["recal"] == pytest.approx(row["estimate"] - 0.04)
    assert row["recal_low"] < row["recal"] < row["recal_high"]
    assert (row["steps"], row["shift_b"]) == (pytest.approx(0.5), pytest.approx(0.2))
    assert cells.loc["ln_dropout - dropout_ln", "shift_b"].isna().all()


def test_what_the_map_says_is_counted_and_told(mapped: Any) -> None:
    study, table, _ = mapped
    counts = counted(table, 0.05).set_index(["contrast", "epochs"])
    assert counts.loc[("bn_dropout - dropout_bn", 15), "ahead"] == 1
    assert counts.drop(columns="position").sum(axis=1).to_list() == [2, 2, 2, 2]
    assert "Of 4 cells after the activation, bn_dropout - dropout_bn is above 0 in 1" in told(study, table)
    assert "(d, learning rate 0.001, 15 epochs, rate 0.5)" in told(study, table)
    assert "With the running statistics estimated again, dropout off, it is +1.00 pp, and 1 of the 1" in told(
        study, table
    )


def test_the_map_is_drawn_with_the_control_on_one_scale_and_what_is_not_settled_faint(mapped: Any) -> None:
    _, _, root = mapped
    order, control, *_ = drawn(root)["regime"].axes
    assert np.asarray(order.images[0].get_array())[0] == pytest.approx(5, abs=1)
    assert [float(alpha) for alpha in np.asarray(order.images[0].get_alpha()).ravel()][:2] == [1.0, 0.25]
    assert order.images[0].get_clim() == control.images[0].get_clim()


def test_a_study_of_one_training_length_has_no_map(tmp_path: Path) -> None:
    study = study_of(fake_study(tmp_path, settings=({"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}), rates=(0.3,)))
    assert regime(study, shifts(study)).empty


def test_without_recalibration_the_map_says_nothing_of_it(mapped: Any) -> None:
    study, table, _ = mapped
    bare = regime(replace(study, replicates=study.replicates.drop(columns="recal_test_acc")), shifts(study))
    assert bare["recal"].isna().all() and bare["estimate"].equals(table["estimate"])
    assert "estimated again" not in told(study, bare)
