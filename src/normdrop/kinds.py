"""The kinds of claim: what is compared of a metric, in words and in numbers. Torch-free: a study declares one by name.

A new kind is one more object here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normdrop.metrics import METRICS, Metric

if TYPE_CHECKING:  # a config is checked without them
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

# From one side's values of a metric, replicates × values of the key that the kind consumes in rising order (one column
# if it consumes none), and that key's name: to one number per replicate, under the name of the part of the claim.
Reduction = Callable[["pd.DataFrame", "str | None"], "dict[str, NDArray[np.float64]]"]


def _itself(table: pd.DataFrame, over: str | None) -> dict[str, NDArray[np.float64]]:
    return {"": table.to_numpy(dtype=float)[:, 0]}


def _spread(table: pd.DataFrame, over: str | None) -> dict[str, NDArray[np.float64]]:
    # A diverged replicate has no spread: skipna would make it look narrower.
    return {"": table.std(axis=1, ddof=1, skipna=False).to_numpy()}


def _nearest_0(table: pd.DataFrame) -> Any:
    rungs: list[Any] = list(table)
    return min(rungs, key=abs)


def _loss(table: pd.DataFrame, over: str | None) -> dict[str, NDArray[np.float64]]:
    baseline = _nearest_0(table)
    lost = table.drop(columns=baseline).rsub(table[baseline], axis=0)
    each = {f"{over}={rung}": lost[rung].to_numpy() for rung in lost} if lost.shape[1] > 1 else {}
    return {"": lost.mean(axis=1, skipna=False).to_numpy()} | each


def _ladder(table: pd.DataFrame, over: str | None) -> dict[str, NDArray[np.float64]]:
    # The trend is the fitted change from the first rung to the last, so that it has the metric's unit and ROPE.
    import numpy as np

    steps = np.arange(table.shape[1])
    trend = slopes(table.to_numpy(), steps) * steps[-1]
    return {f"{over}={rung}": table[rung].to_numpy(dtype=float) for rung in table} | {f"trend over {over}": trend}


def slopes(values: ArrayLike, rungs: ArrayLike) -> NDArray[np.float64]:
    """Least-squares slope of each replicate along a ladder; compared with 0 they test a trend.

    values: (replicates, rungs), in the metric's unit; a replicate with a missing value has slope NaN.
    rungs: (rungs,), the ladder's numbers, at least two of them different. Returns (replicates,), unit per rung.
    """
    import numpy as np

    values, rungs = np.asarray(values, dtype=float), np.asarray(rungs, dtype=float)
    centred = rungs - rungs.mean()
    if values.ndim != 2 or values.shape[1:] != rungs.shape or not centred.any():
        raise ValueError(f"values {values.shape} along rungs {rungs.tolist()}: need one column per rung, two different")
    return values @ centred / (centred @ centred)


@dataclass(frozen=True)
class Kind:
    measured: str
    """what a row of it is, for the declaration; `{over}` is the key that it consumes"""
    figures: tuple[str, ...]
    """the names of its figures, in the page's order"""
    quantity: str = "{metric}"
    """what is compared, in words"""
    effect: str = "paired difference"
    reduce: Reduction = _itself
    consumes: bool = False
    """one key of the grid, the study's `over`, instead of a verdict for each of its values"""
    of_numbers: bool = False
    """that key's values must be numbers"""
    ratio: bool = False
    """compared as A / B, not as A - B"""
    level: bool = True
    """its numbers are the metric's own, not differences of it within a replicate"""
    beside: Callable[[pd.DataFrame], Any] = lambda table: table.mean(axis=1, skipna=False)
    """of one side's values, replicates × rungs: what is told of the metric itself, and in which words"""
    beside_words: str = ""
    answer: str = ""
    """the part of the claim that is the answer"""
    good: Callable[[Metric], bool] = lambda metric: metric.higher_is_better
    """whether more of it is good"""


FIRST = ("population", "effects")
COMMON = ("ranks", "regime", "curves", "who_beats_whom", "shift")
RATIO = Kind(
    "median paired ratio, runs that never reach the level counted as longer than any",
    (*FIRST, "difference", "pairs", *COMMON),
    effect="median paired ratio",
    ratio=True,
)
KINDS = {
    "difference": Kind("mean paired difference", (*FIRST, "difference", "pairs", "by_rate", *COMMON)),
    "ratio": RATIO,
    "spread": Kind(
        "within each replicate the standard deviation over {over}; its mean paired difference",
        (*FIRST, "grid", "pairs", *COMMON),
        quantity="the spread of {metric} over {over}",
        effect="difference in the spread",
        reduce=_spread,
        consumes=True,
        level=False,
        beside_words=" (mean over the grid)",
        good=lambda metric: False,
    ),
    "loss": Kind(
        "within each replicate the value at {over} nearest 0 minus that at the others and their mean; its mean paired "
        "difference",
        (*FIRST, "grid", "pairs", *COMMON),
        quantity="the loss of {metric} over {over}",
        effect="difference in the loss",
        reduce=_loss,
        consumes=True,
        of_numbers=True,
        level=False,
        beside=lambda table: table[_nearest_0(table)],
        beside_words=" (where it starts from)",
        good=lambda metric: not metric.higher_is_better,
    ),
    "ladder": Kind(
        "mean paired difference at each {over}, and its change from first to last along a fitted line",
        (*FIRST, "grid", *COMMON),
        quantity="the change of {metric} from the first {over} to the last",
        reduce=_ladder,
        consumes=True,
        beside_words=" (mean over the rungs)",
        answer="trend over {over}",
    ),
    "mechanism": Kind(
        "mean paired difference, before and after recalibration",
        (*FIRST, "difference", "pairs", "by_rate", *COMMON),
    ),
}


def kind_of(name: str, metric: str) -> Kind:
    """The kind that a declaration names, for one of its metrics: counts of steps, and they alone, have ratios."""
    kind = KINDS["difference" if name == "ratio" else name]
    return RATIO if METRICS[metric].unit == "steps" and not kind.consumes else kind
