"""The figures of a study. Colours are Okabe and Ito's, and markers say the same without colour."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy import stats

from normdrop.arrangement import POSITIONS
from normdrop.metrics import METRICS
from normdrop.report.contrasts import Contrast, blocks, ladder, tuned, values_of
from normdrop.report.ranks import Ranks
from normdrop.report.records import Study, read_history
from normdrop.report.verdicts import DECLARED, each

LOOKS = {
    "none": ("#7A7A7A", "o"),
    "dropout": ("#E69F00", "s"),
    "bn": ("#56B4E9", "^"),
    "bn_dropout": ("#0072B2", "D"),
    "dropout_bn": ("#D55E00", "v"),
    "ln": ("#009E73", "P"),
    "ln_dropout": ("#CC79A7", "X"),
    "dropout_ln": ("#000000", "*"),
}
# For arrangements that have no look of their own.
OTHERS = [*zip(matplotlib.color_sequences["Dark2"], "<>phH8d^", strict=True)]
OF_POSITIONS = dict(zip(POSITIONS, (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")), strict=True))
# More panels than this cannot be read on one page; the tables have every row.
MAX_PANELS = 18
MAX_ROWS = 40
# What is published has no learning curves; and the others would be a fifth of it.
NOT_PUBLISHED = ("curves", "pairs", "by_rate", "who_beats_whom")
DPI = 125  # of WIDTH: 900 pixels
WIDTH = 7.2  # inches: one column of the page
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": DPI,
}


def draw(
    study: Study,
    found: list[Contrast],
    rows: pd.DataFrame,
    shift: pd.DataFrame,
    over_sets: pd.DataFrame | None = None,
    ranked: tuple[Ranks, pd.DataFrame] | None = None,
    cells: pd.DataFrame | None = None,
) -> Iterator[tuple[str, str, Figure]]:
    """Each figure of the study's kind that it has data for: a name for its file, a caption, the figure."""
    metric = METRICS[study.metric].words
    effect = f"{study.kind.effect} of {metric}"
    contrast = f"{' or '.join(study.sides[0])} - {' or '.join(study.sides[1])}"
    band = "The shaded band is the region of practical equivalence."
    cells = pd.DataFrame() if cells is None else cells
    means = pd.DataFrame() if over_sets is None else over_sets[over_sets["family"] == DECLARED]
    drawings: dict[str, tuple[Callable[[], Figure | None], str]] = {
        "population": (
            lambda: _population(study, rows, means),
            f"Each data set's {effect}, {contrast}, with intervals for new data like it (some go on beyond the frame). "
            f"{band} Below, the mean over data sets with its interval (thick) and the prediction interval for a new "
            "data set (thin).",
        ),
        "ranks": (
            lambda: _ranks(*ranked) if ranked else None,
            "The networks by their mean rank over the data sets, each tuned (1 is best). A bar joins networks that the "
            "critical difference does not tell apart.",
        ),
        "regime": (
            lambda: _regime(cells, study),
            f"When does order matter? A - B in {metric} at equal rate. Blue: A is ahead; red: behind; faint: the "
            "interval contains 0. Layer normalization, which keeps no running statistics, is the control.",
        ),
        "effects": (
            lambda: None if len(means) else _forest(study, rows),
            f"The declared family: {effect}, {contrast}, with intervals on these rows. {band}",
        ),
        "difference": (
            lambda: _difference(study, rows),
            f"The {effect}, {contrast}, at each dropout rate and at each side's own best, with intervals on these "
            f"rows. {band}",
        ),
        "grid": (
            lambda: _along(study, str(study.over)),
            f"The {metric} along {study.over}, each arrangement at its own best rate: means with 95 % intervals.",
        ),
        "pairs": (
            lambda: _pairs(study, found),
            "Every replicate as one point, best against best: the same split, initial weights and batch order on both "
            "axes. On the diagonal the two are equal. A pair with a diverged or censored run has no point.",
        ),
        "by_rate": (
            lambda: _along(study, "rate"),
            f"The {metric} against the dropout rate: means with 95 % intervals.",
        ),
        "curves": (
            lambda: _curves(study),
            "Validation accuracy while training, each arrangement at the rate it chose most often: the mean over "
            "replicates, and a band from the 10th to the 90th percentile.",
        ),
        "who_beats_whom": (
            lambda: _who_beats_whom(study),
            f"How often the row's arrangement beats the column's on {metric}, replicate by replicate, each at its own "
            "best rate (ties count ½).",
        ),
        "shift": (
            lambda: _shift(study, shift),
            "Variance shift at each BN layer at the end of training, measured against predicted. Below 1, the layer "
            "sees less variance in evaluation than in training.",
        ),
    }
    places = _base_blocks(study)
    in_panels = MAX_PANELS, len(places), "combinations of data set, position and setting"
    room = {
        "effects": (MAX_ROWS, len(_declared(rows)), "rows"),
        "difference": (MAX_PANELS, len({key for _, key, _ in places}), "combinations of data set and setting"),
        **dict.fromkeys(("pairs", "by_rate", "grid", "curves", "who_beats_whom"), in_panels),
    }
    others = len(study.settings) - len(study.base_settings)
    with matplotlib.rc_context(STYLE):
        for name in ("regime", "shift") if len(cells) else study.kind.figures:
            drawing, caption = drawings[name]
            if study.published and name in NOT_PUBLISHED:
                continue
            if (figure := drawing()) is not None:
                drawn, there, what = room.get(name, (0, 0, ""))
                if others and there and name != "effects":
                    caption += f" The tables have {others} further settings."
                if drawn < there:
                    caption += f" Drawn are the first {drawn} of {there} {what}."
                yield name, caption, figure


def looks(study: Study) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each arrangement of the study, in their order."""
    cycle = itertools.cycle(OTHERS)
    return {name: LOOKS[name] if name in LOOKS else next(cycle) for name in study.arrangements}


def _panels(
    found: Sequence[tuple[str, Any]], draw_one: Callable[[Axes, Any], None], height: float = 2.7
) -> Figure | None:
    """A panel for each title and what `draw_one` draws under it, with one legend for all; None if there are none.

    The name of the y axis stands in the first column alone.
    """
    found = found[:MAX_PANELS]
    if not found:
        return None
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(WIDTH, lines * height + 0.4), layout=ConstrainedLayoutEngine(h_pad=0.09))
    axes = [figure.add_subplot(lines, columns, i + 1) for i in range(len(found))]
    handles: dict[str, Any] = {}
    for i, (ax, (title, shown)) in enumerate(zip(axes, found, strict=True)):
        draw_one(ax, shown)
        ax.set_title(title)
        if i % columns:
            ax.set_ylabel("")
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _rope(ax: Axes, study: Study, horizontal: bool) -> None:
    rope, ratio = study.rope(study.metric), study.kind.ratio
    low, high = (1 / rope, rope) if ratio else (-rope * _scale(study), rope * _scale(study))
    (ax.axhspan if horizontal else ax.axvspan)(low, high, color="#000000", alpha=0.09, lw=0)
    (ax.axhline if horizontal else ax.axvline)(1.0 if ratio else 0.0, color="#000000", lw=0.8)
    if ratio:
        (ax.set_yscale if horizontal else ax.set_xscale)("log")
        _plain_ticks(ax.yaxis if horizontal else ax.xaxis)


def _plain_ticks(axis: Axis, count: int = 6) -> None:
    """Round numbers on a logarithmic axis that spans less than a few decades."""
    axis.set_major_locator(MaxNLocator(count))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _scale(study: Study) -> float:
    return METRICS[study.metric].scale


def _with_unit(study: Study) -> str:
    metric = METRICS[study.metric]
    return f"{metric.words} ({metric.unit})"


def _axis(study: Study) -> str:
    metric = METRICS[study.metric]
    return f"{metric.words}, ratio A / B" if study.kind.ratio else f"{study.kind.effect} ({metric.unit})"


def _declared(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["family"] == DECLARED) & rows["ci_low"].notna()]


def _forest(study: Study, rows: pd.DataFrame) -> Figure | None:
    family = _declared(rows).head(MAX_ROWS)
    if family.empty:
        return None
    scale = _scale(study)
    labels = [
        textwrap.fill(" · ".join(filter(None, [row.dataset, row.position, _short(row.setting)])), 50)
        for row in each(family)
    ]
    lines = len("\n".join(labels).splitlines())
    figure = Figure(figsize=(WIDTH, 0.15 * len(family) + 0.12 * lines + 1.0), layout="constrained")
    ax = figure.add_subplot()
    _rope(ax, study, horizontal=False)
    for y, row in enumerate(each(family)):
        color, marker = OF_POSITIONS[row.position]
        # A ratio's interval may reach from 0 to infinity.
        low, high = np.clip([row.ci_low * scale, row.ci_high * scale], -1e3, 1e3)
        ax.plot([low, high], [y, y], color=color, lw=1.6)
        ax.plot([row.estimate * scale], [y], marker, color=color, ms=5)
    ax.set_yticks(range(len(family)), labels, fontsize=8)
    ax.set_ylim(len(family) - 0.4, -0.6)
    ax.set_xlabel(_axis(study))
    return figure


def _short(setting: str) -> str:
    """A setting without the groups of its keys."""
    return re.sub(r",(?=\S)", ", ", re.sub(r"\b(?:\w+\.)+(?=\w+=)", "", setting))


def _population(study: Study, rows: pd.DataFrame, means: pd.DataFrame) -> Figure | None:
    """One row per data set, in one order for all positions (and settings): a panel each."""
    means, scale = means[means["metric"] == study.metric].head(3) if len(means) else means, _scale(study)
    if means.empty:
        return None
    family = rows[(rows["family"] == DECLARED) & (rows["metric"] == study.metric) & rows["new_low"].notna()]
    names = [*family.groupby("dataset")["estimate"].mean().sort_values(ascending=False).index]
    figure = Figure(figsize=(WIDTH, 0.165 * len(names) + 1.1), layout="constrained")
    axes = figure.subplots(1, len(means), squeeze=False, sharex=True, sharey=True)[0]
    below = len(names) + 0.6
    for ax, mean in zip(axes, each(means), strict=True):
        own = family[(family["position"] == mean.position) & (family["setting"] == mean.setting)]
        _rope(ax, study, horizontal=False)
        color, marker = OF_POSITIONS[mean.position]
        for row in each(own.sort_values("dataset", key=lambda column: column.map(names.index))):
            y = names.index(row.dataset)
            ax.plot([row.new_low * scale, row.new_high * scale], [y, y], color=color, lw=1.1)
            ax.plot([row.estimate * scale], [y], marker, color=color, ms=3.8)
        ax.axhline(len(names) - 0.3, color="#000000", lw=0.4)
        ax.plot([mean.pi_low * scale, mean.pi_high * scale], [below, below], color="#000000", lw=1)
        ax.plot([mean.ci_low * scale, mean.ci_high * scale], [below, below], color="#000000", lw=4)
        ax.plot([mean.estimate * scale], [below], "D", color="#000000", ms=6)
        ax.set_ylim(below + 0.8, -0.8)
        ax.tick_params(axis="y", length=0)
        ax.set_title(
            f"{mean.position}{', ' * bool(mean.setting)}{mean.setting}: {scale * mean.estimate:+.2f} "
            f"({scale * mean.ci_low:+.2f} to {scale * mean.ci_high:+.2f})"
        )
        ax.set_xlabel(f"{' or '.join(study.sides[0])} - {' or '.join(study.sides[1])} ({METRICS[study.metric].unit})")
    # A single test part of few rows has intervals that would leave all others too little room.
    ends = family[["new_low", "new_high"]].abs().max(axis=1) * scale
    reach = max(
        1.15 * ends.quantile(0.9),
        1.05 * scale * family["estimate"].abs().max(),
        *(means[["pi_low", "pi_high"]].abs().max() * scale),
    )
    axes[0].set_xlim(-reach, reach)
    axes[0].set_yticks([*range(len(names)), below], [*names, "mean"], fontsize=7.5)
    return figure


def _ranks(ranks: Ranks, table: pd.DataFrame) -> Figure:
    """Demšar's (2006) critical difference diagram."""
    m = len(table)
    figure = Figure(figsize=(WIDTH, 0.26 * m + 0.9), layout="constrained")
    ax = figure.add_subplot()
    ax.set(xlim=(m + 0.1, 0.9), ylim=(-0.35 * m - 1.2, 1.2))  # the best on the right
    ax.plot([1, m], [0, 0], color="#000000", lw=1)
    for tick in range(1, m + 1):
        ax.plot([tick, tick], [0, 0.15], color="#000000", lw=1)
        ax.text(tick, 0.25, str(tick), ha="center", va="bottom")
    ax.plot([m, m - ranks.critical_difference], [0.95, 0.95], color="#000000", lw=2)
    ax.text(
        m - ranks.critical_difference - 0.08, 0.95, f"critical difference {ranks.critical_difference:.2f}", va="center"
    )
    groups = len(ranks.groups)
    for i, group in enumerate(ranks.groups):
        spread = ranks.mean_ranks[list(group)]
        y = -0.25 - 0.25 * i
        ax.plot([spread.min() - 0.04, spread.max() + 0.04], [y, y], color="#000000", lw=3, solid_capstyle="butt")
    half = (m + 1) // 2
    for i, row in enumerate(each(table)):
        right = i < half
        y = -0.25 * groups - 0.6 * ((i if right else m - 1 - i) + 1)
        end = 1.0 if right else float(m)
        ax.plot([row.mean_rank, row.mean_rank, end], [0, y, y], color="#5C5C5C", lw=0.8)
        label = f"{row.network} ({row.mean_rank:.2f})"
        ax.text(end - 0.05 if right else end + 0.05, y, label, ha="left" if right else "right", va="center")
    ax.set_axis_off()
    return figure


def _regime(table: pd.DataFrame, study: Study) -> Figure | None:
    """A map per data set (down), position and contrast (across): rows learning rate × epochs, columns rates."""
    if table.empty:
        return None
    scale = _scale(study)
    across = [
        *table[["position", "contrast"]].drop_duplicates().sort_values(["position", "contrast"]).itertuples(index=False)
    ]
    down = table["dataset"].unique()
    lines = len(table[["lr", "epochs"]].drop_duplicates())
    figure = Figure(figsize=(WIDTH, len(down) * (0.19 * lines + 0.6) + 0.4), layout="constrained")
    axes = figure.subplots(len(down), len(across), squeeze=False, sharey=True)
    top = scale * float(table["estimate"].abs().quantile(0.98)) or 1.0
    image: Any = None
    for (i, dataset), (j, (position, contrast)) in itertools.product(enumerate(down), enumerate(across)):
        ax = axes[i, j]
        own = table[(table["dataset"] == dataset) & (table["position"] == position) & (table["contrast"] == contrast)]
        if own.empty:
            ax.set_axis_off()
            continue
        grid = own.pivot_table(index=["lr", "epochs"], columns="rate", values=["estimate", "ci_low", "ci_high"])
        value = scale * grid["estimate"].to_numpy()
        clear = ((grid["ci_low"] > 0) | (grid["ci_high"] < 0)).to_numpy()
        image = ax.imshow(value, cmap="RdBu", vmin=-top, vmax=top, aspect="auto", alpha=np.where(clear, 1.0, 0.25))
        for (y, x), number in np.ndenumerate(value):
            shade = "#8A8A8A" if not clear[y, x] else "w" if abs(number) > 0.6 * top else "k"
            ax.text(x, y, f"{number:+.1f}", ha="center", va="center", fontsize=6, color=shade)
        rates = grid["estimate"].columns
        ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7)
        ax.set_yticks(range(len(grid)), [f"{lr:g} × {epochs}" for lr, epochs in grid.index], fontsize=6.5)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        a, _, b = contrast.partition(" - ")
        ax.set_title(f"{dataset} · {position}\n{a}\n− {b}", fontsize=7.5)
        if i == len(down) - 1:
            ax.set_xlabel("dropout rate", fontsize=7.5)
        if j == 0:
            ax.set_ylabel("learning rate × epochs", fontsize=7.5)
    unit = METRICS[study.metric].unit
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, label=f"A - B ({unit})")
    return figure


def _difference(study: Study, rows: pd.DataFrame) -> Figure | None:
    scale = _scale(study)
    rows = rows[
        (rows["metric"] == study.metric)
        & rows["setting"].isin(study.base_settings)
        & rows["comparison"].isin(["same_rate", "best_vs_best"])
        & rows["rate_a"].notna()
    ]
    rates = sorted({max(r.rate_a, r.rate_b) for r in each(rows) if r.comparison == "same_rate"})
    if len(rates) < 2:
        return None
    places = {rate: i for i, rate in enumerate(rates)}

    def draw_one(ax: Axes, panel: pd.DataFrame) -> None:
        _rope(ax, study, horizontal=True)
        present = [p for p in POSITIONS if p in set(panel["position"])]
        for k, position in enumerate(present):
            color, marker = OF_POSITIONS[position]
            nudge = 0.16 * (k - (len(present) - 1) / 2)
            for row in each(panel[panel["position"] == position]):
                best = row.comparison == "best_vs_best"
                x = (len(rates) + 0.4 if best else places[max(row.rate_a, row.rate_b)]) + nudge
                ax.plot([x, x], [row.ci_low * scale, row.ci_high * scale], color=color, lw=1.4)
                ax.plot(x, row.estimate * scale, marker, color=color, ms=5, label=position)
        ax.axvline(len(rates) - 0.3, color="#000000", lw=0.5, ls=":")
        ax.set_xticks([*range(len(rates)), len(rates) + 0.4], [*(f"{rate:g}" for rate in rates), "best"])
        ax.set(xlabel="dropout rate", ylabel=_axis(study))

    found = rows.groupby(["dataset", "setting"], sort=False)
    return _panels([(_title(str(dataset), "", str(setting)), panel) for (dataset, setting), panel in found], draw_one)


def _base_blocks(study: Study) -> list[tuple[str, tuple[str, str], pd.DataFrame]]:
    """(title, block of replicates) of each data set, setting of the grid proper and position."""
    base = study.base_settings
    found = [f for f in blocks(study) if f[2] in base]
    found.sort(key=lambda f: (f[0], base.index(f[2]), POSITIONS.index(f[1])))
    return [(_title(d, p, s), (d, s), block) for d, p, s, block in found]


def _title(dataset: str, position: str, setting: str) -> str:
    return "\n".join(filter(None, [" · ".join(filter(None, [dataset, position])), setting]))


def _one_each(study: Study) -> list[tuple[str, pd.DataFrame]]:
    """Each data set and setting once, at its first position, and of a grid that the study consumes the first value."""
    found: dict[tuple[str, str], tuple[str, pd.DataFrame]] = {}
    for title, key, block in _base_blocks(study)[:MAX_PANELS]:
        found.setdefault(key, (title, block if study.over is None else block[block[study.over] == ladder(study)[0]]))
    return list(found.values())


def _pairs(study: Study, found: list[Contrast]) -> Figure | None:
    metric, base = study.metric, study.base_settings
    scale, ratio = _scale(study), study.kind.ratio
    pairs = []
    for contrast in found:
        if contrast.rate is not None or contrast.setting not in base:
            continue
        for _, a, b in values_of(study, contrast, metric):
            kept = np.isfinite(a) & np.isfinite(b)
            if kept.sum() > 1:
                title = _title(contrast.dataset, contrast.position, contrast.setting)
                pairs.append((title, (a[kept] * scale, b[kept] * scale)))
    names = [" or ".join(side) for side in study.sides]

    def draw_one(ax: Axes, pair: tuple[np.ndarray, np.ndarray]) -> None:
        low, high = np.min(pair), np.max(pair)
        pad = 0.06 * (high - low or 1.0)
        limits = (low * 0.9, high * 1.1) if ratio else (low - pad, high + pad)
        if ratio:
            ax.loglog()
        for axis in (ax.xaxis, ax.yaxis):
            if ratio:
                _plain_ticks(axis, 4)
            else:
                axis.set_major_locator(MaxNLocator(4))
        ax.plot(limits, limits, color="#000000", lw=0.8)
        ax.scatter(pair[1], pair[0], s=22, color="#0072B2", alpha=0.55, linewidths=0)
        ax.set(xlim=limits, ylim=limits, xlabel=names[1], ylabel=names[0])
        ax.set_box_aspect(1)

    if (figure := _panels(pairs, draw_one)) is not None:
        figure.suptitle(f"{_with_unit(study)}, best against best", fontsize=9.5)
    return figure


def _mean_and_interval(values: pd.Series) -> tuple[float, float]:
    """Mean and the half-width of its 95 % t interval."""
    values = values.dropna()
    if len(values) < 2:
        return float(values.mean()) if len(values) else math.nan, 0.0
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * values.sem())


def _along(study: Study, key: str) -> Figure | None:
    """The metric along the dropout rate, or along the key that the study consumes, each network at its best rate."""
    metric, scale, by_rate = study.metric, _scale(study), key == "rate"
    places = _base_blocks(study)[:MAX_PANELS]
    found = [(t, b) for t, _, b in places if metric in b and b[key].nunique() > (2 if by_rate else 1)]

    def draw_one(ax: Axes, block: pd.DataFrame) -> None:
        values = sorted(block[key].unique()) if by_rate else [v for v in ladder(study) if v in set(block[key])]
        for k, (arrangement, (color, marker)) in enumerate(looks(study).items()):
            rows = block[block["arrangement"] == arrangement]
            if rows.empty:
                continue
            own = rows if by_rate else tuned(study, rows, study.declaration["tuned"])
            there = sorted(own[key].unique()) if by_rate else values
            points = np.array([_mean_and_interval(own.loc[own[key] == value, metric] * scale) for value in there])
            if by_rate and len(there) == 1:
                ((mean, half),) = points
                ends = [values[0], values[-1]]
                ax.axhspan(mean - half, mean + half, color=color, alpha=0.18, lw=0)
                ax.plot(ends, [mean, mean], color=color, ls="--", marker=marker, ms=4, label=arrangement)
            else:
                x = np.array(there) + 0.006 * (k - 2) if by_rate else np.arange(len(values)) + 0.05 * (k - 2)
                ax.errorbar(x, *points.T, color=color, marker=marker, ms=4.5, lw=1.3, label=arrangement)
        if not by_rate:
            ax.set_xticks(range(len(values)), [f"{v:g}" if isinstance(v, float | int) else str(v) for v in values])
        ax.set(xlabel="dropout rate" if by_rate else key, ylabel=_with_unit(study))

    return _panels(found, draw_one)


def _curves(study: Study) -> Figure | None:
    records = {record["condition"]: record for record in study.records}

    def draw_one(ax: Axes, block: pd.DataFrame) -> None:
        for arrangement, (color, marker) in looks(study).items():
            chosen = tuned(study, block[block["arrangement"] == arrangement], study.declaration["tuned"])
            if chosen.empty:
                continue
            condition = chosen[["arrangement", "rate", "condition"]].value_counts().index[0][2]
            by_epoch = read_history(study, records[condition]).groupby("epoch")["val_acc"]
            low, mean, high = by_epoch.quantile(0.1) * 100, by_epoch.mean() * 100, by_epoch.quantile(0.9) * 100
            ax.fill_between(mean.index, low, high, color=color, alpha=0.13, lw=0)
            every = max(1, len(mean) // 6)
            ax.plot(mean.index, mean, color=color, lw=1.4, marker=marker, ms=4, markevery=every, label=arrangement)
        ax.set(xlabel="epoch", ylabel="validation accuracy (%)")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _panels(_one_each(study), draw_one)


def _who_beats_whom(study: Study) -> Figure | None:
    metric, sign = study.metric, 1 if METRICS[study.metric].higher_is_better else -1
    found = []
    for title, block in _one_each(study):
        if metric not in block:
            continue
        if study.kind.ratio:  # a run that never reached the level is behind any that did
            block = block.fillna({metric: np.inf})
        best = {
            name: tuned(study, rows, study.declaration["tuned"]).set_index("seed")[metric].astype(float).dropna()
            for name, rows in ((n, block[block["arrangement"] == n]) for n in study.arrangements)
            if len(rows)
        }
        if len(best) > 2:
            found.append((title, best))

    def draw_one(ax: Axes, best: dict[str, pd.Series]) -> None:
        names = list(best)
        matrix = np.full((len(names), len(names)), np.nan)
        for (i, row), (j, column) in itertools.permutations(enumerate(names), 2):
            a, b = best[row].align(best[column], join="inner")
            difference = sign * (a - b).fillna(0)  # of two censored runs neither is ahead
            if len(difference):
                matrix[i, j] = (difference > 0).mean() + (difference == 0).mean() / 2
        ax.imshow(matrix, cmap="PuOr_r", vmin=0, vmax=1)
        for i, j in np.argwhere(np.isfinite(matrix)):
            shade = "w" if abs(matrix[i, j] - 0.5) > 0.33 else "k"
            ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8, color=shade)
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
        ax.set_yticks(range(len(names)), names)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)

    return _panels(found, draw_one, height=2.6)


def _shift(study: Study, shift: pd.DataFrame) -> Figure | None:
    if shift.empty or (known := shift.dropna(subset=["measured", "predicted"])).empty:
        return None

    def draw_one(ax: Axes, known: pd.DataFrame) -> None:
        for arrangement, (color, marker) in looks(study).items():
            rows = known[known["arrangement"] == arrangement]
            if len(rows):
                where = rows["predicted"], rows["measured"]
                ax.scatter(*where, s=24, color=color, marker=marker, alpha=0.7, label=arrangement, linewidths=0)
        both = known[["predicted", "measured"]].to_numpy()
        limits = (max(0, both.min() - 0.05), both.max() + 0.05)
        ax.plot(limits, limits, color="#000000", lw=0.8)
        ax.set(xlim=limits, ylim=limits, xlabel="predicted Δ", ylabel="measured Δ = eval variance / train variance")
        ax.set_box_aspect(1)

    return _panels([("", known)], draw_one, height=3.6)
