"""What must be known beside an answer: edges of the grids, neighbouring metrics, levels never reached, A/A."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from normdrop.metrics import METRICS
from normdrop.report.choose import Pair, both_sides, candidates, of_sides, rungs, shared_rows
from normdrop.report.compare import mean_interval
from normdrop.report.study import NEVER, Study
from normdrop.report.tables import key_name
from normdrop.report.verdicts import HARNESS

EDGE = 0.2  # of choices: more of them at an end of the grid are a doubt
CHANCE = 1.1  # times the balanced accuracy of a guess: below that nothing was learnt
ALPHA = 0.05  # of an A/A row, whatever its study declares
ALARM = 0.005  # A/A claims that chance gives more rarely are an alarm: every page asks


def family(study: Study, found: Iterable[Pair]) -> list[Pair]:
    """Of `choose.pairs` the declared ones at the grid proper; where nothing is declared, all of them."""
    declared = [pair for pair in found if study.declared.family in (None, pair.comparison)]
    return [pair for pair in declared if pair.counted and not pair.a["beyond"].any()]


def edges(study: Study, compared: list[Pair]) -> pd.DataFrame:
    """How often validation prefers the ends of a tuned key's grid, where a wider grid might go on.

    compared: `family`. Columns: key (`epoch`: the last one is the preferred one), low, high (the grid's ends), choices,
    at_low, at_high (shares), doubt. One row per tuned key whose values are numbers.
    """
    if study.declared.family != "best_vs_best" or not compared:
        return pd.DataFrame()
    sides, ends = [], []
    blocks = study.first.groupby(study.place)
    for pair in compared:
        seeds = pair.a.index.intersection(pair.b.index)
        block = blocks.get_group(tuple(pair.place.values()))
        trained = of_sides(study, block)
        for side, shared in zip((pair.a, pair.b), shared_rows(study, trained), strict=True):
            chosen = side.loc[seeds]
            sides.append((chosen[~chosen["diverged"]], shared))  # where no candidate is left there is no preference
    for key in study.declared.tuned:
        own = pd.concat([_choices(chosen, shared, key) for chosen, shared in sides])
        if len(own):
            at_low, at_high = own["choice"].eq(own["min"]).mean(), own["choice"].eq(own["max"]).mean()
            ends.append((key, own["min"].min(), own["max"].max(), len(own), at_low, at_high))
    chosen = pd.concat([chosen for chosen, _ in sides])
    if "epochs_after" in chosen and all(record["config"].get("select_epoch") == "best" for record in study.records):
        last = chosen["epochs_after"].dropna() == 0
        ends.append(("epoch", np.nan, np.nan, len(last), 0.0, last.mean()))
    table = pd.DataFrame(ends, columns=["key", "low", "high", "choices", "at_low", "at_high"])
    return table.assign(doubt=table[["at_low", "at_high"]].max(axis=1) > EDGE)


def _choices(chosen: pd.DataFrame, shared: pd.DataFrame, key: str) -> pd.DataFrame:
    """The choices of a key among numbers, with the ends (min, max) of the grid that the arrangement has in `shared`."""
    grid = candidates(shared, key)
    if not pd.api.types.is_numeric_dtype(grid):
        return pd.DataFrame(columns=["min", "max", "choice"])
    ends = grid.groupby(shared["arrangement"]).agg(["min", "max"])
    ends = ends.reindex(chosen["arrangement"]).set_axis(chosen.index)  # NaN: an arrangement without such a key
    return ends.assign(choice=chosen[key])[ends["min"] < ends["max"]]


def neighbours(study: Study, compared: list[Pair]) -> pd.DataFrame:
    """Test accuracy and NLL of the very comparisons that are declared, which their own metric may hide.

    compared: `family`. Of a kind that consumes a key the mean over its values. Columns: metric, n (comparisons), mean,
    low, high (of the differences A - B), up, down (comparisons whose interval lies above or below 0), half (of a single
    one's interval).
    """
    beside = []
    for metric in ("test_acc", "test_nll"):
        if metric in study.declared.metrics and study.kind.reduce is None:
            continue
        measured = [pair for pair in compared if metric in pair.a and metric in pair.b]
        measured = [pair for pair in measured if pair.place["dataset"] not in study.declared.apart]
        intervals = [mean_interval(_difference(study, pair, metric), study.declared.alpha) for pair in measured]
        intervals = [interval for interval in intervals if np.isfinite(interval[0])]
        if intervals:
            means, lows, highs = np.transpose(intervals)
            sides = {"up": int((lows > 0).sum()), "down": int((highs < 0).sum()), "half": (highs - lows)[0] / 2}
            numbers = {"n": len(means), "mean": means.mean(), "low": means.min(), "high": means.max()}
            beside.append({"metric": metric} | numbers | sides)
    return pd.DataFrame(beside)


def _difference(study: Study, pair: Pair, metric: str) -> pd.Series:
    if study.kind.reduce is None:
        return pair.a[metric].astype(float) - pair.b[metric].astype(float)
    a, b = rungs(pair, metric)
    return (a - b).mean(axis=1, skipna=False)


def doubts(study: Study) -> Iterator[str]:
    """A line for what was remarked of a data set, for one that nothing was learnt of, for data sets that are the same,
    and for grids with gaps.
    """
    known = {record["dataset"]: record["data"] for record in study.records if "data" in record}  # none of published
    for dataset, data in known.items():
        if data.get("notes"):  # what could make a result false comes first
            yield f"{dataset}: {data['notes'][0]}."
        own = study.first[study.first["dataset"] == dataset]
        if "classes" in data and "test_balanced_acc" in own:  # records of before lack them
            best = own.groupby("condition")["test_balanced_acc"].mean().max()
            if best < CHANCE / len(data["classes"]):
                yield f"{dataset}: nothing was learnt: the best balanced test accuracy is {100 * best:.1f} %, a guess."
    groups = study.first.groupby(["fingerprint", "served"])["dataset"].unique()
    for names in sorted({tuple(names) for names in groups if len(names) > 1}):
        yield f"{', '.join(names)}: the same rows under several names; they count once."
    grid, over = both_sides(study), study.declared.over
    at = ["arrangement", *study.place]
    seeds = grid.groupby([*at, "condition"])["seed"].agg(frozenset)
    if (seeds.groupby(at).nunique() > 1).any():
        yield "Not every seed was trained at every candidate: a choice counts those that were."
    if over:
        rungs = grid.groupby([*at, *study.declared.tuned])[over].agg(frozenset)
        if (rungs.groupby(at).nunique() > 1).any():
            yield f"Not every candidate was trained at every {key_name(over)}: there is more to choose where more were."


def never_reached(study: Study) -> pd.DataFrame:
    """Trainings that never reached the level whose steps are counted, by data set, arrangement, keys: n and missed."""
    counted = [metric for metric in study.declared.metrics if METRICS[metric].unit == "steps"]
    if not counted:
        return pd.DataFrame()
    own = study.first[~study.first["stands_in"]]
    missed = own[counted[0]].eq(NEVER).groupby([own[key] for key in ("dataset", "arrangement", *study.keys)])
    return missed.agg(n="size", missed="sum").reset_index()


def alarm(rows: pd.DataFrame) -> dict[str, Any]:
    """Whether the A/A rows of a whole page claim more differences than chance.

    rows: all studies' verdicts, of differences on these data. A network (of an arrangement, on a data set, by a metric)
    counts once, whatever it was compared at: all its second runs have the same initial weights and batch orders. It
    claims a difference if one of its p-values does after Bonferroni. claims: how many do, with probability `chance` so
    many or more; alarm: that is less than .005; claiming: the row of each with the smallest p-value; twice: whether
    anything was trained twice, if only with too few seeds.
    """
    again = rows[rows["family"] == HARNESS]
    tested = again[~again["verdict"].str.startswith("refused")]
    # Several studies may have trained the same two.
    tested = tested.drop_duplicates(["dataset", "a", "comparison", "metric", "n", "estimate", "ci_low", "ci_high"])
    tested = tested.sort_values("p_value", ignore_index=True)
    by_network = tested.groupby(["dataset", "a", "metric"])["p_value"]
    claiming = tested[by_network.transform("size") * tested["p_value"] <= ALPHA]
    claiming = claiming.drop_duplicates(["dataset", "a", "metric"])
    chance = float(stats.binom.sf(len(claiming) - 1, by_network.ngroups, ALPHA))
    facts = {"claims": len(claiming), "networks": by_network.ngroups, "compared": len(tested), "chance": chance}
    return facts | {"claiming": claiming, "alarm": chance <= ALARM, "twice": len(again) > 0}
