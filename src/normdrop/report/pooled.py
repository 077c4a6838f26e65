"""Data sets as units: each alike, a t interval over their means, and how much they differ among themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.meta_analysis import combine_effects

from normdrop.asked import count
from normdrop.report.choose import pairs
from normdrop.report.compare import MIN_DATA_SETS, mean_and_sd, t_quantile, t_tests
from normdrop.report.study import Study
from normdrop.report.verdicts import DECLARED, EXPLORATORY, HARNESS, concluded, rows

# fmt: off
COLUMNS = [
    "claim", "position", "metric", "k", "estimate", "ci_low", "ci_high", "tau", "i2", "pi_low", "pi_high",
    "p_value", "p_tost", "verdict", "experiment", "comparison", "rate", "part", "variant", "family", "p_holm",
    "p_tost_holm", "sd", "detectable", "datasets", "left_out",
]
# fmt: on
AS_DECLARED, ALL, LOG_ODDS, BY_NLL = "declared", "all data sets", "log odds of error", "chosen by NLL"


def pool(effects: ArrayLike, errors: ArrayLike, *, rope: float, alpha: float = 0.05) -> dict[str, Any]:
    """The unweighted mean of k data sets' differences, its tests on k - 1 degrees of freedom, and their spread.

    effects, errors: (data sets,), each one's mean difference and its standard error *on these data*. tau: the standard
    deviation of the true differences (Paule & Mandel 1982); i2: its share of the observed variance (Higgins & Thompson
    2002); pi_low, pi_high: where the true difference of another data set lies, mean ± t(k - 2) √(tau² + SE²) (Higgins,
    Thompson & Spiegelhalter 2009). An error of 0 tells of a test part too small to see a spread: it counts as the
    smallest that is not 0. refused: why nothing follows, with fewer than `MIN_DATA_SETS`; else "".
    """
    effects, errors = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    k = len(effects)
    if k < MIN_DATA_SETS:
        why = f"{count(k, 'data set')}, {MIN_DATA_SETS} needed for a statement about data sets at large"
        return {"k": k, "refused": why}
    mean, sd = mean_and_sd(effects)
    error = sd / math.sqrt(k)
    low, high, p_value, p_tost = t_tests(mean, error, k - 1, rope, alpha)
    tau = i2 = math.nan
    if errors.any() and sd:
        errors = errors.clip(min=errors[errors > 0].min())
        # Its Newton steps only double a small tau² and end without a word after 50, unless told otherwise.
        tau2 = float(combine_effects(effects, errors**2, method_re="pm", maxiter=1000).tau2)
        weights = errors**-2.0
        typical = (k - 1) * weights.sum() / (weights.sum() ** 2 - (weights**2).sum())
        tau, i2 = math.sqrt(tau2), tau2 / (tau2 + typical)
    reach = t_quantile(1 - alpha / 2, k - 2) * math.hypot(tau, error)
    numbers = {"k": k, "estimate": mean, "sd": sd, "ci_low": low, "ci_high": high, "p_value": p_value, "p_tost": p_tost}
    numbers |= {"tau": tau, "i2": i2, "pi_low": mean - reach, "pi_high": mean + reach}
    return numbers | {"refused": ""}


def pooled(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Each comparison of the grid proper over its data sets, the declared ones first: COLUMNS and the study's keys.

    table: `verdicts.rows` of the study. variant: "declared" (without the data sets that are set apart), and secondary
    ones: "all data sets", "log odds of error" (differences near the ceiling and at 60 % are not alike), "chosen by
    NLL". Equal data under several names count once. Empty below `MIN_DATA_SETS`.
    """
    columns, declared, copies = [*COLUMNS, *study.keys], study.declared, twins(study)
    if table["dataset"].nunique() - len(copies) < MIN_DATA_SETS:
        return pd.DataFrame(columns=columns)
    without = set_apart(study)
    found = _means(study, AS_DECLARED, table, without)
    if study.kind.reduce is None:
        found += _means(study, LOG_ODDS, _log_odds(table[table["metric"] == "test_acc"]), without)
    if declared.family:
        found += _means(study, BY_NLL, rows(study, pairs(study, prefer="nll", only="best_vs_best")), without)
    if declared.apart:
        found += _means(study, ALL, table, copies)
    return concluded(pd.DataFrame(found, columns=[*columns, "good", "refused"]), declared.alpha, "k")[columns]


def _means(study: Study, variant: str, table: pd.DataFrame, without: list[str]) -> list[dict[str, Any]]:
    """A row for each comparison with enough data sets, but for those `without` and those that were refused."""
    found = []
    table = table[(table["family"] != HARNESS) & ~table["beyond"].astype(bool) & ~table["dataset"].isin(without)]
    place = ["comparison", "rate", "position", "metric", "part", *study.keys]
    for key, group in table.groupby(place, sort=False, dropna=False):
        if group["dataset"].nunique() < MIN_DATA_SETS:
            continue
        sound = group["estimate"].notna() & ~group["verdict"].str.startswith("refused")
        used, left_out = group[sound], sorted({*group["dataset"][~sound], *without})
        declared = variant == AS_DECLARED and group["family"].eq(DECLARED).all()
        row: dict[str, Any] = dict(zip(place, key, strict=True))
        row |= {"variant": variant, "family": DECLARED if declared else EXPLORATORY}
        row |= {"claim": study.declared.claim, "experiment": study.name}
        row |= {"datasets": " ".join(sorted(used["dataset"])), "left_out": " ".join(left_out)}
        row["good"] = study.good(row["metric"]) and variant != LOG_ODDS
        rope = math.nan if variant == LOG_ODDS else study.rope(row["metric"])
        errors = used["sd"] / np.sqrt(used["n"])
        found.append(row | pool(used["estimate"], errors, rope=rope, alpha=study.declared.alpha))
    return found


def _log_odds(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracies as differences of the log odds of error, with half an error where there is none."""
    counted = table["n"] * table["test_rows"]
    wrong_a, wrong_b = (((1 - table[f"mean_{side}"]) * counted + 0.5) / (counted + 1) for side in "ab")
    slope = (1 / (wrong_a * (1 - wrong_a)) + 1 / (wrong_b * (1 - wrong_b))) / 2  # of the log odds, for the errors
    odds = np.log(wrong_a / (1 - wrong_a)) - np.log(wrong_b / (1 - wrong_b))
    return table.assign(estimate=odds, sd=table["sd"] * slope)


def twins(study: Study, apart: Sequence[str] = ()) -> list[str]:
    """Data sets whose rows another one has too, under a name that comes before and is not set apart."""
    first = study.table.drop_duplicates("dataset")[["dataset", "fingerprint"]].sort_values("dataset")
    first = first[~first["dataset"].isin(apart)]
    return list(first["dataset"][first["fingerprint"].duplicated()])


def set_apart(study: Study) -> list[str]:
    """Data sets that no mean counts: as declared, and those that another one stands for."""
    apart = study.declared.apart
    return sorted({*apart, *twins(study, apart)})
