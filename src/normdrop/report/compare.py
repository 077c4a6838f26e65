"""Paired comparisons: from two arrays to a verdict. Arrays and numbers alone. THE RULE FOR "BETTER" is `judged`.

Seed k of A and seed k of B share their split, initial weights and batch order, so everything looks at pairs. Two
scopes: *these data* (seeds are independent draws, given the rows) and *new samples* like them (re-splits of the same
rows overlap: the variance is corrected, Nadeau & Bengio 2003, Machine Learning 52:239-281).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from statsmodels.stats.power import TTestPower

from normdrop.asked import count

MIN_SEEDS = 6
MIN_DATA_SETS = 8  # the mean of fewer says little about data sets at large
POWER = 0.8
# Left-out seeds are not missing at random: the worst runs diverge. If the worst share f of one side is lost, its mean
# rises by φ(z_f) / (1 - f) standard deviations: .195 at f = .1, about the standard error of a mean of 30.
MAX_LOSS, MAX_ONE_SIDED_LOSS = 0.2, 0.1
NAN = math.nan


@dataclass(frozen=True)
class Comparison:
    """A - B over n pairs, in the metric's unit: mean, intervals, tests. The fields are columns of verdicts.csv."""

    n: int
    left_out: int
    """pairs in which a side diverged"""
    one_sided: int = 0
    """how many more of one side diverged than of the other"""
    never: int = 0
    """pairs in which neither side reached the level whose steps are counted"""
    estimate: float = NAN
    sd: float = NAN
    """standard deviation of the differences"""
    mean_a: float = NAN
    mean_b: float = NAN
    ci_low: float = NAN
    ci_high: float = NAN
    p_value: float = NAN
    p_tost: float = NAN
    new_low: float = NAN
    new_high: float = NAN
    p_new_data: float = NAN
    """NaN, as the three beside it, where the test part is fixed: re-splits hold no sampling of it"""
    p_tost_new: float = NAN


def compare(
    a: ArrayLike, b: ArrayLike, *, rope: float, test_train_ratio: float, fresh: bool = False, alpha: float = 0.05,
    never: float = NAN,
) -> Comparison:  # fmt: skip
    """The mean paired difference, tested in both scopes.

    a, b: (seeds,), in the metric's unit, not finite where a seed diverged. rope: differences within ± rope are of no
    practical consequence. test_train_ratio: test rows / training rows of a split; NaN where the test part is fixed.
    fresh: every seed drew rows of its own, so that the two scopes are one. never: the value of a seed that never
    reached its level.
    """
    of_a, of_b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if of_a.shape != of_b.shape or of_a.ndim != 1:
        raise ValueError(f"a of shape {of_a.shape}, b of shape {of_b.shape}: need one value per seed on both sides")
    if rope <= 0:
        raise ValueError(f"rope={rope}: must be a positive difference in the metric's unit")
    lost_a, lost_b = ~np.isfinite(of_a), ~np.isfinite(of_b)
    one_sided, kept = abs(int(lost_a.sum()) - int(lost_b.sum())), ~(lost_a | lost_b)
    of_a, of_b = of_a[kept], of_b[kept]
    n, left_out, neither = len(of_a), int((~kept).sum()), int(((of_a == never) & (of_b == never)).sum())
    if n < 2:
        return Comparison(n, left_out, one_sided, neither)
    difference = differences(of_a, of_b)
    mean, sd = mean_and_sd(difference)
    if abs(mean) <= 1e-12 * np.abs(difference).max():  # of differences that cancel rounding alone is left
        mean = 0.0
    here = t_tests(mean, sd / math.sqrt(n), n - 1, rope, alpha)
    error = sd * math.sqrt(1 / n + test_train_ratio)
    new = here if fresh else t_tests(mean, error, n - 1, rope, alpha)
    means = float(of_a.mean()), float(of_b.mean())
    return Comparison(n, left_out, one_sided, neither, mean, sd, *means, *here, *new)


def differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """A - B without rounding noise: .9 - .8 and .8 - .7 differ in their last bits, and must tie."""
    noise = 1e-12 * max(np.abs(a).max(), np.abs(b).max())
    difference = a - b
    difference[np.abs(difference) <= noise] = 0.0
    if np.ptp(difference) <= noise:
        difference[:] = difference[0]
    return difference


def mean_and_sd(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of values that are all equal exactly theirs and 0: rounding would leave a spread to test against."""
    if np.ptp(values) == 0:
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(ddof=1))


def t_tests(mean: float, error: float, freedom: int, rope: float, alpha: float) -> tuple[float, float, float, float]:
    """Student's t: low and high end of the interval, two-sided p, and p of the two one-sided tests of ± rope.

    Schuirmann 1987. Differences that are all equal have no spread to test against: the interval is the value itself,
    and both p are those of sign tests, two-sided and one-sided: as many equal signs, or as many within ± rope.
    """
    if math.isnan(error):
        return NAN, NAN, NAN, NAN
    if error == 0:
        p_tost = 0.5 ** (freedom + 1) if abs(mean) < rope else 1.0  # which it is without a rope
        return mean, mean, 0.5**freedom if mean else 1.0, p_tost
    half = error * t_quantile(1 - alpha / 2, freedom)
    p_value = 2 * special.stdtr(freedom, -abs(mean) / error)
    p_tost = special.stdtr(freedom, (abs(mean) - rope) / error)
    return mean - half, mean + half, float(p_value), float(p_tost)


def mean_interval(values: ArrayLike, alpha: float = 0.05) -> tuple[float, float, float]:
    """Mean of what is finite, and its t interval; NaN ends with fewer than two values."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return (float(known.mean()) if len(known) else NAN), NAN, NAN
    mean, sd = mean_and_sd(known)
    half = t_quantile(1 - alpha / 2, len(known) - 1) * sd / math.sqrt(len(known))
    return mean, mean - half, mean + half


def t_quantile(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, level))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment over one family. A NaN (nothing was tested) stays NaN and does not count."""
    # By hand: at each call statsmodels' own has Python collect its garbage, a third of a report's time.
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # NaNs last
    at_or_after = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(at_or_after * p[order]), 1.0)
    return adjusted


def refusal(c: Comparison) -> str | None:
    """Why no verdict may be given, or None: fewer than six seeds, or so many missing that it can bias the rest."""
    pairs = c.n + c.left_out
    if c.left_out > MAX_LOSS * pairs or c.one_sided > MAX_ONE_SIDED_LOSS * pairs:
        return f"{c.left_out} of {pairs} pairs diverged, enough to bias the rest"
    if c.n < MIN_SEEDS:
        return f"{count(c.n, 'seed')}, {MIN_SEEDS} needed"
    if 2 * c.never > c.n:
        return f"neither side reached the level in {c.never} of {c.n} pairs"
    return None


def judged(low: float, high: float, p_value: float, p_tost: float, alpha: float, higher_is_better: bool) -> str:
    """The words for an interval and its two tests, after Holm where they are of a declared family.

    'better' or 'worse': the interval is on that side of 0 and p_value < alpha; followed by ', but practically
    equivalent' if the equivalence test rejects too. 'equivalent': that one alone does. Else 'inconclusive'.
    """
    if math.isnan(p_value):
        return "refused: the test part is fixed, so that these seeds hold no sampling of it"
    equivalent = p_tost < alpha
    if p_value < alpha and (low > 0 or high < 0):
        word = "better" if (low > 0) == higher_is_better else "worse"
        return f"{word}, but practically equivalent" if equivalent else word
    return "equivalent" if equivalent else "inconclusive"


def head(verdict: str) -> str:
    """A verdict in one word: better, worse, equivalent, inconclusive or refused.

    'better, but practically equivalent' is equivalent: the difference is shown to be there and to be too small.
    """
    return "equivalent" if verdict.endswith("practically equivalent") else verdict.partition(":")[0]


def detectable(sd: float, n: int, alpha: float) -> float:
    """The smallest true difference that a t test of n values at level alpha finds with a power of 80 %."""
    return sd * _effect(n, alpha) if n >= 2 and sd > 0 else NAN


@cache
def _effect(n: int, alpha: float) -> float:
    return float(np.squeeze(TTestPower().solve_power(nobs=n, alpha=alpha, power=POWER)))


def needed(sd: float, n: int, half_width: float, alpha: float) -> float:
    """How many seeds give an interval of ± half_width, as far as the standard deviation of n of them tells."""
    if n < 2 or not sd > 0:
        return NAN
    return max(n, math.ceil((t_quantile(1 - alpha / 2, n - 1) * sd / half_width) ** 2))
