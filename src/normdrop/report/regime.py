"""When does the order matter, and does it go away with data or capacity? Differences at equal rate over the keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from normdrop.kinds import trend
from normdrop.report.choose import Pair, pairs
from normdrop.report.compare import t_tests
from normdrop.report.study import Study
from normdrop.report.verdicts import rows


def cells(study: Study) -> pd.DataFrame:
    """The map: A - B at equal rate at every place, and the same with layer normalization in place of BN as the control.

    Columns: contrast, dataset, position, the keys, rate, part (of a ladder the rung, or its trend), n, estimate,
    ci_low, ci_high, p_value, p_tost, the same of recalibrated networks (recal, recal_low, recal_high) where measured,
    word: ahead and behind (the interval lies on that side of 0), no difference (the equivalence test rejects), open.
    Exploratory: nothing is adjusted.
    """
    found = []
    place, declared = [*study.place, "rate", "part"], study.declared
    control = [[name.replace("bn", "ln") for name in side] for side in declared.sides]
    for sides in [declared.sides] if control == declared.sides else [declared.sides, control]:
        if not {*sides[0], *sides[1]} <= set(study.arrangements):
            continue
        again = f"recal_{declared.metric}"
        contrast = replace(declared, contrast=dict(zip("ab", sides, strict=True)), secondary=(again,), family=None)
        other = replace(study, declared=contrast)
        table = rows(other, pairs(other, only="same_rate"))
        first = table[table["metric"] == declared.metric]
        named = {"estimate": "recal", "ci_low": "recal_low", "ci_high": "recal_high"}
        recal = table[table["metric"] == again].rename(columns=named)[[*place, *named.values()]]
        numbers = ["n", "estimate", "ci_low", "ci_high", "p_value", "p_tost"]
        merged = first[[*place, *numbers]].merge(recal, on=place, how="left")
        found.append(merged.assign(contrast=f"{' or '.join(sides[0])} - {' or '.join(sides[1])}"))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True)
    tests = [table["ci_low"] > 0, table["ci_high"] < 0, table["p_tost"] < declared.alpha]
    return table.assign(word=np.select(tests, ["ahead", "behind", "no difference"], "open"))


def counts(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How many cells say what, for each value of `by`."""
    found = pd.crosstab([table[key] for key in by], table["word"])
    return found.reindex(columns=["ahead", "behind", "no difference", "open"], fill_value=0).reset_index()


def trends(study: Study, compared: Iterable[Pair]) -> pd.DataFrame:
    """How A - B changes along each key whose values are numbers, the rest held fixed, at equal rates and tuned.

    compared: `choose.pairs`. A line through the differences of each seed, its rungs equally far apart; the change from
    the first to the last rung is tested against 0 over the seeds. Columns: key, first, last, dataset, position, the
    other keys ("" in the column of the key itself), comparison, rate, n, estimate (metric's unit), ci_low, ci_high,
    p_value.
    """
    declared, found, tables = study.declared, [], []
    for pair in compared:
        a, b = (side[declared.metric].astype(float) for side in (pair.a, pair.b))
        difference = (a - b).rename("difference").reset_index()
        rate = np.nan if pair.rate is None else pair.rate
        tables.append(difference.assign(**pair.place, comparison=pair.comparison, rate=rate))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True).fillna({"rate": -1.0})
    keys = [key for key in (declared.over, *study.keys) if key]
    for key in (key for key in keys if pd.api.types.is_numeric_dtype(table[key]) and table[key].nunique() > 1):
        others = [name for name in table if name not in (key, "difference", "seed")]
        for place, block in table.groupby(others):
            values = block.pivot(index="seed", columns=key, values="difference").dropna()
            if values.shape[1] < 2 or len(values) < 2:
                continue
            change = trend(values).to_numpy(dtype=float)
            error = change.std(ddof=1) / np.sqrt(len(change))
            tests = t_tests(change.mean(), error, len(change) - 1, study.rope(declared.metric), declared.alpha)
            row = dict(zip(others, place, strict=True)) | {key: "", "key": key, "n": len(change)}
            row |= {"first": values.columns[0], "last": values.columns[-1], "estimate": change.mean()}
            found.append(row | dict(zip(("ci_low", "ci_high", "p_value"), tests, strict=False)))
    return pd.DataFrame(found).replace({"rate": {-1.0: np.nan}}) if found else pd.DataFrame()
