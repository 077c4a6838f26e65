"""What in the rows could make a result false, said before training; nothing is refused, for each may be right."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normdrop.asked import longer, taken

if TYPE_CHECKING:
    from normdrop.data.rows import Rows

# A class this large is a guess that is right so often that accuracy says little.
MAJORITY = 0.75
# So many rows of all classes but the largest are within bounds of a column in 1 of 20 columns that err in 1 of 20 rows.
BOUNDED = 60
# A value as many times as far off as the middle half of its column is wide hides all others.
FAR = 1e6
# A column of whole numbers or words looks like an identifier where this share of the rows, or more, has its own.
DISTINCT = 0.95
# Linear combinations are looked for in so many columns, and rows, at most.
COMBINED, LOOKED_AT = 300, 20_000
WHO = (
    "patient|subject|subj|participant|person|speaker|writer|user|customer|client|session|visit|household|family|"
    "animal|mouse|rat|video|recording|sample|device|hospital|site|group|pid|ptid|mrn"
)
# Rows of one value mostly have one class: of so many values, and of three rows each, in this share of the rows.
VALUES, PURE = 10, 0.9
NAMES = 12  # of columns are told at most
# Copies that other columns hide are told where they are this share of the rows, or more.
HIDDEN = 0.05
# Rows are nearly equal if no column differs by this share of its spread; looked for in tables of so many cells at most.
NEAR, CELLS = 1e-5, 2**23
NAMED_SO = re.compile(rf"(?i:(.*[\W_])?(id|uuid|guid)|({WHO})[\W_]*(id|no|nr|number|name|key|code)?)|.*[a-z]I[dD]")


def of(rows: Rows) -> list[str]:
    """What a user should hear, what says most about the test accuracy first."""
    notes: list[str] = []
    telling, groups, identifiers = _columns(rows, rows.copies)
    hiding, bare = identifiers, _without(rows, identifiers)
    hidden = _twice(bare).mean() >= _twice(rows).mean() + HIDDEN and not _by_chance(bare)
    if hidden:
        telling, groups, _ = _columns(rows, bare.copies)
    groups += rows.left_out
    identifiers = [name for name in identifiers if name not in telling]
    if telling:
        ways = _ways(rows, telling, "if made from it, ", "group_column", "if it says which rows belong together, ")
        notes.append("; ".join([f"the class can be told exactly from {_listed(telling)}", *ways]))
    if hidden:
        told = f"without {_listed(hiding)} {100 * _twice(bare).mean():.0f} % of the rows stand more than once"
        notes.append(f"{told}: {taken(rows.typed, 'drop', hiding)} lets data.copies find them")
    notes += _copies(rows)
    notes += _near(bare)
    if groups and may_have_role(rows.typed):
        way = f"{taken(rows.typed, 'group_column', groups)} keeps the rows of a group in one part"
        notes.append(f"{_listed(groups)}: like a group of rows (a person, a day?); {way}")
    if identifiers:
        ways = _ways(rows, identifiers, "", "order_column", "for a time ")
        notes.append("; ".join([f"{_listed(identifiers)}: like an identifier of the row", *ways]))
    notes += _far(rows)
    shares = np.bincount(rows.y) / len(rows.y)
    if shares.max() >= MAJORITY:
        usual = rows.classes[shares.argmax()]
        notes.append(
            f"{100 * shares.max():.1f} % of the rows are {usual!r}: accuracy says little, see test_balanced_acc"
        )
    return notes


def may_have_role(typed: Mapping[str, Sequence[str]]) -> bool:
    """Whether data.group_column or data.order_column may be typed: there is but one of the two."""
    return not {"group_column", "order_column"} & typed.keys()


def _ways(rows: Rows, names: list[str], dropped: str, role: str, kept: str) -> list[str]:
    """What to type to leave columns out, if they are few, and to give the first of them a role, if none is given."""
    ways = []
    if len(names) <= NAMES:
        ways.append(dropped + taken(rows.typed, "drop", names))
    if may_have_role(rows.typed):
        ways.append(kept + taken(rows.typed, role, names))
    return ways


def _listed(names: list[str]) -> str:
    more = f" (and {len(names) - NAMES} more)" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _columns(rows: Rows, copies: np.ndarray | None) -> tuple[list[str], list[str], list[str]]:
    """Columns that tell the class, and those that look like a group of rows, or like an identifier or their order.

    A column tells it where each of its values has one class, or each class one value, or bounds of its own. No value
    counts as one too, but does not excuse a column of which most rows have one. Of `copies` one row counts.
    """
    if len(rows.shape) > 1:  # no single pixel is such a column
        return [], [], []
    places: dict[str, list[int]] = {}
    for place, name in enumerate(rows.columns):
        places.setdefault(name, []).append(place)
    once = _once(rows, copies)
    y = rows.y[once]
    in_blocks = np.count_nonzero(np.diff(y)) < len(rows.classes)  # the file is sorted by class
    telling, groups, identifiers = [], [], []
    for name, own in places.items():
        block = rows.x[:, own].astype(np.float64)
        of_all = block @ np.arange(1, len(own) + 1)  # of a one-hot column the number of its level
        values = of_all[once]
        filled = ~np.isnan(of_all)
        known = filled[once].sum()
        distinct = len(pd.unique(of_all[filled]))
        coded = _coded(of_all, rows.y, len(y) / 2)
        if 2 * known > len(y):
            coded = coded or _coded(of_all[filled], rows.y[filled], known / 2)
        steps = np.diff(values)
        rising = [(way >= 0 if in_blocks else way > 0).all() for way in (steps, -steps)]
        counted = any(rising) or (_whole(values) and distinct >= DISTINCT * len(values))
        named = NAMED_SO.fullmatch(name) and distinct > max(2, len(y) / 2)
        if coded or _bounded(values, y):
            telling.append(name)
        elif like_group(name, values, y):
            groups.append(name)
        if named or (counted and distinct >= VALUES):  # it may tell the class, too
            identifiers.append(name)
    return telling or _combined(rows, once), groups, identifiers


def like_group(name: str, values: np.ndarray, y: np.ndarray) -> bool:
    """Whether rows of one value may belong together: the column is named so, or its whole numbers tell of their classes
    what names do.
    """
    distinct = len(pd.unique(values[~np.isnan(values)]))
    named = bool(NAMED_SO.fullmatch(name)) and 2 < distinct <= len(values) / 2
    return named or (_whole(values) and _pure(values, y))


def _whole(values: np.ndarray) -> bool:
    return bool((np.isnan(values) | (values == np.round(values))).all())


def _coded(values: np.ndarray, y: np.ndarray, most: float) -> bool:
    """Whether each class has one value, or each value, of so many at most, one class."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    pairs = len(pd.unique(codes * (y.max() + 1) + y))
    return len(distinct) > 1 and (pairs == len(pd.unique(y)) or pairs == len(distinct) <= most)


def _pure(values: np.ndarray, y: np.ndarray) -> bool:
    """Whether rows of one value mostly have one class, by far more than with shuffled classes, and as those of a name
    do: not up to some value one class and above it another.
    """
    codes, distinct = pd.factorize(values, sort=True, use_na_sentinel=False)
    if not VALUES <= len(distinct) <= len(values) / 3:
        return False
    classes = y.max() + 1
    size = len(distinct) * classes
    counts = np.bincount(codes * classes + y, minlength=size).reshape(-1, classes)
    pure = counts.max(axis=1).sum() / len(values)
    changes = (np.diff(counts.argmax(axis=1)) != 0).sum()
    if pure < PURE or 4 * changes < len(distinct):
        return False
    shuffled = np.random.default_rng(0).permutation(y)
    by_chance = np.bincount(codes * classes + shuffled, minlength=size).reshape(-1, classes)
    return bool(pure - by_chance.max(axis=1).sum() / len(values) >= 1 - PURE)


def _bounded(values: np.ndarray, y: np.ndarray) -> bool:
    """Whether each class has a stretch of the values to itself, with more rows than honest columns have there."""
    if len(y) - np.bincount(y).max() < BOUNDED:  # told without a look at the values
        return False
    order = np.argsort(y, kind="stable")
    begins = np.flatnonzero(np.diff(y[order], prepend=-1))
    by_class = values[order]
    counts = np.add.reduceat(~np.isnan(by_class), begins, dtype=int)
    low, high = np.fmin.reduceat(by_class, begins), np.fmax.reduceat(by_class, begins)
    rising = np.argsort(low)
    apart = high[rising][:-1] < low[rising][1:]
    return bool(len(apart) and apart.all() and counts.sum() - counts.max() >= BOUNDED)


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
        way = longer(rows.typed, "missing", list(dict.fromkeys(found.values())))
        yield f"{which}, far off all others: add it, if it stands for a missing value: {way}"


def _combined(rows: Rows, once: np.ndarray) -> list[str]:
    """Columns of which a linear combination is 1 in the rows of one class and 0 in all others."""
    if not 0 < len(rows.columns) <= min(COMBINED, len(once) // 2):
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


def _without(rows: Rows, names: list[str]) -> Rows:
    """The rows without these columns; as they are where no other would be left."""
    places = [place for place, name in enumerate(rows.columns) if name not in names]
    if not names or not places:
        return rows
    columns = tuple(rows.columns[place] for place in places)
    return dataclasses.replace(rows, x=rows.x[:, places], columns=columns, shape=())


def _by_chance(rows: Rows) -> bool:
    """Whether rows may be equal without being copies: no column has so many values that each row has its own, or in
    columns that have nothing to do with each other a fifth as many are.
    """
    once = _once(rows, rows.copies)
    if not any(2 * len(np.unique(column)) >= len(once) for column in rows.x[once].T):
        return True
    shuffled = dataclasses.replace(rows, x=np.random.default_rng(0).permuted(rows.x, axis=0))
    return bool(_twice(rows).mean() < 5 * _twice(shuffled).mean())


def _once(rows: Rows, copies: np.ndarray | None) -> np.ndarray:
    """The numbers of the rows, of copies the first alone."""
    return np.arange(len(rows.y)) if copies is None else np.sort(np.unique(copies, return_index=True)[1])


def _twice(rows: Rows) -> np.ndarray:
    """Which rows stand more than once."""
    return np.zeros(len(rows.y), bool) if rows.copies is None else np.bincount(rows.copies)[rows.copies] > 1


def _near(rows: Rows) -> Iterator[str]:
    """Rows that are nearly equal in other groups: far more than by chance, and as many as at ten times the distance."""
    if rows.x.size > CELLS:
        return
    once = _once(rows, rows.copies)
    off = pd.DataFrame(rows.x[once].astype(np.float64))
    off -= off.median()
    x = (off / off[off != 0].abs().median()).fillna(FAR).to_numpy()  # no value is no usual value
    gaps = _gaps(x, once if rows.groups is None else rows.groups[once])
    near, wider = (gaps <= NEAR).mean(), (gaps <= 10 * NEAR).mean()
    chance = _gaps(np.random.default_rng(0).permuted(x, axis=0), np.arange(len(x)))
    if near >= max(HIDDEN, 0.8 * wider, 5 * (chance <= NEAR).mean()):
        way = "a data.group_column keeps those of one value in one part; or " if may_have_role(rows.typed) else ""
        told = f"{100 * near:.0f} % of the rows differ from another by less than 0.001 % of each column's spread"
        yield f"{told}, like copies with noise: {way}round the columns in the file, for data.copies to find them"


def _gaps(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How far each row is at most, in a column, from the nearer of the two beside it along a random line."""
    order = np.argsort(x @ np.random.default_rng(0).normal(size=x.shape[1]))
    gaps = np.abs(np.diff(x[order], axis=0)).max(axis=1)
    gaps = np.where(np.diff(groups[order]) == 0, np.inf, gaps)
    return np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))


def _copies(rows: Rows) -> Iterator[str]:
    """Rows of a given part that another part can know, and rows that stand more than once."""
    alike = {"equal rows": rows.copies, "rows of their group": rows.groups}
    for name, part in {"test": rows.test, "validation": rows.val}.items():
        for what, numbers in alike.items():
            if part is not None and numbers is not None:
                known = np.isin(numbers[part], numbers[~part]).sum()
                if known:
                    share = f"{known} of the {part.sum()} {name} rows ({100 * known / part.sum():.0f} %)"
                    yield f"{share} have {what} outside the {name} part"
    if rows.copies is not None:
        twice = _twice(rows)
        labels = pd.Series(rows.y).groupby(rows.copies).transform("nunique")
        unsure = f", {(labels > 1).sum()} of them with different labels" if (labels > 1).any() else ""
        apart = "; in order, parts may share them" if rows.order is not None else ""
        if rows.groups is not None:
            places = len(pd.unique(rows.copies * (rows.groups.max() + 1) + rows.groups))
            apart = "; in several groups, so parts may share them" if places > rows.copies.max() + 1 else ""
        yield f"{100 * twice.mean():.0f} % of the rows stand more than once ({twice.sum()}{unsure}){apart}"
