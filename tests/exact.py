"""Conditions with exactly the numbers that a test gives, and the report's way from them to its rows."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fake_study import STUDY, write_condition
from normdrop.report.study import Study, load
from normdrop.report.verdicts import rows

SPREAD = 0.01


def runs(test_acc: Any = 0.9, n: int = 10, **columns: Any) -> pd.DataFrame:
    """One condition's replicates; without a test accuracy one diverged."""
    table = pd.DataFrame({"seed": range(n), "val_acc": 0.9, "val_nll": 0.3, "test_acc": test_acc}).assign(**columns)
    return table.assign(diverged=table["test_acc"].isna())


def normal(mean: float, n: int = 10) -> np.ndarray:
    """Like a normal sample in shape, its mean and its standard deviation of SPREAD exact."""
    z = stats.norm.ppf((np.arange(n) + 0.5) / n)
    order = np.random.default_rng(n).permutation(n)  # so that a wrong pairing shows
    return (mean + SPREAD * z / z.std(ddof=1))[order]


def write(root: Path, arrangement: str, table: pd.DataFrame, rate: float = 0.3, **where: Any) -> Path:
    """A condition of data set d at position after, unless told otherwise."""
    study = STUDY | where.pop("study", {})
    place = {"dataset": "d", "position": "after"} | where
    return write_condition(root, table, arrangement=arrangement, rate=rate, study=study, **place)


def pair(root: Path, a: pd.DataFrame, b: pd.DataFrame, **where: Any) -> Path:
    """bn_dropout and dropout_bn of one data set at one rate."""
    write(root, "bn_dropout", a, **where)
    write(root, "dropout_bn", b, **where)
    return root


def study_of(root: Path) -> Study:
    """The one study of a folder, read once for what stands there."""
    return _study(root, _state(root))


def _state(root: Path) -> tuple[tuple[Path, int, int], ...]:
    states = ((path, path.stat()) for path in sorted(root.rglob("*")))
    return tuple((path, state.st_mtime_ns, state.st_size) for path, state in states)


@lru_cache(maxsize=2)
def _study(root: Path, _: tuple[tuple[Path, int, int], ...]) -> Study:
    (study,) = load(root)
    return study


@lru_cache(maxsize=2)
def _rows(root: Path, state: tuple[tuple[Path, int, int], ...]) -> pd.DataFrame:
    return rows(_study(root, state))


def rows_of(root: Path, **where: Any) -> pd.DataFrame:
    """The rows of verdicts.csv in which the columns have these values, in their order."""
    table = _rows(root, _state(root))
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def one(root: Path, **where: Any) -> pd.Series:
    (row,) = (row for _, row in rows_of(root, **where).iterrows())
    return row
