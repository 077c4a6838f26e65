"""What a figure draws is what the tables hold: read off the axes, artist by artist."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats

from exact import drawn, normal, pair, rows_of, runs, study_of, write
from fake_study import fake_study
from normdrop.report.contrasts import contrasts
from normdrop.report.mechanism import shifts

RATES = (0.1, 0.3, 0.5)
ROPE = {"test_acc": 0.004, "test_nll": 0.02, "steps_to_level": 1.2}


def panels(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title(loc="left") or ax.get_title(): ax for ax in figure.axes}


def lines_of(ax: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in ax.get_lines()]


def points_of(ax: Axes) -> np.ndarray:
    """(points, 2) of the axes' one cloud."""
    (cloud,) = ax.collections
    return np.ma.filled(cloud.get_offsets(), np.nan)


def bars_of(ax: Axes) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By label: x, the means and half the lengths of the bars."""
    found = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, (bars,) = container.lines
        ends = np.array(bars.get_segments())[:, :, 1]
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        assert ends.mean(axis=1) == pytest.approx(y)
        found[str(container.get_label())] = x, y, (ends[:, 1] - ends[:, 0]) / 2
    return found


def bands_of(ax: Axes) -> list[tuple[float, float, float, float]]:
    """The spans from edge to edge: left, right, bottom, top."""
    return [(b.x0, b.x1, b.y0, b.y1) for b in (patch.get_bbox() for patch in ax.patches)]


def half(values: pd.Series) -> float:
    """Of the mean's 95 % t interval."""
    n = values.notna().sum()
    return float(stats.t.isf(0.025, n - 1) * values.std(ddof=1) / n**0.5)


def legend(figure: Figure) -> dict[str, str]:
    """Label and colour of each entry of the one legend."""
    (shown,) = figure.legends
    lines = [getattr(handle, "lines", [handle])[0] for handle in shown.legend_handles]  # of error bars the line
    colours = [to_hex(line.get_color()) for line in lines]
    labels = [text.get_text() for text in shown.get_texts()]
    assert len(set(colours)) == len(labels), "a colour for each"
    return dict(zip(labels, colours, strict=True))


@pytest.fixture(scope="module")
def ordering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, two positions, three rates, all five arrangements, each with a level and spread of its own."""

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        levels = {"none": 0.80, "dropout": 0.83, "bn": 0.86, "bn_dropout": 0.92, "dropout_bn": 0.89}
        best = {"bn_dropout": 0.3, "dropout_bn": 0.1}.get(arrangement, 0.5)
        return levels[arrangement] - 0.1 * abs(rate - best) * ("dropout" in arrangement) - 0.02 * (position == "before")

    directory = tmp_path_factory.mktemp("drawn") / "ordering"
    return fake_study(
        directory,
        datasets=("one", "two"),
        positions=("after", "before"),
        rates=RATES,
        replicates=8,
        accuracy=accuracy,
        own_sd=0.01,
        study={"rope": ROPE},
    )


@pytest.fixture(scope="module")
def figures(ordering: Path) -> dict[str, Figure]:
    return drawn(ordering)


def condition(root: Path, dataset: str, arrangement: str, position: str, rate: float) -> pd.DataFrame:
    (folder,) = root.glob(f"{dataset}/{arrangement}/{position}/q{rate:.2f}")
    return pd.read_csv(folder / "replicates.csv")


def best_of(root: Path, dataset: str, arrangement: str, position: str) -> pd.DataFrame:
    """Per seed the row that validation accuracy prefers."""
    rates = RATES if "dropout" in arrangement else (0.0,)
    where = position if arrangement not in ("none", "dropout") else "after"
    rows = pd.concat(condition(root, dataset, arrangement, where, rate) for rate in rates)
    return rows.sort_values("val_acc", ascending=False).groupby("seed").first()


def test_an_ordering_has_these_figures(figures: dict[str, Figure]) -> None:
    assert list(figures) == ["effects", "difference", "pairs", "by_rate", "curves", "who_beats_whom"]


def test_effects_are_the_declared_rows_with_their_intervals_for_this_data(
    ordering: Path, figures: dict[str, Figure]
) -> None:
    (ax,) = figures["effects"].axes
    rows = rows_of(ordering, family="declared")
    assert len(rows) == 4
    null, *drawn_lines = lines_of(ax)
    assert null[0] == [0.0, 0.0]
    for y, (row, bar, point) in enumerate(zip(rows.itertuples(), drawn_lines[::2], drawn_lines[1::2], strict=True)):
        assert bar == ([pytest.approx(100 * row.ci_low), pytest.approx(100 * row.ci_high)], [y, y])
        assert point == ([pytest.approx(100 * row.estimate)], [y])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{row.dataset} · {row.position}" for row in rows.itertuples()]
    assert ax.get_yticks().tolist() == [0, 1, 2, 3]
    bottom, top = ax.get_ylim()
    assert bottom > top, "the first row stands on top"
    ((left, right, *_),) = bands_of(ax)
    assert (left, right) == pytest.approx((-0.4, 0.4))
    colours = [line.get_color() for line in ax.get_lines()[1::2]]
    assert colours[0] == colours[2] != colours[1] == colours[3], "a position has its colour"


def test_difference_has_every_rate_and_the_best_of_each_panels_rows(ordering: Path, figures: dict[str, Figure]) -> None:
    rows = rows_of(ordering, metric="test_acc")
    rows = rows[rows["comparison"].isin(["same_rate", "best_vs_best"])]
    by_title = panels(figures["difference"])
    assert set(by_title) == {"one", "two"}
    colours = legend(figures["difference"])
    assert list(colours) == ["after", "before"]
    for dataset, ax in by_title.items():
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "0.3", "0.5", "best"]
        places = dict(zip([*RATES, "best"], ax.get_xticks(), strict=True))
        here = rows[rows["dataset"] == dataset]
        found = {}
        null, *others = ax.get_lines()
        assert list(null.get_ydata()) == [0, 0]
        for bar, point in zip(others[:-1:2], others[1:-1:2], strict=True):
            (x,), (y,) = np.atleast_1d(point.get_xdata()), np.atleast_1d(point.get_ydata())
            assert list(bar.get_xdata()) == [x, x]
            place = min(places, key=lambda key: abs(places[key] - x))
            assert abs(places[place] - x) < 0.2
            assert to_hex(point.get_color()) == to_hex(bar.get_color()) == colours[str(point.get_label())]
            found[point.get_label(), place] = (y, *bar.get_ydata())
        expected = {
            (row.position, "best" if row.comparison == "best_vs_best" else row.rate_a): pytest.approx(
                (100 * row.estimate, 100 * row.ci_low, 100 * row.ci_high)
            )
            for row in here.itertuples()
        }
        assert found == expected
        assert (-0.4, 0.4) in [pytest.approx(band[2:]) for band in bands_of(ax)]


def test_pairs_has_a_of_each_replicate_against_its_b(ordering: Path, figures: dict[str, Figure]) -> None:
    by_title = panels(figures["pairs"])
    assert set(by_title) == {f"{d} · {p}" for d in ("one", "two") for p in ("after", "before")}
    for title, ax in by_title.items():
        dataset, position = title.split(" · ")
        a, b = (best_of(ordering, dataset, name, position)["test_acc"] for name in ("bn_dropout", "dropout_bn"))
        assert points_of(ax) == pytest.approx(np.column_stack([100 * b, 100 * a]))
        assert (ax.get_xlabel(), ax.get_ylabel() or "bn_dropout") == ("dropout_bn", "bn_dropout")
        ((x, y),) = lines_of(ax)
        assert x == y
        assert min(100 * a.min(), 100 * b.min()) >= x[0]
        assert max(100 * a.max(), 100 * b.max()) <= x[1]


def test_by_rate_has_each_arrangements_mean_test_accuracy_and_its_interval_at_every_rate(
    ordering: Path, figures: dict[str, Figure]
) -> None:
    colours = legend(figures["by_rate"])
    assert set(colours) == {"none", "dropout", "bn", "bn_dropout", "dropout_bn"}
    for title, ax in panels(figures["by_rate"]).items():
        dataset, position = title.split(" · ")
        bars = bars_of(ax)
        assert set(bars) == {"dropout", "bn_dropout", "dropout_bn"}
        for arrangement, (x, mean, width) in bars.items():
            assert x == pytest.approx(RATES, abs=0.02)
            where = position if arrangement != "dropout" else "after"
            for i, rate in enumerate(RATES):
                values = condition(ordering, dataset, arrangement, where, rate)["test_acc"]
                assert (mean[i], width[i]) == pytest.approx((100 * values.mean(), 100 * half(values)))
        level = {str(line.get_label()): line for line in ax.get_lines() if line.get_linestyle() == "--"}
        assert set(level) == {"none", "bn"}
        bands = bands_of(ax)
        for (arrangement, line), band in zip(level.items(), bands, strict=True):
            where = position if arrangement != "none" else "after"
            values = 100 * condition(ordering, dataset, arrangement, where, 0)["test_acc"]
            assert line.get_ydata() == pytest.approx([values.mean()] * 2)
            assert line.get_xdata() == pytest.approx([0.0, RATES[-1]])
            assert band[2:] == pytest.approx((values.mean() - half(values), values.mean() + half(values)))
            assert to_hex(line.get_color()) == colours[arrangement]


def test_curves_are_validation_accuracy_of_the_condition_that_most_replicates_chose(
    ordering: Path, figures: dict[str, Figure]
) -> None:
    for dataset, ax in panels(figures["curves"]).items():
        name = dataset.split(" · ")[0]
        curves = {str(line.get_label()): line for line in ax.get_lines()}
        assert list(curves) == ["none", "dropout", "bn", "bn_dropout", "dropout_bn"]
        for (arrangement, line), band in zip(curves.items(), ax.collections, strict=True):
            rates = RATES if "dropout" in arrangement else (0.0,)
            chosen = best_of(ordering, name, arrangement, "after")["rate"].value_counts()
            assert arrangement not in ("dropout", "bn_dropout", "dropout_bn") or 4 < chosen.iloc[0] <= 8
            assert chosen.index[0] in rates
            folder = ordering / f"{name}/{arrangement}/after/q{chosen.index[0]:.2f}"
            by_epoch = pd.read_csv(folder / "history.csv").groupby("epoch")["val_acc"]
            assert list(line.get_xdata()) == [1, 2, 3, 4]
            assert list(line.get_ydata()) == pytest.approx((100 * by_epoch.mean()).tolist())
            corners = pd.DataFrame(band.get_paths()[0].vertices).groupby(0)[1]
            assert corners.min().tolist() == pytest.approx((100 * by_epoch.quantile(0.1)).tolist())
            assert corners.max().tolist() == pytest.approx((100 * by_epoch.quantile(0.9)).tolist())
            assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())


@pytest.mark.parametrize(("metric", "sign"), [("test_acc", 1), ("test_nll", -1), ("test_ece", -1)])
def test_who_beats_whom_says_how_often_the_row_beats_the_column(
    tmp_path: Path, ordering: Path, metric: str, sign: int
) -> None:
    names = ["none", "dropout", "bn", "bn_dropout", "dropout_bn"]
    rng = np.random.default_rng(1)
    tables = {}
    for name in names:
        values = rng.choice([0.5, 0.6, 0.7], 9)  # few values, so that there are ties
        table = runs(values if metric == "test_acc" else 0.1, 9, **({} if metric == "test_acc" else {metric: values}))
        tables[name] = table[metric]
        write(tmp_path, name, table, 0.3 * ("dropout" in name), study={"metric": metric, "secondary": []})
    (ax,) = drawn(tmp_path)["who_beats_whom"].axes
    matrix = np.asarray(ax.get_images()[0].get_array().filled(np.nan))
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            ahead = sign * (tables[row] - tables[column])
            expected = np.nan if i == j else (ahead > 0).mean() + (ahead == 0).mean() / 2
            assert matrix[i, j] == pytest.approx(expected, nan_ok=True)
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert shown == {(j, i): f"{matrix[i, j]:.2f}" for i in range(5) for j in range(5) if i != j}
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert ax.yaxis_inverted(), "the first row stands on top, as in the table"
    assert (ax.get_images()[0].get_clim()) == (0, 1)


def test_who_beats_whom_counts_a_censored_run_as_the_slower_and_two_as_a_tie(tmp_path: Path) -> None:
    study = {"metric": "steps_to_level", "kind": "ratio", "secondary": [], "contrast": {"a": "bn", "b": "none"}}
    steps = {"none": [10, np.nan, np.nan, 20], "dropout": [np.nan] * 4, "bn": [20, 10, np.nan, 10]}
    for name, values in steps.items():
        write(tmp_path, name, runs(0.9, 4, steps_to_level=values), 0.3 * (name == "dropout"), study=study)
    (ax,) = drawn(tmp_path)["who_beats_whom"].axes
    matrix = np.asarray(ax.get_images()[0].get_array().filled(np.nan))
    assert matrix[0, 1:].tolist() == [0.75, 0.375]
    assert matrix[1, [0, 2]].tolist() == [0.25, 0.125]
    assert matrix[2, :2].tolist() == [0.625, 0.875]


def test_who_beats_whom_and_curves_have_each_data_set_at_its_first_position(figures: dict[str, Figure]) -> None:
    for name in ("curves", "who_beats_whom"):
        assert list(panels(figures[name])) == ["one · after", "two · after"]


def test_shift_has_measured_over_predicted_in_each_arrangements_colour(tmp_path: Path) -> None:
    points = {"bn_dropout": [(1.0, 0.98), (0.7, 0.6)], "dropout_bn": [(0.5, 0.55), (0.4, 0.3)]}
    for arrangement, layers in points.items():
        entry = {"seed": 0, "epoch": "end", "case": "noise→bn", "running": 9.0}
        shift = [entry | {"layer": n, "predicted": p, "measured": m} for n, (p, m) in enumerate(layers, start=1)]
        write(tmp_path, arrangement, runs(0.9 + normal(0)), shift=shift)
    figure = drawn(tmp_path)["shift"]
    (ax,) = figure.axes
    found = {str(c.get_label()): c for c in ax.collections}
    assert {name: [tuple(p) for p in c.get_offsets()] for name, c in found.items()} == points
    assert len({to_hex(c.get_facecolor()[0]) for c in found.values()}) == 2
    ((x, y),) = lines_of(ax)
    assert x == y
    assert ("predicted" in ax.get_xlabel(), "measured" in ax.get_ylabel()) == (True, True)
    assert len(shifts(study_of(tmp_path))) == 4


def test_grid_has_each_arrangements_mean_along_the_grid_at_its_own_best_rate(tmp_path: Path) -> None:
    over, rungs = "data.train_size", (50, 400, 200)
    study: dict[str, Any] = {"kind": "ladder", "over": over, "secondary": [], "rope": ROPE}
    rng = np.random.default_rng(2)
    expected: dict[str, dict[int, pd.Series]] = {}
    for arrangement in ("none", "bn_dropout", "dropout_bn"):
        rates = (0.1, 0.5) if "dropout" in arrangement else (0.0,)
        for rung in rungs:
            tables = []
            for rate in rates:
                tables.append(runs(rng.normal(0.8, 0.05, 7), 7, val_acc=rng.normal(0.8, 0.05, 7)))
                write(tmp_path, arrangement, tables[-1], rate, setting={over: rung}, study=study)
            best = pd.concat(tables).sort_values("val_acc", ascending=False).groupby("seed").first()["test_acc"]
            expected.setdefault(arrangement, {})[rung] = best
    figures = drawn(tmp_path)
    assert list(figures) == ["effects", "grid", "curves", "who_beats_whom"]
    (ax,) = figures["grid"].axes
    bars = bars_of(ax)
    assert set(bars) == set(expected)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["50", "200", "400"]
    assert ax.get_xlabel() == over
    for arrangement, (x, mean, width) in bars.items():
        assert x == pytest.approx([0, 1, 2], abs=0.15)
        for i, rung in enumerate((50, 200, 400)):
            values = 100 * expected[arrangement][rung]
            assert (mean[i], width[i]) == pytest.approx((values.mean(), half(values)))
    (effects,) = figures["effects"].axes
    labels = [label.get_text() for label in effects.get_yticklabels()]
    rungs = [f"d · after · {over.rpartition('.')[2]}={rung}" for rung in (50, 200, 400)]  # without the key's group
    assert labels == [*rungs, f"d · after · trend over {over}"]


def test_ratios_are_drawn_as_they_are_around_1_on_logarithmic_axes(tmp_path: Path) -> None:
    study = {"metric": "steps_to_level", "kind": "ratio", "secondary": [], "rope": ROPE}
    rng = np.random.default_rng(3)
    steps = rng.integers(50, 90, (3, 2, 9)).astype(float)
    for rate, (a, b) in zip(RATES, steps, strict=True):
        pair(tmp_path, runs(0.9, 9, steps_to_level=a), runs(0.9, 9, steps_to_level=b), rate=rate, study=study)
    figures = drawn(tmp_path)
    row = rows_of(tmp_path, family="declared").iloc[0]
    (ax,) = figures["effects"].axes
    null, bar, point = lines_of(ax)
    assert null[0] == [1, 1]
    assert bar[0] == pytest.approx([row["ci_low"], row["ci_high"]])
    assert point[0] == pytest.approx([row["estimate"]])
    assert bands_of(ax)[0][:2] == pytest.approx((1 / 1.2, 1.2))
    assert ax.get_xscale() == "log"
    (ax,) = figures["difference"].axes
    assert ax.get_yscale() == "log"
    (ax,) = figures["pairs"].axes
    # Every rate ties on validation: the lowest is chosen.
    assert points_of(ax).tolist() == np.column_stack([steps[0, 1], steps[0, 0]]).tolist()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert "by_rate" not in figures


def test_a_pair_with_a_diverged_run_has_no_point(tmp_path: Path) -> None:
    a, b = 0.8 + np.arange(8) / 100, 0.7 + np.arange(8) / 50
    a[1] = b[5] = np.nan
    pair(tmp_path, runs(a, 8), runs(b, 8))
    (ax,) = drawn(tmp_path)["pairs"].axes
    kept = [0, 2, 3, 4, 6, 7]
    assert points_of(ax) == pytest.approx(np.column_stack([100 * b, 100 * a])[kept])


def test_further_settings_stand_in_effects_alone(tmp_path: Path) -> None:
    for setting in ({}, {"noise": "uniform"}):
        for k, rate in enumerate(RATES):
            wheres: dict[str, Any] = {"rate": rate, "setting": setting}
            pair(tmp_path, runs(0.9 - k / 10 + normal(0)), runs(0.8 - k / 10), **wheres)
            write(tmp_path, "none", runs(0.6), 0.0, setting=setting)
    figures = drawn(tmp_path)
    assert len(figures["effects"].axes[0].get_yticks()) == 2
    for name in ("difference", "pairs", "by_rate", "curves", "who_beats_whom"):
        assert len(figures[name].axes) == 1, name
        assert "noise" not in "".join(panels(figures[name]))


@pytest.mark.parametrize("metric", ["test_nll", "gap"])
def test_figures_show_the_primary_metric_in_its_unit(tmp_path: Path, metric: str) -> None:
    scale = 1 if metric == "test_nll" else 100
    values = (0.3 + normal(0.05)).round(5)  # a loss has five digits here
    for rate in RATES:
        a, b = runs(0.9, **{metric: values}), runs(0.9, **{metric: 0.3})
        pair(tmp_path, a, b, rate=rate, study={"metric": metric, "secondary": [], "rope": {metric: 0.02}})
        write(tmp_path, "dropout", b, rate, study={"metric": metric, "secondary": [], "rope": {metric: 0.02}})
    figures = drawn(tmp_path)
    row = rows_of(tmp_path, family="declared").iloc[0]
    (effects,) = figures["effects"].axes
    assert lines_of(effects)[1][0] == pytest.approx([scale * row["ci_low"], scale * row["ci_high"]])
    assert bands_of(effects)[0][:2] == pytest.approx((-0.02 * scale, 0.02 * scale))
    (by_rate,) = figures["by_rate"].axes
    assert bars_of(by_rate)["bn_dropout"][1] == pytest.approx([scale * values.mean()] * 3)
    (pairs,) = figures["pairs"].axes
    assert points_of(pairs)[:, 1] == pytest.approx(scale * values)
    unit = "(nats)" if scale == 1 else "(pp)"
    assert all(unit in figures[name].axes[0].get_ylabel() for name in ("difference", "by_rate"))
    assert unit in effects.get_xlabel()


def test_the_panels_of_a_contrast_do_not_mix_settings_of_the_grid(tmp_path: Path) -> None:
    for depth in (1, 3):
        wheres: dict[str, Any] = {"setting": {"model.depth": depth}}
        for rate in RATES:
            pair(tmp_path, runs(0.5 + depth / 10 + normal(0)), runs(0.4 + depth / 50), rate=rate, **wheres)
        write(tmp_path, "bn", runs(0.3 + depth / 10), 0.0, **wheres)
    figures = drawn(tmp_path)
    for depth in (1, 3):
        title = f"model.depth={depth}"
        (ax,) = (ax for key, ax in panels(figures["by_rate"]).items() if title in key)
        assert bars_of(ax)["bn_dropout"][1] == pytest.approx([50 + 10 * depth] * 3)
        (ax,) = (ax for key, ax in panels(figures["difference"]).items() if title in key)
        (estimate,) = {round(float(y[0]), 6) for x, y in lines_of(ax)[2:-1:2]}
        assert estimate == pytest.approx(10 + 8 * depth)
        (ax,) = (ax for key, ax in panels(figures["pairs"]).items() if title in key)
        assert points_of(ax)[:, 0] == pytest.approx([40 + 2 * depth] * 10)
    assert len(contrasts(study_of(tmp_path))) == 2 * 4
