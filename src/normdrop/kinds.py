"""The kinds of claim: what a study makes of a metric before it compares two sides. Torch-free: a study names one.

A new kind is one more object here and, if it consumes a key, one function that reduces.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a config is checked without it
    import pandas as pd

# From one side's values (replicates × rising values of the consumed key) to a number per replicate, by part of the
# claim: "" is the claim itself, other parts stand beside it.
Reduction = Callable[["pd.DataFrame"], "dict[str, pd.Series]"]


def spread(values: pd.DataFrame) -> dict[str, pd.Series]:
    """Standard deviation over the key. A diverged replicate has none: without it the rest would look narrower."""
    return {"": values.std(axis=1, ddof=1, skipna=False)}


def loss(values: pd.DataFrame) -> dict[str, pd.Series]:
    """The value where the key is nearest 0, minus that at each other one, and the mean of these losses."""
    rungs: list[Any] = list(values)
    start = min(rungs, key=abs)
    lost = values.drop(columns=start).rsub(values[start], axis=0)
    parts = {"": lost.mean(axis=1, skipna=False)}
    if lost.shape[1] > 1:
        parts |= {shown(rung): lost[rung] for rung in lost}
    return parts


def ladder(values: pd.DataFrame) -> dict[str, pd.Series]:
    """Each rung, and the trend: the change from the first to the last along a line, rungs equally far apart."""
    rungs = {shown(rung): values[rung] for rung in values}
    return rungs | {"trend": trend(values)} if len(rungs) > 1 else rungs


def trend(values: pd.DataFrame) -> pd.Series:
    """Least-squares change of each row from the first column to the last; NaN where a value is missing."""
    last = values.shape[1] - 1
    change = 0.0 * values.sum(axis=1, skipna=False)
    for place, column in enumerate(values):
        change += (place - last / 2) * values[column]
    length = sum((place - last / 2) ** 2 for place in range(last + 1))
    return change * last / length


def shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Kind:
    measured: str
    """what a row of it is; `{over}` is the key that it consumes"""
    quantity: str = "{metric}"
    """what is compared, in words"""
    reduce: Reduction | None = None
    """how it consumes one key of the grid, the study's `over`; None: each value of a key has a verdict of its own"""
    of_numbers: bool = False
    """that key's values must be numbers"""
    answer: str = ""
    """the part that the claim's word is of"""
    good: Callable[[bool], bool] = bool
    """whether more of it is good, of a metric of which more is good or not"""

    @property
    def consumes(self) -> bool:
        return self.reduce is not None


KINDS = {
    "difference": Kind("mean paired difference"),
    "spread": Kind(
        "within each seed the standard deviation over {over}; its mean paired difference",
        quantity="spread of {metric} over {over}",
        reduce=spread,
        good=lambda _: False,
    ),
    "loss": Kind(
        "within each seed the value at {over} nearest 0 minus that at the others; its mean paired difference",
        quantity="loss of {metric} over {over}",
        reduce=loss,
        of_numbers=True,
        good=operator.not_,
    ),
    "ladder": Kind(
        "mean paired difference at each {over}, and its change from first to last along a fitted line",
        quantity="change of {metric} from the first {over} to the last",
        reduce=ladder,
        of_numbers=True,
        answer="trend",
    ),
    "mechanism": Kind("mean paired difference, before and after BN recalibration"),
}
KINDS["ratio"] = KINDS["difference"]  # as studies of before called what counts steps
