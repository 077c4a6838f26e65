"""Ranks over data sets against Demšar's published example and definitions written out here."""

import math
import warnings
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from normdrop.report.ranks import rank
from normdrop.report.statistics import holm

# Demšar 2006, table 6: AUC of C4.5 as it is, with m tuned, with cf tuned, with both, on 14 data sets. It
# prints .975 twice and ranks them 2 and 3.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9752, 0.9748],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def tables(count):
    """Integers, so that many tie; of more than 13 data sets, where scipy's Wilcoxon does not enumerate."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 5, size=(15, 4)) + rng.integers(0, 3) * np.arange(4) for _ in range(count)]


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_mean_ranks_and_critical_difference_are_demsars():
    r = rank(DEMSAR)
    assert r.k == 14
    assert r.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert r.critical_difference == pytest.approx(1.25, abs=0.005)
    assert rank(DEMSAR, alpha=0.1).critical_difference == pytest.approx(1.12, abs=0.005)


def test_friedman_is_demsars_statistic_divided_by_its_correction_for_ties():
    statistic = 12 * 14 / (4 * 5) * (3.143**2 + 2.000**2 + 2.893**2 + 1.964**2 - 4 * 5**2 / 4)
    assert statistic == pytest.approx(9.28, abs=0.02)
    ties = sum(count**3 - count for row in DEMSAR for count in np.unique(row, return_counts=True)[1])
    corrected = statistic / (1 - ties / (14 * (4**3 - 4)))
    assert rank(DEMSAR).p_friedman == pytest.approx(stats.chi2.sf(corrected, 3), rel=0.02)


def test_groups_are_demsars():
    # At .1 the paper tells C4.5 as it is from both whose m is tuned, and nothing of cf alone.
    assert rank(DEMSAR, alpha=0.1).groups == [(3, 1, 2), (2, 0)]
    assert rank(DEMSAR).groups == [(3, 1, 2, 0)]


def test_pairs_are_wilcoxons_under_holm():
    scores = np.random.default_rng(0).normal([0.0, 0.3, 0.6, 0.9], size=(9, 4))
    r = rank(scores)
    pairs = list(combinations(range(4), 2))
    signed = np.array([[1 if s >> i & 1 else -1 for i in range(9)] for s in range(2**9)])

    def exact(i, j):
        d = scores[:, i] - scores[:, j]
        sums = signed @ stats.rankdata(np.abs(d))
        return (np.abs(sums) >= abs(np.sign(d) @ stats.rankdata(np.abs(d))) - 1e-9).mean()

    expected = holm([exact(i, j) for i, j in pairs])
    assert [r.p_pairs[i, j] for i, j in pairs] == pytest.approx(list(expected))
    assert np.array_equal(r.p_pairs, r.p_pairs.T, equal_nan=True)
    assert np.isnan(np.diag(r.p_pairs)).all()


@pytest.mark.parametrize("table", tables(12))
def test_groups_cover_just_the_pairs_that_are_not_told_apart(table):
    r = rank(table)
    assert r.mean_ranks.sum() == pytest.approx(4 * 5 / 2)
    together = {pair for group in r.groups for pair in combinations(sorted(group), 2)}
    close = {
        (i, j) for i, j in combinations(range(4), 2) if abs(r.mean_ranks[i] - r.mean_ranks[j]) < r.critical_difference
    }
    assert together == close
    assert not any(set(a) < set(b) for a in r.groups for b in r.groups)


@pytest.mark.parametrize("table", tables(3))
def test_a_metric_to_be_small_is_ranked_the_other_way(table):
    r, losses = rank(table), rank(-table, higher_is_better=False)
    assert losses.mean_ranks == pytest.approx(r.mean_ranks)
    assert losses.groups == r.groups


def test_last_bits_break_no_tie():
    counts = np.random.default_rng(1).integers(300, 330, size=(15, 3))
    counts[:6, 1] = counts[:6, 0]
    of_counts = rank(counts)
    means = (counts / 360 - 0.1) * 3
    means[:, 1] = counts[:, 1] / 120 - 0.3
    assert (means[:6, 1] != means[:6, 0]).any()
    of_means = rank(means)
    assert (of_means.mean_ranks == of_counts.mean_ranks).all()
    assert np.array_equal(of_means.p_pairs, of_counts.p_pairs, equal_nan=True)


def test_networks_that_never_differ_are_one_group():
    r = rank(np.full((8, 3), 0.5))
    assert (r.p_friedman, r.groups) == (1, [(0, 1, 2)])
    assert (r.p_pairs[~np.eye(3, dtype=bool)] == 1).all()


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.ones((7, 3)), r"\(7, 3\): need 8 data sets"),
        (np.ones((8, 2)), "three networks"),
        (np.where(np.eye(8, 3, -1), math.nan, 1.0), "data set 1: network 0 scores nan"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(scores, says):
    with pytest.raises(ValueError, match=says):
        rank(scores)
