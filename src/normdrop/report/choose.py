"""Choose and pair: what each side's own validation part prefers, seed by seed, and what a kind of claim makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from normdrop.arrangement import POSITIONS, has
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
    """dataset, position and the study's keys"""
    comparison: str
    """same_rate or best_vs_best"""
    rate: float | None
    """None: chosen"""
    counted: bool
    """False where other positions have the networks of both sides already: `around` is no further test of an order"""
    a: pd.DataFrame
    """the chosen rows; the index is the seed, or seed and `over` where the kind consumes a key"""
    b: pd.DataFrame


def chosen(rows: pd.DataFrame, keys: list[str], by: list[str], prefer: str = "accuracy") -> pd.DataFrame:
    """The row that validation prefers among all values of `keys`, for each value of `by` (the seed), the index.

    A seed for which a candidate was never trained is left out; a diverged candidate comes last.
    """
    candidates = len(rows[["arrangement", *keys]].drop_duplicates())
    complete = rows[rows.groupby(by)["rate"].transform("size") == candidates]
    order = ORDERS[prefer]
    best = complete.sort_values([*order], ascending=[*order.values()], kind="stable").drop_duplicates(by)
    return best.set_index(by).sort_index()


def pairs(study: Study, prefer: str = "accuracy", only: str | None = None) -> Iterator[Pair]:
    """Every comparison that the finished conditions allow, the grid proper first.

    prefer: a key of ORDERS. only: best_vs_best or same_rate alone. Two positions that share a pair of networks have it
    once.
    """
    sides = study.declared.sides
    rows = study.first[study.first["arrangement"].isin([*sides[0], *sides[1]])]
    seen: dict[Any, list[list[frozenset[str]]]] = {}
    for place, block in _blocks(study, rows):
        own = [block[block["arrangement"].isin(side)] for side in sides]
        networks = [frozenset(side["condition"]) for side in own]
        before = seen.setdefault((place[0], *map(str, place[2:])), [])
        if networks in before:
            continue
        others = [frozenset().union(*(pair[side] for pair in before)) for side in (0, 1)]
        counted = not all(mine <= theirs for mine, theirs in zip(networks, others, strict=True))
        before.append(networks)
        for comparison, rate in _comparisons(study, block):
            if only in (None, comparison) and (found := _shared(study, own, rate)) is not None:
                by = ["seed", *([study.declared.over] if study.declared.over else [])]
                a, b = (chosen(side, list(study.declared.tuned), by, prefer) for side in found)
                yield Pair(dict(zip(study.place, place, strict=True)), comparison, rate, counted, a, b)


def _blocks(study: Study, rows: pd.DataFrame) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Data set, position and keys with their rows, in order: the grid proper, then its data sets and positions."""

    def order(item: tuple[tuple[Any, ...], pd.DataFrame]) -> tuple[bool, str, int]:
        (dataset, position, *_), block = item
        return bool(block["beyond"].any()), dataset, POSITIONS.index(position)

    return sorted(rows.groupby(study.place), key=order)


def _comparisons(study: Study, block: pd.DataFrame) -> list[tuple[str, float | None]]:
    """Best against best, and at each rate; both are one where nothing can be chosen."""
    rates = sorted(block.loc[with_dropout(block), "rate"].unique())
    if study.declared.tuned == ("rate",) and not rates:
        return [(study.declared.family or "same_rate", None)]
    return [("best_vs_best", None), *(("same_rate", rate) for rate in rates or [0.0])]


def _shared(study: Study, own: list[pd.DataFrame], rate: float | None) -> list[pd.DataFrame] | None:
    """Both sides' rows at the values that both have; None if an arrangement has nothing there.

    An arrangement without dropout has rate 0 alone. Where one side is the better of more arrangements, its rates are
    its own, so that a study can give both as many candidates.
    """
    sides, shared = study.declared.sides, None
    if rate is not None:
        shared = {rate}
    elif len(sides[0]) == len(sides[1]):
        drop = [set(side.loc[with_dropout(side), "rate"]) for side in own if with_dropout(side).any()]
        shared = set.intersection(*drop) if drop else None
    if shared is not None:
        own = [side[side["rate"].isin(shared) | ~with_dropout(side)] for side in own]
    for key in (study.declared.over, *study.declared.tuned):
        if key and key != "rate":
            both = set(own[0][key]) & set(own[1][key])
            own = [side[side[key].isin(both)] for side in own]
    there = [set(side["arrangement"]) for side in own]
    return own if there == [set(side) for side in sides] else None


def with_dropout(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of an arrangement with dropout: the others have rate 0 alone."""
    names = [name for name in rows["arrangement"].unique() if has(name, "dropout")]
    return rows["arrangement"].isin(names)


def values(study: Study, pair: Pair, metric: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(part of the claim, A's values, B's values): one per seed that both have, as the kind makes them."""
    a, b = pair.a, pair.b
    if metric not in a or not (a[metric].notna().any() and b[metric].notna().any()):
        return
    if study.kind.reduce is None or a.index.nlevels == 1:  # an A/A pair is of one value of the consumed key
        of_a, of_b = a[metric].astype(float).align(b[metric].astype(float), join="inner")
        yield "", of_a.to_numpy(), of_b.to_numpy()
        return
    tables = rungs(study, pair, metric)
    if tables[0].shape[1] > 1 or (study.kind.answer and tables[0].shape[1]):  # a single rung may stand beside a ladder
        reduced = [study.kind.reduce(table) for table in tables]
        for part in reduced[0]:
            yield part, reduced[0][part].to_numpy(), reduced[1][part].to_numpy()


def rungs(study: Study, pair: Pair, metric: str) -> list[pd.DataFrame]:
    """Each side's values, seeds × values of the consumed key in rising order: those that a declared `core` names."""
    a, b = (side[metric].astype(float).unstack() for side in (pair.a, pair.b))
    a, b = a.align(b, join="inner")
    kept = [rung for rung in a if study.declared.core is None or rung in study.declared.core]
    return [a[kept], b[kept]]
