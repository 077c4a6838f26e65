"""When does the order matter, and does it go away with data or capacity? Differences at equal rate over the keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.kinds import trend
from normdrop.metrics import METRICS
from normdrop.report.choose import Pair, pairs
from normdrop.report.compare import mean_interval
from normdrop.report.study import Study
from normdrop.report.verdicts import rows


def cells(study: Study) -> pd.DataFrame:
    """The map: A - B at equal rate at every place, and the same with layer normalization in place of BN as the control.

    Columns: contrast, dataset, position, the keys, rate, part (of a ladder the rung, or its trend), n, estimate,
    ci_low, ci_high, p_value, p_tost, the same of recalibrated networks (recal, recal_low, recal_high) where measured,
    word: ahead and behind (of A, by an interval on one side of 0), no difference (the equivalence test rejects), open.
    Exploratory: nothing is adjusted.
    """
    declared, found = study.declared, []
    place, recalibrated = [*study.place, "rate", "part"], f"recal_{declared.metric}"
    control = [[name.replace("bn", "ln") for name in side] for side in declared.sides]
    for a, b in [declared.sides] if control == declared.sides else [declared.sides, control]:
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


def trends(study: Study, compared: Iterable[Pair]) -> pd.DataFrame:
    """How A - B changes along each key whose values are numbers, the rest held fixed, at equal rates and tuned.

    compared: `choose.pairs`. A line through the differences of each seed, its rungs equally far apart; the change from
    the first to the last rung is tested against 0 over the seeds. Columns: key, first, last, dataset, position, the
    other keys ("" in the column of the key itself), comparison, rate, n, estimate (metric's unit), ci_low, ci_high,
    p_value.
    """
    declared, found, tables = study.declared, [], []
    for pair in compared:
        difference = (pair.a[declared.metric] - pair.b[declared.metric]).astype(float).reset_index(name="difference")
        tables.append(difference.assign(**pair.place, comparison=pair.comparison, rate=pair.rate))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True).fillna({"rate": -1.0})  # tuned: first in order
    for key in filter(None, [declared.over, *study.keys]):
        along = table[table[key] != ""]  # another model may lack the key
        if pd.api.types.infer_dtype(along[key]) not in ("integer", "floating", "mixed-integer-float"):
            continue
        others = [name for name in table if name not in (key, "difference", "seed")]
        for place, block in along.groupby(others):
            values = block.pivot(index="seed", columns=key, values="difference").dropna()
            if values.shape[1] < 2 or len(values) < 2:
                continue
            change = trend(values)
            mean, low, high = mean_interval(change, declared.alpha)
            row = dict(zip(others, place, strict=True)) | {key: "", "key": key, "n": len(values)}
            row |= {"first": values.columns[0], "last": values.columns[-1], "estimate": mean}
            p_value = stats.ttest_1samp(change, 0).pvalue
            found.append(row | {"ci_low": low, "ci_high": high, "p_value": p_value})
    return pd.DataFrame(found).replace({"rate": {-1.0: np.nan}})
