"""Is the harm of an order variance shift? What recalibration removes, and the shift itself, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.arrangement import has
from normdrop.report.contrasts import Contrast
from normdrop.report.records import Study
from normdrop.report.statistics import holm, paired_difference, sign_flip
from normdrop.report.words import claim_word


def recalibration(study: Study, found: list[Contrast]) -> pd.DataFrame:
    """The order effect on test accuracy before and after the running statistics were estimated again.

    One row per data set, position, setting and comparison: n, before, after (means of A - B), share = 1 - after /
    before, the part of the effect that recalibration removes, and its 95 % percentile bootstrap interval over
    replicates. The share is NaN where the interval of the effect itself contains 0: there is nothing to explain.
    p_holm is the effect's, over the comparisons of its kind that are tests of the order alone; NaN for the others.
    Empty unless both sides of the contrast have batch normalization and were recalibrated.
    """
    rows = []
    both_have_bn = all(has(arrangement, "bn") for side in study.sides for arrangement in side)
    if not both_have_bn or study.over or "recal_test_acc" not in study.replicates:
        return pd.DataFrame()
    for contrast in found:
        a, b = (side.set_index("seed")[["test_acc", "recal_test_acc"]] for side in (contrast.a, contrast.b))
        kept = (a - b).dropna()
        if len(kept) < 2:
            continue
        effect = kept.to_numpy(dtype=float)
        tested = paired_difference(*(side.loc[kept.index, "test_acc"].to_numpy(dtype=float) for side in (a, b)))
        before, after = effect.mean(axis=0)
        low, high = stats.ttest_1samp(effect[:, 0], 0.0).confidence_interval(0.95)
        share, share_low, share_high = math.nan, math.nan, math.nan
        if low > 0 or high < 0:
            share = 1 - after / before
            draws = np.random.default_rng(0).integers(len(effect), size=(9999, len(effect)))
            means = effect[draws].mean(axis=1)
            # A resample without an effect: its share is infinite, and ranks so; without both it has none (0 / 0).
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = 1 - means[:, 1] / means[:, 0]
            share_low, share_high = np.nanquantile(shares, [0.025, 0.975], method="nearest")
        rows.append(
            {"dataset": contrast.dataset, "position": contrast.position, "setting": contrast.setting}
            | {"comparison": contrast.comparison, "rate": contrast.rate, "n": len(effect)}
            | {"before": before, "after": after, "share": share, "low": share_low, "high": share_high}
            | {"p_holm": sign_flip(*tested) if contrast.counted else math.nan}
        )
    table = pd.DataFrame(rows)
    if rows:
        table["p_holm"] = table.groupby("comparison")["p_holm"].transform(holm)
    return table


EXPLAINED = (
    "The word follows from a rule: wherever the order has an effect (Holm included; with each side at its own best, or "
    "if it has none there at equal rates), what share of it recalibration removes. Yes is more than half (the share's "
    "interval lies above one half) at three quarters of such places; No is less than half there; without an effect "
    "there is nothing to explain."
)


def explained(table: pd.DataFrame, alpha: float) -> tuple[str, str]:
    """The word of the claim that variance shift does the harm, and a sentence. table: `recalibration`'s, not empty.

    It is of the share of the effect that recalibration removes, in the declared comparison where there is an effect
    there, else at equal rates. An effect is one that is there after Holm: of those that merely look like one many are
    chance, and of chance recalibration removes nothing.
    """
    known = table[(table["p_holm"] < alpha) & table["share"].notna()]
    if known.empty:
        return "Not shown", "The order has no effect here, so there is nothing that variance shift could explain."
    best = known["comparison"] == "best_vs_best"
    known = known[best] if best.any() else known
    where = "" if best.any() else " at equal rates (none with each side at its own best)"
    asked = int((table["p_holm"].notna() & table["comparison"].isin(known["comparison"])).sum())
    halves = [
        "better" if low > 0.5 else "worse" if high < 0.5 else "inconclusive"
        for low, high in zip(known["low"], known["high"], strict=True)
    ]
    word = claim_word(halves).replace("No: the opposite", "No").replace("Sometimes the opposite", "Less than half")
    return word, (
        f"The order has an effect in {len(known)} of {asked} comparisons{where}; of it recalibration removes "
        f"{100 * known['share'].median():.0f} % (median; from {100 * known['share'].min():.0f} to "
        f"{100 * known['share'].max():.0f} %), more than half in {halves.count('better')} and less than half in "
        f"{halves.count('worse')} of them."
    )


def averaged(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Variance shift of one condition, averaged over replicates: one row per epoch, BN layer and case.

    measured: eval-mode variance of the layer's input over its train-mode variance; running: over its running variance;
    predicted: the closed form of `training.shift` (NaN where none applies); seeds: replicates measured.
    """
    values = ["measured", "predicted", "running"]
    table = pd.DataFrame([{"epoch": "end", "case": ""} | dict.fromkeys(values) | dict(entry) for entry in entries])
    if table.empty:
        return table
    table = table.astype(dict.fromkeys(values, float))
    if "seeds" in table:  # as published
        return table[["epoch", "layer", "case", *values, "seeds"]]
    groups = table.groupby(["epoch", "layer", "case"], sort=False)
    return groups[values].mean().assign(seeds=groups["seed"].nunique()).reset_index()


def shifts(study: Study) -> pd.DataFrame:
    """`averaged` of every condition, behind its name and its dataset, arrangement, position, rate and setting."""
    place = ["dataset", "arrangement", "position", "rate", "setting", "condition"]
    tables = []
    for record in study.records:
        named = {key: record[key] for key in place} | {
            "setting": ",".join(f"{k}={v}" for k, v in record["setting"].items())
        }
        if len(means := averaged(record.get("shift") or [])):
            tables.append(pd.DataFrame([named]).merge(means, how="cross"))
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*place, "epoch"])
    return found.sort_values(place, kind="stable", ignore_index=True)
