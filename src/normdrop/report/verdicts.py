"""From a study's replicates to the rows of verdicts.csv: which numbers are compared, and what each comparison says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from normdrop.metrics import METRICS
from normdrop.report.contrasts import Contrast, tuned, values_of
from normdrop.report.records import Study, keys_of
from normdrop.report.statistics import compare, compare_ratio, holm, replicates_needed, verdict

# fmt: off
COLUMNS = [
    "claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low", "ci_high",
    "d_z", "p_superior", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data",
    # Whoever reads the table by place counts on the order of those above.
    "setting", "left_out", "bca_low", "bca_high", "new_low", "new_high", "family", "a", "b", "experiment",
    "null", "sd", "p_holm_new", "p_tost_holm", "p_tost_new", "p_tost_holm_new", "needed", "seeds", "alpha",
]
# fmt: on
# Rows of the two comparisons are verdicts; `a/a` tests the harness, `way_out` a change of one arrangement.
DECLARED, EXPLORATORY, HARNESS = "declared", "exploratory", "a/a"
# Columns of p-values after Holm over the declared family, and those that they adjust.
ADJUSTED = {
    "p_holm": "p_value",
    "p_holm_new": "p_new_data",
    "p_tost_holm": "p_tost",
    "p_tost_holm_new": "p_tost_new",
}


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table of many types."""
    return table.itertuples(index=False)


def farthest(table: pd.DataFrame, column: str) -> Any:
    """The row whose value is the farthest from 0."""
    return next(each(table.loc[[table[column].abs().idxmax()]]))


def units_in(row: Any) -> tuple[str, float]:
    """Unit and factor of a row's estimate: a ratio, whose null is 1, has none."""
    metric = METRICS[row.metric]
    null = getattr(row, "null", 1 if metric.unit == "steps" else 0)
    return ("×", 1.0) if null == 1 else (metric.unit, metric.scale)


def verdicts(study: Study, found: list[Contrast], margin: float | None = None) -> pd.DataFrame:
    """Every comparison of the study, its declared family first; columns `COLUMNS`.

    margin: a factor of the ROPEs; with it the contrasts alone on the primary metrics, for a sensitivity analysis.
    """
    secondary = study.declaration["secondary"] if margin is None else []
    rows = [*_contrast_rows(study, found, [*dict.fromkeys([*study.metrics, *secondary])], margin or 1.0)]
    if margin is None:
        rows += [*_harness_rows(study), *_tuned_again(study)]
        if study.declaration["kind"] == "mechanism":
            rows += _way_out_rows(study)
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table, alpha = pd.DataFrame(rows), study.declaration["alpha"]
    declared = table["family"] == DECLARED
    for name, p_value in ADJUSTED.items():
        table[name] = holm(table[p_value].where(declared))
    said, said_new = [], []
    for row in each(table):
        # A row outside the family is exploratory: it is judged by its own p-value, and labelled.
        p, p_new = (row.p_holm, row.p_holm_new) if row.family == DECLARED else (row.p_value, row.p_new_data)
        metric = METRICS[row.metric]
        good = metric.higher_is_better if row.family == HARNESS else study.kind_of(row.metric).good(metric)
        said.append(verdict(row.result, p, alpha=alpha, higher_is_better=good))
        said_new.append(verdict(row.result, p_new, alpha=alpha, higher_is_better=good, scope="new data"))
    table = table.assign(verdict=said, verdict_new_data=said_new, seeds=spans(study.replicates["seed"]), alpha=alpha)
    order = [DECLARED, EXPLORATORY, HARNESS]
    table = table.sort_values("family", key=lambda family: family.map(order.index), kind="stable", ignore_index=True)
    return table[COLUMNS]


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as runs: `0-9 20-29`."""
    sorted_numbers = sorted({*map(int, numbers)})
    runs = [[*run] for _, run in itertools.groupby(sorted_numbers, key=lambda n: n - sorted_numbers.index(n))]
    return " ".join(f"{run[0]}-{run[-1]}" for run in runs)


def _contrast_rows(study: Study, found: list[Contrast], metrics: list[str], margin: float) -> Iterator[dict[str, Any]]:
    for contrast in found:
        for metric in metrics:
            declared = contrast.comparison == study.declaration["family"] and metric in study.metrics
            for part, a, b in values_of(study, contrast, metric):
                yield {
                    "dataset": contrast.dataset,
                    "position": contrast.position,
                    "setting": ",".join(filter(None, [contrast.setting, part])),
                    "comparison": contrast.comparison,
                    "rate_a": _rate(contrast.a, contrast.rate),
                    "rate_b": _rate(contrast.b, contrast.rate),
                    "a": " or ".join(study.sides[0]),
                    "b": " or ".join(study.sides[1]),
                    "family": DECLARED if declared and contrast.counted else EXPLORATORY,
                } | _compared(study, metric, a, b, contrast.block, margin)


def _rate(side: pd.DataFrame, rate: float | None = None) -> float:
    """The rate of a side; where it was chosen, the one chosen most often (the lowest of several)."""
    return float(side["rate"].mode().iloc[0]) if rate is None or set(side["rate"]) != {rate} else rate


def _compared(
    study: Study, metric: str, a: np.ndarray, b: np.ndarray, sampled: pd.DataFrame, margin: float = 1.0
) -> dict[str, Any]:
    """The columns of a row that its numbers give, and the `Comparison` itself as `result`.

    sampled: the replicates that say how rows were drawn: one fixed test part, or one split that is not fresh, counts.
    """
    rope, alpha, fresh = study.rope(metric), study.declaration["alpha"], bool(sampled["fresh_rows"].all())
    if study.kind_of(metric).ratio:
        rope = rope**margin
        result = compare_ratio(a, b, rope=rope, fresh=fresh, alpha=alpha)
    else:
        rope *= margin
        ratio = float(sampled["test_train_ratio"].max(skipna=False))
        result = compare(a, b, rope=rope, test_train_ratio=ratio, fresh=fresh, alpha=alpha)
    measured = result.sd > 0 and not math.isnan(rope)
    return asdict(result) | {
        "claim": study.declaration["claim"],
        "experiment": study.root.resolve().name,
        "metric": metric,
        "result": result,
        "needed": replicates_needed(result.sd, result.n, rope / 2, alpha) if measured else math.nan,
    }


def _harness_rows(study: Study) -> Iterator[dict[str, Any]]:
    """The A/A rows: every condition that was trained again with other initial weights, orders and masks."""
    own_column = [key for key in [study.over, *study.declaration["tuned"]] if key and key != "rate"]
    point = ["dataset", "arrangement", "position", "rate", "setting", *own_column]
    again = study.replicates[study.replicates["rerun"] == 1].drop_duplicates(["condition", "seed"])
    first = study.replicates[study.replicates["rerun"] == 0].groupby(point)
    for key, rerun in again.groupby(point):
        if key in first.groups:
            dataset, arrangement, position, _, setting, *values = key
            extra = [f"{name}={value}" for name, value in zip(own_column, values, strict=True)]
            place = {
                "dataset": dataset,
                "position": position,
                "setting": ",".join(filter(None, [str(setting), *extra])),
            }
            place |= {"comparison": "a/a", "a": arrangement, "b": f"{arrangement} again", "family": HARNESS}
            yield from _paired(study, first.get_group(key), rerun, study.metrics, rerun, place)


def _tuned_again(study: Study) -> Iterator[dict[str, Any]]:
    """A/A through the whole selection: what is chosen among all candidates, trained twice."""
    keys = study.declaration["tuned"]
    block = ["dataset", "arrangement", "position", "setting"]
    runs = [study.replicates[study.replicates["rerun"] == rerun].groupby(block) for rerun in (0, 1)]
    for key, again in runs[1]:
        candidates = again[keys].drop_duplicates()
        if study.over is not None or len(candidates) < 2 or key not in runs[0].groups:
            continue
        first = runs[0].get_group(key).merge(candidates, on=keys)
        if len(first[keys].drop_duplicates()) == len(candidates):
            dataset, arrangement, position, setting = key
            place = {"dataset": dataset, "position": position, "setting": setting, "comparison": "a/a_tuned"}
            place |= {"a": arrangement, "b": f"{arrangement} again", "family": HARNESS}
            a, b = (tuned(study, side, keys) for side in (first, again))
            yield from _paired(study, a, b, study.metrics, again, place)


def _way_out_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Each arrangement of the contrast with something changed minus itself without that change."""
    first = study.replicates[study.replicates["rerun"] == 0]
    for (dataset, position), block in first.groupby(["dataset", "position"]):
        for setting in study.settings:
            # The setting that lacks only what this one adds.
            inner = [s for s in study.settings if set(keys_of(s)) < set(keys_of(setting))]
            if not inner:
                continue
            base = max(inner, key=lambda s: len(keys_of(s)))
            for arrangement in [*study.sides[0], *study.sides[1]]:
                rows = block[block["arrangement"] == arrangement]
                pair = [rows[rows["setting"] == s] for s in (setting, base)]
                shared = set(pair[0]["rate"]) & set(pair[1]["rate"])
                a, b = (tuned(study, side[side["rate"].isin(shared)], ["rate"]) for side in pair)
                if not set(a["seed"]).isdisjoint(b["seed"]):
                    place = {"dataset": dataset, "position": position, "setting": setting, "comparison": "way_out"}
                    place |= {"a": arrangement, "b": f"{arrangement}, {base or 'as it was'}", "family": EXPLORATORY}
                    yield from _paired(study, a, b, [study.metric], rows, place)


def _paired(
    study: Study, a: pd.DataFrame, b: pd.DataFrame, metrics: list[str], sampled: pd.DataFrame, place: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row for each of the metrics: two trainings of one arrangement, replicate by replicate."""
    a, b = a.set_index("seed"), b.set_index("seed")
    if not (seeds := sorted(set(a.index) & set(b.index))):
        return
    place |= {"rate_a": _rate(a), "rate_b": _rate(b)}
    for metric in (m for m in metrics if m in b):
        of_a, of_b = (side[metric].reindex(seeds).to_numpy(dtype=float) for side in (a, b))
        yield place | _compared(study, metric, of_a, of_b, sampled)
