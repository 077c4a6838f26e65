"""What was checked before an answer was believed: whether the harness could have shown something else.

An answer of "no difference" is worth little if there was no room for one, if the comparison was too blunt to see one,
or if what should have acted did not. Each function here puts one such doubt to the study's own numbers, in one line;
None where the doubt does not arise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

from normdrop.metrics import METRICS
from normdrop.report.answer import interval, measured, number, say
from normdrop.report.contrasts import Contrast, values_of, with_dropout
from normdrop.report.records import Study
from normdrop.report.verdicts import DECLARED, each

POWER = 0.8


def checks(study: Study, found: Sequence[Contrast], rows: pd.DataFrame, shift: pd.DataFrame) -> list[str]:
    """One line for each check that the study's kind allows; `shift` is mechanism.shifts' table."""
    family = study.declaration["family"]
    own = [c for c in found if c.comparison == family and c.setting in study.base_settings]
    lines = [
        room(study, own),
        sensitivity(study, rows),
        positive_control(study, rows),
        gap_taken_apart(study, rows),
        reached(study, own),
        edges(study, own),
        theory(shift),
    ]
    return [line for line in lines if line]


def room(study: Study, own: Sequence[Contrast]) -> str | None:
    """Is there anything to gain or to lose? The metric of B by itself."""
    side, metric = " or ".join(study.sides[1]), METRICS[study.metric]
    if study.kind.ratio or not own:
        return None
    symbol = "%" if study.kind.level and metric.higher_is_better else metric.unit
    if study.kind.answer:
        rungs = [b for _, _, b in values_of(study, own[0], study.metric)][:-1]
        if len(rungs) < 2:  # a sweep that has only begun
            return None
        first, last = (metric.scale * np.nanmean(rung) for rung in (rungs[0], rungs[-1]))
        return (
            f"The ladder is one: {metric.words} of {side} goes from {first:.1f} {symbol} at the first {study.over} to "
            f"{last:.1f}."
        )
    means = []
    for contrast in own:
        for _, _, b in values_of(study, contrast, study.metric):
            if np.isfinite(b).any():
                means.append((metric.scale * float(np.nanmean(b)), _place(contrast)))
    if not means:
        return None
    (low, where), (high, elsewhere) = min(means), max(means)
    runs = f"is {low:.1f} {symbol} ({where})" if low == high else ""
    runs = runs or f"runs from {low:.1f} {symbol} ({where}) to {high:.1f} {symbol} ({elsewhere})"
    return f"Room for a difference: of {side} alone, {measured(study, study.metric)} {runs}."


def sensitivity(study: Study, rows: pd.DataFrame) -> str | None:
    """The smallest true difference that a comparison of the family finds in four studies of five."""
    family = rows[(rows["family"] == DECLARED) & (rows["n"] > 1)]
    here = family[(family["metric"] == study.metric) & (not study.kind.ratio)]
    level = study.declaration["alpha"] / max(len(family), 1)
    found = []
    for row in each(here):
        half = (row.ci_high - row.ci_low) / 2
        sd = half * np.sqrt(row.n) / stats.t.ppf(1 - study.declaration["alpha"] / 2, row.n - 1)
        if sd > 0:
            effect = TTestPower().solve_power(nobs=row.n, alpha=level, power=POWER, alternative="two-sided")
            found.append(float(np.squeeze(effect)) * sd)
    if not found:
        return None
    metric = METRICS[study.metric]
    low, high = (f"{metric.scale * value:.2f}" for value in (min(found), max(found)))
    size = f"{low} {metric.unit}" if low == high else f"{low} to {high} {metric.unit}"
    return (
        f"Sensitivity: a comparison of the family finds a true difference of {size} with {100 * POWER:.0f} % power, "
        f"even as the first in Holm's order (level {study.declaration['alpha']:g} / {len(family)})."
    )


def positive_control(study: Study, rows: pd.DataFrame) -> str | None:
    """The same networks at one rate for both sides: a difference of amount, which the harness should see."""
    if study.declaration["family"] != "best_vs_best":
        return None
    same = rows[
        (rows["comparison"] == "same_rate")
        & (rows["metric"] == study.metric)
        & rows["setting"].isin(study.base_settings)
        & rows["estimate"].notna()
    ]
    if same[["rate_a", "rate_b"]].max(axis=1).nunique() < 2:  # of a single rate it is the very comparison declared
        return None
    seen = same[same["verdict"].map(say).isin(["better", "worse"])]
    if seen.empty:
        return f"At one rate for both sides none of {len(same)} comparisons differs either (exploratory)."
    row: Any = next(each(seen.loc[[seen["estimate"].abs().idxmax()]]))
    return (
        f"An effect that is there is seen: at one rate for both sides {len(seen)} of {len(same)} comparisons differ "
        f"(exploratory), the most on {row.dataset}, {row.position}, rate {max(row.rate_a, row.rate_b):g}: "
        f"{number(row.estimate, row)} ({interval(row.ci_low, row.ci_high, row)})."
    )


def gap_taken_apart(study: Study, rows: pd.DataFrame) -> str | None:
    """A gap is a difference of two accuracies: it may close from above, or widen because both rise."""
    place = ["dataset", "position", "setting", "comparison"]
    table = rows[rows["comparison"] == study.declaration["family"]].set_index([*place, "metric"])["estimate"].unstack()
    if "gap" not in study.metrics or not {"train_acc", "test_acc"} <= set(table):
        return None
    parts = [
        f"{', '.join(filter(None, [dataset, setting]))}: {100 * values['train_acc']:+.1f} and "
        f"{100 * values['test_acc']:+.1f} pp"
        for (dataset, _, setting, _), values in table.dropna(subset="gap").iterrows()  # type: ignore[misc]
    ]
    return f"The gap taken apart, training accuracy and test accuracy, A - B: {'; '.join(parts)}."


def reached(study: Study, own: Sequence[Contrast]) -> str | None:
    """How many runs reached the level whose steps are counted."""
    counted = [metric for metric in study.metrics if study.kind_of(metric).ratio]
    if not counted:
        return None
    short = []
    runs = 0
    for contrast in own:
        for _, a, b in values_of(study, contrast, counted[0]):
            for side, values in zip(study.sides, (a, b), strict=True):
                runs += len(values)
                if missed := int((~np.isfinite(values)).sum()):
                    short.append(f"{missed} of {len(values)} of {' or '.join(side)} on {_place(contrast)}")
    if short:
        return f"Runs that never reached the level, counted as longer than any that did: {'; '.join(short)}."
    return f"Every one of {runs} runs reached the level, so that no step count is censored."


def edges(study: Study, own: Sequence[Contrast]) -> str | None:
    """How often the rate that validation prefers is an end of the grid, where a wider grid might go on."""
    rates = sorted(study.replicates.loc[with_dropout(study.replicates), "rate"].unique())
    chosen = [side.loc[with_dropout(side), "rate"] for c in own for side in (c.a, c.b)]
    if len(rates) < 2 or not chosen or study.declaration["family"] != "best_vs_best":
        return None
    choices = pd.concat(chosen)
    low, high = (100 * (choices == end).mean() for end in (rates[0], rates[-1]))
    return (
        f"The preferred rate is the lowest of the grid ({rates[0]:g}) in {low:.0f} % of {len(choices)} choices and the "
        f"highest ({rates[-1]:g}) in {high:.0f} %: there a wider grid might choose otherwise."
    )


def theory(shift: pd.DataFrame) -> str | None:
    """Where the closed forms are exact, dropout and BN must shift the variance by what they say."""
    if shift.empty:
        return None
    exact = shift[shift["case"].str.startswith("noise→") & ~shift["case"].str.contains("approximate")]
    ratio = (exact["measured"] / exact["predicted"]).dropna()
    if ratio.empty:
        return None
    return (
        f"Dropout and BN act as theory says: at {len(ratio)} BN layers with an exact closed form the measured shift of "
        f"variance is {ratio.mean():.3f} times the predicted (from {ratio.min():.3f} to {ratio.max():.3f})."
    )


def replicated(both: pd.DataFrame, name: str) -> list[str]:
    """Against another run of the same comparisons (`against.compare_runs`)."""
    both = both[both["t"].notna()]
    if both.empty:
        return []
    row: Any = next(each(both.loc[[both["t"].abs().idxmax()]]))
    return [
        f"Of {len(both)} comparisons that `{name}` has as well, {int(both['differs'].sum())} estimates differ by more "
        f"than their intervals allow; the largest |t| is {abs(row.t):.1f} ({row.metric} on {row.dataset}, "
        f"{row.comparison.replace('_', ' ')}: {number(row.estimate, row)} here, "
        f"{number(row.estimate_reference, row)} there)."
    ]


def _place(contrast: Contrast) -> str:
    return ", ".join(filter(None, [contrast.dataset, contrast.position, contrast.setting]))
