"""From a study to the rows of verdicts.csv: each comparison, what it says, and whether it was declared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from normdrop.kinds import text
from normdrop.metrics import METRICS
from normdrop.report.choose import Pair, chosen, pairs, values
from normdrop.report.compare import compare, detectable, holm, judged, needed, refusal
from normdrop.report.study import Study

# Columns of verdicts.csv; a column for each of the study's keys follows. Whoever reads it by place counts on the order.
# fmt: off
COLUMNS = [
    "claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low",
    "ci_high", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data", "experiment",
    "part", "rate", "family", "beyond", "counted", "a", "b", "left_out", "sd", "mean_a", "mean_b", "new_low",
    "new_high", "p_holm_new", "p_tost_holm", "p_tost_new", "p_tost_holm_new", "detectable", "needed",
    "test_rows", "seeds", "alpha",
]
# fmt: on
# Families: the declared one is judged after Holm; a/a compares an arrangement with itself.
DECLARED, EXPLORATORY, HARNESS = "declared", "exploratory", "a/a"
# p-values after Holm over the declared family, and what they adjust.
ADJUSTED = {"p_holm": "p_value", "p_holm_new": "p_new_data", "p_tost_holm": "p_tost", "p_tost_holm_new": "p_tost_new"}


def rows(study: Study, prefer: str = "accuracy", only: str | None = None) -> pd.DataFrame:
    """Every comparison of a study, the declared family first: COLUMNS and the study's keys.

    comparison: best_vs_best, same_rate, a/a or a/a_tuned. part: of the claim, "" where it has but one. beyond: the
    setting is outside of the grid proper, so that the claim's word does not count it. detectable: the smallest true
    difference that would be seen with 80 % power, of a declared row as the first in Holm's order. needed: seeds for a
    half-width of half the ROPE. prefer, only: as of `choose.pairs`; with them no A/A.
    """
    columns = [*COLUMNS, *study.keys]
    found = [] if study.table.empty else [*_compared(study, pairs(study, prefer, only))]
    if only is None and not study.table.empty:
        found += _again(study)
    if not found:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(found)
    alpha, declared = study.declared.alpha, table["family"] == DECLARED
    for name, p_value in ADJUSTED.items():
        table[name] = holm(table[p_value].where(declared))
    for name, interval, scope in (("verdict", "ci", ""), ("verdict_new_data", "new", "_new")):
        table[name] = [_verdict(study, row, interval, scope) for row in table.to_dict("records")]
    level = np.where(declared, alpha / max(int(declared.sum()), 1), alpha)
    table["detectable"] = [detectable(*row) for row in zip(table["sd"], table["n"], level, strict=True)]
    table = table.assign(claim=study.declared.claim, experiment=study.name, alpha=alpha)
    table["seeds"] = spans(study.table["seed"])
    order = table["family"].map([DECLARED, EXPLORATORY, HARNESS].index).sort_values(kind="stable").index
    return table.loc[order, columns].reset_index(drop=True)


def _verdict(study: Study, row: dict[Any, Any], interval: str, scope: str) -> str:
    """What a row says in one scope; a row outside the family is exploratory and judged by its own p-values."""
    if reason := refusal(row["result"]):
        return f"refused: {reason}"
    p_value, p_tost = f"p_holm{scope}", f"p_tost_holm{scope}"
    if row["family"] != DECLARED:
        p_value, p_tost = ADJUSTED[p_value], ADJUSTED[p_tost]
    good = METRICS[row["metric"]].higher_is_better
    if row["family"] != HARNESS:
        good = study.kind.good(good)
    ends = row[f"{interval}_low"], row[f"{interval}_high"]
    return judged(*ends, row[p_value], row[p_tost], study.declared.alpha, good)


def _compared(study: Study, found: Iterable[Pair]) -> Iterator[dict[str, Any]]:
    declared = study.declared
    for pair in found:
        for metric in dict.fromkeys([*declared.metrics, *declared.secondary]):
            mine = pair.counted and pair.comparison == declared.family and metric in declared.metrics
            for part, a, b in values(study, pair, metric):
                confirms = mine and part == (study.kind.answer or part)  # of a ladder the trend alone
                yield (
                    pair.place
                    | {
                        "comparison": pair.comparison,
                        "rate": math.nan if pair.rate is None else pair.rate,
                        "rate_a": _rate(_at(study, pair.a, part), pair.rate),
                        "rate_b": _rate(_at(study, pair.b, part), pair.rate),
                        "part": part,
                        "counted": pair.counted,
                        "family": DECLARED if confirms else EXPLORATORY,
                        "a": " or ".join(declared.sides[0]),
                        "b": " or ".join(declared.sides[1]),
                    }
                    | _numbers(study, metric, a, b, pair.a, pair.b)
                )


def _at(study: Study, side: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows that a part of the claim is of: a rung's own, else all."""
    if not study.declared.over or part in ("", study.kind.answer):
        return side
    return side[side.index.get_level_values(study.declared.over).map(text) == part]


def _rate(side: pd.DataFrame, rate: float | None = None) -> float:
    """The rate of a side; where it was chosen, the one chosen most often (the lowest of several)."""
    if side.empty:
        return math.nan
    return float(side["rate"].mode().iloc[0]) if rate is None or set(side["rate"]) != {rate} else rate


def _numbers(study: Study, metric: str, a: np.ndarray, b: np.ndarray, *sides: pd.DataFrame) -> dict[str, Any]:
    """A row's numbers, and the `Comparison` itself as `result`. sides: rows that say how their samples were drawn."""
    rope, alpha = study.rope(metric), study.declared.alpha
    # One fixed test part, or one side that is not fresh, counts; else the largest ratio.
    ratio = float(np.max([side["test_train_ratio"].max(skipna=False) for side in sides]))
    fresh = all(side["fresh_rows"].all() for side in sides)
    budget = 1.0 if METRICS[metric].unit == "steps" else math.nan
    result = compare(a, b, rope=rope, test_train_ratio=ratio, fresh=fresh, alpha=alpha, budget=budget)
    return asdict(result) | {
        "metric": metric,
        "result": result,
        "needed": needed(result.sd, result.n, rope / 2, alpha),
        "test_rows": sides[0]["test_rows"].max(),
        "beyond": bool(sides[0]["beyond"].any()),
    }


def _again(study: Study) -> Iterator[dict[str, Any]]:
    """A/A: what was trained twice, configuration by configuration, and through the whole selection."""
    declared, tuned = study.declared, list(study.declared.tuned)
    first, again = (study.table[study.table["rerun"] == rerun] for rerun in (0, 1))
    again = again[~again["stands_in"]]
    own = [key for key in (declared.over, *tuned) if key]
    for comparison, keys in (("a/a", own), ("a/a_tuned", [])):
        at = list(dict.fromkeys(["arrangement", *study.place, *keys]))
        for key, run in again.groupby(at):
            place = dict(zip(at, key, strict=True))
            candidates = run[[*at, *own]].drop_duplicates()
            before = first.merge(candidates.loc[:, ~candidates.columns.duplicated()])
            if comparison == "a/a_tuned" and (declared.over or len(candidates) < 2):
                continue
            if len(before[own].drop_duplicates()) < len(candidates):
                continue
            a, b = (chosen(side, tuned, ["seed"]) for side in (before, run))
            place |= {"comparison": comparison, "part": "", "family": HARNESS, "counted": False, "rate": math.nan}
            place |= {"a": place["arrangement"], "b": f"{place['arrangement']} again"}
            place |= {"rate_a": _rate(a), "rate_b": _rate(b)}
            for metric in (metric for metric in declared.metrics if metric in a):
                of_a, of_b = a[metric].astype(float).align(b[metric].astype(float), join="inner")
                if len(of_a):
                    yield place | _numbers(study, metric, of_a.to_numpy(), of_b.to_numpy(), b)


def means(study: Study, metrics: Sequence[str] = ("test_acc", "test_nll")) -> pd.DataFrame:
    """Arrangement × position × rate × keys with the mean over seeds and its interval: what a sweep alone has to tell.

    Columns: dataset, arrangement, position, rate, the keys and what is tuned or consumed, metric, n, mean, ci_low,
    ci_high.
    """
    declared = study.declared
    own = [key for key in (*declared.tuned, declared.over) if key and key != "rate"]
    at = ["dataset", "arrangement", "position", "rate", *study.keys, *own]
    if study.table.empty:
        return pd.DataFrame(columns=[*at, "metric", "n", "mean", "ci_low", "ci_high"])
    measured = [metric for metric in metrics if metric in study.table]
    long = study.first.melt(at, measured, var_name="metric")
    table = long.groupby([*at, "metric"])["value"].agg(n="count", mean="mean", error="sem").reset_index()
    half = special.stdtrit(table["n"] - 1, 1 - declared.alpha / 2) * table["error"]
    table = table.assign(ci_low=table["mean"] - half, ci_high=table["mean"] + half)
    return table.drop(columns="error")


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as runs: `0-9 20-29`."""
    counted = enumerate(sorted({*map(int, numbers)}))
    runs = [[n for _, n in run] for _, run in itertools.groupby(counted, key=lambda pair: pair[1] - pair[0])]
    return " ".join(f"{run[0]}-{run[-1]}" for run in runs)
