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
from normdrop.report.statistics import Comparison, compare, compare_ratio, holm, replicates_needed, verdict

# fmt: off
COLUMNS = [
    "claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low", "ci_high",
    "d_z", "p_superior", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data",
    # Whoever reads the table by place counts on the order of those above.
    "setting", "left_out", "bca_low", "bca_high", "new_low", "new_high", "family", "a", "b", "experiment",
    "null", "sd", "p_holm_new", "p_tost_holm", "p_tost_new", "p_tost_holm_new", "needed", "seeds",
]
# fmt: on
# Rows of the two comparisons are verdicts; `a/a` tests the harness, `way_out` a change of one arrangement.
DECLARED, EXPLORATORY, HARNESS = "declared", "exploratory", "a/a"


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table of many types."""
    return table.itertuples(index=False)


def units_in(row: Any) -> tuple[str, float]:
    """Unit and factor of a row's estimate: a ratio, whose null is 1, has none."""
    metric = METRICS[row.metric]
    null = getattr(row, "null", 1 if metric.unit == "steps" else 0)
    return ("×", 1.0) if null == 1 else (metric.unit, metric.scale)


def verdicts(study: Study, found: list[Contrast], margin: float | None = None) -> pd.DataFrame:
    """Every comparison of the study, its declared family first; columns `COLUMNS`.

    margin: a factor of the ROPEs; with it the contrasts alone on the primary metrics, for a sensitivity analysis.
    """
    secondary = dict.fromkeys([*study.metrics, *(study.declaration["secondary"] if margin is None else [])])
    rows = [*_contrast_rows(study, found, list(secondary), margin or 1.0)]
    if margin is None:
        rows += [*_harness_rows(study), *_tuned_again(study)]
        if study.declaration["kind"] == "mechanism":
            rows += _way_out_rows(study)
    table = pd.DataFrame(rows)
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    alpha = study.declaration["alpha"]
    declared = table["family"] == DECLARED
    table.loc[declared, "p_holm"] = holm(table.loc[declared, "p_value"])
    table.loc[declared, "p_holm_new"] = holm(table.loc[declared, "p_new_data"])
    table.loc[declared, "p_tost_holm"] = holm(table.loc[declared, "p_tost"])
    table.loc[declared, "p_tost_holm_new"] = holm(table.loc[declared, "p_tost_new"])
    for i, row in enumerate(each(table)):
        comparison: Comparison = row.result
        # A row outside the family is exploratory: it is judged by its own p-value, and labelled.
        p, p_new = (row.p_holm, row.p_holm_new) if declared[i] else (row.p_value, row.p_new_data)
        metric = METRICS[row.metric]
        good = metric.higher_is_better if row.family == HARNESS else study.kind_of(row.metric).good(metric)
        table.loc[i, "verdict"] = verdict(comparison, p, alpha=alpha, higher_is_better=good)
        table.loc[i, "verdict_new_data"] = verdict(
            comparison, p_new, alpha=alpha, higher_is_better=good, scope="new data"
        )
    order = table["family"].map({DECLARED: 0, EXPLORATORY: 1, HARNESS: 2})
    table = table.assign(order=order, seeds=spans(study.replicates["seed"]))
    return table.sort_values("order", kind="stable")[COLUMNS].reset_index(drop=True)


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as runs: `0-9 20-29`."""
    sorted_numbers = sorted({*map(int, numbers)})
    runs = [[*run] for _, run in itertools.groupby(sorted_numbers, key=lambda n: n - sorted_numbers.index(n))]
    return " ".join(f"{run[0]}-{run[-1]}" for run in runs)


def _contrast_rows(study: Study, found: list[Contrast], metrics: list[str], margin: float) -> Iterator[dict[str, Any]]:
    family = study.declaration["family"]
    for contrast in found:
        for metric in metrics:
            declared = contrast.comparison == family and metric in study.metrics and contrast.counted
            for part, a, b in values_of(study, contrast, metric):
                place: dict[str, Any] = {"dataset": contrast.dataset, "position": contrast.position, "metric": metric}
                place |= {"comparison": contrast.comparison}
                place |= {"setting": ",".join(filter(None, [contrast.setting, part]))}
                place |= {"rate_a": _rate(contrast.a, contrast.rate), "rate_b": _rate(contrast.b, contrast.rate)}
                facts: dict[str, Any] = {"test_train_ratio": contrast.test_train_ratio, "fresh": contrast.fresh_rows}
                yield _row(study, a, b, place, DECLARED if declared else EXPLORATORY, margin=margin, **facts)


def _rate(side: pd.DataFrame, rate: float | None) -> float:
    """The rate of a side; where it was chosen, the one chosen most often (the lowest of several)."""
    return float(side["rate"].mode().iloc[0]) if rate is None or set(side["rate"]) != {rate} else rate


def _row(
    study: Study,
    a: np.ndarray,
    b: np.ndarray,
    place: dict[str, Any],
    family: str,
    *,
    test_train_ratio: float,
    fresh: bool,
    margin: float = 1.0,
) -> dict[str, Any]:
    metric, alpha = place["metric"], study.declaration["alpha"]
    rope = study.rope(metric)
    if study.kind_of(metric).ratio:
        rope = rope**margin
        result = compare_ratio(a, b, rope=rope, fresh=fresh, alpha=alpha)
    else:
        rope *= margin
        result = compare(a, b, rope=rope, test_train_ratio=test_train_ratio, fresh=fresh, alpha=alpha)
    names = {"claim": study.declaration["claim"], "family": family, "result": result}
    names |= {"experiment": study.root.resolve().name}
    measured = result.sd > 0 and not math.isnan(rope)
    names["needed"] = replicates_needed(result.sd, result.n, rope / 2, alpha) if measured else math.nan
    names |= {"a": " or ".join(study.sides[0]), "b": " or ".join(study.sides[1])}
    blank: dict[str, Any] = dict.fromkeys(("p_holm", "p_holm_new", "p_tost_holm", "p_tost_holm_new"), math.nan)
    blank |= {"verdict": "", "verdict_new_data": ""}
    return blank | asdict(result) | names | place


def _facts(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "test_train_ratio": float(rows["test_train_ratio"].max(skipna=False)),
        "fresh": bool(rows["fresh_rows"].all()),
    }


def _harness_rows(study: Study) -> Iterator[dict[str, Any]]:
    """The A/A rows: every condition that was trained again with other initial weights, orders and masks."""
    own_column = [key for key in [study.over, *study.declaration["tuned"]] if key and key != "rate"]
    point = ["dataset", "arrangement", "position", "rate", "setting", *own_column]
    again = study.replicates[study.replicates["rerun"] == 1].drop_duplicates(["condition", "seed"])
    first = study.replicates[study.replicates["rerun"] == 0].groupby(point)
    for key, rerun in again.groupby(point):
        if key not in first.groups:
            continue
        both = first.get_group(key).merge(rerun, on="seed", suffixes=("", "_again"))
        place = dict(zip(point, key, strict=True)) | {"comparison": "a/a"}
        arrangement, rate = place.pop("arrangement"), place.pop("rate")
        extra = [f"{k}={place.pop(k)}" for k in own_column]
        place |= {"setting": ",".join(filter(None, [place["setting"], *extra])), "rate_a": rate, "rate_b": rate}
        place |= {"a": arrangement, "b": f"{arrangement} again"}
        for metric in (m for m in study.metrics if m in rerun):
            a, b = (both[name].to_numpy(dtype=float) for name in (metric, f"{metric}_again"))
            yield _row(study, a, b, place | {"metric": metric}, HARNESS, **_facts(rerun))


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
        if len(first[keys].drop_duplicates()) < len(candidates):
            continue
        a, b = (tuned(study, side, keys).set_index("seed") for side in (first, again))
        seeds = sorted(set(a.index) & set(b.index))
        place = dict(zip(block, key, strict=True)) | {"comparison": "a/a_tuned"}
        arrangement = place.pop("arrangement")
        place |= {"a": arrangement, "b": f"{arrangement} again", "rate_a": _rate(a, None), "rate_b": _rate(b, None)}
        for metric in (m for m in study.metrics if m in b):
            of_a, of_b = (side[metric].reindex(seeds).to_numpy(dtype=float) for side in (a, b))
            yield _row(study, of_a, of_b, place | {"metric": metric}, HARNESS, **_facts(again))


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
                a, b = (tuned(study, side[side["rate"].isin(shared)], ["rate"]).set_index("seed") for side in pair)
                seeds = sorted(set(a.index) & set(b.index))
                if not seeds:
                    continue
                place = {"dataset": dataset, "position": position, "comparison": "way_out", "setting": setting}
                place |= {"metric": study.metric, "rate_a": _rate(a, None), "rate_b": _rate(b, None)}
                place |= {"a": arrangement, "b": f"{arrangement}, {base or 'as it was'}"}
                of_a, of_b = (side[place["metric"]].reindex(seeds).to_numpy(dtype=float) for side in (a, b))
                yield _row(study, of_a, of_b, place, EXPLORATORY, **_facts(rows))
