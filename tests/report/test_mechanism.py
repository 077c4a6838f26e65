"""What recalibration removes of an effect, and the shift itself; the map."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exact import normal, pair, rows_of, runs, study_of, write
from normdrop.report import page
from normdrop.report.mechanism import recalibration, shares, shifts
from normdrop.report.regime import cells
from normdrop.report.words import words

STUDY: dict[str, Any] = {"kind": "mechanism", "claim": "mechanism", "rope": {}, "secondary": []}
LR, DEPTH = "optimizer.lr", "model.depth"


def mechanism(root: Path, effects: dict[str, list[float]], left: float) -> Any:
    """Depths with these effects, by position; recalibration leaves the share `left` of each."""
    for position, values in effects.items():
        for depth, effect in enumerate(values):
            a = runs(0.8 + effect + normal(0, 10) / 5, recal_test_acc=0.8 + left * effect + normal(0, 10) / 5)
            pair(root, a, runs(0.8, recal_test_acc=0.8), setting={DEPTH: depth}, position=position, study=STUDY)
    return study_of(root)


def test_the_word_is_of_the_share_over_the_cells_that_have_an_effect_per_position(tmp_path):
    study = mechanism(tmp_path, {"after": [0.02, 0.04, 0.03, 0.0], "before": [0.0, 0.0]}, left=0.1)
    table = recalibration(study, rows_of(tmp_path))
    best = table[(table["comparison"] == "best_vs_best") & (table["position"] == "after")].set_index(DEPTH)
    assert best["share"].drop(3).to_list() == pytest.approx([0.9] * 3)
    assert (best["before"][1], best["after"][1]) == pytest.approx((0.04, 0.004))
    found = shares(study, table).set_index("position")
    assert (found.loc["after", "cells"], found.loc["after", "asked"]) == (3, 4)
    assert found["word"].to_dict() == {"after": "Yes", "before": "Nothing to explain"}
    said = words(study, rows_of(tmp_path), rows_of(tmp_path).iloc[:0])
    assert said["word"].to_list() == ["Yes", "Nothing to explain"]
    assert "is better" not in page.texts(page.section(study))["answer"], "the word is of recalibration"
    single = mechanism(tmp_path / "single", {"after": [0.04, 0.0]}, left=0.1)
    assert "nan" not in page.texts(page.section(single))["answer"]  # of one cell there is no interval
    kept = mechanism(tmp_path / "kept", {"after": [0.02, 0.04, 0.03]}, left=0.8)
    assert shares(kept, recalibration(kept, rows_of(tmp_path / "kept")))["word"].to_list() == ["No"]


def test_a_share_counts_what_is_declared_at_the_grid_proper_and_was_not_refused(tmp_path):
    def cell(effect: float, left: float, seeds: int = 10, **where: Any) -> None:
        a = runs(0.8 + effect + normal(0, seeds) / 5, seeds, recal_test_acc=0.8 + left * effect + normal(0, seeds) / 5)
        pair(tmp_path, a, runs(0.8, seeds, recal_test_acc=0.8), study=STUDY, **where)

    for depth, effect in enumerate((0.03, 0.04)):
        cell(effect, 0.1, setting={DEPTH: depth})
        cell(effect, 1.0, setting={DEPTH: depth, "model.width": 8})  # beyond
    cell(0.03, 1.0, seeds=4, setting={DEPTH: 9})  # too few seeds for a verdict
    study = study_of(tmp_path)
    (found,) = shares(study, recalibration(study, rows_of(tmp_path))).to_dict("records")
    assert (found["comparison"], found["cells"], found["word"]) == ("best_vs_best", 2, "Yes")


@pytest.mark.parametrize(("family", "comparison"), [("best_vs_best", "best_vs_best"), ("same_rate", "same_rate")])
def test_a_share_is_of_the_declared_comparison(tmp_path, family, comparison):
    for rate, left in ((0.1, 0.0), (0.5, 1.0)):
        for depth, effect in enumerate((0.03, 0.04, 0.05)):
            a = runs(0.8 + effect + normal(0) / 5, val_acc=1 - rate, recal_test_acc=0.8 + left * effect)
            b, study = runs(0.8, val_acc=1 - rate, recal_test_acc=0.8), STUDY | {"family": family}
            pair(tmp_path, a, b, rate=rate, setting={DEPTH: depth}, study=study)
    found = study_of(tmp_path)
    (row,) = shares(found, recalibration(found, rows_of(tmp_path))).to_dict("records")
    assert (row["comparison"], row["cells"]) == (comparison, 3 if comparison == "best_vs_best" else 6)


def test_an_effect_that_is_there_with_the_other_sign_is_not_removed(tmp_path):
    study = mechanism(tmp_path, {"after": [0.02, 0.04, 0.03]}, left=-1.0)
    assert shares(study, recalibration(study, rows_of(tmp_path)))["word"].to_list() == ["No"]
    assert "reverses, at 100 %" in page.render(page._context([page.section(study)]), limit=9)


def test_nothing_recalibrated_is_an_empty_table(tmp_path):
    pair(tmp_path, runs(0.9), runs(0.8))
    assert recalibration(study_of(tmp_path), rows_of(tmp_path)).empty


def test_the_shift_is_the_mean_over_seeds_of_each_configuration_layer_and_case(tmp_path):
    for k, arrangement in enumerate(("bn_dropout", "dropout_bn")):
        same = {"case": "noise", "epoch": "end", "running": None}
        entries = [
            {"layer": layer, "seed": seed, "measured": k + layer / 10 + seed / 100} | same
            for seed in range(4)
            for layer in (1, 2)
        ]
        write(tmp_path, arrangement, runs(0.9, 4), shift=[*entries, entries[0] | {"epoch": 1, "measured": 9.0}])
    table = shifts(study_of(tmp_path)).query("epoch == 'end'").set_index(["arrangement", "layer"])
    assert len(table) == 4
    assert table.loc[("dropout_bn", 2), "measured"] == pytest.approx(1.215)
    assert np.isnan(table.loc[("dropout_bn", 2), "running"])
    assert set(table["seeds"]) == {4}


def test_a_contrast_without_dropout_has_no_figure_of_its_shift(tmp_path):
    entries = [{"layer": 1, "seed": 0, "measured": 1.0, "case": "no noise", "epoch": "end", "running": None}]
    study = STUDY | {"contrast": {"a": "bn", "b": "none"}}
    for arrangement, shift in (("bn", entries), ("none", [])):
        write(tmp_path, arrangement, runs(0.8 + normal(0), recal_test_acc=0.8), 0.0, shift=shift, study=study)
    assert "shift" not in dict(page.draw(page.section(study_of(tmp_path))))


def test_the_map_has_each_cell_and_the_control_and_its_word(tmp_path):
    effects = {(0.1, "after"): 0.02, (0.1, "before"): 0.0, (0.01, "after"): -0.02, (0.01, "before"): 0.002}
    for (lr, position), effect in effects.items():
        for layer, share in (("bn", 1.0), ("ln", 0.0)):
            for arrangement, own in ((f"{layer}_dropout", share * effect), (f"dropout_{layer}", 0.0)):
                noise = normal(0) / 20 * (layer == "bn" and arrangement.startswith("bn"))
                table = runs(0.8 + own + noise, recal_test_acc=0.8 + own / 2 + noise)
                write(tmp_path, arrangement, table, setting={LR: lr}, position=position, study={"family": None})
    table = cells(study_of(tmp_path))
    assert len(table) == 8
    own = table[table["contrast"] == "bn_dropout - dropout_bn"].set_index([LR, "position"])
    assert own["estimate"].to_dict() == pytest.approx(effects, abs=1e-9)
    assert own["recal"].to_dict() == pytest.approx({key: value / 2 for key, value in effects.items()}, abs=1e-9)
    assert own["word"].to_dict() == {(0.1, "after"): "ahead", (0.1, "before"): "no difference",
                                     (0.01, "after"): "behind", (0.01, "before"): "ahead"}  # fmt: skip
    assert set(table[table["contrast"] != "bn_dropout - dropout_bn"]["word"]) == {"no difference"}


def test_the_control_stands_beside_the_order_where_both_were_trained_without_trends(tmp_path):
    study = {"kind": "ladder", "over": "data.train_size", "family": "same_rate", "claim": "size", "secondary": []}
    effects = {"bn": {"after": 0.02, "before": 0.0}, "ln": {"after": -0.02, "before": 0.03}}
    for (layer, by_position), size, rate in itertools.product(effects.items(), (50, 100), (0.3, 0.5)):
        for position, effect in by_position.items():
            if layer == "ln" and rate == 0.3:
                continue
            for arrangement, own in ((f"{layer}_dropout", effect + normal(0) / 20), (f"dropout_{layer}", 0.0)):
                where = {"setting": {"data.train_size": size}, "position": position, "study": study}
                write(tmp_path, arrangement, runs(0.8 + own), rate, **where)
    section = page.section(study_of(tmp_path))
    found = section.tables["control"]
    cells_of_both = [*itertools.product(("after", "before"), (0.5,), ("100", "50"))]
    assert sorted(found[["position", "rate", "part"]].itertuples(index=False, name=None)) == cells_of_both
    by_position = found.groupby("position")[["estimate", "estimate_control"]].mean()
    assert by_position.loc["after"].to_list() == pytest.approx([0.02, -0.02])
    assert by_position.loc["before"].to_list() == pytest.approx([0.0, 0.03])
    lines = [line for line in page.texts(section)["answer"].splitlines() if "2 cells" in line]
    assert [re.findall(r"([+-]\d\.\d+) pp .*?ahead in (\d), behind in (\d)", line) for line in lines] == [
        [("+2.00", "2", "0"), ("-2.00", "0", "2")],
        [("+0.00", "0", "0"), ("+3.00", "2", "0")],
    ]


def test_a_side_is_ahead_in_the_map_where_it_is_better(tmp_path):
    study = {"family": None, "metric": "test_nll", "secondary": []}
    pair(tmp_path, runs(0.8, test_nll=normal(0.4)), runs(0.8, test_nll=0.5), study=study)
    assert cells(study_of(tmp_path))["word"].to_list() == ["ahead"]
