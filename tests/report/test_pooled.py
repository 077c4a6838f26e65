"""Pooling over data sets against published results, formulas written out here, and its own limits."""

import math
import warnings
from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from normdrop.report.pooled import Pooled, pool

# Nine laboratories (Kacker 2004, Metrologia 41:132): DerSimonian & Kacker 2007 give tau = .8399; R's metafor
# rma(y, v, method = "PM") gives the rest.
LABS = np.array([61.0, 61.4, 62.21, 62.3, 62.34, 62.6, 62.7, 62.84, 65.9])
LAB_VARIANCES = np.array([0.2025, 1.21, 0.09, 0.2025, 0.3844, 0.5625, 0.0676, 0.0225, 1.8225])
METAFOR = {"estimate": 62.4076199113286, "error": 0.338030602684471, "tau2": 0.705395309224248, "i2": 0.837218626490482}

some_effects = st.lists(st.floats(-3, 3, width=32, allow_subnormal=False), min_size=8, max_size=15)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def labs(**changes) -> Pooled:
    return pool(LABS - 62, np.sqrt(LAB_VARIANCES), **({"rope": 1.5} | changes))


def half_width(p: Pooled) -> float:
    return (p.ci_high - p.ci_low) / 2


def test_estimate_and_heterogeneity_are_those_published_for_the_nine_laboratories():
    p = labs()
    assert p.k == 9
    assert p.estimate == pytest.approx(METAFOR["estimate"] - 62, abs=1e-5)
    assert p.tau == pytest.approx(0.8399, abs=5e-5)
    assert p.tau**2 == pytest.approx(METAFOR["tau2"], abs=1e-5)
    assert p.i2 == pytest.approx(METAFOR["i2"], abs=1e-5)


def test_both_intervals_and_tests_follow_from_the_published_standard_error():
    p, error = labs(), METAFOR["error"]
    assert half_width(p) == pytest.approx(stats.t.isf(0.025, 8) * error, rel=1e-5)
    reach = stats.t.isf(0.025, 7) * math.sqrt(METAFOR["tau2"] + error**2)
    assert (p.pi_low, p.pi_high) == pytest.approx((p.estimate - reach, p.estimate + reach), rel=1e-5)
    assert p.p_value == pytest.approx(2 * stats.t.sf(p.estimate / error, 8), rel=1e-4)
    assert p.p_tost == pytest.approx(stats.t.sf((1.5 - p.estimate) / error, 8), rel=1e-4)
    assert half_width(labs(alpha=0.1)) == pytest.approx(stats.t.isf(0.05, 8) * error, rel=1e-5)


def test_leave_one_out_runs_from_the_smallest_to_the_largest_pooled_mean_without_one():
    def without(i):
        y, v = np.delete(LABS, i), np.delete(LAB_VARIANCES, i)

        def excess(tau2):
            w = 1 / (v + tau2)
            return w @ (y - w @ y / w.sum()) ** 2 - (len(y) - 1)

        w = 1 / (v + (optimize.brentq(excess, 0, 100) if excess(0) > 0 else 0.0))
        return w @ y / w.sum() - 62

    means = [without(i) for i in range(9)]
    assert (labs().loo_low, labs().loo_high) == pytest.approx((min(means), max(means)), abs=1e-4)


def test_equal_errors_and_real_differences_give_students_t_over_data_sets():
    effects = np.random.default_rng(0).normal(0.3, 1.0, 12)
    p = pool(effects, np.full(12, 0.1), rope=0.5)
    test = stats.ttest_1samp(effects, 0.0)
    assert (p.ci_low, p.ci_high) == pytest.approx(tuple(test.confidence_interval()), abs=1e-4)
    assert p.p_value == pytest.approx(test.pvalue, abs=1e-4)
    assert p.tau == pytest.approx(math.sqrt(effects.var(ddof=1) - 0.01), abs=1e-4)


def test_data_sets_that_agree_by_luck_do_not_narrow_the_interval_below_their_own_errors():
    p = pool([0.1, 0.1001] * 4, np.full(8, 0.2), rope=0.5)
    assert (p.tau, p.i2) == (0, 0)
    assert half_width(p) == pytest.approx(stats.t.isf(0.025, 7) * 0.2 / math.sqrt(8))
    assert half_width(pool(np.full(8, 0.1), np.full(8, 0.2), rope=0.5)) == pytest.approx(half_width(p))


@settings(max_examples=30, deadline=None)
@given(some_effects)
def test_swapping_the_sides_and_another_unit_change_nothing_else(effects):
    e, errors = np.array(effects), np.linspace(0.2, 0.9, len(effects))
    p, mirrored, percent = pool(e, errors, rope=1), pool(-e, errors, rope=1), pool(100 * e, 100 * errors, rope=100)
    assert (mirrored.estimate, mirrored.loo_low) == pytest.approx((-p.estimate, -p.loo_high))
    assert (mirrored.pi_low, mirrored.p_tost, mirrored.p_value) == pytest.approx((-p.pi_high, p.p_tost, p.p_value))
    assert (percent.estimate, percent.tau, percent.ci_high) == pytest.approx(
        (100 * p.estimate, 100 * p.tau, 100 * p.ci_high)
    )
    assert (percent.i2, percent.p_value) == pytest.approx((p.i2, p.p_value))


@settings(max_examples=30, deadline=None)
@given(some_effects)
def test_the_prediction_interval_holds_the_interval_and_the_tests_agree_with_it(effects):
    e, errors = np.array(effects), np.linspace(0.2, 0.9, len(effects))
    p, narrow = pool(e, errors, rope=1), pool(e, errors, rope=1, alpha=0.1)
    assert p.pi_low < p.ci_low <= p.estimate <= p.ci_high < p.pi_high
    assert p.loo_low <= p.loo_high
    assert (p.p_value < 0.05) == (p.ci_low > 0 or p.ci_high < 0)
    assert (p.p_tost < 0.05) == (narrow.ci_low > -1 and narrow.ci_high < 1)


def test_a_standard_error_of_zero_counts_as_the_smallest_other():
    effects, errors = np.linspace(-0.2, 0.6, 9), np.linspace(0.2, 0.5, 9)
    without = np.where(np.arange(9) == 4, 0.0, errors)
    assert pool(effects, without, rope=0.5) == pool(effects, np.where(np.arange(9) == 4, 0.2, errors), rope=0.5)


def test_tiny_errors_do_not_stop_tau_short():
    effects = np.random.default_rng(1).normal(0.0, 1.0, 10)
    assert pool(effects, np.full(10, 1e-8), rope=0.5).tau == pytest.approx(effects.std(ddof=1), rel=1e-4)


def test_without_a_region_nothing_is_said_of_equivalence():
    assert math.isnan(labs(rope=math.nan).p_tost)
    assert sum(math.isnan(value) for value in astuple(labs(rope=math.nan))) == 1


@pytest.mark.parametrize(
    ("effects", "errors", "rope", "says"),
    [
        ([0.1] * 7, [0.1] * 7, 1, "7 data sets, 8 needed"),
        ([0.1] * 8, [0.1] * 7, 1, r"\(8,\).*\(7,\)"),
        ([0.1] * 7 + [math.nan], [0.1] * 8, 1, "data set 7: a difference of nan"),
        ([0.1] * 8, [0.1, math.inf] * 4, 1, "data set 1: .* standard error inf"),
        ([0.1] * 8, [0.1] * 7 + [-1], 1, "data set 7: .* standard error -1"),
        ([0.1] * 8, [0.0] * 8, 1, "all 8 standard errors are 0"),
        ([0.1] * 8, [0.1] * 8, 0, "rope=0"),
    ],
)
def test_what_cannot_be_pooled_is_refused_in_one_line(effects, errors, rope, says):
    with pytest.raises(ValueError, match=says) as error:
        pool(effects, errors, rope=rope)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("interval", "p_holm", "p_tost", "higher", "expected"),
    [
        ((0.1, 1.0), 0.01, 0.5, True, "better"),
        ((0.1, 1.0), 0.01, 0.5, False, "worse"),
        ((0.1, 0.2), 0.01, 0.01, True, "better, but practically equivalent"),
        ((-0.1, 0.1), 0.9, 0.01, True, "equivalent"),
        ((-1.0, 1.0), 0.9, 0.5, True, "inconclusive"),
        ((0.1, 1.0), 0.06, 0.5, True, "inconclusive"),
    ],
)
def test_pooled_verdict_uses_the_words_of_every_other(interval, p_holm, p_tost, higher, expected):
    numbers = {field.name: math.nan for field in fields(Pooled)}
    numbers |= {"ci_low": interval[0], "ci_high": interval[1], "p_tost": p_tost}
    assert Pooled(**numbers).verdict(p_holm, higher_is_better=higher) == expected
