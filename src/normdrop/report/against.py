"""A run beside a reference: where estimates differ by more than chance allows, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.report.compare import head, holm
from normdrop.report.study import FREE, Study, flattened, under
from normdrop.report.verdicts import HARNESS, rows

SAME = ["dataset", "position", "comparison", "rate", "metric", "part", "a", "b"]
NUMBERS = ["n", "estimate", "ci_low", "ci_high", "sd", "verdict", "verdict_new_data", "family", "seeds"]


def partners(own: Sequence[Study], reference: Sequence[Study]) -> Iterator[tuple[Study, Study]]:
    """Each study with those of the reference that it repeats: of its name, else of its claim."""
    for study in own:
        named = [other for other in reference if other.name == study.name]
        for other in named or [other for other in reference if other.declared.claim == study.declared.claim]:
            yield study, other


def compare_runs(own: Sequence[Study], reference: Sequence[Study], alpha: float = 0.05) -> pd.DataFrame:
    """One row per comparison that both have, in the two runs' numbers (those of the reference end in _reference).

    Further columns: experiment, reference (names of the two studies), SAME and the keys, t and p of Welch's test of the
    two means, p_holm over all rows, differs (p_holm < alpha), verdict_differs, shared_seeds. Runs that share seeds and
    code are not independent: t is then too small, never too large.
    """
    tables = []
    for study, other in partners(own, reference):
        keys = list(dict.fromkeys([*study.keys, *other.keys]))
        here, there = (_keyed(run, keys) for run in (study, other))
        both = here.merge(there, on=[*SAME, *keys], suffixes=("", "_reference"))
        shared = set(study.table["seed"]) & set(other.table["seed"])
        tables.append(both.assign(experiment=study.name, reference=other.name, shared_seeds=len(shared)))
    if not any(len(table) for table in tables):
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    squares = [table[f"sd{side}"] ** 2 / table[f"n{side}"] for side in ("", "_reference")]
    freedom = [table[f"n{side}"] - 1 for side in ("", "_reference")]
    gap, noise = table["estimate"] - table["estimate_reference"], squares[0] + squares[1]
    gap = gap.where(gap.abs() > 1e-12, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["t"] = (gap / np.sqrt(noise)).where(gap != 0, 0.0)
        degrees = noise**2 / (squares[0] ** 2 / freedom[0] + squares[1] ** 2 / freedom[1])
    table["p"] = 2 * stats.t.sf(table["t"].abs(), degrees.where(noise > 0, freedom[0]))
    table["p_holm"] = holm(table["p"])
    verdicts = [table[name].map(head) for name in ("verdict", "verdict_reference")]
    return table.assign(differs=table["p_holm"] < alpha, verdict_differs=verdicts[0] != verdicts[1])


def _keyed(study: Study, keys: list[str]) -> pd.DataFrame:
    """A study's verdicts with a column for each of `keys`: of one that it does not vary, its value."""
    table = rows(study)
    table = table[table["family"] != HARNESS].fillna({"rate": -1.0})
    for key in keys:
        if key not in table:
            values = flattened(study.records).get(key, pd.Series([""])).unique()
            table[key] = values[0] if len(values) == 1 else ""
        table[key] = table[key].astype(str)
    return table[[*SAME, *keys, *NUMBERS]]


def differences(own: Sequence[Study], reference: Sequence[Study]) -> pd.DataFrame:
    """What the configurations of two runs differ in, rows of the data (`data.fingerprint`) among it.

    Columns: experiment, reference, dataset, key, here, there (all values, as text).
    """
    found = []
    for study, other in partners(own, reference):
        here, there = _values(study), _values(other)
        both = here.join(there, how="outer", lsuffix="here", rsuffix="there").fillna("—").reset_index()
        both = both[both["dataset"].isin(here.index.unique(0).intersection(there.index.unique(0)))]
        both = both[(both["here"] != both["there"]) & ~both["key"].map(lambda key: under(key, FREE))]
        found.append(both.assign(experiment=study.name, reference=other.name))
    columns = ["experiment", "reference", "dataset", "key", "here", "there"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _values(study: Study) -> pd.DataFrame:
    """By data set and key all values of a study, as text."""
    flat = flattened(study.records).astype(str).assign(dataset=[record["dataset"] for record in study.records])
    long = flat.melt("dataset", var_name="key", value_name="").groupby(["dataset", "key"])
    return long.agg(_listed)


def _listed(values: pd.Series) -> str:
    return ", ".join(sorted(set(values)))
