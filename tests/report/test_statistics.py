"""The report's statistics against formulas written out here, and on studies whose truth is known."""

import itertools
import math
import warnings
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normdrop.kinds import slopes
from normdrop.report import statistics
from normdrop.report.statistics import (
    AA_ALARM,
    MIN_REPLICATES,
    Comparison,
    aa_tail,
    clustered,
    compare,
    compare_ratio,
    holm,
    refusal,
    replicates_needed,
    sign_flip,
    standard_error,
    stein_half_width,
    verdict,
)

NAN = math.nan
# Student's (1908) sleep data: extra hours under two drugs. R's t.test(paired = TRUE): t = 4.0621, p = .002833.
SLEEP_A = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
SLEEP_B = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sleep(**changes) -> Comparison:
    return compare(SLEEP_A, SLEEP_B, **({"rope": 0.5, "test_train_ratio": 0.25} | changes))


def differences(values, rope=0.5, **changes) -> Comparison:
    return compare(values, 0.0, rope=rope, test_train_ratio=0.25, **changes)


# --- a difference ---


def test_effect_and_t_interval_are_those_published_for_the_sleep_data():
    c = sleep()
    assert (c.n, c.left_out) == (10, 0)
    assert c.estimate == pytest.approx(1.58)
    assert c.d_z * math.sqrt(10) == pytest.approx(4.0621, abs=5e-5)
    assert (c.ci_low, c.ci_high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert c.p_superior == pytest.approx((9 + 0.5) / 10)


def test_interval_level_follows_alpha():
    assert sleep(alpha=0.1).ci_low == pytest.approx(1.58 - 1.8331129 * 1.58 / 4.0621, abs=1e-4)


def test_p_value_is_the_share_of_all_sign_flips_as_extreme():
    d = SLEEP_A - SLEEP_B
    means = np.array([d @ signs for signs in itertools.product((-1, 1), repeat=10)]) / 10
    assert sleep().p_value == pytest.approx((np.abs(means) >= 1.58 - 1e-9).mean())


def test_six_positive_differences_give_two_in_64():
    assert differences([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p_value == 2 / 64


def test_p_value_of_many_pairs_is_near_the_t_test_and_never_zero():
    d = np.random.default_rng(0).normal(0.4, 1.0, 30)
    assert differences(d).p_value == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)
    assert differences(d + 10).p_value == 2 / 2**30


def signs(n: int) -> np.ndarray:
    return 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-9, 9), st.floats(-9, 9, width=16, allow_subnormal=False)), min_size=1, max_size=12)
)
def test_the_halves_that_meet_count_every_sign_pattern(values):
    d = np.array(values, dtype=float)
    sums = np.abs(signs(len(d)) @ d)
    assert sign_flip(d, 1e-12) == (sums >= abs(d.sum()) - 1e-9).mean()


@pytest.mark.parametrize("pairs", [2, 7, 13])
def test_p_value_is_that_of_scipys_exact_permutation_test(pairs):
    d = np.random.default_rng(pairs).normal(0.3, 1.0, pairs)
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=2**pairs)
    assert sign_flip(d, 1e-15) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("pairs", [9, 30, 40])
def test_of_ranks_with_signs_it_is_wilcoxons_exact_test(pairs):
    ranks = np.arange(1, pairs + 1) * np.where(np.random.default_rng(pairs).random(pairs) < 0.35, -1.0, 1.0)
    assert sign_flip(ranks, 0.0) == pytest.approx(stats.wilcoxon(ranks, method="exact").pvalue)


@pytest.mark.parametrize("pairs", [45, 100, 301])
def test_of_ones_it_is_the_sign_test_beyond_what_can_be_counted_too(pairs):
    ones = np.where(np.arange(pairs) < 0.4 * pairs, -1.0, 1.0)
    p = sign_flip(ones, 1e-12)
    assert p == pytest.approx(stats.binomtest(int((ones > 0).sum()), pairs).pvalue, abs=1e-7)


def test_of_accuracies_the_lattice_is_as_exact_as_counting(monkeypatch):
    rng = np.random.default_rng(10)
    right = rng.integers(-9, 13, 40)
    exact, normal = sign_flip(right / 360, 1e-12), rng.normal(0.3, 1.0, 40)
    exact_normal = sign_flip(normal, 1e-12)
    monkeypatch.setattr(statistics, "EXACT_PAIRS", 0)
    assert sign_flip(right / 360, 1e-12) == pytest.approx(exact, abs=1e-7)
    assert exact_normal <= sign_flip(normal, 1e-12) <= exact_normal + 1e-3


@pytest.mark.parametrize("pairs", [30, 60])
def test_the_further_the_sum_the_smaller_the_p_value_and_never_zero(pairs):
    sizes = np.random.default_rng(11).gamma(2.0, size=pairs)
    p = [sign_flip(np.where(np.arange(pairs) < negative, -sizes, sizes), 1e-12) for negative in range(pairs // 2)]
    sums = [abs(sizes[negative:].sum() - sizes[:negative].sum()) for negative in range(pairs // 2)]
    assert (np.diff(np.array(p)[np.argsort(sums)]) <= 0).all()
    assert 0 < p[0] < 1e-7


def test_pairs_without_a_difference_are_no_evidence():
    d = np.array([0.3, 0.1, -0.2, 0.4, 0.2, 0.1])
    assert sign_flip(np.concatenate([d, np.zeros(60)]), 1e-12) == sign_flip(d, 1e-12)


def test_equal_accuracy_differences_tie_whatever_their_last_bits():
    right_a, right_b = (
        np.array([340, 322, 351, 333, 301, 345, 330, 325]),
        np.array([331, 325, 342, 330, 310, 336, 327, 322]),
    )
    assert len(set(np.abs(right_a / 360 - right_b / 360))) > len(set(np.abs(right_a - right_b)))
    accuracy = compare(right_a / 360, right_b / 360, rope=0.01, test_train_ratio=0.25)
    counts = compare(right_a, right_b, rope=3.6, test_train_ratio=0.25)
    assert accuracy.p_value == counts.p_value


def test_tost_is_the_larger_of_two_one_sided_t_tests():
    d = np.array([0.1, -0.2, 0.3, 0.0, 0.2, -0.1, 0.15])
    error = d.std(ddof=1) / math.sqrt(7)
    above, below = stats.t.sf((d.mean() + 0.3) / error, 6), stats.t.cdf((d.mean() - 0.3) / error, 6)
    assert differences(d, rope=0.3).p_tost == pytest.approx(max(above, below))


def test_no_declared_region_gives_no_equivalence():
    c = differences([0.1, -0.2, 0.3, 0.0, 0.2, -0.1], rope=NAN)
    assert math.isnan(c.p_tost)
    assert verdict(c, c.p_value) == "inconclusive"


def test_new_data_variance_is_the_corrected_one():
    c = sleep(test_train_ratio=0.25)
    d = SLEEP_A - SLEEP_B
    error = math.sqrt(d.var(ddof=1) * (1 / 10 + 0.25))
    assert (c.new_low, c.new_high) == pytest.approx((1.58 - 2.2621572 * error, 1.58 + 2.2621572 * error))
    assert c.p_new_data == pytest.approx(2 * stats.t.sf(1.58 / error, 9))
    assert c.p_tost_new == pytest.approx(stats.t.sf((0.5 - 1.58) / error, 9))


def test_fresh_rows_make_the_scopes_coincide():
    c = sleep(fresh=True)
    assert (c.new_low, c.new_high, c.p_new_data, c.p_tost_new) == (c.ci_low, c.ci_high, c.p_value, c.p_tost)
    assert c.p_value == sleep().p_value


def test_a_fixed_test_part_says_nothing_about_new_data_unless_rows_are_fresh():
    c, constant = sleep(test_train_ratio=NAN), compare(SLEEP_B + 1, SLEEP_B, rope=0.5, test_train_ratio=NAN)
    for these in (c, constant):
        assert np.isnan([these.new_low, these.new_high, these.p_new_data, these.p_tost_new]).all()
    assert verdict(c, c.p_new_data, scope="new data").startswith("refused: the test part is fixed")
    assert c.p_value == sleep().p_value
    assert sleep(test_train_ratio=NAN, fresh=True).p_new_data == c.p_value


def test_standard_error_is_that_of_the_new_data_interval():
    c = sleep(test_train_ratio=0.25)
    error = standard_error(c.sd, c.n, 0.25)
    assert c.sd == pytest.approx((SLEEP_A - SLEEP_B).std(ddof=1))
    assert c.new_high - c.estimate == pytest.approx(stats.t.isf(0.025, 9) * error)
    assert standard_error(c.sd, c.n, 0) == pytest.approx(c.sd / math.sqrt(10))


def test_more_replicates_do_not_shrink_the_new_data_interval_to_nothing():
    d = np.random.default_rng(1).normal(size=400)
    c = differences(d)
    assert c.ci_high - c.ci_low < 0.25
    assert c.new_high - c.new_low > 2 * 1.96 * math.sqrt(0.25) * d.std()


def test_bca_interval_is_efrons():
    d = np.random.default_rng(2).gamma(2.0, size=25)
    boots = np.sort(np.random.default_rng(3).choice(d, (40_000, 25)).mean(axis=1))
    z0 = stats.norm.ppf((boots < d.mean()).mean())
    left_one_out = d.mean() - (d.sum() - d) / 24
    acceleration = (left_one_out**3).sum() / (6 * (left_one_out**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(boots, stats.norm.cdf(z0 + z / (1 - acceleration * z)))
    c = differences(d)
    assert (c.bca_low, c.bca_high) == pytest.approx(expected, abs=0.02 * d.std())


def test_same_input_gives_the_same_answer():
    d = np.random.default_rng(4).normal(size=20)
    assert differences(d) == differences(d)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=16))
def test_swapping_the_sides_mirrors_the_answer(counts):
    d = np.array(counts) / 360
    c, mirrored = differences(d, rope=0.01), differences(-d, rope=0.01)
    assert mirrored.estimate == pytest.approx(-c.estimate)
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx((-c.ci_high, -c.ci_low))
    assert (mirrored.p_value, mirrored.p_superior) == pytest.approx((c.p_value, 1 - c.p_superior))
    assert (mirrored.p_tost, mirrored.p_new_data) == pytest.approx((c.p_tost, c.p_new_data))


# --- degenerate input ---


def test_identical_sides_are_equivalent():
    same = np.linspace(0.8, 0.9, 30)
    c = compare(same, same, rope=0.005, test_train_ratio=0.25)
    assert (c.estimate, c.ci_low, c.ci_high, c.d_z, c.p_superior, c.p_value, c.p_tost) == (0, 0, 0, 0, 0.5, 1, 0)
    assert verdict(c, c.p_value) == "equivalent"
    assert verdict(c, c.p_new_data, scope="new data") == "equivalent"


def test_constant_difference_is_its_own_interval():
    b = np.linspace(0.7, 0.9, 8)
    c = compare(b + 0.02, b, rope=0.005, test_train_ratio=0.25)
    assert (c.ci_low, c.ci_high) == pytest.approx((0.02, 0.02))
    assert (c.d_z, c.p_value, c.p_tost) == (math.inf, 2 / 2**8, 1)
    assert math.isnan(c.bca_low)
    assert verdict(c, c.p_value) == "better"
    assert compare(b, b + 0.02, rope=0.005, test_train_ratio=0.25).d_z == -math.inf


@pytest.mark.parametrize("values", [[], [1.0], [NAN, NAN, 1.0]])
def test_fewer_than_two_pairs_give_no_numbers(values):
    c = differences(values)
    assert c.n == sum(not math.isnan(v) for v in values)
    assert math.isnan(c.estimate)
    assert math.isnan(c.p_value)
    assert verdict(c, NAN).startswith("refused")


def test_one_odd_replicate_among_zeros_is_no_claim():
    c = differences([0.01] + [0.0] * 29, rope=0.005)
    assert c.p_value > 0.9
    assert verdict(c, c.p_value) == "equivalent"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare([1.0, 2.0], [1.0], rope=1, test_train_ratio=0.2), r"\(2,\).*\(1,\)"),
        (lambda: compare([1.0, 2.0], 0.0, rope=0, test_train_ratio=0.2), "rope=0"),
        (lambda: compare_ratio([1.0, 2.0], [1.0, 2.0], rope=1.0), "rope=1.0"),
        (lambda: compare_ratio([1.0, 0.0], [1.0, 2.0], rope=1.1), "positive"),
        (lambda: slopes([[1.0, 2.0]], [3, 3]), "two different"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


# --- divergence ---


def test_diverged_pairs_are_left_out_and_counted():
    c = compare([1.0, NAN, 3.0, 4.0, NAN], [0.5, 1.0, NAN, 3.0, math.inf], rope=1, test_train_ratio=0.25)
    assert (c.n, c.left_out, c.missing_a, c.missing_b, c.missing_both) == (2, 3, 1, 1, 1)
    assert c.estimate == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("diverged_a", "diverged_b", "pairs", "refused"),
    [
        (1, 0, 30, False),
        (3, 0, 30, False),  # a tenth on one side
        (4, 0, 30, True),
        (0, 4, 30, True),
        (3, 3, 30, False),  # a fifth, evenly
        (4, 3, 30, True),
        (5, 0, 100, False),  # McNemar p = .0625
        (6, 0, 100, True),  # McNemar p = .031
    ],
)
def test_one_sided_or_frequent_divergence_refuses(diverged_a, diverged_b, pairs, refused):
    a, b = np.random.default_rng(0).normal(size=(2, pairs))
    a += 5.0
    a[:diverged_a] = NAN
    b[diverged_a : diverged_a + diverged_b] = NAN
    c = compare(a, b, rope=0.5, test_train_ratio=0.25)
    assert ("diverged" in verdict(c, c.p_value)) == refused


# --- verdicts ---


def made(**changes) -> Comparison:
    numbers = {field.name: NAN for field in fields(Comparison)}
    counts = dict(n=30, left_out=0, missing_a=0, missing_b=0, missing_both=0, null=0.0)
    plain = dict(ci_low=-1.0, ci_high=1.0, p_tost=0.5, new_low=-2.0, new_high=2.0, p_new_data=0.5, p_tost_new=0.6)
    return Comparison(**(numbers | counts | plain | changes))


@pytest.mark.parametrize(
    ("interval", "p_holm", "p_tost", "higher_is_better", "expected"),
    [
        ((0.1, 1.0), 0.01, 0.50, True, "better"),
        ((0.1, 1.0), 0.01, 0.50, False, "worse"),
        ((-1.0, -0.1), 0.01, 0.50, True, "worse"),
        ((-1.0, -0.1), 0.01, 0.50, False, "better"),
        ((0.1, 0.2), 0.01, 0.01, True, "better, but practically equivalent"),
        ((-0.2, -0.1), 0.01, 0.01, True, "worse, but practically equivalent"),
        ((0.1, 1.0), 0.06, 0.50, True, "inconclusive"),  # Holm takes it back
        ((-0.1, 1.0), 0.01, 0.50, True, "inconclusive"),  # the interval does not agree
        ((0.1, 0.2), 0.06, 0.01, True, "equivalent"),
        ((-0.1, 0.1), 0.90, 0.01, True, "equivalent"),
        ((-1.0, 1.0), 0.90, 0.50, True, "inconclusive"),
    ],
)
def test_verdict(interval, p_holm, p_tost, higher_is_better, expected):
    this = made(ci_low=interval[0], ci_high=interval[1], p_tost=p_tost)
    assert verdict(this, p_holm, higher_is_better=higher_is_better) == expected
    new = made(new_low=interval[0], new_high=interval[1], p_tost_new=p_tost)
    assert verdict(new, p_holm, higher_is_better=higher_is_better, scope="new data") == expected


def test_fewer_replicates_than_six_refuse_and_say_why():
    a_lot = np.arange(1.0, MIN_REPLICATES)
    c = differences(a_lot)
    assert verdict(c, 0.0) == "refused: 5 replicates, 6 needed for a two-sided sign-flip test to reach p < 0.05"
    assert refusal(differences([*a_lot, 6.0])) is None


def test_a_stricter_alpha_needs_more_replicates():
    assert "8 needed" in verdict(differences(np.arange(1.0, 8.0)), 0.0, alpha=0.01)
    assert refusal(differences(np.arange(1.0, 9.0)), alpha=0.01) is None


def test_holm_is_the_step_down_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_passes_over_what_was_not_tested():
    assert holm([0.02, NAN, 0.03]) == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert np.isnan(holm([NAN])).all()
    assert holm([]).shape == (0,)


# --- ratios with censoring ---

FASTER = np.array([100, 120, 140, 160, 180, 200, 220, 240, 260, 280.0])
SLOWER = FASTER * [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


def test_ratio_is_the_median_with_the_second_and_ninth_of_ten_as_interval():
    c = compare_ratio(SLOWER, FASTER, rope=1.1)
    assert c.estimate == pytest.approx(math.sqrt(1.5 * 1.6))
    assert (c.ci_low, c.ci_high) == pytest.approx((1.2, 1.9))
    assert c.p_value == pytest.approx(2 / 2**10)
    assert (c.p_superior, c.null, c.left_out) == (1, 1, 0)
    assert verdict(c, c.p_value, higher_is_better=False) == "worse"


def test_swapping_the_sides_inverts_the_ratio():
    c, inverse = compare_ratio(SLOWER, FASTER, rope=1.1), compare_ratio(FASTER, SLOWER, rope=1.1)
    assert inverse.estimate == pytest.approx(1 / c.estimate)
    assert (inverse.ci_low, inverse.ci_high) == pytest.approx((1 / c.ci_high, 1 / c.ci_low))
    assert (inverse.p_value, inverse.p_tost) == (c.p_value, c.p_tost)


def test_a_censored_time_counts_as_longer_than_any():
    slower = SLOWER.copy()
    slower[[0, 3, 9]] = NAN
    c = compare_ratio(slower, FASTER, rope=1.1)
    assert (c.n, c.missing_a, c.missing_b, c.missing_both) == (10, 3, 0, 0)
    assert c.estimate == pytest.approx(math.sqrt(1.7 * 1.8))  # of 1.2 1.3 1.5 1.6 1.7 1.8 1.9 ∞ ∞ ∞
    assert (c.ci_low, c.ci_high) == (pytest.approx(1.3), math.inf)
    assert c.p_value == pytest.approx(2 / 2**10)


def test_the_ratio_is_zero_where_the_other_side_mostly_never_arrives():
    c = compare_ratio(FASTER, np.where(np.arange(10) < 7, NAN, SLOWER), rope=1.1)
    assert (c.estimate, c.ci_low, c.missing_b) == (0, 0, 7)
    assert verdict(c, c.p_value, higher_is_better=False) == "better"


def test_a_middle_between_zero_and_infinity_has_no_estimate():
    c = compare_ratio([NAN] * 5 + [10.0] * 5, [10.0] * 5 + [NAN] * 5, rope=1.1)
    assert math.isnan(c.estimate)
    assert (c.ci_low, c.ci_high, c.p_value) == (0, math.inf, 1)
    assert verdict(c, c.p_value) == "inconclusive"


def test_ties_are_no_evidence_in_the_sign_test():
    c = compare_ratio([10.0] * 4 + [5.0] * 7 + [20.0], [10.0] * 12, rope=1.1)
    assert c.p_value == pytest.approx(2 * (1 + 8) / 2**8)  # 7 of 8
    assert compare_ratio([10.0] * 8, [10.0] * 8, rope=1.1).p_value == 1


def test_pairs_censored_on_both_sides_do_not_make_sides_equivalent():
    times = np.array([10.0] * 18 + [NAN] * 12)
    c = compare_ratio(times, times, rope=1.1)
    assert (c.missing_both, c.ci_low, c.ci_high) == (12, 0, math.inf)
    assert verdict(c, c.p_value) == "inconclusive"
    rarely = np.array([10.0] * 14 + [NAN] * 16)
    c = compare_ratio(rarely, rarely, rope=1.1)
    assert verdict(c, c.p_value) == "refused: neither side reached the level in 16 of 30 pairs"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=8, max_size=40))
def test_ratio_equivalence_is_the_90_percent_interval_within_the_region(steps):
    a, b = 1.03 ** np.array(steps, dtype=float), np.ones(len(steps))
    narrow = compare_ratio(a, b, rope=1.1, alpha=0.1)
    within = narrow.ci_low > 1 / 1.1 and narrow.ci_high < 1.1
    assert (compare_ratio(a, b, rope=1.1).p_tost < 0.05) == within


def test_new_data_verdict_of_a_ratio_is_refused_unless_rows_are_fresh():
    assert verdict(compare_ratio(SLOWER, FASTER, rope=1.1), NAN, scope="new data").startswith("refused: a median ratio")
    c = compare_ratio(SLOWER, FASTER, rope=1.1, fresh=True)
    assert verdict(c, c.p_new_data, higher_is_better=False, scope="new data") == "worse"


# --- ladders ---


def test_slope_is_that_of_a_straight_line_and_a_missing_rung_leaves_the_replicate_out():
    values = np.array([[1.0, 3.0, 7.0], [2.0, 2.0, 2.0], [0.0, NAN, 1.0]])
    assert slopes(values, [1, 2, 4]) == pytest.approx([2.0, 0.0, NAN], nan_ok=True)


def test_a_planted_trend_is_found():
    rng = np.random.default_rng(5)
    values = 0.02 * np.arange(4) + rng.normal(scale=0.02, size=(30, 4))
    c = compare(slopes(values, range(4)), 0.0, rope=0.005, test_train_ratio=0.25)
    assert c.estimate == pytest.approx(np.polyfit(range(4), values.mean(axis=0), 1)[0])
    assert verdict(c, c.p_value) == "better"


# --- how many replicates ---


def test_replicates_needed_are_steins():
    # t(9) at .975 is 2.2621572: (2.2621572 · .01 / .0025)² = 81.9
    assert replicates_needed(0.01, 10, 0.0025) == 82
    assert replicates_needed(0.01, 10, 0.1) == 10
    assert replicates_needed(0.0, 10, 0.0025) == 10


@given(st.floats(1e-6, 10), st.integers(2, 60), st.floats(1e-3, 1))
def test_the_replicates_needed_reach_the_half_width_and_one_fewer_does_not(sd, n0, half_width):
    n = replicates_needed(sd, n0, half_width)
    assert stein_half_width(sd, n0, n) <= half_width * (1 + 1e-9)
    assert n == n0 or stein_half_width(sd, n0, n - 1) > half_width * (1 - 1e-9)


@pytest.mark.parametrize(("sd", "n0", "half_width"), [(NAN, 10, 0.1), (0.1, 1, 0.1), (0.1, 10, 0.0), (0.1, 10, NAN)])
def test_replicates_needed_says_what_it_cannot_do_with(sd, n0, half_width):
    with pytest.raises(ValueError, match=f"n0={n0}, half_width={half_width}, sd={sd}"):
        replicates_needed(sd, n0, half_width)


# --- the harness ---


def test_an_alarm_is_rarer_than_one_claim_of_one_or_six_of_forty():
    assert aa_tail(1, 1) == pytest.approx(0.05)
    assert aa_tail(2, 2) == pytest.approx(0.0025)
    assert aa_tail(0, 5) == 1
    assert aa_tail(6, 40) > AA_ALARM > aa_tail(7, 40)


def test_a_mean_over_conditions_takes_its_interval_from_the_seeds():
    d = np.random.default_rng(12).normal(0.2, 1.0, (6, 15)) + np.random.default_rng(13).normal(0, 0.5, 15)
    c = clustered(d)
    test = stats.ttest_1samp(d.mean(axis=0), 0.0)
    assert (c.seeds, c.estimate) == (15, pytest.approx(d.mean()))
    assert (c.ci_low, c.ci_high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert c.margin == pytest.approx(np.abs(test.confidence_interval(0.9)).max())
    assert compare(d.mean(axis=0), 0.0, rope=c.margin, test_train_ratio=0.0).p_tost == pytest.approx(0.05)


def test_a_seed_that_a_condition_lacks_is_left_out_of_all():
    d = np.random.default_rng(14).normal(size=(3, 8))
    d[1, 5] = NAN
    assert clustered(d) == clustered(np.delete(d, 5, axis=1))
    with pytest.raises(ValueError, match="0 of 8 seeds"):
        clustered(np.full((3, 8), NAN))


# --- known truths, in small; scripts/simulate.py does it in full ---


@pytest.fixture(scope="module")
def simulate():
    spec = spec_from_file_location("simulate", Path(__file__).parents[2] / "scripts" / "simulate.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("law", ["normal", "bad_runs", "discrete"])
def test_without_a_difference_one_study_in_twenty_claims_one_at_most(simulate, law):
    rng = np.random.default_rng(6)
    outcomes = [simulate.study(rng, getattr(simulate, law), 10, 0.0) for _ in range(300)]
    claimed = sum(outcome["claimed"] for outcome in outcomes)
    covered = sum(outcome["interval covers"] for outcome in outcomes)
    assert 3 <= claimed <= stats.binom.ppf(0.999, 300, 0.05)
    assert covered >= stats.binom.ppf(0.001, 300, 0.95)


def test_a_planted_difference_of_one_sd_is_found(simulate):
    rng = np.random.default_rng(7)
    assert sum(simulate.study(rng, simulate.normal, 30, 1.0)["claimed"] for _ in range(50)) >= 49


def test_the_corrected_test_holds_its_level_where_the_plain_one_misleads_about_new_data(simulate):
    rng = np.random.default_rng(8)
    outcomes = [simulate.resplit_study(rng, simulate.other_features, 200, 30, False) for _ in range(60)]
    assert sum(outcome["this data"] for outcome in outcomes) > 15
    assert sum(outcome["new data"] for outcome in outcomes) <= 5


def test_choosing_the_best_of_as_many_candidates_makes_no_difference_of_itself(simulate):
    rng = np.random.default_rng(15)
    fair, unfair = (
        sum(simulate.selection_study(rng, 30, 15, candidates)["claimed"] for _ in range(100)) for candidates in (15, 2)
    )
    assert fair <= stats.binom.ppf(0.999, 100, 0.05) < unfair


def test_steins_rule_covers_and_keeps_its_half_width(simulate):
    rng = np.random.default_rng(16)
    outcomes = [simulate.stein_study(rng, simulate.normal, 6, 0.5) for _ in range(400)]
    assert all(outcome["half-width met"] for outcome in outcomes)
    assert sum(outcome["interval covers"] for outcome in outcomes) >= stats.binom.ppf(0.001, 400, 0.95)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_pooled_interval_covers(simulate, tau):
    rng = np.random.default_rng(17)
    outcomes = [simulate.pooled_study(rng, 20, tau, 0.1) for _ in range(150)]
    assert sum(outcome["interval covers"] for outcome in outcomes) >= stats.binom.ppf(0.001, 150, 0.93)


def test_real_aa_counts_the_claims_of_a_table_of_reruns(simulate, tmp_path):
    rng = np.random.default_rng(9)
    seeds = np.arange(65)
    first = rng.normal(0.9, 0.01, 65)
    second = first + rng.normal(0.0, 0.01, 65)
    second[:30] = first[:30] + 0.05  # the first study of thirty differs plainly
    frames = [
        pd.DataFrame({"seed": seeds, "rerun": k, "setting": f"rerun={k}", "test_acc": v, "test_train_ratio": 0.3})
        for k, v in enumerate((first, second))
    ]
    table = tmp_path / "replicates.csv"
    pd.concat(frames).sample(frac=1, random_state=0).to_csv(table, index=False)
    result = simulate.real_aa(table, 30)
    assert (result["studies"], result["this data"]["rate"]) == (2, 0.5)
    with pytest.raises(ValueError, match="fewer than one study of 100 seeds"):
        simulate.real_aa(table, 100)
