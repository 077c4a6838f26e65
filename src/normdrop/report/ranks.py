"""Which of several networks to use: mean ranks over data sets, and which of them are told apart (Demšar 2006).

Arrays alone. The critical difference and the groups are a few lines each, and a diagram draws from `Ranks`: a package
for it would bring seaborn.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from normdrop.report.statistics import MIN_DATA_SETS, Floats, holm

# Equal means of replicates, and equal differences of means, may differ in their last bits.
DIGITS = 12


@dataclass(frozen=True, eq=False)
class Ranks:
    """m networks over k data sets. Networks are numbered as the columns of the scores."""

    k: int
    mean_ranks: Floats
    """(m,): 1 is the best of all on every data set, m the worst"""
    p_friedman: float
    """that all networks are equally good"""
    p_pairs: Floats
    """(m, m), symmetric: Wilcoxon's signed ranks of each pair, Holm over all pairs; NaN on the diagonal"""
    critical_difference: float
    """of two mean ranks (Nemenyi): what is less apart is not told apart"""
    groups: list[tuple[int, ...]]
    """networks not told apart by it, best first: each of two or more, none within another"""


def rank(scores: ArrayLike, *, alpha: float = 0.05, higher_is_better: bool = True) -> Ranks:
    """scores: (data sets, networks), e.g. each network's mean test accuracy. Ties take the mean of their ranks.

    - p_friedman: Friedman's χ² with ties (`scipy.stats.friedmanchisquare`), conservative for few data sets.
    - p_pairs: two-sided, differences of 0 split evenly between the signs. Unlike mean ranks, a pair's does not depend
      on which other networks are there (Benavoli, Corani & Mangili 2016, JMLR 17:1-10).
    - critical_difference: q √(m(m + 1)/(6k)), q the studentized range of m over √2 (Demšar 2006, JMLR 7:1-30).

    Raises ValueError with fewer than `MIN_DATA_SETS` data sets or three networks, or if a score is not finite: the
    caller leaves that data set out and says so.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.shape[0] < MIN_DATA_SETS or scores.shape[1] < 3:
        raise ValueError(f"scores of shape {scores.shape}: need {MIN_DATA_SETS} data sets and three networks or more")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"data set {row}: network {column} scores {scores[row, column]} and cannot be ranked")
    k, m = scores.shape
    scores = scores / (np.abs(scores).max() or 1.0)
    ties = np.round(scores, DIGITS)
    means = stats.rankdata(-ties if higher_is_better else ties, axis=1).mean(axis=0)
    pairs = list(combinations(range(m), 2))
    p_pairs = np.full((m, m), np.nan)
    rows, columns = np.transpose(pairs)
    p_pairs[rows, columns] = p_pairs[columns, rows] = holm([_wilcoxon(scores[:, i] - scores[:, j]) for i, j in pairs])
    critical = float(stats.studentized_range.isf(alpha, m, np.inf)) / math.sqrt(2) * math.sqrt(m * (m + 1) / (6 * k))
    order = [int(i) for i in np.argsort(means, kind="stable")]
    ends = [sum(means[i] - means[first] < critical for i in order) for first in order]
    groups = [
        tuple(order[start:end])
        for start, end in enumerate(ends)
        if end - start > 1 and (start == 0 or end > ends[start - 1])
    ]
    return Ranks(
        k=k,
        mean_ranks=means,
        p_friedman=float(stats.friedmanchisquare(*ties.T).pvalue) if np.ptp(ties, axis=1).any() else 1.0,
        p_pairs=p_pairs,
        critical_difference=critical,
        groups=groups,
    )


def _wilcoxon(difference: Floats) -> float:
    difference = np.round(difference, DIGITS)
    return float(stats.wilcoxon(difference, zero_method="zsplit").pvalue) if difference.any() else 1.0
