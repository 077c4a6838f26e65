"""Data sets as units: each alike, a t interval over their means, and how much they differ among themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.meta_analysis import combine_effects

from normdrop.metrics import METRICS
from normdrop.report.choose import pairs
from normdrop.report.compare import MIN_DATA_SETS, detectable, holm, judged, t_quantile, t_tests
from normdrop.report.study import Study
from normdrop.report.verdicts import DECLARED, EXPLORATORY, HARNESS, rows

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
    smallest that is not 0. Raises ValueError, the refusal in words, with fewer than `MIN_DATA_SETS`.
    """
    effects, errors = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    k = len(effects)
    if k < MIN_DATA_SETS:
        raise ValueError(f"{k} data sets, {MIN_DATA_SETS} needed for a statement about data sets at large")
    mean, sd = float(effects.mean()), float(effects.std(ddof=1))
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
    return numbers | {"tau": tau, "i2": i2, "pi_low": mean - reach, "pi_high": mean + reach}


def pooled(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Each comparison of the grid proper over its data sets, the declared ones first: COLUMNS and the study's keys.

    table: `verdicts.rows` of the study. variant: "declared" (without the data sets that are set apart), and secondary
    ones: "all data sets", "log odds of error" (differences near the ceiling and at 60 % are not alike), "chosen by
    NLL". Equal data under several names count once. Empty below `MIN_DATA_SETS`.
    """
    columns = [*COLUMNS, *study.keys]
    columns, declared = [*COLUMNS, *study.keys], study.declared
    copies = twins(study)
    if table["dataset"].nunique() - len(copies) < MIN_DATA_SETS:
        return pd.DataFrame(columns=columns)
    by_nll = rows(study, pairs(study, prefer="nll", only="best_vs_best")) if declared.family else table.iloc[:0]
    accuracy = table[(table["metric"] == "test_acc") & (study.kind.reduce is None)]
    without = sorted({*copies, *declared.apart})
    variants = [(AS_DECLARED, table, without), (LOG_ODDS, _log_odds(accuracy), without), (BY_NLL, by_nll, without)]
    if declared.apart:
        variants.append((ALL, table, copies))
    result = pd.DataFrame([row for variant in variants for row in _variant(study, *variant)], columns=columns)
    family = result["family"] == DECLARED
    for name, p_value in (("p_holm", "p_value"), ("p_tost_holm", "p_tost")):
        result[name] = holm(result[p_value].where(family))
    alpha = np.where(family, declared.alpha / max(family.sum(), 1), declared.alpha)
    found = result.to_dict("records")
    result["verdict"] = [_verdict(study, row) for row in found]
    known = zip(found, alpha, strict=True)
    result["detectable"] = [detectable(row["sd"], int(row["k"]), level) for row, level in known]
    return result.sort_values("family", key=lambda family: family != DECLARED, kind="stable", ignore_index=True)


def _variant(study: Study, variant: str, table: pd.DataFrame, without: list[str]) -> Iterator[dict[str, Any]]:
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
        row |= {"datasets": " ".join(used["dataset"]), "left_out": " ".join(left_out)}
        rope = math.nan if variant == LOG_ODDS else study.rope(row["metric"])
        try:
            row |= pool(used["estimate"], used["sd"] / np.sqrt(used["n"]), rope=rope, alpha=study.declared.alpha)
        except ValueError as reason:
            row |= {"k": len(used), "verdict": f"refused: {reason}"}
        yield row


def _verdict(study: Study, row: dict[Any, Any]) -> str:
    if pd.isna(row["estimate"]):
        return str(row["verdict"])
    good = study.kind.good(METRICS[row["metric"]].higher_is_better) and row["variant"] != LOG_ODDS
    p_value, p_tost = ("p_holm", "p_tost_holm") if row["family"] == DECLARED else ("p_value", "p_tost")
    return judged(row["ci_low"], row["ci_high"], row[p_value], row[p_tost], study.declared.alpha, good)


def _log_odds(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracies as differences of the log odds of error, with half an error where there is none."""
    counted = table["n"] * table["test_rows"]
    wrong_a, wrong_b = (((1 - table[f"mean_{side}"]) * counted + 0.5) / (counted + 1) for side in "ab")
    slope = (1 / (wrong_a * (1 - wrong_a)) + 1 / (wrong_b * (1 - wrong_b))) / 2  # of the log odds, for the errors
    odds = np.log(wrong_a / (1 - wrong_a)) - np.log(wrong_b / (1 - wrong_b))
    return table.assign(estimate=odds, sd=table["sd"] * slope)


def twins(study: Study) -> list[str]:
    """Data sets whose rows another one has too, under a name that comes before."""
    first = study.table.drop_duplicates("dataset")[["dataset", "fingerprint"]].sort_values("dataset")
    return list(first["dataset"][first["fingerprint"].duplicated()])
