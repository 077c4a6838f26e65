"""From a study's replicates to the rows of verdicts.csv: which numbers are compared, and what each comparison says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from normdrop.report.records import WITH_DROPOUT, Study
from normdrop.report.statistics import MIN_DATA_SETS, Comparison, compare, compare_ratio, holm, slopes, verdict

COLUMNS = [
    *("claim", "dataset", "position", "comparison", "rate_a", "rate_b", "metric", "n", "estimate", "ci_low", "ci_high"),
    *("d_z", "p_superior", "p_value", "p_holm", "p_tost", "verdict", "p_new_data", "verdict_new_data"),
    # Beyond the contract of the first nineteen.
    *("setting", "left_out", "bca_low", "bca_high", "new_low", "new_high", "family", "a", "b"),
]
# Counts of steps are compared as a ratio, runs that never reached the level counted as longer than any that did.
CENSORED = "steps_to_level"
# Rows of the two comparisons are verdicts; `a/a` tests the harness, `way_out` a change of one arrangement.
DECLARED, EXPLORATORY, HARNESS = "declared", "exploratory", "a/a"


def higher_is_better(metric: str, kind: str) -> bool:
    """Which direction is good: of a spread or a loss, the small one."""
    good = metric.endswith("_acc") or metric.startswith("silenced")
    if kind == "spread":
        return False
    return not good if kind == "loss" else good


def unit(metric: str) -> tuple[str, str, float]:
    """How a metric is shown: its name in words, its unit, and what a stored value is multiplied by."""
    part, _, rest = metric.partition("_")
    names = {"acc": "accuracy", "nll": "NLL", "ece": "calibration error"}
    words = f"{part} {names[rest]}" if rest in names else metric.replace("_", " ")
    if metric == CENSORED:
        return words, "steps", 1.0
    return (words, "nats", 1.0) if metric.endswith("nll") or metric == "nll_gap" else (words, "pp", 100.0)


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table of many types."""
    return table.itertuples(index=False)


def units_in(row: Any) -> tuple[str, float]:
    """Unit and factor of a row's estimate: a ratio has none."""
    _, symbol, scale = unit(row.metric)
    return ("×", 1.0) if symbol == "steps" else (symbol, scale)


def verdicts(study: Study) -> pd.DataFrame:
    """Every comparison of the study, declared family first; columns `COLUMNS`. See PROTOCOL.md for the rules."""
    rows = [*_contrast_rows(study), *_harness_rows(study)]
    if study.declaration["kind"] == "mechanism":
        rows += _way_out_rows(study)
    table = pd.DataFrame(rows)
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    alpha, kind = study.declaration["alpha"], study.declaration["kind"]
    declared = table["family"] == DECLARED
    table.loc[declared, "p_holm"] = holm(table.loc[declared, "p_value"])
    table.loc[declared, "p_holm_new"] = holm(table.loc[declared, "p_new_data"])
    for i, row in enumerate(each(table)):
        comparison: Comparison = row.result
        # A row outside the family is exploratory: it is judged by its own p-value, and labelled.
        p, p_new = (row.p_holm, row.p_holm_new) if declared[i] else (row.p_value, row.p_new_data)
        good = higher_is_better(row.metric, "difference" if row.family == HARNESS else kind)
        table.loc[i, "verdict"] = verdict(comparison, p, alpha=alpha, higher_is_better=good)
        table.loc[i, "verdict_new_data"] = verdict(
            comparison, p_new, alpha=alpha, higher_is_better=good, scope="new data"
        )
    order = table["family"].map({DECLARED: 0, EXPLORATORY: 1, HARNESS: 2})
    return table.assign(order=order).sort_values("order", kind="stable")[COLUMNS].reset_index(drop=True)


def tuned(study: Study, rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """For each replicate (and rung) the row that its own validation part prefers among all values of `keys`.

    Accuracy decides, then NLL, then the lower rate. Replicates for which a candidate was never trained are left out;
    a diverged candidate is never chosen while another is there.
    """
    by = [*filter(None, [study.over]), "seed"]
    candidates = ["arrangement", *keys]
    complete = rows.groupby(by)["rate"].transform("size") == rows.drop_duplicates(candidates).shape[0]
    preferred = rows[complete].sort_values(["val_acc", "val_nll", "rate"], ascending=[False, True, True])
    return preferred.drop_duplicates(by).sort_values(by)


def sides_at(study: Study, block: pd.DataFrame, rate: float | None) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """One row per replicate (and rung) for A and for B, at one rate, or at the preferred one if it is None.

    block: the replicates of one data set, position and setting. An arrangement without dropout has rate 0 alone. Both
    sides choose among the values that both have. None if a side has nothing there.
    """
    other = [key for key in study.declaration["tuned"] if key != "rate"]
    found = [block[block["arrangement"].isin(side)] for side in study.sides]
    shared = set(block["rate"])
    for arrangement in {*study.sides[0], *study.sides[1]} & WITH_DROPOUT:
        shared &= set(block.loc[block["arrangement"] == arrangement, "rate"])
    if rate is not None:
        shared &= {rate}
    found = [rows[rows["rate"].isin(shared) | ~rows["arrangement"].isin(WITH_DROPOUT)] for rows in found]
    for key in [*filter(None, [study.over]), *other]:
        both = set(found[0][key]) & set(found[1][key])
        found = [rows[rows[key].isin(both)] for rows in found]
    if any(set(side) != set(rows["arrangement"]) for side, rows in zip(study.sides, found, strict=True)):
        return None
    chosen = [tuned(study, rows, ["rate", *other]) for rows in found]
    return chosen[0], chosen[1]


def blocks(study: Study) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Data set, position, setting and their replicates; a pair of networks that two positions share comes once."""
    first = study.replicates[study.replicates["rerun"] == 0]
    settings, positions = study.settings, ["after", "before", "around"]
    groups: dict[Any, pd.DataFrame] = {key: block for key, block in first.groupby(["dataset", "position", "setting"])}
    seen = set()
    for dataset, position, setting in sorted(groups, key=lambda k: (settings.index(k[2]), k[0], positions.index(k[1]))):
        block = groups[dataset, position, setting]
        pair = tuple(frozenset(block.loc[block["arrangement"].isin(side), "condition"]) for side in study.sides)
        if pair not in seen:
            seen.add(pair)
            yield dataset, position, setting, block


def rates_of(study: Study, block: pd.DataFrame) -> list[float]:
    """The rates at which the contrast can be compared; [0] if it has no dropout."""
    contrast = {*study.sides[0], *study.sides[1]} & WITH_DROPOUT
    return sorted(block.loc[block["arrangement"].isin(contrast), "rate"].unique()) if contrast else [0.0]


def _contrast_rows(study: Study) -> Iterator[dict[str, Any]]:
    primary, family = study.declaration["metric"], study.declaration["family"]
    means: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for dataset, position, setting, block in blocks(study):
        comparisons: list[tuple[str, float | None]] = [("best_vs_best", None)]
        comparisons += [("same_rate", rate) for rate in rates_of(study, block)]
        if study.declaration["tuned"] == ["rate"] and rates_of(study, block) == [0.0]:
            comparisons = [(family or "same_rate", None)]  # nothing to tune: the two comparisons are one
        for comparison, rate in comparisons:
            sides = sides_at(study, block, rate)
            if sides is None:
                continue
            for metric in [primary, *study.declaration["secondary"]]:
                declared = comparison == family and metric == primary
                for part, a, b in values_of(study, *sides, metric):
                    place = {"dataset": dataset, "position": position, "comparison": comparison, "metric": metric}
                    place |= {"setting": ",".join(filter(None, [setting, part]))}
                    place |= {"rate_a": _rate(sides[0], rate), "rate_b": _rate(sides[1], rate)}
                    yield _row(study, a, b, block, place, DECLARED if declared else EXPLORATORY)
                    if declared and metric != CENSORED:
                        means.setdefault((position, place["setting"]), []).append((np.nanmean(a), np.nanmean(b)))
    for (position, setting), pairs in means.items():
        # The unit of a statement about data sets at large is the data set.
        if len(pairs) >= MIN_DATA_SETS:
            a, b = np.array(pairs).T
            place = {"dataset": f"all {len(pairs)}", "position": position, "comparison": family, "metric": primary}
            place |= {"setting": setting, "rate_a": math.nan, "rate_b": math.nan}
            yield _row(study, a, b, study.replicates.assign(fresh_rows=True), place, EXPLORATORY)


def _rate(side: pd.DataFrame, rate: float | None) -> float:
    """The rate of a side; where it was chosen, the one chosen most often (the lowest of several)."""
    return float(side["rate"].mode().iloc[0]) if rate is None or set(side["rate"]) != {rate} else rate


def values_of(
    study: Study, a: pd.DataFrame, b: pd.DataFrame, metric: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name of the part, A's values, B's values), one value per replicate that both sides have."""
    if metric not in a or metric not in b:
        return
    over, kind = study.over, study.declaration["kind"]
    if over is None:
        seeds = sorted(set(a["seed"]) & set(b["seed"]))
        of_a, of_b = (side.set_index("seed")[metric].reindex(seeds).to_numpy(dtype=float) for side in (a, b))
        yield "", of_a, of_b
        return
    tables = [side.pivot(index="seed", columns=over, values=metric).astype(float) for side in (a, b)]
    tables[0], tables[1] = tables[0].align(tables[1], join="inner")
    rungs = [value for value in ladder(study) if value in tables[0].columns]
    tables = [table[rungs] for table in tables]
    if len(rungs) < 2:
        return
    if kind == "spread":
        # A diverged replicate has no spread: skipna would make it look narrower.
        of_a, of_b = (table.std(axis=1, ddof=1, skipna=False).to_numpy() for table in tables)
        yield "", of_a, of_b
    elif kind == "loss":
        baseline, *others = rungs
        of_a, of_b = ((table[baseline] - table[others].mean(axis=1, skipna=False)).to_numpy() for table in tables)
        yield "", of_a, of_b
    elif kind == "ladder":
        for rung in rungs:
            yield f"{over}={rung}", tables[0][rung].to_numpy(), tables[1][rung].to_numpy()
        # The fitted change from the first rung to the last, so that it has the metric's unit and ROPE.
        steps = np.arange(len(rungs))
        of_a, of_b = (slopes(table.to_numpy(), steps) * steps[-1] for table in tables)
        yield f"trend over {over}", of_a, of_b


def ladder(study: Study) -> list[Any]:
    """The values of `over` from the smallest to the largest; a loss is counted from the one nearest 0."""
    present = study.replicates[study.over].dropna().unique().tolist()
    rungs = sorted(present, key=lambda value: (isinstance(value, str), value))
    return sorted(rungs, key=abs) if study.declaration["kind"] == "loss" else rungs


def _row(
    study: Study, a: np.ndarray, b: np.ndarray, block: pd.DataFrame, place: dict[str, Any], family: str
) -> dict[str, Any]:
    ropes, metric = study.declaration["rope"], place["metric"]
    rope = float(ropes.get(metric, ropes.get(metric.removeprefix("recal_"), math.nan)))
    alpha, fresh = study.declaration["alpha"], bool(block["fresh_rows"].all())
    if metric == CENSORED and study.over is None:
        result = compare_ratio(a, b, rope=rope, fresh=fresh, alpha=alpha)
    else:
        ratio = float(block["test_train_ratio"].max())
        result = compare(a, b, rope=rope, test_train_ratio=ratio, fresh=fresh, alpha=alpha)
    names = {"a": " or ".join(study.sides[0]), "b": " or ".join(study.sides[1])}
    blank = {"p_holm": math.nan, "p_holm_new": math.nan, "verdict": "", "verdict_new_data": ""}
    return (
        blank
        | asdict(result)
        | names
        | place
        | {"claim": study.declaration["claim"], "family": family, "result": result}
    )


def _harness_rows(study: Study) -> Iterator[dict[str, Any]]:
    """The A/A rows: every condition that was trained again with other initial weights, orders and masks."""
    own_column = [key for key in [study.over, *study.declaration["tuned"]] if key and key != "rate"]
    point = ["dataset", "arrangement", "position", "rate", "setting", *own_column]
    again = study.replicates[study.replicates["rerun"] == 1].drop_duplicates(["condition", "seed"])
    first = study.replicates[study.replicates["rerun"] == 0].groupby(point)
    metric = study.declaration["metric"]
    for key, rerun in again.groupby(point):
        if key not in first.groups or metric not in rerun:
            continue
        both = first.get_group(key).merge(rerun, on="seed", suffixes=("", "_again"))
        place = dict(zip(point, key, strict=True)) | {"comparison": "a/a", "metric": metric}
        arrangement, rate = place.pop("arrangement"), place.pop("rate")
        extra = [f"{k}={place.pop(k)}" for k in own_column]
        place |= {"setting": ",".join(filter(None, [place["setting"], *extra])), "rate_a": rate, "rate_b": rate}
        place |= {"a": arrangement, "b": f"{arrangement} again"}
        a, b = (both[name].to_numpy(dtype=float) for name in (metric, f"{metric}_again"))
        yield _row(study, a, b, rerun, place, HARNESS)


def _way_out_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Each arrangement of the contrast under another setting minus itself under the base setting."""
    base, *others = study.settings
    first = study.replicates[study.replicates["rerun"] == 0]
    for (dataset, position), block in first.groupby(["dataset", "position"]):
        for setting in others:
            for arrangement in [*study.sides[0], *study.sides[1]]:
                rows = block[block["arrangement"] == arrangement]
                pair = [rows[rows["setting"] == s] for s in (setting, base)]
                shared = set(pair[0]["rate"]) & set(pair[1]["rate"])
                a, b = (tuned(study, side[side["rate"].isin(shared)], ["rate"]).set_index("seed") for side in pair)
                seeds = sorted(set(a.index) & set(b.index))
                if not seeds:
                    continue
                place = {"dataset": dataset, "position": position, "comparison": "way_out", "setting": setting}
                place |= {"metric": study.declaration["metric"], "rate_a": _rate(a, None), "rate_b": _rate(b, None)}
                place |= {"a": arrangement, "b": f"{arrangement}, {base or 'as it was'}"}
                of_a, of_b = (side[place["metric"]].reindex(seeds).to_numpy(dtype=float) for side in (a, b))
                yield _row(study, of_a, of_b, rows, place, EXPLORATORY)
