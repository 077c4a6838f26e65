"""Data keep their shape: built-in sets, a user's NPZ, and standardising by channel."""

from __future__ import annotations

import numpy as np
import pytest

from normdrop.data.module import ReplicateData
from normdrop.data.rows import Rows, numeric_rows, sentence
from normdrop.data.sources import breast_cancer, digits
from normdrop.data.tables import table


def images(shape=(2, 3, 4), count: int = 90) -> Rows:
    x = np.random.default_rng(0).normal(size=(count, *shape)) * np.array([1.0, 50.0])[:, None, None]
    return numeric_rows(x.reshape(count, -1), np.arange(count) % 3, range(3), shape=shape)


def data(rows: Rows, **changes) -> ReplicateData:
    module = ReplicateData(lambda: rows, [0, 1], 16, **changes)
    module.setup()
    return module


def saved(tmp_path, **arrays):
    path = tmp_path / "images.npz"
    np.savez(path, label=np.arange(90) % 3, **arrays)
    return table(str(path), "label")


def test_digits_are_images_of_one_channel_and_a_table_is_flat():
    assert digits().shape == (1, 8, 8)
    assert breast_cancer().shape == (30,)
    assert "64 features (1 × 8 × 8, 3 constant)" in sentence(digits().facts())


@pytest.mark.parametrize(
    ("given", "kept"),
    [((3, 4, 5), (3, 4, 5)), ((2, 9), (2, 9)), ((6, 6), (1, 6, 6)), ((12,), (12,))],
    ids=["images", "signals", "square images without channels", "flat"],
)
def test_the_arrays_of_an_npz_keep_the_shape_of_a_row(tmp_path, given, kept):
    x = np.random.default_rng(0).normal(size=(90, *given))
    rows = saved(tmp_path, x=x)
    assert rows.shape == kept
    np.testing.assert_array_equal(rows.x, x.reshape(90, -1))


def test_images_with_other_columns_beside_them_are_flat(tmp_path):
    rows = saved(tmp_path, x=np.random.default_rng(0).normal(size=(90, 2, 3, 3)), age=np.arange(90) % 7)
    assert rows.shape == (19,)


def test_the_same_values_in_another_shape_are_other_data():
    x, y = np.random.default_rng(0).normal(size=(30, 12)), np.arange(30) % 3
    prints = {numeric_rows(x, y, range(3), shape=shape).fingerprint for shape in ((), (3, 2, 2), (1, 3, 4))}
    assert len(prints) == 3


def test_data_shape_says_what_flat_columns_are():
    assert data(images()).shape == (2, 3, 4)
    assert data(images(), shape=[6, 4]).shape == (6, 4)
    assert data(images(), pca=5).shape == (5,)


@pytest.mark.parametrize("shape", [[2, 3, 5], [24.0], "24", [-2, -12], []])
def test_a_shape_that_does_not_hold_the_features_is_refused(shape):
    with pytest.raises(ValueError, match=r"data.shape=.* the 24 features"):
        data(images(), shape=shape)


def test_by_feature_each_position_has_mean_0_and_deviation_1_in_training():
    x = data(images()).parts["train"].x
    np.testing.assert_allclose(x.mean(dim=1), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(dim=1, correction=0), 1, rtol=1e-5)
