"""Arrays to a comparison and its verdict: against scipy and statsmodels, and the rule for "better"."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from normdrop.report.compare import (
    Comparison,
    compare,
    detectable,
    head,
    holm,
    judged,
    mean_interval,
    needed,
    refusal,
)  # fmt: skip
from normdrop.report.pooled import pool

RNG = np.random.default_rng(3)


def sides(n: int = 12, shift: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    b = RNG.normal(0.8, 0.05, n)
    return b + shift + RNG.normal(0, 0.02, n), b


def test_new_samples_have_the_variance_of_nadeau_and_bengio_unless_rows_are_fresh():
    a, b = sides()
    c = compare(a, b, rope=0.02, test_train_ratio=0.4)
    error = (a - b).std(ddof=1) * math.sqrt(1 / 12 + 0.4)
    assert c.p_new_data == pytest.approx(2 * stats.t.sf(abs(c.estimate) / error, 11))
    assert c.new_high - c.estimate == pytest.approx(stats.t.isf(0.025, 11) * error)
    assert c.p_tost_new == pytest.approx(stats.t.sf((0.02 - abs(c.estimate)) / error, 11))
    fresh = compare(a, b, rope=0.02, test_train_ratio=math.nan, fresh=True)
    assert (fresh.new_low, fresh.p_new_data, fresh.p_tost_new) == (fresh.ci_low, fresh.p_value, fresh.p_tost)
    fixed = compare(a, b, rope=0.02, test_train_ratio=math.nan)
    assert np.isnan([fixed.new_low, fixed.p_new_data, fixed.p_tost_new]).all()
    assert judged(0.1, 0.2, fixed.p_new_data, math.nan, 0.05, True).startswith("refused")


def test_a_pair_of_which_one_side_diverged_is_left_out_and_counted():
    a, b = sides()
    a[[1, 2]], b[2], b[5] = np.nan, np.nan, np.inf
    c = compare(a, b, rope=0.02, test_train_ratio=0.4)
    kept = np.isfinite(a) & np.isfinite(b)
    assert (c.n, c.left_out, c.one_sided) == (9, 3, 0)
    assert c.estimate == pytest.approx((a - b)[kept].mean())
    assert (c.mean_a, c.mean_b) == pytest.approx((a[kept].mean(), b[kept].mean()))


@pytest.mark.parametrize("n", [6, 7, 8, 10, 12, 30])  # of some of them the mean of n times .1 is not .1
def test_rounding_noise_is_no_difference(n):
    a, b = np.resize([0.9, 0.8, 0.7, 0.3 + 0.6], n), np.resize([0.8, 0.7, 0.6, 0.8], n)
    c = compare(a, b, rope=0.02, test_train_ratio=0.4)
    assert (c.sd, c.ci_low, c.ci_high) == (0.0, c.estimate, c.estimate)
    assert c.p_value == 0.5 ** (n - 1)  # of as many equal signs: no certainty
    assert c.p_tost == 1.0
    assert mean_interval(a - b)[1:] == pytest.approx((0.1, 0.1)) and np.ptp(mean_interval([0.1] * n)) == 0
    assert pool([0.1] * (n + 2), np.ones(n + 2), rope=0.005)["sd"] == 0
    same = compare(a, a + 1e-17, rope=0.02, test_train_ratio=0.4)
    assert (same.estimate, same.p_value, same.p_tost) == (0.0, 1.0, 0.5**n)  # of so many ties: no certainty either


def test_shapes_and_the_rope_are_checked():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        compare([1, 2, 3], [1, 2], rope=1, test_train_ratio=0.1)
    with pytest.raises(ValueError, match="rope=0"):
        compare([1, 2], [1, 2], rope=0, test_train_ratio=0.1)
    assert math.isnan(compare([1], [2], rope=1, test_train_ratio=0.1).estimate)


@pytest.mark.parametrize(
    ("n", "left_out", "one_sided", "refused"),
    [(6, 0, 0, False), (5, 0, 0, True), (24, 6, 0, False), (23, 7, 1, True), (27, 3, 3, False), (26, 4, 4, True)],
)
def test_few_seeds_and_divergence_that_could_bias_the_rest_are_refused(n, left_out, one_sided, refused):
    assert (refusal(Comparison(n, left_out, one_sided)) is not None) == refused


def test_of_differences_that_cancel_no_rounding_is_left():
    a = np.array([68, 58, 61, 55, 85, 86, 88, 83, 55, 87]) / 97
    b = np.array([55, 86, 83, 88, 55, 61, 68, 58, 87, 85]) / 97  # the same in another order
    assert (a - b).mean() != 0
    assert compare(a, b, rope=0.05, test_train_ratio=0.1).estimate == 0


def test_where_most_pairs_never_reached_the_level_nothing_is_said():
    a, b = np.array([1.0] * 6 + [0.5] * 4), np.array([1.0] * 6 + [0.6] * 4)
    c = compare(a, b, rope=0.05, test_train_ratio=0.1, never=1.0)
    assert c.never == 6
    assert "6 of 10" in str(refusal(c))
    assert refusal(compare(a, b, rope=0.05, test_train_ratio=0.1)) is None


@pytest.mark.parametrize(
    ("low", "high", "p", "tost", "good", "word"),
    [
        (0.1, 0.2, 0.01, 0.9, True, "better"),
        (0.1, 0.2, 0.01, 0.9, False, "worse"),
        (-0.2, -0.1, 0.01, 0.9, True, "worse"),
        (0.1, 0.2, 0.06, 0.9, True, "inconclusive"),  # after Holm, say
        (0.1, 0.2, 0.01, 0.04, True, "better, but practically equivalent"),
        (-0.1, 0.1, 0.5, 0.04, True, "equivalent"),
        (-0.1, 0.1, 0.5, 0.06, True, "inconclusive"),
    ],
)
def test_the_rule_for_better(low, high, p, tost, good, word):
    assert judged(low, high, p, tost, 0.05, good) == word
    assert head(word) == ("equivalent" if "equivalent" in word else word)


def test_holm_is_statsmodels_and_passes_over_what_was_not_tested():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    known = ~np.isnan(p)
    assert holm(p)[known] == pytest.approx(multipletests(p[known], method="holm")[1])
    assert np.isnan(holm(p)[1])


def test_the_smallest_difference_seen_has_a_power_of_four_in_five():
    for n, alpha in ((10, 0.05), (20, 0.05 / 86)):
        assert TTestPower().power(detectable(2.0, n, alpha) / 2.0, n, alpha) == pytest.approx(0.8, abs=1e-4)
    assert math.isnan(detectable(0.0, 10, 0.05))


def test_seeds_needed_give_the_half_width():
    n = needed(0.02, 10, 0.0025, 0.05)
    assert stats.t.isf(0.025, 9) * 0.02 / math.sqrt(n) <= 0.0025 < stats.t.isf(0.025, 9) * 0.02 / math.sqrt(n - 1)
    assert needed(0.0001, 10, 0.0025, 0.05) == 10


def test_a_mean_has_its_t_interval():
    values = np.append(RNG.normal(size=9), np.nan)
    expected = stats.ttest_1samp(values[:9], 0).confidence_interval(0.9)
    assert mean_interval(values, 0.1) == pytest.approx((values[:9].mean(), *expected))
    assert np.isnan(mean_interval([1.0])[1:]).all()
