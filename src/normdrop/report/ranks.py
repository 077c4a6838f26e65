"""Which of several networks to use, and what an untuned user loses: each with a default, tuned, and with hindsight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.choose import chosen
from normdrop.report.compare import mean_interval
from normdrop.report.pooled import twins
from normdrop.report.study import Study

HOW = ("default", "tuned", "oracle")
DIGITS = 12  # equal means of seeds may differ in their last bits


def networks(study: Study) -> pd.DataFrame:
    """Every network of the grid proper over the data sets, the best tuned one first.

    how: "default", the candidate (rate and whatever else is tuned) with the highest mean validation accuracy on the
    *other* data sets; "tuned", each seed's own choice by validation; "oracle", the candidate that turns out best on the
    test rows. Columns: network, arrangement, position, how, k (data sets that have all networks, without those set
    apart), mean, ci_low, ci_high (of the primary metric, each data set alike), difference, diff_low, diff_high (to the
    best tuned network, paired over data sets), best, mean_rank (among the networks of the same `how`; 1 is best), rate
    (the most frequent). Empty with fewer than two data sets, or where a kind consumes a key.
    """
    declared, table = study.declared, study.first
    if study.kind.reduce is not None or table.empty or declared.metric not in table:
        return pd.DataFrame()
    apart = {*declared.apart, *twins(study)}
    table = table[~table["stands_in"] & ~table["beyond"].astype(bool) & ~table["dataset"].isin(apart)]
    scores: dict[tuple[str, str, str], pd.Series] = {}
    rates: dict[tuple[str, str, str], float] = {}
    for (arrangement, position), rows in table.groupby(["arrangement", "position"]):
        for how, (score, rate) in _scores(study, rows).items():
            scores[arrangement, position, how], rates[arrangement, position, how] = score, rate
    units = pd.DataFrame(scores).dropna()
    if len(units) < 2:
        return pd.DataFrame()
    good = METRICS[declared.metric].higher_is_better
    tuned = units.xs("tuned", axis=1, level=2).mean()
    best = (*(tuned.idxmax() if good else tuned.idxmin()), "tuned")
    found: list[dict[str, Any]] = []
    several = table.groupby("arrangement")["position"].nunique() > 1
    for how in HOW:
        own = units.xs(how, axis=1, level=2)
        ranks = stats.rankdata(np.round(-own if good else own, DIGITS), axis=1).mean(axis=0)
        for (arrangement, position), mean_rank in zip(own, ranks, strict=True):
            key = arrangement, position, how
            mean, low, high = mean_interval(units[key], declared.alpha)
            difference, diff_low, diff_high = mean_interval(units[key] - units[best], declared.alpha)
            name = f"{arrangement} · {position}" if several[arrangement] else arrangement
            place = {"network": name, "arrangement": arrangement, "position": position, "how": how, "k": len(units)}
            numbers = {"mean": mean, "ci_low": low, "ci_high": high, "difference": difference}
            numbers |= {"diff_low": diff_low, "diff_high": diff_high, "best": key == best}
            found.append(place | numbers | {"mean_rank": mean_rank, "rate": rates[key]})
    order = {name: i for i, name in enumerate(tuned.sort_values(ascending=not good).index)}
    result = pd.DataFrame(found)
    result["order"] = [order[place] for place in zip(result["arrangement"], result["position"], strict=True)]
    return result.sort_values("order", kind="stable", ignore_index=True).drop(columns="order")


def _scores(study: Study, rows: pd.DataFrame) -> dict[str, tuple[pd.Series, float]]:
    """Of one network: how → (score by data set and keys, the most frequent rate)."""
    metric, tuned = study.declared.metric, list(dict.fromkeys(["rate", *study.declared.tuned]))
    unit = ["dataset", *study.keys]
    means = rows.groupby([*unit, *tuned])[["val_acc", metric]].mean()
    by_validation, by_test = (means[name].unstack(tuned) for name in ("val_acc", metric))
    # The mean over the other data sets: all of them less this one; a candidate must have been trained on all.
    others = (by_validation.sum(axis=0, skipna=False) - by_validation) / max(len(by_validation) - 1, 1)
    hindsight = by_test if METRICS[metric].higher_is_better else -by_test
    each = {"default": others.fillna(-np.inf), "oracle": hindsight.fillna(-np.inf)}
    found = {}
    for how, preferred in each.items():
        columns = preferred.to_numpy().argmax(axis=1)
        score = pd.Series(by_test.to_numpy()[np.arange(len(by_test)), columns], index=by_test.index)
        rate = by_test.columns.get_level_values("rate").to_numpy()[columns]
        found[how] = score, float(pd.Series(rate).mode().iloc[0])
    best = chosen(rows, tuned, [*unit, "seed"])
    score = best.groupby(level=list(range(len(unit))))[metric].mean()
    return found | {"tuned": (score, float(best["rate"].mode().iloc[0]))}
