"""A run beside a reference: where estimates differ by more than chance allows, and what else differs between the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.report.compare import head, holm
from normdrop.report.study import FREE, Study, flatten, under
from normdrop.report.verdicts import HARNESS, rows

SAME = ["dataset", "position", "comparison", "rate", "metric", "part", "a", "b"]
NUMBERS = ["n", "estimate", "ci_low", "ci_high", "sd", "verdict", "verdict_new_data", "family", "seeds"]


def partners(own: Sequence[Study], reference: Sequence[Study]) -> Iterator[tuple[Study, Study]]:
    """Each study with those of the reference that it repeats: of its name, else of its experiment, else of its claim."""
    for study in own:
        for same in (_name, _experiment, _claim):
            found = [other for other in reference if same(other) and same(other) == same(study)]
            yield from ((study, other) for other in found)
            if found:
                break


def _name(study: Study) -> str:
    return study.name


def _experiment(study: Study) -> str:
    return str(study.records[0]["choices"].get("experiment") or "") if study.records else ""


def _claim(study: Study) -> str:
    return study.declared.claim


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
    """A study's verdicts with a column for each of `keys`: of those that it does not vary, the one value that it has."""
    table = rows(study)
    table = table[table["family"] != HARNESS].fillna({"rate": -1.0})
    for key in keys:
        if key not in table:
            values = {str(flatten(record["config"]).get(key, "")) for record in study.records}
            table[key] = values.pop() if len(values) == 1 else ""
        table[key] = table[key].astype(str)
    return table[[*SAME, *keys, *NUMBERS]]


def differences(own: Sequence[Study], reference: Sequence[Study]) -> pd.DataFrame:
    """What the configurations of two runs differ in, rows of the data (`data.fingerprint`) among it.

    Columns: experiment, reference, dataset, key, here, there (all values, as text).
    """
    found = []
    for study, other in partners(own, reference):
        here, there = _values(study), _values(other)
        for dataset in here.keys() & there.keys():
            for key in sorted({*here[dataset], *there[dataset]}):
                one, two = (side[dataset].get(key, "—") for side in (here, there))
                if one != two and not under(key, FREE):
                    named = {"experiment": study.name, "reference": other.name, "dataset": dataset}
                    found.append(named | {"key": key, "here": one, "there": two})
    return pd.DataFrame(found, columns=["experiment", "reference", "dataset", "key", "here", "there"])


def _values(study: Study) -> dict[str, dict[str, str]]:
    """By data set and key all values of a study, as text."""
    found: dict[str, dict[str, set[str]]] = {}
    for record in study.records:
        own = found.setdefault(record["dataset"], {})
        for key, value in flatten(record["config"]).items():
            own.setdefault(key, set()).add(str(value))
    return {dataset: {key: ", ".join(sorted(values)) for key, values in own.items()} for dataset, own in found.items()}
