"""A run beside a reference: where estimates differ by more than their intervals allow, and what was replicated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.answer import say
from normdrop.report.statistics import holm
from normdrop.report.verdicts import DECLARED, each
from normdrop.report.words import head

# Which rows are the same comparison. The rates of best_vs_best are an outcome, so they do not count there.
SAME = ["claim", "dataset", "position", "comparison", "metric", "setting", "a", "b", "rate"]


def read_reference(directory: Path, name: str = "verdicts") -> pd.DataFrame:
    """All tables of that name under `directory`, as one. Raises ValueError if there is none."""
    files = sorted(directory.rglob(f"{name}.csv"))
    if not files:
        raise ValueError(f"--against {directory}: no {name}.csv in it")
    tables = [pd.read_csv(file, keep_default_na=False, na_values=[""]) for file in files]
    # A page over several studies repeats the rows of each study's own page.
    return pd.concat(tables, ignore_index=True).drop_duplicates()


def compare_runs(own: pd.DataFrame, reference: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """One row per comparison that both have: both estimates and verdicts, t, p_holm, differs, verdict_differs.

    t = (own - reference) / √(SE² + SE²), each SE from the width of its t interval (of a ratio, on the log scale), on
    Welch and Satterthwaite's degrees of freedom; p_holm covers all rows. Runs that share seeds and code are not
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
        beyond = np.array([row["alpha"], row["alpha_reference"]]) / 2  # either end of the interval
        with np.errstate(invalid="ignore"):  # a median of censored runs is infinite, and so are its bounds
            error = (values[:, 2] - values[:, 1]) / (2 * stats.t.isf(beyond, freedom))
            gap, noise = values[0, 0] - values[1, 0], float(np.hypot(*error))
        found.append(gap / noise if noise > 0 else (0.0 if gap == 0 else np.inf if np.isfinite(gap) else np.nan))
        degrees.append(noise**4 / float((error**4 / freedom).sum()) if noise > 0 else float(freedom.sum()))
    both["t"] = found
    both["p_holm"] = holm(2 * stats.t.sf(np.abs(both["t"]), degrees))
    both["differs"] = both["p_holm"] < alpha
    both["verdict_differs"] = both["verdict"].map(say) != both["verdict_reference"].map(say)
    return both


PLACE = ["experiment", "claim", "dataset", "position", "setting", "comparison", "metric"]
NUMBERS = ["estimate", "ci_low", "ci_high"]


def replicated(both: pd.DataFrame, own: dict[str, pd.DataFrame], reference: Path) -> pd.DataFrame:
    """What was declared, there and here: the word of each claim, each pooled mean, and each row of a declared family.

    both: `compare_runs`. own: this run's tables by name, `pooled` and `words` among them; reference: the other run's
    folder. Columns: level (claim, pooled or row), PLACE, NUMBERS and verdict, all but PLACE also of the
    reference, under a name in _reference; replicated (the same word) and same_sign (NaN where there is no estimate).
    """
    tables = [both[both["family"] == DECLARED].assign(level="row")]
    for level, name, key in (("pooled", "pooled", PLACE[:2] + PLACE[3:]), ("claim", "words", PLACE[:2])):
        if name not in own or not [*reference.rglob(f"{name}.csv")]:
            continue
        sides = [own[name], read_reference(reference, name)]
        if name == "pooled":
            sides = [t[(t["family"] == DECLARED) & (t["variant"] == "as declared")] for t in sides]
            sides = [t.assign(setting=t["setting"].astype(object).fillna("")) for t in sides]
        values = [*key, *(column for column in NUMBERS if column in own[name]), "verdict"]
        one, other = (table[values] for table in sides)
        tables.insert(0, one.merge(other, on=key, suffixes=("", "_reference")).assign(level=level))
    columns = ["level", *PLACE, *NUMBERS, "verdict", *(f"{name}_reference" for name in [*NUMBERS, "verdict"])]
    table = pd.concat(tables, ignore_index=True).reindex(columns=columns)
    null = table["metric"].map(lambda name: float(name in METRICS and METRICS[name].unit == "steps")).astype(float)
    table["replicated"] = table["verdict"].map(head) == table["verdict_reference"].map(head)
    signs = [np.sign(table[name].astype(float) - null) for name in ("estimate", "estimate_reference")]
    table["same_sign"] = (signs[0] == signs[1]).where(table["estimate"].notna())
    return table


def seeds_apart(own: pd.DataFrame, reference: pd.DataFrame) -> str:
    """One line on whether two runs' verdicts rest on other seeds."""
    if "seeds" not in reference:
        return "Which seeds the other run has is not known: whether this one is independent of it cannot be told."
    both = own.merge(reference.drop_duplicates("experiment"), on="experiment", suffixes=("", "_reference"))
    shared = {row.experiment for row in each(both) if not _seeds(row.seeds).isdisjoint(_seeds(row.seeds_reference))}
    if shared:
        return (
            f"Warning: the two runs share seeds ({', '.join(sorted(shared))}), so that this one confirms nothing there."
        )
    here, there = ("; ".join(sorted({*table["seeds"]})) for table in (own, reference))
    return f"No seed is in both: {here} here, {there} there."


def _seeds(spans: str) -> set[int]:
    return {n for run in spans.split() for n in range(int(run.split("-")[0]), int(run.split("-")[1]) + 1)}


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    rate = table[["rate_a", "rate_b"]].max(axis=1).where(table["comparison"] != "best_vs_best", -1.0).fillna(-1.0)
    keyed = table.assign(rate=rate.round(6), setting=table["setting"].astype(object).fillna(""))
    keyed["alpha"] = table.get("alpha", 0.05)  # which earlier tables do not say
    return keyed[[*SAME, "experiment", "n", "estimate", "ci_low", "ci_high", "alpha", "verdict", "family"]]
