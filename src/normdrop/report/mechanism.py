"""Is the harm of an order variance shift? What BN recalibration removes of it, and the shift itself, layer by layer."""

from __future__ import annotations

import pandas as pd

from normdrop.report.compare import holm, mean_interval
from normdrop.report.study import Study

BEFORE, AFTER = "test_acc", "recal_test_acc"


def recalibration(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The order effect on test accuracy before and after the running statistics were estimated again.

    rows: `verdicts.rows`. Columns: dataset, position, the keys, comparison, rate, n, before and after (A - B), share =
    1 - after / before (the part that recalibration removes), p_holm (of the effect, over the tests of its comparison
    that count: of the order alone, at the grid proper, not refused; NaN for the others). Empty where nothing was
    recalibrated.
    """
    place = [*study.place, "comparison", "rate"]
    rows = rows[rows["comparison"].isin(["best_vs_best", "same_rate"])]
    before, after = (rows[rows["metric"] == metric] for metric in (BEFORE, AFTER))
    before, after = before.rename(columns={"estimate": "before"}), after.rename(columns={"estimate": "after"})
    counts = before["counted"].astype(bool) & ~before["beyond"].astype(bool) & ~before["verdict"].str.match("refused")
    before = before.assign(p_value=before["p_value"].where(counts))
    table = before[[*place, "n", "p_value", "beyond", "before"]].merge(after[[*place, "after"]], on=place)
    table["share"] = 1 - table["after"] / table["before"].where(table["before"] != 0)
    table["p_holm"] = table["p_value"].groupby(table["comparison"]).transform(holm)
    return table.drop(columns="p_value")


def shares(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Per position the share of the effect that recalibration removes, and the word of the claim.

    table: `recalibration`'s. A cell counts where the order has an effect after Holm: of those that merely look like one
    many are chance, and of chance recalibration removes nothing. They are those with each side at its own best, or if
    there are none (or these are not declared) those at equal rates. Columns: position, comparison, cells, asked, share
    (mean over cells), ci_low, ci_high, word: Yes (the interval lies above one half, and below one and a half: beyond,
    as much is left with the other sign), No (outside of that), Inconclusive.
    """
    columns = ["position", "comparison", "cells", "asked", "share", "ci_low", "ci_high", "word"]
    found = []
    for position, cells in table.dropna(subset="p_holm").groupby("position"):
        effects = cells[cells["p_holm"] < study.declared.alpha]
        tuned = study.declared.family != "same_rate" and effects["comparison"].eq("best_vs_best").any()
        comparison = "best_vs_best" if tuned else "same_rate"
        effects = effects[effects["comparison"] == comparison]
        share, low, high = mean_interval(effects["share"], study.declared.alpha)
        word = "Inconclusive" if len(effects) else "Nothing to explain"
        if low > 0.5 and high < 1.5:
            word = "Yes"
        elif high < 0.5 or low > 1.5:
            word = "No"
        asked = int(cells["comparison"].eq(comparison).sum())
        found.append((position, comparison, len(effects), asked, share, low, high, word))
    return pd.DataFrame(found, columns=columns)


def shifts(study: Study) -> pd.DataFrame:
    """Variance shift, a row per configuration, epoch, BN layer and case, mean over seeds.

    Columns: condition, dataset, arrangement, position, rate, the keys, epoch, layer, case, measured (variance of the
    layer's input in evaluation over that in training), running (over the running variance), seeds; in older studies
    predicted.
    """
    place = ["condition", "dataset", "arrangement", "position", "rate", *study.keys]
    entries = [{"condition": record["condition"]} | entry for record in study.records for entry in record["shift"]]
    if not entries:
        return pd.DataFrame(columns=[*place, "epoch", "layer", "case", "measured", "running", "seeds"])
    trained = study.table.loc[~study.table["stands_in"], place].drop_duplicates("condition")
    return trained.merge(pd.DataFrame(entries).astype({"measured": float, "running": float}), on="condition")
