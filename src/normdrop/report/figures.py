"""The figures, each of numbers that stand in a table beside it. Colours are Okabe and Ito's; markers say the same."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A notebook names a backend that may not be installed here, and matplotlib would fail as it is imported.
_named = os.environ.pop("MPLBACKEND", None)
from matplotlib import rc_context  # noqa: E402, F401
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

if _named is not None:
    os.environ["MPLBACKEND"] = _named

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from normdrop.arrangement import POSITIONS  # noqa: E402
from normdrop.report.tables import key_name, place, shown, spoken, varying  # noqa: E402

LOOKS = {
    **{"after": ("#0072B2", "o"), "before": ("#D55E00", "s"), "around": ("#009E73", "^")},
    **{"none": ("#7A7A7A", "o"), "dropout": ("#E69F00", "s"), "bn": ("#56B4E9", "^"), "ln": ("#009E73", "P")},
    **{"bn_dropout": ("#0072B2", "D"), "dropout_bn": ("#D55E00", "v")},
    **{"ln_dropout": ("#CC79A7", "X"), "dropout_ln": ("#000000", "*")},
}
OTHERS = [("#56B4E9", "o"), ("#009E73", "s"), ("#E69F00", "D"), ("#D55E00", "^"), ("#CC79A7", "v"), ("#000000", "P")]
MAX_PANELS = 12
MAX_LINES = 60
WIDTH = 7.4  # inches: the page's column
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class Scale:
    """How the values of a figure are drawn."""

    label: str
    """what is measured, with its unit"""
    factor: float
    """from the stored unit to that of the label"""
    rope: float = math.nan
    """differences up to this, in the stored unit, are shaded: they are of no consequence"""
    sides: str = ""
    """which side a difference speaks for, with arrows along the axis"""
    base: float = 0.0

    def intervals(self, ax: Axes, rows: pd.DataFrame, at: Any, look: tuple[str, str], upright: bool) -> Any:
        """Estimates with their intervals at these places of the other axis; upright: the values run upwards."""
        values = rows["estimate"].to_numpy(float) * self.factor
        ends = rows[["low", "high"]].to_numpy(float).T * self.factor
        lengths: Any = {"yerr" if upright else "xerr": np.abs(ends - values)}
        x, y = (at, values) if upright else (values, at)
        return ax.errorbar(x, y, **lengths, fmt=look[1], color=look[0], ms=4.5, lw=1.5)

    def ground(self, ax: Axes, upright: bool) -> None:
        span, line = (ax.axhspan, ax.axhline) if upright else (ax.axvspan, ax.axvline)
        if not math.isnan(self.rope):
            span(-self.rope * self.factor, self.rope * self.factor, color="#000000", alpha=0.09, lw=0)
        line(self.base, color="#000000", lw=0.8)


def along(rows: pd.DataFrame, by: Sequence[str], x: str, series: str, scale: Scale, joined: bool = False) -> Figure:
    """A panel for each value of `by`; in it each value of `series` along `x`, where what has none is the tuned rate.

    rows: estimate, low, high (in the stored unit), and `ring` where one is to be marked.
    """
    found = list(rows.groupby(list(by), sort=False))[:MAX_PANELS]
    columns = min(len(found), 3 if len(by) == 1 else max(rows[by[-1]].nunique(), 2), 4)
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(WIDTH, 2.0 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    ticks = sorted(rows[x].dropna().unique())
    labels = ["tuned"] * bool(rows[x].isna().any())
    places = {value: i for i, value in enumerate(ticks, start=len(labels))}
    labels += [f"{value:,g}" for value in ticks]
    names = [] if series in by else list(rows[series].unique())
    handles = {}
    for ax, (title, panel) in zip(axes.flat, found, strict=False):
        scale.ground(ax, upright=True)
        for name, own in panel.groupby(series, sort=False):
            number = names.index(name) if names else 0
            beside = 0.5 * (number - (len(names) - 1) / 2) / len(names) if names else 0
            at = own[x].map(places).fillna(0) + beside
            drawn = scale.intervals(ax, own, at, LOOKS.get(str(name), OTHERS[number % len(OTHERS)]), upright=True)
            drawn.lines[0].set_linestyle("-" if joined else "none")
            handles[f"rate {name:g}" if series == "rate" else spoken(str(name))] = drawn
            if "ring" in own:
                ax.plot(at[own["ring"]], own["estimate"][own["ring"]] * scale.factor, "o", mfc="none", mec="k", ms=10)
        ax.set_title("\n".join(textwrap.wrap(_title(*title), 84 // columns)))
        ax.set_xticks(range(len(labels)), labels)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel(key_name(x))
    figure.supylabel("\n".join(filter(None, [scale.sides, scale.label])), fontsize=8.5)
    if names:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def _title(*values: Any) -> str:
    alone = len(values) == 1 and values[0] in POSITIONS
    return f"{values[0]} the activation" if alone else " · ".join(map(shown, values))


def forest(rows: pd.DataFrame, keys: Sequence[str], scales: dict[str, Scale], means: pd.DataFrame) -> Figure:
    """A line for each data set and setting, a panel for each metric and position.

    means: of the same comparisons over data sets; low and high (thick), pi_low and pi_high (thin).
    """
    told_by = varying(rows, keys)
    names = [" · ".join(filter(None, [row["dataset"], place(row, told_by)])) for row in rows.to_dict("records")]
    rows = rows.assign(line=["\n".join(textwrap.wrap(name, 40)) for name in names])
    size = rows.groupby("line", sort=False)["estimate"].mean()
    lines = list((size.sort_values(ascending=False) if len(means) else size).index)[:MAX_LINES]
    panels = list(rows.sort_values("metric", kind="stable").groupby(["metric", "position"], sort=False))
    bottom = len(lines) + 0.5
    figure = Figure(
        figsize=(WIDTH, 0.19 * (sum(1 + line.count("\n") for line in lines) + 2) + 1.1), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), sharex=rows["metric"].nunique() == 1, sharey=True, squeeze=False)[0]
    for ax, (key, panel) in zip(axes, panels, strict=True):
        metric, position = map(str, key)
        scale, panel = scales[metric], panel[panel["line"].isin(lines)]
        scale.ground(ax, upright=False)
        scale.intervals(ax, panel, [lines.index(line) for line in panel["line"]], LOOKS[position], upright=False)
        for mean in means[means["position"] == position].to_dict("records") if len(means) else ():
            for low, high, width in (("pi_low", "pi_high", 1), ("low", "high", 4)):
                ax.plot([mean[low] * scale.factor, mean[high] * scale.factor], [bottom, bottom], color="k", lw=width)
            ax.plot(mean["estimate"] * scale.factor, bottom, "D", color="k", ms=6)
        ends = panel[["low", "high"]].abs().max(axis=1)
        reach = max(1.2 * ends.quantile(0.9), 1.1 * panel["estimate"].abs().max())
        if ends.max() > 1.5 * reach:  # a data set of few examples would leave all others too little room
            ax.set_xlim(-reach * scale.factor, reach * scale.factor)
        ax.set_title(_title(position) if len(panels) < 3 else position)
        ax.set_xlabel("\n".join(textwrap.wrap(scale.label, 92 // len(panels))))
        ax.tick_params(axis="y", length=0)
    figure.supxlabel(" / ".join(dict.fromkeys(scale.sides for scale in scales.values())), fontsize=9)
    axes[0].set_yticks([*range(len(lines)), *[bottom][: len(means)]], [*lines, *["mean"][: len(means)]], fontsize=8)
    axes[0].set_ylim(bottom + 0.5 if len(means) else len(lines) - 0.4, -0.6)
    return figure


def regime(cells: pd.DataFrame, keys: Sequence[str], scale: Scale) -> Figure:
    """A map for each data set (down) and contrast and position (across): settings down, rates across."""
    down, across = cells["dataset"].unique(), list(cells.groupby(["contrast", "position"]).groups)
    settings = len(cells[list(keys)].drop_duplicates())
    figure = Figure(figsize=(WIDTH, (0.17 * settings + 0.4) * len(down) + 1.2), layout="constrained")
    axes = figure.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
    top = float(cells["estimate"].abs().quantile(0.97)) * scale.factor or 1.0
    for (dataset, contrast, position), own in cells.groupby(["dataset", "contrast", "position"], sort=False):
        ax = axes[list(down).index(dataset), across.index((contrast, position))]
        grid = own.pivot_table(index=list(keys), columns="rate", values=["estimate", "ci_low", "ci_high"])
        value = grid["estimate"].to_numpy(float) * scale.factor
        clear = ((grid["ci_low"] > 0) | (grid["ci_high"] < 0)).to_numpy()
        image = ax.imshow(value, cmap="RdBu", vmin=-top, vmax=top, aspect="auto", alpha=np.where(clear, 1.0, 0.25))
        for (y, x), size in np.ndenumerate(value):
            ink = "w" if clear[y, x] and abs(size) > 0.6 * top else "k"
            ax.text(x, y, f"{size:+.1f}", ha="center", va="center", fontsize=6, color=ink)
        ax.set_xticks(range(value.shape[1]), [f"{rate:g}" for rate in grid["estimate"].columns], fontsize=7)
        ax.set_yticks(
            range(len(value)), [" × ".join(map(shown, np.atleast_1d(key))) for key in grid.index], fontsize=6.5
        )
        ax.set_title(f"{dataset}, {position}: {'LN' if 'ln' in str(contrast) else 'BN'}", fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("dropout rate", fontsize=8)
    figure.supylabel(" × ".join(map(key_name, keys)), fontsize=9)
    label = f"{scale.label}: {scale.sides.replace('BN', 'BN or LN')}"
    figure.colorbar(image, ax=list(axes.flat), location="bottom", shrink=0.7, aspect=45, label=label)
    return figure
