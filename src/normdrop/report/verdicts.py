"""From a study to the rows of verdicts.csv: each comparison, what it says, and whether it was declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from normdrop.kinds import shown
from normdrop.metrics import METRICS
from normdrop.report.choose import Pair, chosen, pairs, values
from normdrop.report.compare import compare, detectable, holm, judged, needed, refusal
from normdrop.report.study import NEVER, Study

# Columns of verdicts.csv; a column for each of the study's keys follows. Whoever reads it by place counts on the order.
# fmt: off
COLUMNS = [
    "claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low",
    "ci_high", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data", "experiment",
    "part", "rate", "family", "beyond", "counted", "a", "b", "left_out", "sd", "mean_a", "mean_b", "new_low",
    "new_high", "p_tost_holm", "detectable", "needed", "test_rows", "seeds",
]
# fmt: on
# Families: the declared one is judged after Holm; a/a compares an arrangement with itself.
DECLARED, EXPLORATORY, HARNESS = "declared", "exploratory", "a/a"


def rows(study: Study, found: Iterable[Pair] | None = None) -> pd.DataFrame:
    """A row for each comparison, metric and part of the claim, the declared family first: COLUMNS and the study's keys.

    found: what is compared; None: all of the study, and A/A. comparison: best_vs_best, same_rate, a/a or a/a_tuned.
    part: "" where a claim has but one. beyond: the setting is outside of the grid proper, so that the claim's word does
    not count it. detectable: the smallest true difference that would be seen with 80 % power, of a declared row as the
    first in Holm's order. needed: seeds for a half-width of half the ROPE.
    """
    columns, alpha = [*COLUMNS, *study.keys], study.declared.alpha
    if found is None:
        found = [] if study.table.empty else [*pairs(study), *again(study)]
    table = pd.DataFrame([row for pair in found for row in _compared(study, pair)])
    if table.empty:
        return pd.DataFrame(columns=columns)
    table["verdict_new_data"] = _judged(table, alpha, "new_low", "new_high", "p_new_data", "p_tost_new")
    table = table.assign(claim=study.declared.claim, experiment=study.name)
    return concluded(table, alpha, "n")[columns]


def concluded(table: pd.DataFrame, alpha: float, size: str) -> pd.DataFrame:
    """With what follows from intervals and p-values once the family is known, which then comes first.

    size: the column that says how many values a mean is of. Further columns that it needs: see `_compared`.
    """
    mine = table["family"] == DECLARED
    table["verdict"] = _judged(table, alpha, "ci_low", "ci_high", "p_value", "p_tost")
    table["p_holm"] = holm(table["p_value"].where(mine))
    table["p_tost_holm"] = holm(table["p_tost"].where(mine))
    level = np.where(mine, alpha / max((mine & table["p_value"].notna()).sum(), 1), alpha)
    table["detectable"] = list(map(detectable, table["sd"], table[size], level))
    return table.sort_values("family", key=lambda family: family != DECLARED, kind="stable", ignore_index=True)


def _judged(table: pd.DataFrame, alpha: float, low: str, high: str, p_value: str, p_tost: str) -> list[str]:
    """Verdicts in one scope. What is not declared is judged by its own p-values."""
    mine = table["family"] == DECLARED
    p, tost = (table[name].where(~mine, holm(table[name].where(mine))) for name in (p_value, p_tost))
    found = []
    for row in table.assign(p=p, tost=tost).to_dict("records"):
        said = judged(row[low], row[high], row["p"], row["tost"], alpha, row["good"])
        found.append(f"refused: {row['refused']}" if row["refused"] else said)
    return found


def _compared(study: Study, pair: Pair) -> Iterator[dict[str, Any]]:
    """The rows of a pair before they are judged. good: more of it is. refused: why there is no verdict, or ""."""
    declared = study.declared
    place = pair.place | {"comparison": pair.comparison, "counted": pair.counted, "family": EXPLORATORY}
    place |= {"rate": math.nan if pair.rate is None else pair.rate, "beyond": bool(pair.a["beyond"].any())}
    place |= dict(zip("ab", map(" or ".join, declared.sides), strict=True))
    metrics, again = (*declared.metrics, *declared.secondary), pair.comparison.startswith(HARNESS)
    if again:
        metrics, network = declared.metrics, pair.place["arrangement"]
        place |= {"a": network, "b": f"{network} again", "family": HARNESS}
    facts: dict[str, dict[str, Any]] = {}
    for metric in dict.fromkeys(metrics):
        rope, good = study.rope(metric), METRICS[metric].higher_is_better if again else study.good(metric)
        never = NEVER if METRICS[metric].unit == "steps" else math.nan
        confirms = pair.counted and pair.comparison == declared.family and metric in declared.metrics
        for part, a, b in values(study, pair, metric):
            if part not in facts:
                facts[part] = _facts(study, pair, part)
            ratio, fresh = facts[part]["test_train_ratio"], facts[part]["fresh"]
            result = compare(a, b, rope=rope, test_train_ratio=ratio, fresh=fresh, alpha=declared.alpha, never=never)
            row = place | facts[part] | vars(result)
            row |= {"metric": metric, "part": part, "seeds": spans(tuple(a.index))}
            row |= {"good": good, "refused": refusal(result) or ""}
            row["needed"] = needed(result.sd, result.n, rope / 2, declared.alpha)
            if confirms and part == (study.kind.answer or part):  # of a ladder the trend alone
                row["family"] = DECLARED
            yield row


def _facts(study: Study, pair: Pair, part: str) -> dict[str, Any]:
    """What is known of the two sides, or of the rung that a part is of: its rates and its splits."""
    sides = of_part = [pair.a, pair.b]
    if study.declared.over and part not in ("", study.kind.answer):
        of_part = [side[side.index.get_level_values(study.declared.over).map(shown) == part] for side in sides]
    if study.kind.answer:  # of a loss each part is of two rungs
        sides = of_part
    # One fixed test part, or one side that is not fresh, counts; else the largest ratio.
    ratio = float(np.max([side["test_train_ratio"].max(skipna=False) for side in sides]))
    fresh = all(side["fresh_rows"].all() for side in sides)
    facts = {"test_train_ratio": ratio, "fresh": fresh, "test_rows": sides[0]["test_rows"].max()}
    return facts | {"rate_a": _rate(of_part[0]), "rate_b": _rate(of_part[1])}


def _rate(side: pd.DataFrame) -> float:
    """The rate of a side: of several the most frequent, then the lowest."""
    rates, counts = np.unique(side["rate"], return_counts=True)
    return float(rates[counts.argmax()]) if len(rates) else math.nan


def again(study: Study) -> Iterator[Pair]:
    """A/A: what was trained twice, configuration by configuration, and through the whole selection (a/a_tuned)."""
    tuned = list(study.declared.tuned)
    own = [key for key in (study.declared.over, *tuned) if key]
    twice = study.table.query("rerun == 1 and not stands_in")
    # The same rows under another name are no further network.
    twice = twice.drop_duplicates(["fingerprint", "served", "arrangement", "seed", *study.place[1:], *own])
    for comparison, keys in (("a/a", own), ("a/a_tuned", [])):
        at = list(dict.fromkeys(["arrangement", *study.place, *keys]))
        before = study.first.groupby(at)
        for place, second in twice.groupby(at):
            candidates = second[list(dict.fromkeys([*at, *own]))].drop_duplicates()
            if comparison == "a/a_tuned" and (study.declared.over or len(candidates) < 2):
                continue
            if place not in before.groups:
                continue
            first = before.get_group(place).merge(candidates)
            if len(first[own].drop_duplicates()) == len(candidates):
                a, b = (chosen(side, tuned, ["seed"]) for side in (first, second))
                yield Pair(dict(zip(at, place, strict=True)), comparison, None, False, a, b)


def means(study: Study) -> pd.DataFrame:
    """Test accuracy and NLL of each network: mean over seeds and its interval, what a sweep alone has to tell.

    Columns: dataset, arrangement, position, rate, the keys and what is tuned or consumed, metric, n (seeds that did not
    diverge), of (all), mean, ci_low, ci_high.
    """
    at = ["dataset", "arrangement", "position", "rate", *study.keys, *study.declared.within]
    measured = [metric for metric in ("test_acc", "test_nll") if metric in study.table]
    long = study.first.melt(at, measured, var_name="metric")
    table = long.groupby([*at, "metric"])["value"].agg(n="count", of="size", mean="mean", error="sem").reset_index()
    half = special.stdtrit(table["n"] - 1, 1 - study.declared.alpha / 2) * table.pop("error")
    return table.assign(ci_low=table["mean"] - half, ci_high=table["mean"] + half)


@cache
def spans(numbers: tuple[int, ...]) -> str:
    """Whole numbers as runs: `0-9 20-29`."""
    ordered = pd.Series(sorted(set(numbers)))
    runs = ordered.groupby(ordered.diff().ne(1).cumsum())
    return " ".join(f"{run.min()}-{run.max()}" if len(run) > 1 else f"{run.min()}" for _, run in runs)
