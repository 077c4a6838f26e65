"""What in the rows could make a result false, said before training; nothing is refused, for each may be right."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normdrop.asked import longer, override

if TYPE_CHECKING:
    from normdrop.data.rows import Rows

# A class this large is a guess that is right so often that accuracy says little.
MAJORITY = 0.75
# A column of whole numbers or words looks like an identifier where this share of the rows, or more, has its own.
DISTINCT = 0.95
# Of each class so many rows lie within bounds of a column by chance in 1 of 20 columns that err in 1 of 20 rows.
BOUNDED = 60
# Of rows with one place in an order more than this are worth a word.
TIED = 0.05
# A value as many times as far off as the middle half of its column is wide hides all others.
FAR = 1e6
# Linear combinations are looked for in so many columns, and rows, at most.
COMBINED, LOOKED_AT = 300, 20_000
WHO = "patient|subject|participant|person|speaker|user|customer|client|session|visit|household|group"
NAMED_SO = re.compile(rf"(?i:(.*[\W_])?(id|uuid|guid)|({WHO})[\W_]*(id|no|nr|number|name|key)?)|.*[a-z]I[dD]")


def of(rows: Rows, test_fraction: float) -> list[str]:
    """What a user should hear, what says most about the test accuracy first.

    test_fraction: the share of rows with an order that are tested.
    """
    notes = []
    telling, groups, identifiers = _columns(rows)
    if telling:
        ways = f"if made from it, {longer(rows.typed, 'drop', telling)}; if it says which rows belong together, "
        ways += override("data.group_column", telling[0])
        notes.append(f"the class can be told exactly from {', '.join(telling)}: {ways}")
    notes += [*_copies(rows, test_fraction), *_ties(rows, test_fraction)]
    if groups:
        way = f"{override('data.group_column', groups[0])} keeps the rows of a group in one part"
        notes.append(f"{', '.join(groups)}: like a group of rows (a person, a day?); {way}")
    if identifiers:
        way, other = longer(rows.typed, "drop", identifiers), override("data.order_column", _time(identifiers))
        notes.append(f"{', '.join(identifiers)}: like an identifier of the row; {way}, or for a time {other}")
    return [*notes, *_far(rows), *_majority(rows, test_fraction)]


def _time(names: list[str]) -> str:
    """The name that sounds most like a time."""
    return next((name for name in names if re.search("(?i)date|time|day|year", name)), names[0])


def _columns(rows: Rows) -> tuple[list[str], list[str], list[str]]:
    """Columns that tell the class, and those that look like a group of rows, or like an identifier or their order.

    A column tells it where each of its values has one class, or each class one value, or bounds of its own. No
    value counts as one too, but does not excuse a column of which most rows have one.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(rows.columns):
        places.setdefault(name, []).append(place)
    once = np.arange(len(rows.y))
    if rows.copies is not None:
        once = np.sort(np.unique(rows.copies, return_index=True)[1])
    telling, groups, identifiers = [], [], []
    for name, own in places.items():
        block = rows.x[:, own][once].astype(np.float64)
        values = block @ np.arange(1, len(own) + 1)  # of a one-hot column the number of its level
        known = ~np.isnan(values)
        mostly = 2 * known.sum() > len(known)
        distinct = len(pd.unique(values[known]))
        named = NAMED_SO.fullmatch(name) and distinct > 2
        repeated = 2 * distinct <= len(values)
        # Beyond, all numbers that a float64 holds are whole.
        whole = len(own) > 1 or ((values == np.round(values)) & (np.abs(values) < 2**53)).all()
        steps = np.diff(values)
        coded = _coded(values, rows.y[once]) or (mostly and _coded(values[known], rows.y[once][known]))
        if coded or _bounded(values, rows.y[once]):
            telling.append(name)
        elif len(rows.shape) > 1:
            continue
        elif repeated and named:
            groups.append(name)
        elif named or (steps > 0).all() or (steps < 0).all() or (whole and distinct >= DISTINCT * len(values)):
            identifiers.append(name)
    return telling or _combined(rows), groups, identifiers


def _coded(values: np.ndarray, y: np.ndarray) -> bool:
    """Whether each value has one class, or each class one value, of fewer than there are rows."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    pairs = len(pd.unique(codes * (y.max() + 1) + y))
    return 1 < len(distinct) <= len(values) / 2 and pairs in (len(distinct), len(pd.unique(y)))


def _bounded(values: np.ndarray, y: np.ndarray) -> bool:
    """Whether each class has a stretch of the values to itself, with more rows than honest columns have there."""
    if np.bincount(y).min() < BOUNDED:
        return False
    by_class = pd.Series(values).groupby(y).agg(["count", "min", "max"]).sort_values("min")
    apart = by_class["max"].to_numpy()[:-1] < by_class["min"].to_numpy()[1:]
    return bool(len(apart) and apart.all() and by_class["count"].min() >= BOUNDED)


def _far(rows: Rows) -> Iterator[str]:
    """Columns that have a number so far off that it may stand for a missing value."""
    found = {}
    for place, name in enumerate(rows.columns):
        values = rows.x[:, place].astype(np.float64)
        low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75))
        off = np.nan_to_num(np.abs(values - middle))
        if 0 < high - low < off.max() / FAR:
            found[name] = f"{values[off.argmax()]:.15g}"
    if found:
        which = ", ".join(f"{name} has {word}" for name, word in found.items())
        words = list(dict.fromkeys(found.values()))
        way = f"add it, if it stands for a missing value: {longer(rows.typed, 'missing', words)}"
        yield f"{which}: over {FAR:,.0f} times as far off as half of the values; {way}"


def _combined(rows: Rows) -> list[str]:
    """Columns of which a linear combination is 1 in the rows of one class and 0 in all others."""
    if not 0 < len(rows.columns) <= min(COMBINED, len(rows.y) // 2):
        return []
    some = slice(None, None, 1 + len(rows.y) // LOOKED_AT)
    x = np.nan_to_num(rows.x[some].astype(np.float64))
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), np.finfo(float).tiny)
    of_class = np.eye(len(rows.classes))[rows.y[some]]
    of_class -= of_class.mean(axis=0)
    weights = np.linalg.lstsq(x, of_class, rcond=1e-9)[0]
    exact = np.abs(x @ weights - of_class).max(axis=0) < 1e-6
    used = (np.abs(weights[:, exact]) > 1e-6).any(axis=1)
    return list(dict.fromkeys(np.array(rows.columns)[used].tolist()))


def _tested(rows: Rows, test_fraction: float) -> tuple[str, np.ndarray | None]:
    """The rows that are tested whatever the seed, in words and as (rows,) bool: given ones, or about the latest."""
    if rows.order is None or rows.test is not None:
        return "test rows", rows.test
    latest = np.zeros(len(rows.y), bool)
    latest[rows.order.argsort(kind="stable")[-math.ceil(test_fraction * len(rows.y)) :]] = True
    return "latest rows, which are tested,", latest


def _copies(rows: Rows, test_fraction: float) -> Iterator[str]:
    """Rows of a given part that another part can know, and rows that stand more than once."""
    alike = {"equal rows": rows.copies, "rows of their group": rows.groups}
    parts = {"test": _tested(rows, test_fraction), "validation": ("validation rows", rows.val)}
    for name, (words, part) in parts.items():
        for what, numbers in alike.items():
            if part is not None and numbers is not None:
                known = np.isin(numbers[part], numbers[~part]).sum()
                if known:
                    share = f"{known} of the {part.sum()} {words} ({100 * known / part.sum():.0f} %)"
                    yield f"{share} have {what} outside the {name} part"
    if rows.copies is not None:
        twice = np.bincount(rows.copies)[rows.copies] > 1
        labels = pd.Series(rows.y).groupby(rows.copies).transform("nunique")
        unsure = f", {(labels > 1).sum()} of them with different labels" if (labels > 1).any() else ""
        yield f"{100 * twice.mean():.0f} % of the rows stand more than once ({twice.sum()}{unsure})"


def _ties(rows: Rows, test_fraction: float) -> Iterator[str]:
    """Whether many rows have the very place in the order at which the test part begins, if it is not given."""
    _, latest = _tested(rows, test_fraction)
    if rows.order is not None and latest is not None and rows.test is None:
        first = rows.order[latest].min()
        same = np.mean(rows.order == first)
        if same > TIED and first in rows.order[~latest]:
            yield f"{100 * same:.0f} % of the rows have one value of data.order_column: the file's order splits them"


def _majority(rows: Rows, test_fraction: float) -> Iterator[str]:
    """Whether one class is most of all rows, or of those that are tested whatever the seed: given, or the latest."""
    parts = {"rows": rows.y}
    words, tested = _tested(rows, test_fraction)
    if tested is not None:
        parts[words] = rows.y[tested]
    for what, labels in reversed(parts.items()):
        counts = np.bincount(labels)
        share = counts.max() / len(labels)
        if share >= MAJORITY:
            usual = rows.classes[counts.argmax()]
            yield f"{100 * share:.1f} % of the {what} are {usual!r}: accuracy says little, see test_balanced_acc"
            return
