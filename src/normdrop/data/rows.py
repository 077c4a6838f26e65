"""The rows of a data set, and the checks that whoever makes or takes them shares. Each check raises ValueError."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set, before any split.

    x: (rows, features) float32, NaN where a value is missing; y: (rows,) int64, class numbers 0 … classes - 1;
    classes: the classes' names; test: (rows,) bool, the official test part, or None if there is none.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None = None

    def __post_init__(self) -> None:
        # Conditions that run in one process share these arrays.
        for array in (self.x, self.y, self.test):
            if array is not None:
                array.setflags(write=False)


def numeric_rows(x: np.ndarray, y: np.ndarray, classes: Sequence[Any], test: np.ndarray | None = None) -> Rows:
    return Rows(x.astype(np.float32), y.astype(np.int64), tuple(map(str, classes)), test)


def check_memory(rows: int, features: int, copies: int, where: str) -> None:
    """Refuse float32 arrays that this machine cannot hold."""
    needed = 4 * rows * features * copies
    if needed > memory():
        raise ValueError(
            f"{where}: {copies} * {rows} rows * {features} features take {needed / 2**30:.1f} GiB and this machine has "
            f"{memory() / 2**30:.1f} GiB; take fewer replicates, rows or features"
        )


def memory() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require(key: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{key}={value!r}: it must be {allowed}")


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def first_line(error: BaseException) -> str:
    """An error's first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
