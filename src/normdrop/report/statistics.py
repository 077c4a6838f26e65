"""Paired comparisons of replicated experiments: from two arrays to a verdict.

Replicate k of A and replicate k of B share their split, initial weights and batch order, so everything here looks at
pairs. A missing value (NaN, or anything not finite) is a replicate that diverged, or for `compare_ratio` one that
never reached the level. Two scopes are told apart:

- *this data*: given these rows, replicates are independent draws of split, initial weights, batch order and masks;
  the plain paired tests apply.
- *new data* like it: re-splits of the same rows overlap, so the variance is corrected (Nadeau & Bengio 2003).

The module works on arrays alone and knows nothing of files, networks or the rest of this package. Many comparisons:
`compare` each, `holm` over the p-values of the declared family, then `verdict`. Data sets are pooled by `pooled.pool`.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

Floats = NDArray[np.float64]
Scope = Literal["this data", "new data"]

# The smallest two-sided sign-flip p-value of n pairs is 2 / 2**n: .0625 at five, .031 at six.
MIN_REPLICATES = 6
# The mean of fewer data sets says little about data sets at large: a sign test of seven rejects only if all agree.
MIN_DATA_SETS = 8

# More A/A claims than chance gives with this probability are an alarm: rare, since every page asks.
AA_ALARM = 0.005

RESAMPLES = 9999  # of the bootstrap
# Up to so many differences the sign-flip test counts all 2**n patterns; the sums of a half then fill 32 MiB.
EXACT_PAIRS = 44
LATTICE = 2**18

# Left-out replicates are not missing at random: the worst runs diverge. If the worst share f of one side's normal
# results is lost, its mean rises by φ(z_f) / (1 - f) standard deviations: .195 at f = .1, about the standard error of a
# mean of 30 (.183). Beyond that the bias could outweigh the noise that the tests account for.
MAX_ONE_SIDED_LOSS = 0.10
MAX_LOSS = 0.20

_NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """A against B over n pairs. Differences (A - B) are in the metric's unit; ratios (A / B) have none."""

    n: int
    """pairs that entered the estimate"""
    left_out: int
    """pairs left out because either side diverged; 0 for a ratio, where a missing value is an answer"""
    missing_a: int
    """pairs in which A alone is missing (diverged or, for a ratio, censored)"""
    missing_b: int
    missing_both: int
    null: float
    """the value that means no difference: 0 for a difference, 1 for a ratio"""
    estimate: float = _NAN
    """mean of A - B; median of A / B for a ratio"""
    ci_low: float = _NAN
    ci_high: float = _NAN
    bca_low: float = _NAN
    bca_high: float = _NAN
    sd: float = _NAN
    """standard deviation of the differences"""
    d_z: float = _NAN
    """mean / standard deviation of the differences (Cohen 1988)"""
    p_superior: float = _NAN
    """P(A > B) within a pair, ties counted ½"""
    p_value: float = _NAN
    p_tost: float = _NAN
    new_low: float = _NAN
    new_high: float = _NAN
    p_new_data: float = _NAN
    p_tost_new: float = _NAN


def compare(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rope: float,
    test_train_ratio: float,
    fresh: bool = False,
    alpha: float = 0.05,
) -> Comparison:
    """The mean paired difference A - B, its intervals and its tests.

    a, b: (replicates,), in the metric's unit, not finite where a replicate diverged; b may be one number.
    rope: differences within ± rope are of no practical consequence; NaN where no region was declared.
    test_train_ratio: test rows / training rows of one split; NaN where the test part is a fixed, official one: then
    re-splits hold no sampling of it, and unless rows are fresh nothing is said about new data.
    fresh: every replicate drew its own rows, so that the two scopes coincide.
    alpha: the intervals have level 1 - alpha.

    The same input always gives the same answer.

    - interval: Student's paired t; BCa bootstrap (Efron 1987) as a check on shape.
    - p_value: sign-flip test of the mean (Fisher 1935), two-sided: `sign_flip`.
    - p_tost: the larger of two one-sided paired t tests against ± rope (Schuirmann 1987).
    - new data: the corrected resampled t, mean / `standard_error` on n - 1 degrees of freedom.

    Sides that do not differ make A - B symmetric, and then the sign-flip test is exact. Where they differ in all but
    their means, skewed differences are claimed somewhat too often: at skewness 1 and mean 0 in about 6 % of studies of
    10 pairs; and 30 pairs call a difference of just the rope, on the long tail's side, equivalent in about 9 %.

    Differences that are all equal have no spread to test against: their interval is the value itself, d_z is 0 or
    infinite, and the t tests take their limits. With fewer than two pairs everything is NaN.
    Raises ValueError if the shapes differ or rope is not positive.
    """
    a, b = _pairs(a, b)
    if rope <= 0:
        raise ValueError(f"rope={rope}: must be a positive difference in the metric's unit")
    kept = np.isfinite(a) & np.isfinite(b)
    n = int(kept.sum())
    counts = dict(n=n, left_out=int((~kept).sum()), **_missing(a, b))
    if n < 2:
        return Comparison(**counts, null=0.0)

    difference, noise = paired_difference(a[kept], b[kept])
    mean = float(difference.mean())
    constant = bool((difference == difference[0]).all())
    p_value = sign_flip(difference, noise)
    sd = 0.0 if constant else float(difference.std(ddof=1))
    if constant:
        p_tost = p_tost_new = _NAN if math.isnan(rope) else float(abs(mean) >= rope)
        d_z = mean and math.copysign(math.inf, mean)
        low = high = new_low = new_high = mean
        bca_low = bca_high = _NAN
        p_new = float(mean == 0)
    else:
        d_z = mean / sd
        low, high = stats.ttest_1samp(difference, 0.0).confidence_interval(1 - alpha)
        bca_low, bca_high = _bca(difference, alpha)
        p_tost = float(ttost_paired(difference, np.zeros(n), -rope, rope)[0])
        t = stats.t(df=n - 1, loc=0, scale=standard_error(sd, n, test_train_ratio))
        new_low, new_high = mean - t.isf(alpha / 2), mean + t.isf(alpha / 2)
        p_new = 2 * t.sf(abs(mean))
        p_tost_new = max(t.sf(mean + rope), t.sf(rope - mean))
    if math.isnan(test_train_ratio):
        new_low = new_high = p_new = p_tost_new = _NAN
    if fresh:
        new_low, new_high, p_new, p_tost_new = low, high, p_value, p_tost
    return Comparison(
        **counts,
        null=0.0,
        estimate=mean,
        ci_low=float(low),
        ci_high=float(high),
        bca_low=bca_low,
        bca_high=bca_high,
        sd=sd,
        d_z=float(d_z),
        p_superior=_p_superior(difference),
        p_value=p_value,
        p_tost=p_tost,
        new_low=float(new_low),
        new_high=float(new_high),
        p_new_data=float(p_new),
        p_tost_new=float(p_tost_new),
    )


def compare_ratio(a: ArrayLike, b: ArrayLike, *, rope: float, fresh: bool = False, alpha: float = 0.05) -> Comparison:
    """The median paired ratio A / B of times to an event, of which some never came.

    a, b: (replicates,), positive, e.g. optimizer steps to a level; not finite where it was never reached within the
    budget, which must be the same on both sides (a diverged run never reaches it either).
    rope: ratios within [1/rope, rope] are of no practical consequence; NaN where no region was declared.

    A censored time is known only to be longer than the budget, so no mean of ratios exists; their order does. Where A
    alone is censored the ratio counts as ∞, where B alone is, as 0. Where both are, the ratio is unknown: it counts
    as a tie in the estimate and in P(A > B), is no evidence in the test, and takes the value that widens the interval
    most (the bounds of Manski 2003).

    - estimate: exp of the median of log A/B; NaN where the middle falls between 0 and ∞.
    - interval: order statistics, distribution-free (Conover 1999, §3.2, `scipy.stats.quantile_test`).
    - p_value: two-sided sign test, ties dropped (Conover 1999, §3.4).
    - p_tost: the larger of two one-sided sign tests of the median against 1/rope and rope; below alpha just when the
      1 - 2·alpha interval lies within the region.
    - new data: equal to this data if fresh, else NaN: the corrected resampled test is one of means.

    bca_low, bca_high, sd and d_z are NaN.
    Raises ValueError if the shapes differ, a value is not positive, or rope is not above 1.
    """
    a, b = _pairs(a, b)
    if rope <= 1:
        raise ValueError(f"rope={rope}: must be a ratio above 1")
    censored_a, censored_b = ~np.isfinite(a), ~np.isfinite(b)
    for value in (a[~censored_a], b[~censored_b]):
        if (value <= 0).any():
            raise ValueError(f"a ratio of {value.min()}: values must be positive")
    n, both = len(a), censored_a & censored_b
    counts = dict(n=n, left_out=0, **_missing(a, b))
    if n < 2:
        return Comparison(**counts, null=1.0)

    log_a, log_b = np.log(np.where(censored_a, np.inf, a)), np.log(np.where(censored_b, np.inf, b))
    log_ratio = np.subtract(log_a, log_b, where=~both, out=np.zeros(n))
    lower, upper = np.where(both, -np.inf, log_ratio), np.where(both, np.inf, log_ratio)
    low = stats.quantile_test(lower, p=0.5).confidence_interval(1 - alpha).low
    high = stats.quantile_test(upper, p=0.5).confidence_interval(1 - alpha).high
    shorter, longer = int((log_ratio < 0).sum()), int((log_ratio > 0).sum())
    p_value = float(stats.binomtest(longer, shorter + longer).pvalue) if shorter + longer else 1.0
    if math.isnan(rope):
        p_tost = _NAN
    else:
        above = stats.quantile_test(lower, q=-math.log(rope), p=0.5, alternative="greater").pvalue
        below = stats.quantile_test(upper, q=math.log(rope), p=0.5, alternative="less").pvalue
        p_tost = float(max(above, below))
    ci_low, ci_high = float(np.exp(low)), float(np.exp(high))
    with np.errstate(invalid="ignore"):
        estimate = float(np.exp(np.median(log_ratio)))
    return Comparison(
        **counts,
        null=1.0,
        estimate=estimate,
        ci_low=ci_low,
        ci_high=ci_high,
        p_superior=_p_superior(log_ratio),
        p_value=p_value,
        p_tost=p_tost,
        new_low=ci_low if fresh else _NAN,
        new_high=ci_high if fresh else _NAN,
        p_new_data=p_value if fresh else _NAN,
        p_tost_new=p_tost if fresh else _NAN,
    )


def sign_flip(difference: Floats, noise: float) -> float:
    """The share of the 2**n sign patterns whose |sum| reaches that of the differences: a two-sided p-value.

    difference: (pairs,), in any unit. noise: rounding error of one of them; sums that differ by less than n·noise tie.

    Up to 44 differences other than 0 it is exact: the sums of each half are sorted and meet in the middle (Horowitz &
    Sahni 1974, Journal of the ACM 21:277-292). That takes 1 ms at 30, .1 s at 40, .6 s and 130 MiB at 44.

    Beyond, it is an upper bound, so that a claim never owes itself to the method. The differences are rounded to a
    lattice of 2**18 steps, on which convolution gives the distribution of the sum. The remainders r move the sum by
    more than 6 √Σr² with a probability of at most 2 exp(-18) = 3e-8 (Hoeffding 1963): both are allowed for. Accuracies
    of up to 300 pairs on some hundred test rows come out exact but for that. Normal differences with p = .05 were given
    .0001 too much at 100 pairs, .0002 at 300 and .0006 at 1,000.
    """
    sizes = np.sort(np.abs(difference[difference != 0]))
    reached = abs(float(difference.sum())) - len(difference) * noise
    if reached <= 0:
        return 1.0
    if len(sizes) <= EXACT_PAIRS:
        one, other = (np.sort(_signed_sums(sizes[start::2])) for start in (0, 1))
        as_large = len(one) - np.searchsorted(one, reached - other)
        return min(1.0, 2.0 * int(as_large.sum()) / 2.0 ** len(sizes))
    step = float(sizes.sum()) / LATTICE
    steps = np.rint(sizes / step).astype(int)
    allowance = 6.0 * float(np.linalg.norm(sizes - steps * step))
    chance = np.ones(1)  # of each sum of the positive ones, in steps
    for size in steps:
        chance = (np.pad(chance, (0, size)) + np.pad(chance, (size, 0))) / 2
    first = math.ceil(((reached - allowance) / step + steps.sum()) / 2)
    return min(1.0, 2.0 * float(chance[max(first, 0) :].sum()) + 2.0 * math.exp(-18.0))


def standard_error(sd: float, n: int, test_train_ratio: float) -> float:
    """Of the mean of n paired differences of standard deviation sd, for new data like it: sd √(1/n + n_test/n_train).

    Nadeau & Bengio 2003, Machine Learning 52:239-281. With a ratio of 0 the plain sd / √n: right where every replicate
    drew fresh rows, and for a statement about these rows alone.
    """
    return sd * math.sqrt(1 / n + test_train_ratio)


def replicates_needed(sd: float, n0: int, half_width: float, alpha: float = 0.05) -> int:
    """How many pairs give an interval of ± half_width, known from the standard deviation sd of the first n0 of them.

    Stein's two-stage rule, max(n0, ⌈(t(n0 - 1) sd / half_width)²⌉) (1945, Annals of Mathematical Statistics 16:243).
    The mean of all n pairs ± `stein_half_width` covers with probability 1 - alpha if differences are normal, whatever
    their true spread, which no sample size fixed beforehand achieves.
    Raises ValueError unless n0 ≥ 2, half_width > 0 and sd is finite.
    """
    if n0 < 2 or not half_width > 0 or not math.isfinite(sd):
        raise ValueError(f"n0={n0}, half_width={half_width}, sd={sd}: need n0 ≥ 2, half_width > 0 and a finite sd")
    return max(n0, math.ceil((stats.t.isf(alpha / 2, n0 - 1) * sd / half_width) ** 2))


def stein_half_width(sd: float, n0: int, n: int, alpha: float = 0.05) -> float:
    """The half-width that n pairs reach by `replicates_needed`'s rule: sd and t stay those of the first n0."""
    return float(stats.t.isf(alpha / 2, n0 - 1)) * sd / math.sqrt(n)


def aa_tail(claims: int, networks: int, alpha: float = 0.05) -> float:
    """How likely chance makes at least so many claims among comparisons of distinct networks with themselves.

    claims, networks: counts over the distinct networks of a page, each counted once. At most `AA_ALARM` is an alarm.
    """
    return float(stats.binom.sf(claims - 1, networks, alpha))


@dataclass(frozen=True)
class Clustered:
    """A mean difference over many conditions that share their seeds."""

    seeds: int
    """seeds that entered: those with a difference in every condition"""
    estimate: float
    ci_low: float
    ci_high: float
    margin: float
    """the smallest region ± margin within which equivalence is shown at level alpha"""


def clustered(differences: ArrayLike, *, alpha: float = 0.05) -> Clustered:
    """The mean difference over conditions, its interval clustered by seed: Student's t over the seeds' means.

    differences: (conditions, seeds), in the metric's unit. Conditions of one seed share split, weights and batches, so
    the seed is the unit. A seed with a value that is not finite is left out.
    margin: the larger end of the 1 - 2·alpha interval, where both one-sided tests are at alpha (Schuirmann 1987).
    Raises ValueError with fewer than two seeds left.
    """
    values = np.asarray(differences, dtype=float)
    means = values[:, np.isfinite(values).all(axis=0)].mean(axis=0)
    n = len(means)
    if n < 2:
        raise ValueError(f"{n} of {values.shape[1]} seeds have a difference in every condition: need two")
    mean, error = float(means.mean()), float(means.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.isf(alpha / 2, n - 1)) * error
    margin = abs(mean) + float(stats.t.isf(alpha, n - 1)) * error
    return Clustered(seeds=n, estimate=mean, ci_low=mean - half, ci_high=mean + half, margin=margin)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's (1979) step-down adjustment over one family. A NaN (nothing was tested) stays NaN and does not count."""
    # By hand: at each call statsmodels' own has Python collect its garbage, a third of a report's time.
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # NaNs last
    at_or_after = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(at_or_after * p[order]), 1.0)
    return adjusted


def refusal(comparison: Comparison, *, alpha: float = 0.05, scope: Scope = "this data") -> str | None:
    """Why no verdict may be given, or None.

    Divergence refuses where it can bias the pairs that are left: more than a fifth of all pairs lost; one side alone
    lost in over a tenth more of them than the other; or an imbalance that chance does not give (exact McNemar test,
    p < .05).
    """
    c = comparison
    if c.left_out:
        pairs = c.n + c.left_out
        excess = abs(c.missing_a - c.missing_b)
        imbalance = stats.binomtest(c.missing_a, c.missing_a + c.missing_b).pvalue if excess else 1.0
        if c.left_out > MAX_LOSS * pairs or excess > MAX_ONE_SIDED_LOSS * pairs or imbalance < 0.05:
            sides = f"A alone in {c.missing_a}, B alone in {c.missing_b}, both in {c.missing_both}"
            return f"{c.left_out} of {pairs} pairs diverged ({sides}), enough to bias the rest"
    if c.n < MIN_REPLICATES or 2.0 ** (1 - c.n) >= alpha:
        needed = max(MIN_REPLICATES, math.floor(2 - math.log2(alpha)))
        return f"{c.n} replicates, {needed} needed for a two-sided sign-flip test to reach p < {alpha:g}"
    if c.null == 1 and 2 * c.missing_both > c.n:
        return f"neither side reached the level in {c.missing_both} of {c.n} pairs"
    if scope == "new data" and math.isnan(c.p_new_data):
        if c.null == 1:
            return "a median ratio has no test for new data unless each replicate draws fresh rows"
        return "the test part is fixed, so these replicates hold no sampling of it, unless each draws fresh rows"
    return None


def verdict(
    comparison: Comparison,
    p_holm: float,
    *,
    alpha: float = 0.05,
    higher_is_better: bool = True,
    scope: Scope = "this data",
) -> str:
    """What the comparison says about A, for one scope.

    p_holm: the p-value of that scope (`p_value` or `p_new_data`) after `holm`; as it is, for an exploratory one.
    alpha: the one that the comparison was made with. Equivalence is not adjusted: the family is one of differences;
    `holm` over its p-values is for showing beside.

    Returns `judged`'s words, or 'refused: ' and why.
    """
    reason = refusal(comparison, alpha=alpha, scope=scope)
    if reason:
        return f"refused: {reason}"
    c = comparison
    if scope == "this data":
        low, high, p_tost = c.ci_low, c.ci_high, c.p_tost
    else:
        low, high, p_tost = c.new_low, c.new_high, c.p_tost_new
    return judged(low, high, p_holm, p_tost, null=c.null, alpha=alpha, higher_is_better=higher_is_better)


def judged(
    low: float, high: float, p_value: float, p_tost: float, *, null: float, alpha: float, higher_is_better: bool
) -> str:
    """The words for an interval and its two tests.

    'better' or 'worse' (the interval excludes the null and p_value < alpha), followed by ', but practically equivalent'
    if the equivalence test rejects too; 'equivalent'; or 'inconclusive'.
    """
    equivalent = p_tost < alpha
    if p_value < alpha and (low > null or high < null):
        word = "better" if (low > null) == higher_is_better else "worse"
        return f"{word}, but practically equivalent" if equivalent else word
    return "equivalent" if equivalent else "inconclusive"


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or b.shape not in ((), a.shape):
        raise ValueError(f"a of shape {a.shape}, b of shape {b.shape}: need one value per replicate on both sides")
    return a, np.broadcast_to(b, a.shape)


def _missing(a: Floats, b: Floats) -> dict[str, int]:
    there_a, there_b = np.isfinite(a), np.isfinite(b)
    pairs = {"missing_a": ~there_a & there_b, "missing_b": there_a & ~there_b, "missing_both": ~there_a & ~there_b}
    return {side: int(missing.sum()) for side, missing in pairs.items()}


def paired_difference(a: Floats, b: Floats) -> tuple[Floats, float]:
    """A - B, and what counts as rounding noise in it.

    Accuracies are multiples of 1/rows, but .9 - .8 and .8 - .7 differ in their last bits: equal differences must tie.
    """
    noise = 1e-12 * float(max(np.abs(a).max(), np.abs(b).max()))
    difference = a - b
    difference[np.abs(difference) <= noise] = 0.0
    if np.ptp(difference) <= noise:
        difference[:] = difference.mean()
    return difference, noise


def _signed_sums(sizes: Floats) -> Floats:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate((sums - size, sums + size))
    return sums


def _bca(difference: Floats, alpha: float) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where BCa does not exist scipy warns and answers NaN, which says it all.
        warnings.simplefilter("ignore")
        interval = stats.bootstrap(
            (difference,),
            np.mean,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=1 - alpha,
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _p_superior(difference: Floats) -> float:
    return float((difference > 0).mean() + (difference == 0).mean() / 2)
