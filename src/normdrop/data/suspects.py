"""What in the rows could make a result false, said before training; nothing is refused, for each may be right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normdrop.data.asked import override

if TYPE_CHECKING:
    from normdrop.data.rows import Rows

# A class this large is a guess that is right so often that accuracy says little.
MAJORITY = 0.75
# A column of whole numbers or words looks like an identifier where this share of the rows, or more, has its own.
DISTINCT = 0.95
# Linear combinations are looked for in so many columns, and rows, at most.
COMBINED, LOOKED_AT = 300, 20_000
WHO = "patient|subject|participant|person|speaker|user|customer|client|session|visit|household|group"
NAMED_SO = re.compile(rf"(?i:(.*[\W_])?(id|uuid|guid)|({WHO})[\W_]*(id|no|nr|number|name|key)?)|.*[a-z]I[dD]")


def of(rows: Rows) -> list[str]:
    """What a user should hear, what says most about the test accuracy first."""
    notes = [*_determined(rows), *_copies(rows), *_identifiers(rows), *_one_class(rows)]
    counts = np.bincount(rows.y, minlength=len(rows.classes))
    if (share := counts.max() / len(rows.y)) >= MAJORITY:
        usual = rows.classes[counts.argmax()]
        notes.append(f"{100 * share:.1f} % of the rows are {usual!r}: accuracy says little, see test_balanced_acc")
    return notes


def _one_class(rows: Rows) -> Iterator[str]:
    """A note if all test rows, given or the latest fifth, are of one class."""
    if rows.test is not None:
        tested = rows.y[rows.test]
    elif rows.order is not None:
        tested = rows.y[rows.order >= np.quantile(rows.order, 0.8)]
    else:
        return
    if len(held := np.unique(tested)) == 1:
        yield f"the test part has one class only, {rows.classes[held[0]]!r}: its accuracy says nothing of the others"


def _copies(rows: Rows) -> Iterator[str]:
    """Test rows that training can know, and rows that stand more than once."""
    for what, numbers in (("equal rows", rows.copies), ("rows of their group", rows.groups)):
        if rows.test is not None and numbers is not None:
            known, tested = np.isin(numbers[rows.test], numbers[~rows.test]).sum(), rows.test.sum()
            if known:
                share = f"{known} of the {tested} test rows ({100 * known / tested:.0f} %)"
                yield f"{share} have {what} outside the test part"
    if rows.copies is not None:
        twice = np.bincount(rows.copies)[rows.copies] > 1
        labels = pd.Series(rows.y).groupby(rows.copies).transform("nunique")
        unsure = f", {(labels > 1).sum()} of them with different labels" if (labels > 1).any() else ""
        yield f"{100 * twice.mean():.0f} % of the rows stand more than once ({twice.sum()}{unsure})"


def _determined(rows: Rows) -> Iterator[str]:
    """Columns that tell the class exactly: constant within each class, or together by a linear combination."""
    if not rows.columns:
        return
    telling = np.fmax.reduce(rows.x) > np.fmin.reduce(rows.x)
    for label in range(len(rows.classes)):
        own = rows.x[rows.y == label]
        telling &= np.fmin.reduce(own) == np.fmax.reduce(own)
    if not telling.any() and len(telling) <= min(COMBINED, len(rows.y) // 2):
        telling = _combined(rows)
    if telling.any():
        names = [str(name) for name in dict.fromkeys(np.array(rows.columns)[telling])]
        yield f"the class can be told exactly from {', '.join(names)}: if made from it, {override('data.drop', names)}"


def _combined(rows: Rows) -> np.ndarray:
    """(features,) bool: those whose linear combination is 1 in the rows of one class and 0 in all others."""
    some = slice(None, None, 1 + len(rows.y) // LOOKED_AT)
    x = np.nan_to_num(rows.x[some].astype(np.float64))
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), np.finfo(float).tiny)
    of_class = np.eye(len(rows.classes))[rows.y[some]]
    of_class -= of_class.mean(axis=0)
    weights = np.linalg.lstsq(x, of_class, rcond=1e-9)[0]
    exact = np.abs(x @ weights - of_class).max(axis=0) < 1e-6
    return (np.abs(weights[:, exact]) > 1e-6).any(axis=1)


def _identifiers(rows: Rows) -> Iterator[str]:
    """Columns that look like a group of rows, like an identifier, or like the order in which the rows came."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(rows.columns if len(rows.shape) == 1 else ()):
        places.setdefault(name, []).append(place)
    once = np.arange(len(rows.y)) if rows.copies is None else np.sort(np.unique(rows.copies, return_index=True)[1])
    groups, identifiers = [], []
    for name, own in places.items():
        block = rows.x[:, own][once].astype(np.float64)
        values = block[:, 0] if len(own) == 1 else block @ np.arange(len(own))
        codes, distinct = pd.factorize(values)
        labels = len(np.unique(codes * len(rows.classes) + rows.y[once]))
        named = NAMED_SO.fullmatch(name) and len(distinct) > 2
        pure = labels == len(distinct) > len(rows.classes)
        whole = len(own) > 1 or (values == np.round(values)).all()
        steps = np.diff(values)
        if 2 * len(distinct) <= len(codes) and (named or pure):
            groups.append(name)
        elif named or (steps > 0).all() or (steps < 0).all() or (whole and len(distinct) >= DISTINCT * len(codes)):
            identifiers.append(name)
    if groups:
        way = f"{override('data.group_column', groups[0])} keeps the rows of a group in one part"
        yield f"{_columns(groups)} like a group of rows (a person, a day?): {way}"
    if identifiers:
        ways = f"{override('data.drop', identifiers)}, or for a time {override('data.order_column', identifiers[0])}"
        yield f"{_columns(identifiers)} like an identifier of the row: {ways}"


def _columns(names: list[str]) -> str:
    return f"column {names[0]!r} looks" if len(names) == 1 else f"columns {', '.join(map(repr, names))} look"
