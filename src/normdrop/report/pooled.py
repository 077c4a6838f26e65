"""Data sets as units: what their mean differences say about data sets at large.

Arrays alone, as in `statistics`, whose words serve here too: `Pooled.verdict`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from normdrop.report.statistics import MIN_DATA_SETS, Floats, judged


@dataclass(frozen=True)
class Pooled:
    """The mean of A - B over data sets, in the metric's unit."""

    k: int
    """data sets"""
    estimate: float
    ci_low: float
    ci_high: float
    tau: float
    """standard deviation of the true differences between data sets"""
    i2: float
    """share of the variance of the observed differences that is between data sets, 0 to 1"""
    pi_low: float
    """the prediction interval: where the true difference of a new data set lies"""
    pi_high: float
    p_value: float
    p_tost: float
    loo_low: float
    """the estimates with one data set left out: smallest and largest"""
    loo_high: float

    def verdict(self, p_holm: float, *, alpha: float = 0.05, higher_is_better: bool = True) -> str:
        """What it says about A: `statistics.judged`'s words, with arguments as in `statistics.verdict`."""
        low, high, p_tost = self.ci_low, self.ci_high, self.p_tost
        return judged(low, high, p_holm, p_tost, null=0.0, alpha=alpha, higher_is_better=higher_is_better)


def pool(effects: ArrayLike, errors: ArrayLike, *, rope: float, alpha: float = 0.05) -> Pooled:
    """Random-effects meta-analysis of k data sets' mean differences.

    effects, errors: (data sets,), each set's mean difference and its standard error (`statistics.standard_error`), in
    the metric's unit. rope: as in `statistics.compare`. alpha: both intervals have level 1 - alpha.

    - tau: Paule & Mandel's (1982), recommended by Veroniki et al. (2016, Research Synthesis Methods 7:55-79), who found
      DerSimonian & Laird's too small where data sets differ much.
    - interval, p_value: Hartung & Knapp's t on k - 1, its scale Q/(k - 1) never below 1 (Knapp & Hartung 2003,
      Statistics in Medicine 22:2693-2710), or data sets that agree by luck make it too narrow (Röver, Knapp & Friede
      2015, BMC Medical Research Methodology 15:99). With this tau the scale is 1 where tau > 0 and below 1 elsewhere:
      the standard error is 1/√Σw, w = 1/(error² + tau²).
    - i2: tau² / (tau² + typical error²), Higgins & Thompson 2002, Statistics in Medicine 21:1539-1558.
    - prediction interval: estimate ± t(k - 2) √(tau² + standard error²) (Higgins, Thompson & Spiegelhalter 2009,
      Journal of the Royal Statistical Society A 172:137-159). Of few data sets it holds the new one too seldom.
    - p_tost: the larger of two one-sided t tests of the estimate against ± rope (Schuirmann 1987).

    A standard error of 0 (differences that are all equal) would outweigh everything, though it rather tells of a test
    part too small to see a spread: it counts as the smallest that is not 0.
    Raises ValueError, which is the refusal in words, with fewer than `MIN_DATA_SETS`; if every error is 0; for a value
    that is not finite (the caller leaves that data set out and says so); or a rope that is not positive.
    """
    effects, errors = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    k = len(effects)
    if effects.shape != (k,) or errors.shape != (k,):
        raise ValueError(f"effects of shape {effects.shape}, errors of {errors.shape}: need one each per data set")
    if k < MIN_DATA_SETS:
        raise ValueError(f"{k} data sets, {MIN_DATA_SETS} needed for a statement about data sets at large")
    if rope <= 0:
        raise ValueError(f"rope={rope}: must be a positive difference in the metric's unit")
    wrong = ~(np.isfinite(effects) & np.isfinite(errors) & (errors >= 0))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"data set {i}: a difference of {effects[i]} with standard error {errors[i]} cannot be pooled")

    if not errors.any():
        raise ValueError(f"all {k} standard errors are 0: no data set's replicates differ among themselves")

    errors = errors.clip(min=errors[errors > 0].min())
    mean, error, tau2 = _random_effects(effects, errors)
    weights = errors**-2.0
    typical = (k - 1) * weights.sum() / (weights.sum() ** 2 - (weights**2).sum())
    t = stats.t(df=k - 1, scale=error)
    half = t.isf(alpha / 2)
    reach = stats.t.isf(alpha / 2, k - 2) * math.hypot(math.sqrt(tau2), error)
    left_out = [_random_effects(np.delete(effects, i), np.delete(errors, i))[0] for i in range(k)]
    return Pooled(
        k=k,
        estimate=mean,
        ci_low=float(mean - half),
        ci_high=float(mean + half),
        tau=math.sqrt(tau2),
        i2=float(tau2 / (tau2 + typical)),
        pi_low=float(mean - reach),
        pi_high=float(mean + reach),
        p_value=float(2 * t.sf(abs(mean))),
        p_tost=float(t.sf(rope - abs(mean))),
        loo_low=min(left_out),
        loo_high=max(left_out),
    )


def _random_effects(effects: Floats, errors: Floats) -> tuple[float, float, float]:
    """Mean, its standard error and tau²."""
    with np.errstate(divide="ignore"):  # effects that are all equal have a Q of 0, by which statsmodels divides
        # Its Newton steps only double a small tau² and end without a word after 50, unless told otherwise.
        found = combine_effects(effects, errors**2, method_re="pm", maxiter=1000)
    return float(found.mean_effect_re), float(found.sd_eff_w_re), float(found.tau2)
