"""When does the order matter? Differences at equal rate over the keys that vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from normdrop.metrics import METRICS
from normdrop.report.choose import pairs
from normdrop.report.study import Study
from normdrop.report.verdicts import rows


def control_of(study: Study) -> list[list[str]]:
    """Both sides with layer normalization in place of BN."""
    return [[name.replace("bn", "ln") for name in side] for side in study.declared.sides]


def control(table: pd.DataFrame) -> pd.DataFrame:
    """Of `cells` those that the control has too: what is said of both orders, that of the control in columns that end
    in _control. Without trends; empty where no control was trained.
    """
    if table.empty or table["contrast"].nunique() < 2:
        return pd.DataFrame()
    table = table[table["part"] != "trend"].drop(columns=["p_value", "p_tost", "recal", "recal_low", "recal_high"])
    own, its = (rows for _, rows in table.groupby("contrast", sort=False))
    said = ["contrast", "n", "estimate", "ci_low", "ci_high", "word"]
    both = own.merge(its, on=[*table.columns.difference(said)], suffixes=("", "_control"))
    return both.dropna(subset=["estimate", "estimate_control"])


def cells(study: Study) -> pd.DataFrame:
    """The map: A - B at equal rate at every place, and the same with layer normalization in place of BN as the control.

    Columns: contrast, dataset, position, the keys, rate, part (of a ladder the rung, or its trend), n, estimate,
    ci_low, ci_high, p_value, p_tost, the same of recalibrated networks (recal, recal_low, recal_high) where measured,
    word: ahead and behind (of A, by an interval on one side of 0), no difference (the equivalence test rejects), open.
    Exploratory: nothing is adjusted.
    """
    declared, found = study.declared, []
    place, recalibrated = [*study.place, "rate", "part"], f"recal_{declared.metric}"
    its = control_of(study)
    for a, b in [declared.sides] if its == declared.sides else [declared.sides, its]:
        if not {*a, *b} <= set(study.table["arrangement"]):
            continue
        secondary = (recalibrated,) if recalibrated in METRICS else ()
        contrast = replace(declared, contrast={"a": a, "b": b}, secondary=secondary, family=None)
        other = replace(study, declared=contrast)
        table = rows(other, pairs(other, only="same_rate"))
        own, again = (table[table["metric"] == metric] for metric in (declared.metric, recalibrated))
        again = again.rename(columns={"estimate": "recal", "ci_low": "recal_low", "ci_high": "recal_high"})
        own = own[[*place, "n", "estimate", "ci_low", "ci_high", "p_value", "p_tost"]]
        merged = own.merge(again[[*place, "recal", "recal_low", "recal_high"]], on=place, how="left")
        found.append(merged.assign(contrast=f"{' or '.join(a)} - {' or '.join(b)}"))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True)
    tests = [table["ci_low"] > 0, table["ci_high"] < 0, table["p_tost"] < declared.alpha]
    above, below = ("ahead", "behind") if study.good(declared.metric) else ("behind", "ahead")
    return table.assign(word=np.select(tests, [above, below, "no difference"], "open"))
