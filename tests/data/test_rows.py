"""What the data are, said in one line."""

import numpy as np

from normdrop.data import sources
from normdrop.data.rows import Rows, remarks, sentence


def rows(counts: dict[str, int], **facts) -> Rows:
    y = np.repeat(np.arange(len(counts)), list(counts.values()))
    return Rows(np.arange(3.0 * len(y)).reshape(-1, 3), y, tuple(counts), **facts)


def test_the_line_says_rows_parts_features_and_each_classs_share():
    facts = rows({"rare": 15, "usual": 225}).facts(0.2) | {"parts": {"train": 153, "val": 39, "test": 48}}
    line = "240 rows (153 train, 39 val, 48 test), 3 features, 2 classes (rare 6.2 %, usual 93.8 %)"
    assert sentence(facts) == line


def test_the_line_says_what_is_one_hot_filled_and_constant():
    some = rows({"a": 4, "b": 4}, one_hot=2, missing=5)
    x = some.x.copy()
    x[:, 0], x[3:, 1] = 7, np.nan
    assert sentence(Rows(x, some.y, some.classes, one_hot=2, missing=5).facts(0.2)) == (
        "8 rows, 3 features (1 numeric, 2 one-hot, 1 constant), 2 classes (a 50.0 %, b 50.0 %), "
        "5 values missing (filled with the training mean)"
    )


def test_of_many_classes_the_line_says_the_smallest_and_the_largest_share():
    line = sentence(sources.digits().facts(0.2))
    assert "64 features (1 × 8 × 8, 3 constant), 10 classes (9.7 % to 10.2 % of the rows each)" in line
    assert "10 classes (10.0 % of the rows each)" in sentence(rows(dict.fromkeys("abcdefghij", 2)).facts(0.2))


def test_what_there_is_one_of_is_said_as_one():
    one = Rows(np.full((1, 1), np.nan), np.zeros(1, int), ("a",), missing=1).facts(0.2)
    assert sentence(one).startswith("1 row, 1 feature, ") and "1 value missing" in sentence(one)


def test_a_large_majority_is_remarked_beside_the_sources_notes():
    assert remarks(rows({"a": 74, "b": 26}).facts(0.2)) == []
    share, look = remarks(rows({"a": 75, "b": 25}, notes=("look",)).facts(0.2))
    assert look == "look" and "75.0 %" in share and "test_balanced_acc" in share


def test_the_data_line_has_three_lines_at_most_and_the_record_all_notes():
    facts = rows({"a": 75, "b": 25}, notes=("one", "two", "three")).facts(0.2)
    first, second = remarks(facts)
    assert "75.0 %" in first and second.startswith("one") and "2 more" in second
    assert facts["notes"][1:] == ["one", "two", "three"]
