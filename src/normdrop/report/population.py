"""Data sets as units: a comparison pooled over them, the networks ranked, and what the effect goes with."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.contrasts import contrasts, tuned
from normdrop.report.pooled import pool
from normdrop.report.ranks import Ranks, rank
from normdrop.report.records import Study, at_level
from normdrop.report.statistics import MIN_DATA_SETS, holm, judged
from normdrop.report.verdicts import DECLARED, HARNESS, each, verdicts

# fmt: off
COLUMNS = [
    "claim", "position", "setting", "comparison", "rate", "metric", "variant", "k", "estimate", "ci_low", "ci_high",
    "tau", "i2", "pi_low", "pi_high", "loo_low", "loo_high", "p_value", "p_holm", "p_tost", "verdict", "family",
    "datasets", "left_out",
]
# fmt: on
LEVELS = (0.8, 1.25)  # of the declared one: does the answer hang on where the finish stands?
PLACE = ["comparison", "rate", "position", "setting", "metric"]


def pooled(
    study: Study, rows: pd.DataFrame, variant: str = "as declared", margin: float = 1.0, alike: bool = False
) -> pd.DataFrame:
    """Each comparison over its data sets, in the scope of new data, the declared ones first; columns `COLUMNS`.

    rows: `verdicts` of the study. Only comparisons with `MIN_DATA_SETS` data sets; those of which nothing can be said
    about new data are left out and named. alike: each data set counts the same, however well its own mean is known: a t
    interval over the means.
    """
    alpha = study.declaration["alpha"]
    found: list[dict[str, Any]] = []
    table = rows[(rows["family"] != HARNESS) & (rows["comparison"] != "way_out") & (rows["null"] == 0)]
    rate = table[["rate_a", "rate_b"]].max(axis=1).where(table["comparison"] == "same_rate", -1.0)
    for key, group in table.assign(rate=rate).groupby(PLACE, sort=False):
        if group["dataset"].nunique() < MIN_DATA_SETS:
            continue
        place: dict[str, Any] = dict(zip(PLACE, key, strict=True))
        error = (group["new_high"] - group["new_low"]) / 2 / stats.t.isf(alpha / 2, group["n"].clip(lower=2) - 1)
        known = np.isfinite(error) & np.isfinite(group["estimate"])
        if alike:  # errors that are nothing beside the spread of the means
            error = error * 0 + group["estimate"].std() / 1e6
        place |= {"claim": study.declaration["claim"], "variant": variant, "family": group["family"].iloc[0]}
        place |= {"datasets": " ".join(group["dataset"][known]), "left_out": " ".join(group["dataset"][~known])}
        try:
            rope = study.rope(place["metric"]) * margin
            found.append(place | asdict(pool(group["estimate"][known], error[known], rope=rope, alpha=alpha)))
        except ValueError as reason:
            found.append(place | {"k": int(known.sum()), "verdict": f"refused: {reason}"})
    table = pd.DataFrame(found, columns=COLUMNS)
    if table.empty:
        return table
    table["p_holm"] = holm(table["p_value"].where(table["family"] == DECLARED))
    table["verdict"] = [row.verdict if pd.isna(row.estimate) else _judged(study, row) for row in each(table)]
    return table.sort_values("family", key=lambda f: f != DECLARED, kind="stable", ignore_index=True)


def _judged(study: Study, row: Any) -> str:
    p = row.p_holm if row.family == DECLARED else row.p_value
    good = study.kind_of(row.metric).good(METRICS[row.metric])
    alpha = study.declaration["alpha"]
    return judged(row.ci_low, row.ci_high, p, row.p_tost, null=0.0, alpha=alpha, higher_is_better=good)


def sensitivity(study: Study, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The declared family under other choices of the analyst: rows as of `verdicts`, with `variant`, and their pools.

    Chosen by NLL, by the other replicates' validation parts, with a ROPE of half and twice the size, at another level
    where steps to one are counted, over all values of `over`, with each data set counting alike, and without those that
    the study sets `apart`.
    A row is judged within its own family's Holm.
    """
    primary = rows[rows["family"] == DECLARED]
    if primary.empty:
        return pd.DataFrame(), pd.DataFrame()
    variants: dict[str, tuple[Study, str, float]] = {}
    if study.declaration["family"] == "best_vs_best" and study.selects:
        variants |= {"chosen by NLL": (study, "nll", 1.0), "chosen by the other replicates": (study, "others", 1.0)}
    variants |= {"ROPE halved": (study, "accuracy", 0.5), "ROPE doubled": (study, "accuracy", 2.0)}
    if study.kind.ratio:
        variants |= {f"level × {factor}": (at_level(study, factor), "accuracy", 1.0) for factor in LEVELS}
    if study.declaration["core"]:
        whole = replace(study, declaration=study.declaration | {"core": None})
        variants["all of the grid"] = whole, "accuracy", 1.0
    tables, pools = [primary.assign(variant="as declared")], [pooled(study, primary)]
    for name, (varied, prefer, margin) in variants.items():
        table = verdicts(varied, contrasts(varied, prefer, only=study.declaration["family"]), margin)
        table = table[table["family"] == DECLARED]
        tables.append(table.assign(variant=name))
        pools.append(pooled(study, table, name, margin))
    same_metric = rows[rows["metric"].isin(study.metrics)]
    pools.append(pooled(study, same_metric, "each data set alike", alike=True))  # at one rate too
    if apart := {*study.declaration["apart"]} & {*rows["dataset"]}:
        pools.append(pooled(study, primary[~primary["dataset"].isin(apart)], f"without {len(apart)} set apart"))
    return pd.concat(tables, ignore_index=True), pd.concat(pools, ignore_index=True)


def scores(study: Study) -> pd.DataFrame:
    """Mean of the primary metric by data set (rows) and network (columns), each tuned among all of its candidates.

    A network is an arrangement at a position; one that stands for several positions comes once, by its first name.
    Data sets on which a network is missing are left out.
    """
    first = study.replicates[
        (study.replicates["rerun"] == 0) & study.replicates["setting"].isin(study.base_settings[:1])
    ]
    if study.over is not None or study.kind.ratio or study.metric not in first:
        return pd.DataFrame()
    first = first.drop_duplicates(["condition", "arrangement", "seed"])
    means: dict[str, dict[str, float]] = {}
    for (arrangement, position), rows in first.groupby(["arrangement", "position"], sort=False):
        shared = (first["arrangement"] == arrangement) & (first["position"] != position)
        name = f"{arrangement} · {position}" if shared.any() else str(arrangement)
        means[name] = {
            str(dataset): float(tuned(study, own, study.declaration["tuned"])[study.metric].mean())
            for dataset, own in rows.groupby("dataset")
        }
    order = {name: i for i, name in enumerate(study.arrangements)}
    names = sorted(means, key=lambda name: (order[name.partition(" ")[0]], name))
    return pd.DataFrame(means)[names].dropna() if means else pd.DataFrame()


def ranking(study: Study, table: pd.DataFrame) -> tuple[Ranks, pd.DataFrame] | None:
    """The networks ranked over the data sets, best first, and what each loses; None where there are too few.

    The table has one row per network: mean_rank, mean (over data sets), loss (of the mean against the best network's,
    positive is worse), worst (the largest loss on a data set and its name), p (Wilcoxon against the best, Holm).
    """
    if table.shape[0] < MIN_DATA_SETS or table.shape[1] < 3:
        return None
    good = METRICS[study.metric].higher_is_better
    ranks = rank(table, alpha=study.declaration["alpha"], higher_is_better=good)
    order = np.argsort(ranks.mean_ranks, kind="stable")
    losses = table.rsub(table.iloc[:, order[0]], axis=0) * (1 if good else -1)
    found = {"network": table.columns, "mean_rank": ranks.mean_ranks, "mean": table.mean(), "loss": losses.mean()}
    found |= {"worst": losses.max(), "where": losses.idxmax(), "p": ranks.p_pairs[order[0]]}
    return ranks, pd.DataFrame(found).iloc[order].reset_index(drop=True)


def properties(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The declared effect beside each data set's training rows, features, classes and accuracy (of both sides)."""
    first = study.replicates[study.replicates["rerun"] == 0]
    both = first[first["arrangement"].isin([*study.sides[0], *study.sides[1]])]
    facts = pd.DataFrame({record["dataset"]: record["rows"] for record in study.records}).T
    facts = facts.rename(columns={"train": "rows"}).reindex(columns=["rows", "features", "classes"]).astype(float)
    facts["accuracy"] = both.groupby("dataset")["test_acc"].mean()
    here = rows[(rows["family"] == DECLARED) & (rows["metric"] == study.metric) & rows["estimate"].notna()]
    return here[["dataset", "position", "estimate"]].rename(columns={"estimate": "effect"}).join(facts, on="dataset")


def explored(study: Study, table: pd.DataFrame) -> str | None:
    """One sentence on the strongest of the rank correlations with the effect."""
    if table.empty or table["dataset"].nunique() < MIN_DATA_SETS:
        return None
    looks: list[tuple[float, str]] = []
    for position, group in table.groupby("position"):
        for key in ("rows", "features", "classes", "accuracy"):
            if group[key].nunique() > 1:
                rho, p = stats.spearmanr(group[key], group["effect"], nan_policy="omit")
                looks.append((float(p), f"{key} at {position} (Spearman's ρ = {rho:+.2f}, p = {p:.3g})"))
    if not looks:
        return None
    p, strongest = min(looks)
    clear = f"is clear even after Holm over the {len(looks)} looks"
    luck = f"is no more than chance gives the strongest of {len(looks)} looks"
    return (
        f"What the effect goes with (exploratory): its strongest rank correlation is with {strongest}, which "
        f"{clear if p * len(looks) < 0.05 else luck}."
    )
