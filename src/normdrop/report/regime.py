"""When does order matter? The orders at one rate, over learning rate × epochs × rate × position, beside the control."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.contrasts import contrasts, values_of
from normdrop.report.records import Study, keys_of
from normdrop.report.statistics import compare, compare_ratio
from normdrop.report.verdicts import farthest

LR, EPOCHS = "optimizer.lr", "trainer.max_epochs"
UNSHIFTED = "no noise above"  # `training.shift`'s word for a BN layer that no dropout comes before


def regime(study: Study, shift: pd.DataFrame) -> pd.DataFrame:
    """The difference at equal rate in every cell of the map; empty unless learning rate and epochs are both settings.

    shift: `mechanism.shifts`'. One row per dataset, position, lr, epochs, rate and contrast, that of the study and the
    one with layer normalization in place of batch normalization: n, estimate, its interval and tests (A - B, in the
    metric's unit, on these rows), the same of test accuracy after recalibration (recal, recal_low, recal_high), steps
    (median A / B to the level), and the variance shift at each side's first shifted BN layer at the end of training
    (NaN where there is none).
    """
    swept = [dict(part.split("=", 1) for part in keys_of(setting)) for setting in study.base_settings]
    if study.over is not None or not all({LR, EPOCHS} <= set(setting) for setting in swept):
        return pd.DataFrame()
    if len({s[LR] for s in swept}) < 2 or len({s[EPOCHS] for s in swept}) < 2:
        return pd.DataFrame()
    end = shift[shift["epoch"] == "end"]
    if len(end):
        end = end[end["case"] != UNSHIFTED].sort_values("layer").drop_duplicates("condition")
    first = end.set_index("condition")["measured"].to_dict() if len(end) else {}
    control = [[name.replace("bn", "ln") for name in side] for side in study.sides]
    rows: list[dict[str, Any]] = []
    for a, b in (study.sides, control):
        if not {*a, *b} <= set(study.replicates["arrangement"]):
            continue
        varied = replace(study, declaration=study.declaration | {"contrast": {"a": a, "b": b}})
        for contrast in contrasts(varied, only="same_rate"):
            if contrast.setting not in study.base_settings:
                continue
            place = dict(part.split("=", 1) for part in keys_of(contrast.setting))
            ((_, of_a, of_b),) = values_of(varied, contrast, study.metric)
            found = compare(of_a, of_b, rope=study.rope(study.metric), test_train_ratio=math.nan)
            again, steps = (
                [side.reindex(columns=[name])[name].to_numpy(dtype=float) for side in (contrast.a, contrast.b)]
                for name in ("recal_test_acc", "steps_to_level")
            )
            recal = compare(*again, rope=math.nan, test_train_ratio=math.nan)
            rows.append(
                {"dataset": contrast.dataset, "position": contrast.position}
                | {"lr": float(place[LR]), "epochs": int(place[EPOCHS]), "rate": contrast.rate}
                | {"contrast": f"{' or '.join(a)} - {' or '.join(b)}", "n": found.n, "estimate": found.estimate}
                | {"ci_low": found.ci_low, "ci_high": found.ci_high, "p_value": found.p_value, "p_tost": found.p_tost}
                | {"recal": recal.estimate, "recal_low": recal.ci_low, "recal_high": recal.ci_high}
                | {"steps": compare_ratio(*steps, rope=math.nan).estimate}
                | {
                    f"shift_{name}": first.get(side["condition"].iloc[0], math.nan)
                    for name, side in (("a", contrast.a), ("b", contrast.b))
                }
            )
    order = ["dataset", "position", "contrast", "lr", "epochs", "rate"]
    return pd.DataFrame(rows).sort_values(order, ignore_index=True) if rows else pd.DataFrame()


def counted(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """How many cells of each contrast, position and training length say what: `regime`'s table, in words of a rule.

    Ahead and behind: the interval of A - B lies on that side of 0. No difference: it contains 0 and the equivalence
    test rejects; else not settled.
    """
    words = np.select(
        [table["ci_low"] > 0, table["ci_high"] < 0, table["p_tost"] < alpha],
        ["ahead", "behind", "no difference"],
        "not settled",
    )
    counts = pd.crosstab([table["contrast"], table["position"], table["epochs"]], words)
    return counts.reindex(columns=["ahead", "behind", "no difference", "not settled"], fill_value=0).reset_index()


def told(study: Study, table: pd.DataFrame) -> str:
    """A few sentences for each contrast and position: where A is ahead and behind, what recalibration leaves of that,
    and whether it goes with the speed of learning."""
    said = []
    scale, unit = METRICS[study.metric].scale, METRICS[study.metric].unit
    for (contrast, position), cells in table.groupby(["contrast", "position"], sort=False):
        total = counted(cells, study.declaration["alpha"]).sum()
        line = (
            f"Of {len(cells)} cells {position} the activation, {contrast} is above 0 in {total['ahead']}, below in "
            f"{total['behind']} and equivalent in {total['no difference']}"
        )
        settled = cells[(cells["ci_low"] > 0) | (cells["ci_high"] < 0)]
        if len(settled):
            far = farthest(settled, "estimate")
            line += (
                f"; the largest is {scale * far.estimate:+.2f} {unit} ({far.dataset}, learning rate "
                f"{far.lr:g}, {far.epochs} epochs, rate {far.rate:g})"
            )
            left = int(((settled["recal_low"] > 0) | (settled["recal_high"] < 0)).sum())
            if (settled["recal"] - settled["estimate"]).any():  # recalibrated, and not of layer normalization
                line += (
                    f". With the running statistics estimated again, dropout off, it is {scale * far.recal:+.2f} "
                    f"{unit}, and {left} of the {len(settled)} differ still"
                )
        quick = settled[settled["steps"].gt(0) & np.isfinite(settled["steps"]) & (settled["steps"] != 1)]
        if len(quick) > 2:
            faster = int(((quick["steps"] < 1) == (quick["estimate"] > 0)).sum())
            rho, p = stats.spearmanr(-np.log(quick["steps"]), quick["estimate"])
            line += (
                f". Where the two differ in accuracy and in steps to the level, the one ahead is the quicker one in "
                f"{faster} of {len(quick)} cells (rank correlation of the two differences {rho:+.2f}, p = {p:.2g})"
            )
        said.append(line + ".")
    return " ".join(said)
