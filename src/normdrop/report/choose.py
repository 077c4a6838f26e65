"""Choose and pair: what each side's own validation part prefers, seed by seed, and what a kind of claim makes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normdrop.arrangement import ARRANGEMENTS, POSITIONS, has
from normdrop.report.study import Study

# The higher validation accuracy, then the lower NLL, then the lower rate. `nll` is another analyst's choice.
ORDERS = {
    "accuracy": {"val_acc": False, "val_nll": True, "rate": True},
    "nll": {"val_nll": True, "val_acc": False, "rate": True},
}


@dataclass
class Pair:
    """A and B at one place of a study, at one rate or at the rate that each seed prefers."""

    place: dict[str, Any]
    """dataset, position and the study's keys; of an A/A pair also its arrangement and what is tuned or consumed"""
    comparison: str
    """same_rate or best_vs_best; a/a or a/a_tuned"""
    rate: float | None
    """None: chosen"""
    counted: bool
    """False where other positions have the networks of both sides already (`around` is no further test of an order), or
    where the same rows are compared under another name that comes before"""
    a: pd.DataFrame
    """the chosen rows; the index is the seed, or seed and `over` where the kind consumes a key"""
    b: pd.DataFrame


def chosen(rows: pd.DataFrame, keys: list[str], by: list[str], prefer: str = "accuracy") -> pd.DataFrame:
    """The row that validation prefers among all values of `keys`, for each value of `by` (the seed), the index.

    A seed for which a candidate was never trained is left out; a diverged candidate comes last.
    """
    candidates = len(rows[["arrangement", *keys]].drop_duplicates())
    if candidates > 1:
        order = ORDERS[prefer]
        ranked = rows[list(dict.fromkeys([*by, *order]))]  # a few columns alone: half of a report's time goes by here
        ranked = ranked[ranked.groupby(by)["rate"].transform("size") == candidates]
        ranked = ranked.sort_values([*order], ascending=[*order.values()], kind="stable")
        rows = rows.loc[ranked.drop_duplicates(by).index]
    return rows.set_index(by).sort_index()


def pairs(study: Study, prefer: str = "accuracy", only: str | None = None) -> Iterator[Pair]:
    """Every comparison that the finished conditions allow, the grid proper first.

    prefer: a key of ORDERS. only: best_vs_best or same_rate alone. Two positions that share a pair of networks have it
    once.
    """
    declared = study.declared
    rows = study.first[study.first["arrangement"].isin([*declared.sides[0], *declared.sides[1]])]
    done: dict[Any, list[list[set[str]]]] = defaultdict(list)  # both sides' networks at other positions
    names: dict[Any, Any] = {}  # under which data set the same rows are compared first

    def order(block: tuple[tuple[Any, ...], pd.DataFrame]) -> tuple[bool, bool, str, int]:
        """The grid proper, then data sets, those set apart last, and positions."""
        (dataset, position, *_), rows = block
        return bool(rows["beyond"].any()), dataset in declared.apart, dataset, POSITIONS.index(position)

    for place, block in sorted(rows.groupby(study.place), key=order):
        sides = of_sides(study, block)
        networks = [set(side["condition"]) for side in sides]
        before = done[place[0], *map(str, place[2:])]
        if networks in before:
            continue
        known = [set().union(*(pair[side] for pair in before)) for side in (0, 1)]
        new = not (networks[0] <= known[0] and networks[1] <= known[1])
        before.append(networks)
        for comparison, rate in _comparisons(study, block):
            if only not in (None, comparison):
                continue
            if rungs := list(_rungs(study, sides, rate, prefer)):
                a, b = (pd.concat(own) for own in zip(*rungs, strict=True))
                same = (*block[["fingerprint", "served"]].iloc[0], *place[1:], comparison, rate)
                counted = new and names.setdefault(same, place[0]) == place[0]
                yield Pair(dict(zip(study.place, place, strict=True)), comparison, rate, counted, a, b)


def _rungs(study: Study, sides: list[pd.DataFrame], rate: float | None, prefer: str) -> Iterator[list[pd.DataFrame]]:
    """What both sides choose, for each value of a consumed key (that a declared `core` names) among the candidates that
    both have there."""
    declared, by, rungs = study.declared, ["seed"], [sides]
    if over := declared.over:
        by = ["seed", over]
        values = [value for value in sides[0][over].unique() if declared.core is None or value in declared.core]
        rungs = [[side[side[over] == value] for side in sides] for value in values]
    for rung in rungs:
        shared = shared_rows(study, rung, rate)
        if all(set(own["arrangement"]) == set(side) for own, side in zip(shared, declared.sides, strict=True)):
            yield [chosen(own, list(declared.tuned), by, prefer) for own in shared]


def _comparisons(study: Study, block: pd.DataFrame) -> list[tuple[str, float | None]]:
    """Best against best, and at each rate; both are one where nothing can be chosen."""
    rates = sorted(block.loc[with_dropout(block), "rate"].unique())
    if study.declared.family is None and study.declared.tuned == ("rate",) and len(rates) == 1:
        return [("same_rate", rates[0])]
    if study.declared.tuned == ("rate",) and not rates:
        return [(study.declared.family or "same_rate", None if study.declared.family else 0.0)]
    return [("best_vs_best", None), *(("same_rate", rate) for rate in rates or [0.0])]


def shared_rows(study: Study, sides: list[pd.DataFrame], rate: float | None = None) -> list[pd.DataFrame]:
    """Both sides' rows at the values that both have.

    An arrangement without dropout has rate 0 alone. Where one side is the better of more arrangements, its rates are
    its own, so that a study can give both as many candidates.
    """
    declared = study.declared
    one_each = len(declared.sides[0]) == len(declared.sides[1])
    rates = [set(side.loc[with_dropout(side), "rate"]) for side in sides]
    rates = [own for own in rates if own]  # a side without dropout has whatever the other has
    if rate is not None:
        shared = {rate}
    elif not rates:
        shared = set()
    elif one_each:
        shared = set.intersection(*rates)
    else:
        shared = set.union(*rates)
    sides = [side[side["rate"].isin(shared) | ~with_dropout(side)] for side in sides]
    for key in declared.within:
        both = set(sides[0][key]) & set(sides[1][key])
        sides = [side[side[key].isin(both)] for side in sides]
    # One side may lack a rate at one value alone.
    if declared.within and one_each and all(with_dropout(side).all() for side in sides):
        points = [pd.MultiIndex.from_frame(side[["rate", *declared.within]]) for side in sides]
        sides = [side[own.isin(other)] for side, own, other in zip(sides, points, points[::-1], strict=True)]
    return sides


def of_sides(study: Study, rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of A's arrangements, and those of B's."""
    return [rows[rows["arrangement"].isin(side)] for side in study.declared.sides]


def with_dropout(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of an arrangement with dropout: the others have rate 0 alone."""
    return rows["arrangement"].isin([name for name in ARRANGEMENTS if has(name, "dropout")])


def candidates(rows: pd.DataFrame, key: str) -> pd.Series:
    """The values of a tuned key in these rows; an arrangement without dropout has no rate to choose."""
    return rows.loc[with_dropout(rows) | (key != "rate"), key]


def both_sides(study: Study) -> pd.DataFrame:
    """The rows of both sides at the grid proper, and of a consumed key at what a declared `core` names."""
    declared, rows = study.declared, study.first[~study.first["beyond"].astype(bool)]
    if declared.core is not None:
        rows = rows[rows[declared.over].isin(declared.core)]
    return rows[rows["arrangement"].isin([*declared.sides[0], *declared.sides[1]])]


def values(study: Study, pair: Pair, metric: str) -> Iterator[tuple[str, pd.Series, pd.Series]]:
    """(part of the claim, A's values, B's values): one per seed that both have, as the kind makes them."""
    a, b = pair.a, pair.b
    if not (_measured(a, metric) and _measured(b, metric)):
        return
    reduce = study.kind.reduce
    if reduce is None or a.index.nlevels == 1:  # an A/A pair is of one value of the consumed key
        yield "", *a[metric].astype(float).align(b[metric].astype(float), join="inner")
        return
    along_a, along_b = rungs(pair, metric)
    if along_a.shape[1] > 1 or (study.kind.answer and along_a.shape[1]):  # a single rung may stand beside a ladder
        parts_a, parts_b = reduce(along_a), reduce(along_b)
        for part in parts_a:
            yield part, parts_a[part], parts_b[part]


def _measured(side: pd.DataFrame, metric: str) -> bool:
    """Whether a metric was measured of a side; where every seed diverged it would have been."""
    return metric in side and bool(side[metric].notna().any() or side["diverged"].all())


def rungs(pair: Pair, metric: str) -> list[pd.DataFrame]:
    """Each side's values, seeds × values of the consumed key in rising order, without seeds that lack one of them."""
    a, b = (side.loc[_complete(side), metric].astype(float).unstack() for side in (pair.a, pair.b))
    return [*a.align(b, join="inner")]


def _complete(side: pd.DataFrame) -> pd.Index:
    """The seeds that a side has at each value of the consumed key; one that diverged there is among them."""
    rungs = side.groupby(level="seed").size()
    return rungs.index[rungs == side.index.get_level_values(1).nunique()]
