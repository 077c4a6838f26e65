"""The rows of a data set, and the checks that whoever makes or takes them shares. Each check raises ValueError."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString

# A class this large is a guess that is right so often that accuracy says little.
MAJORITY = 0.75


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set, before any split.

    x: (rows, features) float64, NaN where a value is missing; y: (rows,) int64, class numbers 0 … classes - 1;
    classes: the classes' names; test, val: (rows,) bool, the parts that the data set gives itself, or None.
    one_hot: how many of the features are levels of categorical columns; missing: how many cells had no value; notes:
    what a user should hear of the data; shape: of a row before it was flattened, (channels, *space), or (features,).
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

    def __post_init__(self) -> None:
        # Conditions that run in one process share these arrays.
        for array in (self.x, self.y, self.test, self.val):
            if array is not None:
                array.setflags(write=False)
        object.__setattr__(self, "shape", self.shape or self.x.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is learnt from: values, labels, names of classes, given parts; whatever file they came in."""
        digest = hashlib.sha256(json.dumps([[len(self.x), *self.shape], self.classes]).encode())
        digest.update(np.where(np.isnan(self.x), np.nan, self.x + 0.0).astype("<f8").tobytes())  # one NaN, one zero
        digest.update(self.y.astype("<i8").tobytes())
        for part in (self.test, self.val):
            digest.update(b"-" if part is None else part.astype("u1").tobytes())
        return digest.hexdigest()

    @cached_property
    def copies(self) -> np.ndarray | None:
        """A number for each row, (rows,), the same for rows with the same features; None if no two have."""
        x = np.where(np.isnan(self.x), np.nan, self.x + 0.0)  # one NaN, one zero
        each = np.ascontiguousarray(x).view(f"V{x.shape[1] * x.itemsize}").ravel()
        distinct, numbers = np.unique(each, return_inverse=True)
        return None if len(distinct) == len(x) else numbers

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
            "given": [part for part in ("val", "test") if getattr(self, part) is not None],
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def sentence(facts: Mapping[str, Any]) -> str:
    """What the data are, in one line; `facts` may hold `parts`, the number of rows of each."""
    parts = [f"{count:,} {name}" for name, count in facts.get("parts", {}).items()]
    kinds = ("numeric", "one_hot", "constant") if facts["one_hot"] else ("constant",)
    counts = [f"{facts[kind]} {kind.replace('_', '-')}" for kind in kinds if facts[kind]]
    if len(shape := facts.get("shape", ())) > 1:
        counts.insert(0, " × ".join(map(str, shape)))
    shares = {name: f"{100 * count / facts['rows']:.1f} %" for name, count in facts["classes"].items()}
    each = [f"{name} {share}" for name, share in shares.items()]
    if len(shares) > 5:
        rare, usual = (pick(facts["classes"], key=facts["classes"].get) for pick in (min, max))
        each = [f"{shares[rare]} to {shares[usual]} of the rows"]

    def beside(remarks: list[str]) -> str:
        return f" ({', '.join(remarks)})" if remarks else ""

    missing = f", {facts['missing']} values missing (the training mean stands for them)" if facts["missing"] else ""
    return (
        f"{facts['rows']:,} rows{beside(parts)}, {facts['numeric'] + facts['one_hot']} features{beside(counts)}, "
        f"{len(shares)} classes{beside(each)}{missing}"
    )


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What a user should hear before training, a line each."""
    name, count = max(facts["classes"].items(), key=lambda item: item[1])
    share = count / facts["rows"]
    unbalanced = f"{100 * share:.1f} % of the rows are {name!r}: accuracy says little, see test_balanced_acc"
    return [*facts["notes"], *([unbalanced] if share >= MAJORITY else [])]


def numeric_rows(
    x: np.ndarray, y: np.ndarray, classes: Sequence[Any], test: np.ndarray | None = None, shape: tuple[int, ...] = ()
) -> Rows:
    return Rows(x.astype(np.float64), y.astype(np.int64), tuple(map(str, classes)), test, shape=shape)


def check_memory(rows: int, features: int, copies: int, where: str) -> None:
    """Refuse float32 arrays that this machine cannot hold."""
    needed = 4 * rows * features * copies
    if needed > memory():
        asked = f"{copies} * {rows} rows * {features} features take {needed / 2**30:.1f} GiB"
        raise ValueError(f"{where}: {asked} and this machine has {memory() / 2**30:.1f} GiB; take fewer of them")


def memory() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require(key: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{key}={value!r}: it must be {allowed}")


def override(key: str, value: str | Sequence[str]) -> str:
    """`key=value` as it can be pasted into a shell, with Hydra's quotes and the shell's where they are needed."""

    def quoted(text: str) -> str:
        plain = re.fullmatch(r"(?!(true|false|null|nan|inf)$)[a-z_]\w*", text, re.ASCII | re.IGNORECASE)
        return text if plain else QuotedString(text, Quote.double).with_quotes()

    values = quoted(value) if isinstance(value, str) else f"[{','.join(map(quoted, value))}]"
    return shlex.quote(f"{key}={values}")


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def first_line(error: BaseException) -> str:
    """An error's first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
