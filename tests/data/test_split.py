"""What a replicate makes of the rows: its parts, and how they are standardised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop.data.split import scale_of, standardise

PARTS = {"train": np.random.default_rng(0).normal(size=(40, 1)), "test": np.random.default_rng(1).normal(size=(9, 1))}


# The offset in standard deviations: what it takes of float64's digits bounds how near the two can be.
@given(unit=st.floats(1e-250, 1e250), sign=st.sampled_from([-1, 1]), offset=st.floats(-1e9, 1e9))
def test_standardised_values_do_not_depend_on_a_features_unit_and_zero(unit, sign, offset):
    plain = standardise(PARTS)
    other = standardise({name: sign * unit * (x + offset) for name, x in PARTS.items()})
    for name in PARTS:
        assert sign * other[name] == pytest.approx(plain[name], abs=1e-14 + 1e-15 * abs(offset))


@given(value=st.floats(-1e300, 1e300), rows=st.integers(1, 400))
def test_a_feature_that_is_constant_in_training_is_0_in_every_part_whatever_its_unit(value, rows):
    varied = np.arange(rows + 1.0)
    train = np.stack([np.full(rows + 1, value), varied], axis=1)
    assert (standardise({"train": train, "test": np.array([[value + 7.0, 1.0]])})["test"][0, 0]) == 0


def test_what_rounding_alone_makes_vary_counts_as_constant():
    train = np.array([[0.1 + 0.2, 0.0], [0.3, 1.0]])
    assert scale_of(train)[1].tolist() == [np.inf, 0.5]


def test_a_small_variation_of_a_large_value_is_kept():
    milliseconds = 1.7e12 + np.array([[-1.0], [1.0]])
    assert standardise({"train": milliseconds})["train"].tolist() == [[-1.0], [1.0]]
