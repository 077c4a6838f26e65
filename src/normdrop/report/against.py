"""A run beside a reference: where their estimates differ by more than their intervals allow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.answer import say
from normdrop.report.statistics import holm

# Which rows are the same comparison. The rates of best_vs_best are an outcome, so they do not count there.
SAME = ["claim", "dataset", "position", "comparison", "metric", "setting", "a", "b", "rate"]


def read_reference(directory: Path) -> pd.DataFrame:
    """All verdicts.csv under `directory`, as one table. Raises ValueError if there is none."""
    files = sorted(directory.rglob("verdicts.csv"))
    if not files:
        raise ValueError(f"--against {directory}: no verdicts.csv in it")
    tables = [pd.read_csv(file, keep_default_na=False, na_values=[""]) for file in files]
    # A page over several studies repeats the rows of each study's own page.
    return pd.concat(tables, ignore_index=True).drop_duplicates()


def compare_runs(own: pd.DataFrame, reference: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """One row per comparison that both have: both estimates and verdicts, t, p_holm, differs, verdict_differs.

    t = (own - reference) / √(SE² + SE²), each SE from the width of its 95 % t interval (of a ratio, on the log scale),
    on Welch and Satterthwaite's degrees of freedom; p_holm covers all rows. Runs that share seeds and code are not
    independent: t is then too small, never too large.
    """
    both = _keyed(own).merge(_keyed(reference), on=SAME, suffixes=("", "_reference"))
    # Several experiments may test one claim: the one of the same name is meant; where the reference has no such
    # experiment, whichever comes first.
    both["other"] = both["experiment"] != both["experiment_reference"]
    both = both[~(both["other"] & both["experiment"].isin(reference["experiment"]))]
    both = both.sort_values("other", kind="stable").drop_duplicates([*SAME, "experiment"]).sort_index(ignore_index=True)
    found, degrees = [], []
    for row in both.to_dict("records"):
        values = np.array(
            [[row[f"{k}{side}"] for k in ("estimate", "ci_low", "ci_high")] for side in ("", "_reference")]
        )
        if METRICS[row["metric"]].unit == "steps" and (values > 0).all():
            values = np.log(values)
        freedom = np.maximum([row["n"] - 1, row["n_reference"] - 1], 1)
        with np.errstate(invalid="ignore"):  # a median of censored runs is infinite, and so are its bounds
            error = (values[:, 2] - values[:, 1]) / (2 * stats.t.ppf(0.975, freedom))
            gap, noise = values[0, 0] - values[1, 0], float(np.hypot(*error))
        found.append(gap / noise if noise > 0 else (0.0 if gap == 0 else np.inf if np.isfinite(gap) else np.nan))
        degrees.append(noise**4 / float((error**4 / freedom).sum()) if noise > 0 else float(freedom.sum()))
    both["t"] = found
    both["p_holm"] = holm(2 * stats.t.sf(np.abs(both["t"]), degrees))
    both["differs"] = both["p_holm"] < alpha
    both["verdict_differs"] = both["verdict"].map(say) != both["verdict_reference"].map(say)
    return both


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    rate = table[["rate_a", "rate_b"]].max(axis=1).where(table["comparison"] != "best_vs_best", -1.0).fillna(-1.0)
    keyed = table.assign(rate=rate.round(6), setting=table["setting"].astype(object).fillna(""))
    return keyed[[*SAME, "experiment", "n", "estimate", "ci_low", "ci_high", "verdict"]]
