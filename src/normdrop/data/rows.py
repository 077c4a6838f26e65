"""The rows of a data set, before any split, and the line that says what they are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from normdrop.asked import count
from normdrop.data import suspects

# Values that stay as they came, since they take less memory than float64: each is exact as float64.
SMALL = (np.dtype(np.uint8), np.dtype(np.float16), np.dtype(np.float32))
# Cells at a time where a copy of all of them as float64 would not do.
CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set, before any split.

    x: (rows, features), float64 or one of SMALL, NaN where a value is missing; y: (rows,) int64, class numbers 0 …
    classes - 1; classes: the classes' names; test, val: (rows,) bool, the parts that the data set gives itself, or
    None. one_hot: how many of the features are levels of categorical columns; missing: how many cells had no value;
    notes: what a user should hear of how they were read; shape: of a row before it was flattened, (channels, *space),
    or (features,); columns: the name of each feature's column, or none; groups: (rows,) int64, rows of one number stay
    in one part; order: (rows,) int64, the rows with the largest are tested; typed: the lists of a table's config, which
    advice adds to; left_out: the columns in data.drop that look like a group of rows.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None = None
    val: np.ndarray | None = None
    one_hot: int = 0
    missing: int = 0
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    order: np.ndarray | None = None
    typed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, ok, allowed in self._checks():
            if not ok:
                raise ValueError(f"the source's rows: {name} must be {allowed}")
        kinds = {"x": self.x.dtype if self.x.dtype in SMALL else np.float64, "y": np.int64, "test": bool, "val": bool}
        kinds |= {"groups": np.int64, "order": np.int64}
        for name, kind in kinds.items():
            if getattr(self, name) is not None:
                array = getattr(self, name).astype(kind, copy=False)
                if name in ("groups", "order"):  # years, or numbers of patients
                    array = np.unique(array, return_inverse=True)[1]
                array.setflags(write=False)  # conditions that run in one process share it
                object.__setattr__(self, name, array)
        object.__setattr__(self, "shape", self.shape or self.x.shape[1:])
        if not self.missing:
            object.__setattr__(self, "missing", sum(int(np.isnan(part).sum()) for part in self._doubles()))

    def _checks(self) -> Iterator[tuple[str, bool, str]]:
        """What arrays must be, those of another package's source too: each fault would come out late, or never."""
        x, y, of_text = self.x, self.y, all(isinstance(name, str) for name in self.classes)
        yield "x", _is_array(x, "biuf", 2) and x.size > 0, "numbers (rows, features)"
        yield "x", not any(np.isinf(part).any() for part in self._doubles()), "finite, or NaN where missing"
        yield "shape", not self.shape or math.prod(self.shape) == x.shape[1], f"of the {x.shape[1]} features of x"
        yield "columns", len(self.columns) in (0, x.shape[1]), f"a name for each of {x.shape[1]} features, or none"
        yield "classes", isinstance(self.classes, tuple) and of_text, "a tuple of text"
        last = len(self.classes) - 1
        ok = _is_array(y, "iu", 1, len(x)) and y.min() >= 0 and y.max() <= last
        yield "y", ok, f"integers (rows,) from 0 to {last}"
        for name in ("test", "val"):
            part = getattr(self, name)
            ok = part is None or (_is_array(part, "b", 1, len(x)) and part.any())
            yield name, ok, "booleans (rows,), some of them true, or None"
        apart = self.test is None or self.val is None or not (self.test & self.val).any()
        yield "val", apart, "False where test is True"
        for name in ("groups", "order"):
            place = getattr(self, name)
            yield name, place is None or _is_array(place, "iu", 1, len(x)), "integers (rows,), or None"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is learnt from: values, labels, names of classes, given parts; whatever file they came in."""
        digest = hashlib.sha256(json.dumps([[len(self.x), *self.shape], self.classes]).encode())
        for x in self._doubles():
            digest.update(x.astype("<f8").tobytes())
        digest.update(self.y.astype("<i8").tobytes())
        for part in (self.test, self.val):
            digest.update(b"-" if part is None else part.astype("u1").tobytes())
        # Dealt: what was trained when groups were split in another way is not gone on with.
        for name, column in (("groups dealt", self.groups), ("order", self.order)):
            if column is not None:
                digest.update(name.encode() + column.astype("<f8").tobytes())
        return digest.hexdigest()

    @cached_property
    def copies(self) -> np.ndarray | None:
        """A number for each row, (rows,), the same for rows with the same features; None if no two have."""
        hashes = {hash(row.tobytes()) for x in self._doubles() for row in x}
        if len(hashes) == len(self.x):
            return None
        x = np.ascontiguousarray(np.concatenate([*self._doubles()]))
        return np.unique(x.view(f"V{x.shape[1] * x.itemsize}").ravel(), return_inverse=True)[1]

    def _doubles(self) -> Iterator[np.ndarray]:
        """x as float64, a stretch of rows at a time, with one kind of NaN and of zero."""
        rows = max(1, CHUNK // self.x.shape[1])
        for start in range(0, len(self.x), rows):
            x = self.x[start : start + rows].astype(np.float64)
            yield np.where(np.isnan(x), np.nan, x + 0.0)

    def facts(self) -> dict[str, Any]:
        """What the data are, for the record; `sentence` and `remarks` say it."""
        return {
            "rows": len(self.y),
            "numeric": self.x.shape[1] - self.one_hot,
            "one_hot": self.one_hot,
            "classes": dict(zip(self.classes, np.bincount(self.y, minlength=len(self.classes)).tolist(), strict=True)),
            "shape": list(self.shape),
            "missing": self.missing,
            "constant": int((np.fmax.reduce(self.x) == np.fmin.reduce(self.x)).sum()),
            # The latest rows are the same for every seed, as those of a given part.
            "given": [part for part in ("val", "test") if self.order is not None or getattr(self, part) is not None],
            "notes": self.remarks,
            "fingerprint": self.fingerprint,
        }

    @cached_property
    def remarks(self) -> list[str]:
        """What a user should hear of them, what could make a result false first."""
        return [*suspects.of(self), *self.notes]


def _is_array(array: object, kinds: str, dimensions: int, rows: int | None = None) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != dimensions:
        return False
    return rows is None or len(array) == rows


def sentence(facts: Mapping[str, Any]) -> str:
    """What the data are, in one line; `facts` may hold `parts`, the number of rows of each."""
    parts = [f"{number:,} {name}" for name, number in facts.get("parts", {}).items()]
    counts = [" × ".join(map(str, facts["shape"]))] if len(facts["shape"]) > 1 else []
    for kind in ("numeric", "one_hot", "constant") if facts["one_hot"] else ("constant",):
        if facts[kind]:
            counts.append(f"{facts[kind]} {kind.replace('_', '-')}")
    shares = {name: f"{100 * number / facts['rows']:.1f} %" for name, number in facts["classes"].items()}
    each = [f"{name} {share}" for name, share in shares.items()]
    if len(shares) > 5:
        rare, usual = (pick(facts["classes"], key=facts["classes"].get) for pick in (min, max))
        both = dict.fromkeys([shares[rare], shares[usual]])
        each = [f"{' to '.join(both)} of the rows each"]
    missing = ""
    if facts["missing"]:
        missing = f", {count(facts['missing'], 'value')} missing (filled with the training mean)"
    return (
        f"{count(facts['rows'], 'row')}{_beside(parts)}, "
        f"{count(facts['numeric'] + facts['one_hot'], 'feature')}{_beside(counts)}, "
        f"{len(shares)} classes{_beside(each)}{missing}"
    )


def _beside(remarks: Sequence[str]) -> str:
    return f" ({', '.join(remarks)})" if remarks else ""


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """At most two lines of what a user should hear before training; the record has all of it."""
    notes = facts["notes"]
    if len(notes) <= 2:
        return list(notes)
    return [notes[0], f"{notes[1]} (and {len(notes) - 2} more: data.notes in record.json)"]


def numeric_rows(
    x: np.ndarray, y: np.ndarray, classes: Sequence[Any], test: np.ndarray | None = None, shape: tuple[int, ...] = ()
) -> Rows:
    return Rows(x.astype(np.float64), y.astype(np.int64), tuple(map(str, classes)), test, shape=shape)
