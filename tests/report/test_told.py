"""Numbers and names as a reader sees them."""

import pandas as pd
import pytest

from exact import pair, runs, study_of
from made import ORDERING, made
from normdrop.report import page, tables


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.0123, "test_acc", "+1.23"),
        (-0.00001, "test_acc", "+0.00"),
        (-0.0126, "test_nll", "-0.013"),
        (float("nan"), "gap", "—"),
    ],
)
def test_a_number_has_its_metrics_unit_and_digits(value, metric, text):
    assert tables.number(value, metric) == text


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("bn_dropout", "dropout_bn", ("BN first", "dropout first")),
        ("dropout_ln", "ln_dropout", ("dropout first", "LN first")),
        ("bn", "none", ("BN", "plain network")),
        ("bn_dropout", ["bn", "dropout"], ("BN then dropout", "the better of BN or dropout")),
        (["bn", "dropout"], "none", ("the better of BN or dropout", "plain network")),
    ],
)
def test_of_two_orders_a_side_is_named_by_what_comes_first(a, b, names):
    assert tables.sides(made("study", datasets=1, contrast={"a": a, "b": b})) == names


def test_a_place_names_what_tells_rows_apart():
    rows = pd.DataFrame({"optimizer.lr": [0.01, 0.001], "model.depth": [2, 2], "part": ["", "trend"]})
    keys = tables.varying(rows, ["optimizer.lr", "model.depth"])
    said = [tables.place(row, keys) for row in rows.to_dict("records")]
    assert said == ["learning rate 0.01", "learning rate 0.001, trend"]


def test_a_table_leaves_out_columns_that_say_nothing_and_rows_over_the_limit():
    text = "| a | b | c |\n| --- | --- | --- |\n| 1 | — | 3 |\n| 4 | — | — |\n"
    assert tables.narrow(text, 2) == "| a | c |\n| --- | --- |\n| 1 | 3 |\n| 4 | — |\n"
    assert "2 rows" in tables.narrow(text, 1) and "|" not in tables.narrow(text, 1)


@pytest.mark.parametrize("datasets", [1, 8])
def test_of_a_network_of_ones_own_the_page_and_its_figures_name_no_position(datasets):
    study = made("study", datasets=datasets, positions=("after",), **ORDERING)
    assert "after the activation" in page.texts(page.section(study))["answer"].lower()
    for record in study.records:
        record["config"]["model"]["function"] = "make"
    section = page.section(study)
    text = page.render(page._context([section]), limit=99)
    assert "| in your network |" in text and "the activation" not in text and "| after |" not in text
    for _, figure in page.draw(section):
        assert [ax.get_title() for ax in figure.axes] == ["in your network"]


def test_a_side_without_dropout_has_no_rate(tmp_path):
    sides = {"a": "bn_dropout", "b": "none"}
    text = page.texts(page.section(made("study", datasets=1, contrast=sides, **ORDERING)))["answer"]
    assert "rate 0.5" in text and "both sides" not in text and "equal rates" not in text


def test_holms_family_is_told_where_it_has_more_rows_than_the_word_counts(tmp_path):
    study = {"kind": "loss", "over": "drift.scale", "family": "same_rate", "claim": "drift"}
    for scale in (0.0, 0.2, 0.4):
        pair(tmp_path, runs(0.9 - scale), runs(0.8 - scale), setting={"drift.scale": scale}, study=study)
    section = page.section(study_of(tmp_path))
    assert len(section.base) == 1
    assert "all 3 declared rows" in page.render(page._context([section]), limit=9)


def test_seeds_are_told_of_what_is_shown(tmp_path):
    for rate, seeds in ((0.5, 6), (0.7, 12)):
        pair(tmp_path, runs(0.9, seeds), runs(0.8, seeds), rate=rate)
    text = page.render(page._context([page.section(study_of(tmp_path))]), limit=9)
    assert "| d, 6 seeds |" in text  # tuned and at .5; at .7 there are more
    assert "(12 seeds)" in text  # beside a network at another rate, which has fewer


def test_an_interval_is_told_by_its_own_level():
    study = made("study", datasets=1, alpha=0.1, **ORDERING)
    text = page.render(page._context([page.section(study)]), limit=9)
    assert "90 % interval" in text and "95 % interval" not in text and "Intervals are of 90 %" in text
