"""The word of a claim, by counts over its family and by the mean over data sets."""

import json

import numpy as np
import pytest

from exact import normal, pair, rows_of, runs, study_of
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
