"""The word of a claim, by counts over its family and by the mean over data sets."""

import json

import numpy as np
import pytest

from exact import normal, pair, rows_of, runs, study_of, write
from normdrop.report import page
from normdrop.report.words import counted_word, counts, pooled_word, words

B, W, E, OPEN, R = "better", "worse", "equivalent", "inconclusive", "refused: 3 seeds"


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ([B] * 3 + [OPEN], "Yes"),
        ([B] * 2 + [OPEN], "Sometimes: 2 of 3"),
        ([B] * 3 + [W], "It depends"),
        ([W] * 3 + [E], "No: the opposite"),
        ([W] + [E] * 9, "Sometimes the opposite: 1 of 10"),
        ([E] * 3 + [OPEN], "No practical difference"),
        ([E] * 3 + [B], "Sometimes: 1 of 4"),
        (["better, but practically equivalent"] * 4, "No practical difference"),
        ([E] * 2 + [OPEN], "Inconclusive"),
        ([OPEN], "Inconclusive"),
        ([R, R], "Refused"),
        ([B, B, B, R], "Yes"),
        ([B, B, R], "Sometimes: 2 of 3"),
    ],
)
def test_a_word_by_counts(verdicts, word):
    assert counted_word(**counts(verdicts)) == word


def test_verdicts_are_counted_by_their_side():
    assert counts([B, OPEN, R, E, E]) == {"better": 1, "worse": 0, "equivalent": 2, "refused": 1, "open": 1, "n": 5}


@pytest.mark.parametrize(
    ("verdict", "prediction", "word"),
    [
        ("better", (-0.004, 0.02), "Yes"),
        ("better", (-0.006, 0.02), "It depends"),
        ("worse", (-0.02, 0.004), "No: the opposite"),
        ("equivalent", (-0.004, 0.004), "No practical difference"),
        ("better, but practically equivalent", (0.001, 0.004), "No practical difference"),
        ("inconclusive", (-0.02, 0.004), "Inconclusive"),
        ("inconclusive", (-0.02, 0.02), "It depends"),
        ("refused: 7 data sets", (-0.02, 0.02), "Refused"),
    ],
)
def test_a_word_of_the_mean_over_data_sets(verdict, prediction, word):
    assert pooled_word(verdict, prediction, 0.005) == word


def test_a_setting_of_which_every_seed_diverged_does_not_narrow_the_scope_of_the_others(tmp_path):
    for depth, a in ((2, runs(0.9 + normal(0.01))), (4, runs(np.nan))):
        pair(tmp_path, a, runs(0.9), setting={"model.depth": depth}, study={"claim": "depth"})
        (said,) = words(study_of(tmp_path), rows_of(tmp_path), rows_of(tmp_path).iloc[:0]).to_dict("records")
        assert said["scope"] == "new samples"
    assert (said["refused"], said["n"]) == (1, 2)


def test_two_declared_rates_of_the_main_claim_have_a_word_and_a_name_each(tmp_path):
    for dataset in "abcdefghi":
        for rate, test_acc in ((0.1, 0.78), (0.5, 0.83)):
            a = runs(test_acc + normal(0.0))
            pair(tmp_path, a, runs(0.8), rate=rate, dataset=dataset, study={"family": "same_rate"})
    section = page.section(study_of(tmp_path))
    said = section.tables["words"].set_index("setting")["word"]
    assert said.to_dict() == {"dropout rate 0.1": "No: the opposite", "dropout rate 0.5": "Yes"}
    text = page.render(page._context([section]), limit=9)
    assert text.index("dropout rate 0.1: no, dropout first is better") < text.index("dropout rate 0.5: yes, BN first")
    (_, figure), *_ = [drawn for drawn in page.draw(section) if drawn[0] == "forest"]
    lines = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"a · dropout rate 0.1", "a · dropout rate 0.5", "mean dropout rate 0.1"} <= {*lines}


@pytest.mark.parametrize(("kind", "metric"), [("difference", "gap"), ("ladder", "gap"), ("mechanism", "test_acc")])
def test_what_was_not_declared_has_a_page_and_no_word_whatever_its_kind(kind, metric, tmp_path):
    study = {"kind": kind, "family": None, "metric": metric, "secondary": [], "over": "drift.scale", "claim": "other"}
    for dataset in "abcdefgh":
        for rate in (0.1, 0.5):
            for scale in (0.0, 0.4):
                where = {"rate": rate, "dataset": dataset, "setting": {"drift.scale": scale}}
                table = runs(0.8 + normal(0.0, 6), 6, gap=0.1 + normal(0.0, 6))
                pair(tmp_path, table, runs(0.8, 6, gap=0.2), study=study, **where)
    section = page.section(study_of(tmp_path))
    assert [*section.tables["words"]["word"]] == [""]
    assert page.render(page._context([section]), limit=9)
    assert dict(page.draw(section))


def test_what_was_not_declared_and_has_no_dropout_has_a_map_too(tmp_path):
    study = {"contrast": {"a": "bn", "b": "none"}, "family": None, "claim": "other", "secondary": []}
    for lr in (0.01, 0.03):
        for depth in (1, 2):
            setting = {"optimizer.lr": lr, "model.depth": depth}
            write(tmp_path, "bn", runs(0.8 + normal(0.0, 6), 6), 0.0, setting=setting, study=study)
            write(tmp_path, "none", runs(0.7, 6), 0.0, setting=setting, study=study)
    assert "regime" in dict(page.draw(page.section(study_of(tmp_path))))


def test_a_data_set_that_is_refused_is_said_to_be_missing_in_the_mean(tmp_path):
    for dataset in "abcdefghij":
        lost = [np.nan] * 4 if dataset == "c" else []
        a = runs([*lost, *(0.8 + normal(0.0))[len(lost) :]])
        pair(tmp_path, a, runs(0.8), dataset=dataset, study={"apart": ["j"]})
    text = page.texts(page.section(study_of(tmp_path)))["answer"]
    assert "not in it: c." in text


def test_where_nothing_is_declared_the_scope_is_that_of_what_was_compared(tmp_path):
    pair(tmp_path, runs(0.9 + normal(0.01)), runs(0.9), study={"family": None}, config={"data": {"name": "d"}})
    record = tmp_path / "d/bn_dropout/after/q0.30/record.json"
    (said,) = words(study_of(tmp_path), rows_of(tmp_path), rows_of(tmp_path).iloc[:0]).to_dict("records")
    assert said["scope"] == "new samples"
    held = json.loads(record.read_text())
    held["rows"]["fixed_test"] = True
    record.write_text(json.dumps(held))
    (said,) = words(study_of(tmp_path), rows_of(tmp_path), rows_of(tmp_path).iloc[:0]).to_dict("records")
    assert said["scope"] == "these data"
