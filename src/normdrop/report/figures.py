"""The figures, each of numbers that stand in a table beside it. Colours are Okabe and Ito's; markers say the same.

A figure's label is what its caption has to add: that not all is drawn, or that something is cut.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT

from normdrop.arrangement import POSITIONS
from normdrop.kinds import shown
from normdrop.report.tables import OWN, key_name, place, spoken, varying

# Of a position or an arrangement; of a rate by its number.
LOOKS = {
    "after": ("#0072B2", "o"),
    "before": ("#D55E00", "s"),
    "around": ("#009E73", "^"),
    OWN: ("#0072B2", "o"),
    "bn_dropout": ("#0072B2", "D"),
    "dropout_bn": ("#D55E00", "v"),
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

    def ground(self, ax: Axes, upright: bool) -> None:
        span, line = (ax.axhspan, ax.axhline) if upright else (ax.axvspan, ax.axvline)
        if not math.isnan(self.rope):
            span(-self.rope * self.factor, self.rope * self.factor, color="#000000", alpha=0.09, lw=0)
        line(self.base, color="#000000", lw=0.8)

    def in_unit(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with every number in the label's unit."""
        numbers = rows.columns.intersection(["estimate", "low", "high", "ci_low", "ci_high", "pi_low", "pi_high"])
        return rows.assign(**{name: rows[name].astype(float) * self.factor for name in numbers})


def _arms(rows: pd.DataFrame) -> np.ndarray:
    """Lengths of the intervals below and above the estimates, as matplotlib has them."""
    return rows[["low", "high"]].sub(rows["estimate"], axis=0).abs().to_numpy().T


def along(rows: pd.DataFrame, by: Sequence[str], x: str, series: str, scale: Scale, joined: bool = False) -> Figure:
    """A panel for each value of `by`; in it each value of `series` along `x`, where what has none is the tuned rate.

    rows: estimate, low, high (in the stored unit), and `ring` where one is to be marked.
    """
    every = list(scale.in_unit(rows).groupby(list(by), sort=False))
    found = every[:MAX_PANELS]
    columns = min(len(found), 3 if len(by) == 1 else max(rows[by[-1]].nunique(), 2), 4)
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(WIDTH, 2.0 * lines + 0.9), layout="constrained")
    figure.set_label(_not_all(len(every), MAX_PANELS, "panels"))
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    ticks = sorted(rows[x].dropna().unique())
    labels = ["tuned"] * bool(rows[x].isna().any()) + [f"{value:,g}" for value in ticks]
    places = {value: len(labels) - len(ticks) + i for i, value in enumerate(ticks)}
    names = [] if series in by else list(rows[series].unique())
    handles = {}
    for ax, (title, panel) in zip(axes.flat, found, strict=False):
        scale.ground(ax, upright=True)
        for name, own in panel.groupby(series, sort=False):
            number = names.index(name) if names else 0
            beside = 0.5 * (number - (len(names) - 1) / 2) / len(names) if names else 0
            at = own[x].map(places).fillna(0) + beside
            color, marker = LOOKS.get(str(name), OTHERS[number % len(OTHERS)])
            style = f"{marker}-" if joined else marker
            drawn = ax.errorbar(at, own["estimate"], yerr=_arms(own), fmt=style, color=color, ms=4.5, lw=1.5)
            handles[f"rate {name:g}" if series == "rate" else spoken(str(name))] = drawn
            if "ring" in own:
                ax.plot(at[own["ring"]], own["estimate"][own["ring"]], "o", mfc="none", mec="k", ms=10)
        ax.set_title("\n".join(textwrap.wrap(_title(dict(zip(by, title, strict=True))), 84 // columns)))
        ax.set_xticks(range(len(labels)), labels)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel(key_name(x))
    fits = round(15 * figure.get_figheight())  # letters along the axis
    told = [line for text in (scale.sides, scale.label) for line in textwrap.wrap(text, fits)]
    figure.supylabel("\n".join(told), fontsize=8.5)
    if names:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def _title(panel: dict[str, Any]) -> str:
    """Position and data set as they are, and what tells the settings apart."""
    if list(panel) == ["position"]:
        return f"{panel['position']} the activation" if panel["position"] in POSITIONS else panel["position"]
    named = [key for key in panel if key in ("position", "dataset")]
    settings = place(panel, [key for key in panel if key not in named])
    return " · ".join([*(panel[key] for key in named), *filter(None, [settings])])


def _not_all(number: int, most: int, what: str) -> str:
    return f"The first {most} of {number} {what} are drawn." if number > most else ""


def forest(rows: pd.DataFrame, keys: Sequence[str], scales: dict[str, Scale], means: pd.DataFrame) -> Figure:
    """A line for each data set and setting, a panel for each metric and position.

    means: of the same comparisons over data sets; low and high (thick), pi_low and pi_high (thin).
    """
    told_by = varying(rows, ["rate", *keys])
    names = [" · ".join(filter(None, [row["dataset"], place(row, told_by)])) for row in rows.to_dict("records")]
    rows = rows.assign(line=["\n".join(textwrap.wrap(name, 40)) for name in names])
    size = rows.groupby("line", sort=False)["estimate"].mean()
    lines = list((size.sort_values(ascending=False) if len(means) else size).index)[:MAX_LINES]
    not_all = _not_all(len(size), MAX_LINES, "lines")
    rows = rows[rows["line"].isin(lines)].sort_values("metric", kind="stable")
    panels = list(rows.groupby(["metric", "position"], sort=False))
    bottom, apart = len(lines) + 0.5, varying(means, ["rate", *keys])
    means = means.assign(line=[f"mean {place(mean, apart)}".strip() for mean in means.to_dict("records")])
    at_bottom = list(means["line"].unique())
    height = 0.19 * (sum(1 + line.count("\n") for line in lines) + 1 + (len(at_bottom) or 1)) + 1.1
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=rows["metric"].nunique() == 1, sharey=True, squeeze=False)[0]
    cut = False
    for ax, (key, panel) in zip(axes, panels, strict=True):
        metric, position = map(str, key)
        scale, of_metric = scales[metric], means[means["metric"] == metric]
        reach = _reach(scale.in_unit(rows[rows["metric"] == metric]), scale.in_unit(of_metric))
        cut |= math.isfinite(reach)
        scale.ground(ax, upright=False)
        _intervals(ax, scale.in_unit(panel), lines, position, reach)
        for mean in scale.in_unit(of_metric[of_metric["position"] == position]).to_dict("records"):
            at = bottom + at_bottom.index(mean["line"])
            ax.plot([mean["pi_low"], mean["pi_high"]], [at, at], color="k", lw=1)
            ax.plot([mean["low"], mean["high"]], [at, at], color="k", lw=4)
            ax.plot(mean["estimate"], at, "D", color="k", ms=6)
        ax.set_title(_title({"position": position}) if len(panels) < 3 else position)
        ax.set_xlabel("\n".join(textwrap.wrap(scale.label, 84 // len(panels))))
        ax.tick_params(axis="y", length=0)
    figure.set_label(" ".join(filter(None, [not_all, "An arrow: the interval goes on." * cut])))
    figure.supxlabel(" / ".join(dict.fromkeys(scale.sides for scale in scales.values())), fontsize=9)
    if len(means):
        ticks = [*range(len(lines)), *(bottom + i for i in range(len(at_bottom)))]
        axes[0].set_yticks(ticks, [*lines, *at_bottom], fontsize=8)
        axes[0].set_ylim(ticks[-1] + 0.5, -0.6)
    else:
        axes[0].set_yticks(range(len(lines)), lines, fontsize=8)
        axes[0].set_ylim(len(lines) - 0.4, -0.6)
    return figure


def _reach(rows: pd.DataFrame, means: pd.DataFrame) -> float:
    """Where all panels of a metric end, on both sides, beyond every point and mean; inf: no interval is cut."""
    ends = rows[["low", "high"]].abs().max(axis=1)
    inside = max(rows["estimate"].abs().max(), means.filter(["low", "high", "pi_low", "pi_high"]).abs().max().max())
    reach = max(1.2 * ends.quantile(0.9), 1.1 * inside)
    # A data set of few examples would leave all others too little room.
    return reach if ends.max() > 1.5 * reach else math.inf


def _intervals(ax: Axes, panel: pd.DataFrame, lines: list[str], position: str, reach: float) -> None:
    """A panel's points and intervals, with an arrow where one goes on beyond the reach."""
    color, marker = LOOKS[position]
    at = panel["line"].map(lines.index)
    ax.errorbar(panel["estimate"], at, xerr=_arms(panel), fmt=marker, color=color, ms=4.5, lw=1.5)
    if math.isfinite(reach):
        ax.set_xlim(-reach, reach)
        for edge, cut, tip in ((-reach, panel["low"] < -reach, CARETLEFT), (reach, panel["high"] > reach, CARETRIGHT)):
            ax.plot([edge] * cut.sum(), at[cut], linestyle="", marker=tip, color=color, ms=8)


def regime(cells: pd.DataFrame, keys: Sequence[str], scale: Scale) -> Figure:
    """A map for each data set (down) and contrast and position (across): settings down, rates across.

    Each map has the settings and rates of all, as they share their axes; where nothing was compared it is blank.
    """
    cells = scale.in_unit(cells)
    down = list(cells["dataset"].unique())
    across: list[Any] = list(cells.groupby(["contrast", "position"]).groups)
    whole = cells.pivot_table("dataset", list(keys), "rate", aggfunc="size")  # of what diverged there is no estimate
    figure = Figure(figsize=(WIDTH, (0.17 * len(whole) + 0.4) * len(down) + 1.2), layout="constrained")
    axes = figure.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
    most = float(cells["estimate"].abs().quantile(0.97))
    top = most if most > 0 else 1.0
    digits = 1 if scale.factor > 1 else 2
    for (row, dataset), (column, (contrast, position)) in product(enumerate(down), enumerate(across)):
        ax, own = axes[row, column], cells[cells["dataset"].eq(dataset) & cells["contrast"].eq(contrast)]
        own = own[own["position"] == position]
        value, low, high = (
            own.pivot_table(name, list(keys), "rate").reindex_like(whole).to_numpy(float)
            for name in ("estimate", "ci_low", "ci_high")
        )
        clear = (low > 0) | (high < 0)
        image = ax.imshow(value, cmap="RdBu", vmin=-top, vmax=top, aspect="auto", alpha=np.where(clear, 1.0, 0.25))
        for y, x in np.argwhere(~np.isnan(value)):
            ink = "w" if clear[y, x] and abs(value[y, x]) > 0.6 * top else "k"
            number = round(value[y, x], digits) + 0  # no −0.0
            ax.text(x, y, f"{number:+.{digits}f}", ha="center", va="center", fontsize=6, color=ink)
        ax.set_title(f"{dataset}, {position}: {'LN' if 'ln' in str(contrast) else 'BN'}", fontsize=8)
    for ax in axes[-1]:
        ax.set_xticks(range(whole.shape[1]), map(shown, whole.columns), fontsize=7)
        ax.set_xlabel("dropout rate", fontsize=8)
    for ax in axes[:, 0]:
        names = [" × ".join(map(shown, np.atleast_1d(key))) for key in whole.index]
        ax.set_yticks(range(len(names)), names, fontsize=6.5)
    figure.supylabel(" × ".join(map(key_name, keys)), fontsize=9)
    label = f"{scale.label}: {scale.sides.replace('BN', 'BN or LN')}"
    figure.colorbar(image, ax=list(axes.flat), location="bottom", shrink=0.7, aspect=45, label=label)
    return figure
