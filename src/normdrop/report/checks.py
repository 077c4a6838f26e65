"""What was checked before an answer was believed: whether the harness could have shown something else.

An answer of "no difference" is worth little if there was no room for one, if the comparison was too blunt to see one,
or if what should have acted did not. Each function here puts one such doubt to the study's own numbers, in one line;
None where the doubt does not arise.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

from normdrop.metrics import METRICS
from normdrop.report.answer import NAMES, Answer, interval, measured, number, say
from normdrop.report.contrasts import Contrast, values_of, with_dropout
from normdrop.report.records import Study, setting_value
from normdrop.report.statistics import MIN_DATA_SETS
from normdrop.report.verdicts import DECLARED, each, farthest

POWER = 0.8
CAP = 300  # replicates: more are not asked for, the row stays open


def checks(study: Study, found: Sequence[Contrast], rows: pd.DataFrame, shift: pd.DataFrame) -> list[str]:
    """One line for each check that the study's kind allows; `shift` is mechanism.shifts' table."""
    own = declared(study, found)
    lines = [
        room(study, own),
        sensitivity(study, rows),
        positive_control(study, rows),
        gap_taken_apart(study, rows),
        reached(study, own),
        *(edge.line for edge in edges(study, own)),
        theory(shift),
    ]
    return [line for line in lines if line]


def declared(study: Study, found: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts of the declared family at the grid proper."""
    family = study.declaration["family"]
    return [c for c in found if c.comparison == family and c.setting in study.base_settings and c.counted]


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
    means = [
        (metric.scale * float(np.nanmean(b)), _place(contrast))
        for contrast in own
        for _, _, b in values_of(study, contrast, study.metric)
        if np.isfinite(b).any()
    ]
    if not means:
        return None
    (low, where), (high, elsewhere) = min(means), max(means)
    runs = f"is {low:.1f} {symbol} ({where})" if low == high else ""
    runs = runs or f"runs from {low:.1f} {symbol} ({where}) to {high:.1f} {symbol} ({elsewhere})"
    return f"Room for a difference: of {side} alone, {measured(study, study.metric)} {runs}."


def sensitivity(study: Study, rows: pd.DataFrame) -> str | None:
    """The smallest true difference that a comparison of the family finds in four studies of five."""
    family = rows[(rows["family"] == DECLARED) & (rows["n"] > 1)]
    here = family[(family["metric"] == study.metric) & (family["sd"] > 0) & (not study.kind.ratio)]
    if here.empty:
        return None
    level = study.declaration["alpha"] / len(family)
    found = [
        float(np.squeeze(TTestPower().solve_power(nobs=row.n, alpha=level, power=POWER))) * row.sd for row in each(here)
    ]
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
    row = farthest(seen, "estimate")
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


EDGE = 0.2  # of choices: more of them at an end of the grid, and the answer begins with it


@dataclass(frozen=True)
class Edge:
    """How often validation prefers the ends of a tuned key's grid, where a wider grid might go on."""

    key: str
    low: float
    high: float
    choices: int
    at_low: float
    """share of the choices"""
    at_high: float

    @property
    def line(self) -> str:
        if self.key == "epoch":
            return (
                f"The preferred epoch is the last in {100 * self.at_high:.0f} % of {self.choices} choices: there a "
                "longer training might choose otherwise."
            )
        name = "rate" if self.key == "rate" else NAMES.get(self.key, self.key)
        return (
            f"The preferred {name} is the lowest of the grid ({self.low:g}) in {100 * self.at_low:.0f} % of "
            f"{self.choices} choices and the highest ({self.high:g}) in {100 * self.at_high:.0f} %: there a wider grid "
            "might choose otherwise."
        )


def edges(study: Study, own: Sequence[Contrast]) -> list[Edge]:
    """One for each tuned key whose values are numbers, and one for the epoch where validation chooses it."""
    if study.declaration["family"] != "best_vs_best" or not own:
        return []
    chosen, found = pd.concat([side for c in own for side in (c.a, c.b)]), []
    for key in study.declaration["tuned"]:
        choices, grid = chosen[key], study.replicates[key]
        if key == "rate":  # an arrangement without dropout has none to choose
            choices, grid = choices[with_dropout(chosen)], grid[with_dropout(study.replicates)]
        if grid.nunique() < 2 or choices.empty or not pd.api.types.is_numeric_dtype(grid):
            continue
        low, high = grid.min(), grid.max()
        found.append(Edge(key, low, high, len(choices), (choices == low).mean(), (choices == high).mean()))
    if "epochs_after" in chosen and all(setting_value(r, "select_epoch") == "best" for r in study.records):
        after = chosen["epochs_after"].dropna().astype(int)
        found.append(Edge("epoch", 0, math.nan, len(after), 0.0, float((after == 0).mean())))
    return found


def unsettled(study: Study, rows: pd.DataFrame) -> str | None:
    """What would change the answer: how many replicates bring the intervals of the family to half of the ROPE."""
    family = rows[(rows["family"] == DECLARED) & rows["needed"].notna()]
    open_rows = family[family["verdict"].map(say) == "inconclusive"]
    more = family[family["needed"] > family["n"]]
    if open_rows.empty and more.empty:
        return None
    said = []
    near = open_rows[open_rows["needed"] <= open_rows["n"]]
    if len(near):
        said.append(f"{len(near)} inconclusive rows are that narrow already: their difference is near the margin.")
    if len(more):
        needed, capped = int(more["needed"].max()), int((more["needed"] > CAP).sum())
        wall = sum(record.get("wall_seconds") or 0.0 for record in study.records)
        trained = sum(len(record["seeds"]) for record in study.records)
        target, now = min(needed, CAP), int(more["n"].max())
        minutes = wall / max(trained, 1) * len(study.records) * (target - now) / 60
        over = f" ({capped} of them more than {CAP}, where it stops: those may stay open)" if capped else ""
        commands = {str(record.get("command")) for record in study.records if record.get("command")}
        again = f": `{_with(min(commands, key=len), target)}`" if commands else ""
        said.append(
            f"{len(more)} of {len(family)} rows of the family need more replicates for intervals of ± half the ROPE on "
            f"these rows: up to {needed}{over}, about {max(minutes, 1):.0f} more minutes of training here{again}."
        )
    return " ".join(said)


def _with(command: str, replicates: int) -> str:
    """The command that trains as many: what it said of their number before is left out."""
    words = shlex.split(command)
    kept = [word for word in words if word.partition("=")[0] not in ("replicates", "precision", "replicates_max")]
    return shlex.join([*kept, f"replicates={replicates}"])


def would_change(study: Study, said: Answer) -> list[str]:
    """Further runs that might turn the answer."""
    lines = []
    if (sets := study.replicates["dataset"].nunique()) < MIN_DATA_SETS:
        lines.append(f"{MIN_DATA_SETS - sets} more data sets would let it speak of data sets at large.")
    if said.first:
        lines.append("What stands at the top may do so too.")
    return lines


def neighbours(study: Study, own: Sequence[Contrast]) -> str | None:
    """Test accuracy and NLL of the very comparison that is declared, which its own metric may hide."""
    said = []
    for name in ("test_acc", "test_nll"):
        if name == study.metric and study.over is None:
            continue
        metric, found = METRICS[name], []
        for contrast in own:
            if name not in contrast.a or name not in contrast.b:
                continue
            a, b = (_beside(study, side, name) for side in (contrast.a, contrast.b))
            difference = (a - b).dropna()
            if len(difference) > 1:
                half = stats.t.isf(study.declaration["alpha"] / 2, len(difference) - 1) * difference.sem()
                found.append((metric.scale * difference.mean(), metric.scale * half))
        if found:
            mean, halves = np.transpose(found)
            digits = 3 if metric.unit == "nats" else 2
            up, down = int((mean > halves).sum()), int((-mean > halves).sum())
            size = (
                f"{mean[0]:+.{digits}f} ± {halves[0]:.{digits}f} {metric.unit}"
                if len(found) == 1
                else f"{min(mean):+.{digits}f} to {max(mean):+.{digits}f} {metric.unit} (up in {up}, down in {down} of "
                f"{len(found)})"
            )
            said.append(f"{metric.words}{study.kind.beside_words} {size}")
    return "; ".join(said) or None


def _beside(study: Study, side: pd.DataFrame, metric: str) -> pd.Series:
    if study.over is None:
        return side.set_index("seed")[metric].astype(float)
    table = side.pivot(index="seed", columns=study.over, values=metric).astype(float)
    return pd.Series(study.kind.beside(table), index=table.index)


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


def largest(both: pd.DataFrame, name: str) -> list[str]:
    """Against another run of the same comparisons (`against.compare_runs`)."""
    both = both[both["t"].notna()]
    if both.empty:
        return []
    row = farthest(both, "t")
    return [
        f"Of {len(both)} comparisons that `{name}` has as well, {int(both['differs'].sum())} estimates differ by more "
        f"than their intervals allow; the largest |t| is {abs(row.t):.1f} ({row.metric} on {row.dataset}, "
        f"{row.comparison.replace('_', ' ')}: {number(row.estimate, row)} here, "
        f"{number(row.estimate_reference, row)} there)."
    ]


def _place(contrast: Contrast) -> str:
    return ", ".join(filter(None, [contrast.dataset, contrast.position, contrast.setting]))
