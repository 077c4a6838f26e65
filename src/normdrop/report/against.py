"""A run beside a reference: where estimates differ by more than chance allows, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.report.choose import with_dropout
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


def compare_runs(own: Sequence[Study], reference: Sequence[Study]) -> pd.DataFrame:
    """One row per comparison that both have, in the two runs' numbers (those of the reference end in _reference).

    Further columns: experiment, reference (names of the two studies), SAME and the keys, t and p of Welch's test of the
    two means, p_holm over all rows, differs (p_holm < .05), verdict_differs, shared_seeds. Runs that share seeds and
    code are not independent: t is then too small, never too large.
    """
    tables = []
    for study, other in partners(own, reference):
        keys = list(dict.fromkeys([*study.keys, *other.keys]))
        both = _keyed(study, keys).merge(_keyed(other, keys), on=[*SAME, *keys], suffixes=("", "_reference"))
        shared = set(study.table["seed"]) & set(other.table["seed"])
        tables.append(both.assign(experiment=study.name, reference=other.name, shared_seeds=len(shared)))
    if not any(map(len, tables)):
        return pd.DataFrame(columns=["differs", "verdict_differs"])
    table = pd.concat(tables, ignore_index=True)
    here, there = (table[[f"estimate{run}", f"sd{run}", f"n{run}"]].to_numpy(float).T for run in ("", "_reference"))
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = stats.ttest_ind_from_stats(*here, *there, equal_var=False)
    equal = np.abs(here[0] - there[0]) <= 1e-12  # but for rounding; they may have no spread to test against
    table["t"], table["p"] = np.where(equal, 0.0, t), np.where(equal, 1.0, p)
    table["p_holm"] = holm(table["p"])
    other_word = table["verdict"].map(head) != table["verdict_reference"].map(head)
    return table.assign(differs=table["p_holm"] < 0.05, verdict_differs=other_word)


def _keyed(study: Study, keys: list[str]) -> pd.DataFrame:
    """A study's verdicts with a column for each of `keys`: of one that it does not vary, its value."""
    table, configs = rows(study), flattened(study.records)
    table = table[table["family"] != HARNESS].fillna({"rate": -1.0})
    for key in keys:
        if key not in table:  # a key of the config, or a group of it
            of_group = [record["choices"].get(key, "") for record in study.records]
            values = {*configs.get(key, of_group)}
            table[key] = values.pop() if len(values) == 1 else ""
    return table[[*SAME, *keys, *NUMBERS]].astype(dict.fromkeys(keys, str))


def differences(own: Sequence[Study], reference: Sequence[Study]) -> pd.DataFrame:
    """What the configurations of two runs differ in, rows of the data (`data.fingerprint`) among it.

    Columns: experiment, reference, dataset, key, here, there (all values, as text).
    """
    found = []
    for study, other in partners(own, reference):
        named = {"experiment": study.name, "reference": other.name}
        here, there = _values(study), _values(other)
        for dataset in sorted(here.keys() & there.keys()):
            one, two = here[dataset], there[dataset]
            for key in sorted({*one, *two}):
                values = {"here": one.get(key, "—"), "there": two.get(key, "—")}
                counts = not under(key, FREE) or under(key, ("study", *study.declared.tuned))
                if values["here"] != values["there"] and counts:
                    found.append(named | {"dataset": dataset, "key": key} | values)
    return pd.DataFrame(found, columns=["experiment", "reference", "dataset", "key", "here", "there"])


def _values(study: Study) -> dict[str, dict[str, str]]:
    """By data set and key all values of a study, as text."""
    configs = flattened(study.records).astype(str)
    configs.loc[~with_dropout(configs), "rate"] = ""
    datasets = [record["dataset"] for record in study.records]
    # What verdicts depend on, whatever was trained; records of before have it elsewhere than in the config.
    configs = configs.drop(columns=[key for key in configs if under(str(key), ["study"])])
    said = vars(study.declared).items()
    declared = {f"study.{key}": str(value) for key, value in said if key not in ("claim", "sentence")}
    found = {}
    for dataset, block in configs.groupby(datasets):
        values = {str(key): ", ".join(sorted({*block[key]} - {""})) for key in block}  # "" where others have the key
        values |= declared
        found[str(dataset)] = {key: value for key, value in values.items() if value}
    return found
