"""Which numbers a study compares: each side's own choice within each replicate, paired replicate by replicate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from normdrop.arrangement import POSITIONS, has
from normdrop.metrics import METRICS
from normdrop.report.records import Study


@dataclass
class Contrast:
    """A and B of one data set, position and setting, at one rate or at the rate each replicate prefers (None)."""

    dataset: str
    position: str
    setting: str
    comparison: str
    """same_rate or best_vs_best"""
    rate: float | None
    a: pd.DataFrame
    """one row per replicate, and per value of the study's `over` where it has one"""
    b: pd.DataFrame
    block: pd.DataFrame
    """all replicates of the place, its other arrangements and rates among them"""
    counted: bool
    """False where other positions have the networks of both sides already: `around` is no further test of an order"""


def contrasts(study: Study, prefer: str = "accuracy", only: str | None = None) -> list[Contrast]:
    """Every contrast that the finished conditions allow, the base setting first.

    prefer: as in `tuned`. only: one comparison alone, `best_vs_best` or `same_rate`.
    """
    found = []
    had: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for dataset, position, setting, block in blocks(study):
        rates = _rates(study, block)
        comparisons: list[tuple[str, float | None]] = [("best_vs_best", None)]
        comparisons += [("same_rate", rate) for rate in rates]
        if study.declaration["tuned"] == ["rate"] and rates == [0.0]:
            # Nothing to tune: the two comparisons are one.
            comparisons = [(study.declaration["family"] or "same_rate", None)]
        seen = had.setdefault((dataset, setting), (set(), set()))
        networks = [set(block.loc[block["arrangement"].isin(side), "condition"]) for side in study.sides]
        counted = not all(own <= others for own, others in zip(networks, seen, strict=True))
        for own, others in zip(networks, seen, strict=True):
            others |= own
        for comparison, rate in comparisons:
            if only not in (None, comparison):
                continue
            if (sides := _sides(study, block, rate, prefer)) is not None:
                place = dataset, position, setting, comparison, rate
                found.append(Contrast(*place, *sides, block, counted))
    return found


def blocks(study: Study) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Data set, position, setting and their replicates; a pair of networks that two positions share comes once."""
    first = study.replicates[study.replicates["rerun"] == 0]
    settings = study.settings
    groups: dict[Any, pd.DataFrame] = {key: block for key, block in first.groupby(["dataset", "position", "setting"])}
    seen = set()
    for dataset, position, setting in sorted(groups, key=lambda k: (settings.index(k[2]), k[0], POSITIONS.index(k[1]))):
        block = groups[dataset, position, setting]
        pair = tuple(frozenset(block.loc[block["arrangement"].isin(side), "condition"]) for side in study.sides)
        if pair not in seen:
            seen.add(pair)
            yield dataset, position, setting, block


def tuned(study: Study, rows: pd.DataFrame, keys: list[str], prefer: str = "accuracy") -> pd.DataFrame:
    """For each replicate (and rung) the row that its own validation part prefers among all values of `keys`.

    Accuracy decides, then NLL, then the lower rate. Replicates for which a candidate was never trained are left out;
    a diverged candidate is never chosen while another is there.
    prefer: `accuracy`; `nll`, which then decides before accuracy; or `others`, the mean over the other replicates'
    validation parts. That chooses with less noise, and leaks a little: their training rows are among its test rows.
    """
    by = [*filter(None, [study.over]), "seed"]
    candidates = ["arrangement", *keys]
    complete = rows.groupby(by)["rate"].transform("size") == rows.drop_duplicates(candidates).shape[0]
    judged = rows[complete].assign(acc=rows["val_acc"], nll=rows["val_nll"])
    if prefer == "others":
        for measure in ("acc", "nll"):
            group = judged.groupby([*by[:-1], *candidates])[measure]
            others = group.transform("count") - judged[measure].notna()
            judged[measure] = (group.transform("sum") - judged[measure].fillna(0)) / others
    order = ["nll", "acc", "rate"] if prefer == "nll" else ["acc", "nll", "rate"]
    preferred = judged.sort_values(order, ascending=[name != "acc" for name in order])
    return preferred.drop(columns=["acc", "nll"]).drop_duplicates(by).sort_values(by)


def _sides(
    study: Study, block: pd.DataFrame, rate: float | None, prefer: str = "accuracy"
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """One row per replicate (and rung) for A and for B, at one rate, or at the preferred one if it is None.

    block: the replicates of one data set, position and setting. An arrangement without dropout has rate 0 alone. Both
    sides choose among the values that both have; where one of them is the better of more arrangements, its rates are
    its own, so that a study can give both as many candidates. None if a side has nothing there.
    """
    other = [key for key in study.declaration["tuned"] if key != "rate"]
    found = [block[block["arrangement"].isin(side)] for side in study.sides]
    shared = set(block["rate"])
    for arrangement in {*study.sides[0], *study.sides[1]}:
        if has(arrangement, "dropout") and len(study.sides[0]) == len(study.sides[1]):
            shared &= set(block.loc[block["arrangement"] == arrangement, "rate"])
    if rate is not None:
        shared &= {rate}
    found = [rows[rows["rate"].isin(shared) | ~with_dropout(rows)] for rows in found]
    for key in [*filter(None, [study.over]), *other]:
        both = set(found[0][key]) & set(found[1][key])
        found = [rows[rows[key].isin(both)] for rows in found]
    if any(set(side) != set(rows["arrangement"]) for side, rows in zip(study.sides, found, strict=True)):
        return None
    chosen = [tuned(study, rows, ["rate", *other], prefer) for rows in found]
    return chosen[0], chosen[1]


def _rates(study: Study, block: pd.DataFrame) -> list[float]:
    """The rates at which the contrast can be compared; [0] if it has no dropout."""
    rows = block[block["arrangement"].isin([*study.sides[0], *study.sides[1]])]
    return sorted(rows.loc[with_dropout(rows), "rate"].unique()) or [0.0]


def with_dropout(rows: pd.DataFrame) -> pd.Series:
    """Which of the replicates are of an arrangement with dropout: the others have rate 0 alone."""
    return rows["arrangement"].map(lambda arrangement: has(arrangement, "dropout")).astype(bool)


def values_of(study: Study, contrast: Contrast, metric: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name of the part, A's values, B's values), one value per replicate that both sides have.

    The part is empty but for a ladder, which has one for each rung and one for the trend along them.
    """
    over, sides = study.over, (contrast.a, contrast.b)
    if not all(_measured(side, metric) for side in sides):
        return
    tables = [
        side.set_index("seed")[[metric]] if over is None else side.pivot(index="seed", columns=over, values=metric)
        for side in sides
    ]
    a, b = tables[0].astype(float).align(tables[1].astype(float), join="inner")
    if over is not None:
        rungs = [rung for rung in ladder(study, study.declaration["core"]) if rung in a.columns]
        if len(rungs) < 2:
            return
        a, b = a[rungs], b[rungs]
    of_a, of_b = (study.kind_of(metric).reduce(side, over) for side in (a, b))
    for part in of_a:
        yield part, of_a[part], of_b[part]


def _measured(side: pd.DataFrame, metric: str) -> bool:
    """Whether any replicate that did not diverge has a value; steps to a level that no run reached are one too."""
    if metric not in side:
        return False
    sound = side.loc[~side["diverged"].astype(bool), metric]
    return METRICS[metric].unit == "steps" or sound.empty or bool(sound.notna().any())


def ladder(study: Study, among: list[Any] | None = None) -> list[Any]:
    """The values of `over`, of those `among` if given, from the smallest to the largest, words last."""
    present = study.replicates[study.over].dropna().unique().tolist()
    present = [value for value in present if among is None or value in among]
    return sorted(present, key=lambda value: (isinstance(value, str), value))
