"""Which of several networks to use, and what an untuned user loses: each with a default, tuned, and with hindsight."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normdrop.metrics import METRICS
from normdrop.report.choose import chosen
from normdrop.report.compare import mean_interval
from normdrop.report.pooled import set_apart
from normdrop.report.study import Study


def networks(study: Study) -> pd.DataFrame:
    """Every network of the grid proper over the data sets, the best tuned one first.

    how: "default", the candidate (rate and whatever else is tuned) with the highest mean validation accuracy on the
    *other* data sets; "tuned", each seed's own choice by validation; "oracle", the candidate that turns out best on the
    test rows. Seeds are those that every candidate has. Columns: network, arrangement, position, how, k (data sets that
    have all networks, without those set apart), lost (those that lack one, or a seed of it: it diverged), mean, ci_low,
    ci_high (of the primary metric, each data set alike), difference, diff_low, diff_high (to the best tuned network,
    paired over data sets), best, mean_rank (among the networks of the same `how`; 1 is best), rate (the most frequent).
    Empty with fewer than two data sets, or where a kind consumes a key.
    """
    declared, metric, table = study.declared, study.declared.metric, study.first
    if study.kind.reduce is not None or metric not in table:
        return pd.DataFrame()
    table = table[~table["stands_in"] & ~table["beyond"].astype(bool) & ~table["dataset"].isin(set_apart(study))]
    tried, unit = table["dataset"].nunique(), ["dataset", *study.keys]
    candidates = table.groupby(unit)["condition"].transform("nunique")
    table = table[table.groupby([*unit, "seed"])["condition"].transform("nunique") == candidates]
    scores, rates = {}, {}
    for (arrangement, position), rows in table.groupby(["arrangement", "position"]):
        for how, (score, rate) in _scores(study, rows).items():
            key = (str(arrangement), str(position), how)
            scores[key], rates[key] = score, rate
    # A network whose candidates all diverged somewhere has no default.
    known = {key: score for key, score in scores.items() if key[2] != "default" or score.notna().any()}
    # A data set counts once, whatever settings it was tried at: those that all networks have.
    units = pd.DataFrame(known).dropna().groupby(level="dataset").mean()
    if len(units) < 2:
        return pd.DataFrame()
    better = -1 if METRICS[metric].higher_is_better else 1
    means = better * units.mean()
    best = min((key for key in known if key[2] == "tuned"), key=means.__getitem__)
    # Equal means of seeds may differ in their last bits.
    ranks = (better * units).round(12).T.groupby(level=2).rank().T.mean()
    several = table.groupby("arrangement")["position"].nunique() > 1
    found = []
    for key in known:
        arrangement, position, how = key
        name = f"{arrangement} · {position}" if several[arrangement] else arrangement
        row = {"network": name, "arrangement": arrangement, "position": position, "how": how, "k": len(units)}
        row["lost"] = tried - len(units)
        mean, low, high = mean_interval(units[key], declared.alpha)
        row |= {"mean": mean, "ci_low": low, "ci_high": high}
        mean, low, high = mean_interval(units[key] - units[best], declared.alpha)
        row |= {"difference": mean, "diff_low": low, "diff_high": high, "best": key == best}
        row |= {"mean_rank": ranks[key], "rate": rates[key], "order": means[arrangement, position, "tuned"]}
        found.append(row)
    return pd.DataFrame(found).sort_values("order", kind="stable", ignore_index=True).drop(columns="order")


def _scores(study: Study, rows: pd.DataFrame) -> dict[str, tuple[pd.Series, float]]:
    """Of one network: how → (score by data set and keys, the most frequent rate). A score with a diverged seed is
    NaN."""
    metric, unit = study.declared.metric, ["dataset", *study.keys]
    tuned = list(dict.fromkeys(["rate", *study.declared.tuned]))
    seeds = rows.groupby([*unit, *tuned])
    means = seeds[["val_acc", metric]].mean()
    means.loc[seeds["diverged"].any()] = np.nan
    by_validation, by_test = (means[name].unstack(tuned) for name in ("val_acc", metric))
    # The mean over the other data sets: all of them less this one; a candidate must have been trained on all.
    own = by_validation.groupby(level="dataset").transform("sum")
    others = by_validation.sum(skipna=False) - own
    hindsight = by_test if METRICS[metric].higher_is_better else -by_test
    found = {}
    for how, preferred in (("default", others), ("oracle", hindsight)):
        columns = preferred.fillna(-np.inf).to_numpy().argmax(axis=1)
        score = pd.Series(by_test.to_numpy()[np.arange(len(by_test)), columns], index=by_test.index)
        score = score.where(preferred.notna().any(axis=1))
        found[how] = score, by_test.columns.get_level_values("rate").to_series().iloc[columns]
    best = pd.concat([chosen(own, tuned, [*unit, "seed"]) for _, own in rows.groupby(unit)])  # each of its own grid
    of_seeds = best.groupby(level=unit)
    found["tuned"] = of_seeds[metric].mean().where(~of_seeds["diverged"].any()), best["rate"]
    return {how: (score, float(rate.mode().iloc[0])) for how, (score, rate) in found.items()}
