"""What the data are, said in one line."""

import numpy as np
import pandas as pd
import pytest

from normdrop.data import sources
from normdrop.data.rows import Rows, remarks, sentence


def rows(counts: dict[str, int], **facts) -> Rows:
    y = np.repeat(np.arange(len(counts)), list(counts.values()))
    return Rows(np.arange(3.0 * len(y)).reshape(-1, 3), y, tuple(counts), **facts)


def test_the_line_says_rows_parts_features_and_each_classs_share():
    facts = rows({"rare": 15, "usual": 225}).facts() | {"parts": {"train": 153, "val": 39, "test": 48}}
    line = "240 rows (153 train, 39 val, 48 test), 3 features, 2 classes (rare 6.2 %, usual 93.8 %)"
    assert sentence(facts) == line


def test_the_line_says_what_is_one_hot_filled_and_constant():
    some = rows({"a": 4, "b": 4}, one_hot=2, missing=5)
    x = some.x.copy()
    x[:, 0], x[3:, 1] = 7, np.nan
    assert sentence(Rows(x, some.y, some.classes, one_hot=2, missing=5).facts()) == (
        "8 rows, 3 features (1 numeric, 2 one-hot, 1 constant), 2 classes (a 50.0 %, b 50.0 %), "
        "5 values missing (filled with the training mean)"
    )


def test_of_many_classes_the_line_says_the_smallest_and_the_largest_share():
    line = sentence(sources.digits().facts())
    assert "64 features (1 × 8 × 8, 3 constant), 10 classes (9.7 % to 10.2 % of the rows each)" in line
    assert "10 classes (10.0 % of the rows each)" in sentence(rows(dict.fromkeys("abcdefghij", 2)).facts())


def test_what_there_is_one_of_is_said_as_one():
    one = Rows(np.full((1, 1), np.nan), np.zeros(1, int), ("a",), missing=1).facts()
    assert sentence(one).startswith("1 row, 1 feature, ") and "1 value missing" in sentence(one)


def test_the_data_line_has_three_lines_at_most_and_the_record_all_notes():
    assert remarks(rows({"a": 74, "b": 26}).facts()) == []
    facts = rows({"a": 74, "b": 26}, notes=("one", "two", "three")).facts()
    assert remarks(facts) == ["one", "two (and 1 more: data.notes in record.json)"]
    assert facts["notes"] == ["one", "two", "three"]


X, Y = np.arange(24.0).reshape(8, 3), np.arange(8) % 2
FIRST = np.arange(8) < 3
WRONG = {
    "x is a frame": {"x": pd.DataFrame(X)},
    "x without rows": {"x": X[:0], "y": Y[:0]},
    "x is infinite": {"x": np.where(X == 5, np.inf, X)},
    "y as fractions": {"y": Y.astype(float)},
    "y one-hot": {"y": np.eye(2, dtype=int)[Y]},
    "y from 1": {"y": Y + 1},
    "classes are numbers": {"classes": (0, 1)},
    "classes of which one is a number": {"classes": ("a", 1)},
    "test as row numbers": {"test": np.array([0, 1])},
    "test without a row": {"test": FIRST & ~FIRST},
    "val shorter": {"val": FIRST[:7]},
    "val in test": {"test": FIRST, "val": FIRST},
    "groups as text": {"groups": np.array(list("aabbccdd"))},
    "shape of others": {"shape": (2, 2)},
    "columns of others": {"columns": ("a", "b")},
}


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_a_source_should_not_return_are_refused_by_name(case):
    with pytest.raises(ValueError, match=rf"rows: {case.split()[0]} must be ") as caught:
        Rows(**{"x": X, "y": Y, "classes": ("a", "b")} | WRONG[case])
    assert "\n" not in str(caught.value)


def test_arrays_of_other_kinds_of_numbers_are_the_same_rows():
    plain = Rows(X, Y, ("a", "b"), groups=Y, order=Y)
    other = Rows(X.astype(int), Y.astype(np.uint8), ("a", "b"), groups=Y.astype(np.int8), order=Y.astype(np.uint8))
    assert other.fingerprint == plain.fingerprint and other.y.dtype == other.groups.dtype == np.int64


def test_rows_with_given_parts_and_groups_are_known_as_in_earlier_versions():
    given = {"test": FIRST, "val": np.arange(8) > 6, "groups": np.arange(8) // 2, "order": np.arange(8)}
    assert Rows(X, Y, ("a", "b"), **given).fingerprint.startswith("b00911b980a0ab86")


def test_groups_and_places_may_be_any_whole_numbers():
    rows = Rows(X, Y, ("a", "b"), groups=10**9 * Y - 3, order=2000 + 10 * np.arange(len(Y))[::-1])
    assert rows.groups.tolist() == Y.tolist() and rows.order.tolist() == [*range(len(Y))][::-1]


def test_missing_cells_are_counted_where_the_source_does_not_say():
    assert Rows(np.where(X == 5, np.nan, X), Y, ("a", "b")).missing == 1
