"""What a figure draws is what its table holds: read off the axes, artist by artist."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.markers import CARETLEFT, CARETRIGHT

from exact import normal, runs, study_of, write
from made import ORDERING, made
from normdrop.report import figures, page

SCALE = figures.Scale("difference in test accuracy (pp)", 100, rope=0.004, sides="← B better · A better →")


def title(ax: Axes) -> str:
    return ax.get_title(loc="left") or ax.get_title()


def bars(ax: Axes, upright: bool = True) -> list[tuple[float, float, float, float, str]]:
    """(place, value, low, high, colour) of every interval that is drawn."""
    found = []
    for container in ax.containers:
        line, _, (ends,) = container.lines
        along, across = (line.get_xdata(), line.get_ydata()) if upright else (line.get_ydata(), line.get_xdata())
        for place, value, segment in zip(along, across, ends.get_segments(), strict=True):
            low, high = segment[:, 1 if upright else 0]
            found.append((float(place), float(value), float(low), float(high), to_hex(line.get_color())))
    return found


def rows(**values: Any) -> pd.DataFrame:
    """Every combination, with an estimate and unequal arms of its own."""
    table = pd.MultiIndex.from_product(values.values(), names=values.keys()).to_frame(index=False)
    table["estimate"] = np.arange(len(table)) / 100
    table["rate"] = table.get("rate", np.nan)
    return table.assign(low=table["estimate"] - 0.002, high=table["estimate"] + 0.003, metric="test_acc", part="")


def test_the_answer_has_a_panel_for_each_position_and_the_tuned_rate_first():
    table = rows(position=["after", "before"], rate=[0.5, np.nan, 0.1])
    figure = figures.along(table, ["position"], "rate", "position", SCALE)
    assert "B better · A better" in figure.get_supylabel()
    colours = set()
    for ax, position in zip(figure.axes, ("after", "before"), strict=True):
        own = table[table["position"] == position].set_index("rate")
        assert title(ax) == f"{position} the activation"
        assert [label.get_text() for label in ax.get_xticklabels()] == ["tuned", "0.1", "0.5"]
        (band,) = [patch.get_bbox() for patch in ax.patches]
        assert (band.y0, band.y1) == pytest.approx((-0.4, 0.4))
        drawn = {round(place): (value, low, high) for place, value, low, high, _ in bars(ax)}
        for place, rate in enumerate([np.nan, 0.1, 0.5]):
            row = own[own.index.isna()].iloc[0] if np.isnan(rate) else own.loc[rate]
            assert drawn[place] == pytest.approx(tuple(100 * row[["estimate", "low", "high"]].astype(float)))
        colours |= {bar[-1] for bar in bars(ax)}
    assert len(colours) == 2, "a position has its colour"


def test_a_ladder_has_a_line_for_each_rate_and_a_ring_where_validation_prefers_it():
    table = rows(position=["after", "before"], dataset=["one", "two"], size=[250, 4000], rate=[0.1, 0.5])
    table["ring"] = table["rate"].eq(0.5) & table["size"].eq(250) & table["dataset"].eq("two")
    figure = figures.along(table, ["position", "dataset"], "size", "rate", SCALE, joined=True)
    by_title = {title(ax): ax for ax in figure.axes}
    assert set(by_title) == {f"{position} · {name}" for position in ("after", "before") for name in ("one", "two")}
    for (position, name), own in table.groupby(["position", "dataset"]):
        ax = by_title[f"{position} · {name}"]
        if position == "before":  # the lower panels name the sizes for all
            assert [label.get_text() for label in ax.get_xticklabels()] == ["250", "4,000"]
        for container, rate in zip(ax.containers, (0.1, 0.5), strict=True):
            line = own[own["rate"] == rate].sort_values("size")
            assert container.lines[0].get_ydata() == pytest.approx(100 * line["estimate"])
            assert container.lines[0].get_linestyle() == "-"
        rings = [line for line in ax.get_lines() if line.get_markersize() == 10 and len(line.get_ydata())]
        assert [list(ring.get_ydata()) for ring in rings for _ in ring.get_ydata()] == [
            [pytest.approx(100 * value)] for value in own.loc[own["ring"], "estimate"]
        ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["rate 0.1", "rate 0.5"]


def test_a_forest_has_each_rows_interval_in_its_place_and_the_mean_below_with_both_intervals():
    table = rows(dataset=["one", "two", "three"], position=["after", "before"])
    means = rows(position=["after", "before"]).assign(estimate=[0.01, 0.02], pi_low=-0.03, pi_high=0.06)
    figure = figures.forest(table, [], {"test_acc": SCALE}, means)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["three", "two", "one", "mean"], "the largest first"
    for ax, position in zip(figure.axes, ("after", "before"), strict=True):
        own = table[table["position"] == position].set_index("dataset")
        for place, value, low, high, _ in bars(ax, upright=False):
            row = own.loc[labels[round(place)]]
            assert (value, low, high) == pytest.approx(tuple(100 * row[["estimate", "low", "high"]].astype(float)))
        mean = means.set_index("position").loc[position]
        widths = {line.get_linewidth(): list(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2}
        assert widths[4] == pytest.approx([100 * mean["low"], 100 * mean["high"]])
        assert widths[1] == pytest.approx([-3, 6])


def test_no_point_is_outside_of_a_forest_and_what_goes_on_beyond_its_edge_has_an_arrow():
    table = rows(dataset=[str(number) for number in range(12)], position=["after", "before"]).assign(estimate=0.01)
    table = table.assign(low=0.008, high=0.012)
    table.loc[0, ["estimate", "low", "high"]] = [-0.09, -0.5, 0.3]
    means = rows(position=["after"]).assign(pi_low=-0.1, pi_high=0.12)
    figure = figures.forest(table, [], {"test_acc": SCALE}, means)
    arrows = {"after": {CARETLEFT: 1, CARETRIGHT: 1}, "before": {CARETLEFT: 0, CARETRIGHT: 0}}
    for ax in figure.axes:
        left, right = ax.get_xlim()
        assert all(left < value < right for _, value, *_ in bars(ax, upright=False))
        assert left < -10 and right > 12, "of the mean nothing is cut"
        drawn = {line.get_marker(): len(line.get_xdata()) for line in ax.get_lines()}
        assert arrows[title(ax).split()[0]].items() <= drawn.items()
    assert "arrow" in str(figure.get_label())
    whole = figures.forest(table.iloc[1:], [], {"test_acc": SCALE}, means.iloc[:0])
    assert not whole.get_label() and {CARETLEFT, CARETRIGHT}.isdisjoint(
        line.get_marker() for ax in whole.axes for line in ax.get_lines()
    )


def test_what_is_not_drawn_is_told_in_the_caption(monkeypatch, tmp_path):
    table = rows(dataset=["one"], position=["after"], width=range(70), rate=[0.1])
    figure = figures.along(table, ["dataset", "width"], "rate", "position", SCALE)
    assert [title(ax) for ax in figure.axes] == [f"one · width {width}" for width in range(12)]
    assert figure.get_label() == "The first 12 of 70 panels are drawn."
    figure = figures.forest(table, ["width"], {"test_acc": SCALE}, table.iloc[:0])
    assert figure.get_label() == "The first 60 of 70 lines are drawn."
    monkeypatch.setattr(figures, "MAX_PANELS", 2)
    section = page.section(made("study", datasets=3, **ORDERING))
    page._draw(section, tmp_path)
    assert "practical consequence. The first 2 of 3 panels are drawn.*" in page.texts(section)["answer"]


def test_two_metrics_never_share_an_axis():
    one = rows(dataset=["one", "two"], position=["after"])
    table = pd.concat([one.assign(metric=name) for name in ("gap", "nll_gap")])
    scales = {"gap": SCALE, "nll_gap": figures.Scale("difference in NLL gap (nats)", 1, sides=SCALE.sides)}
    figure = figures.forest(table, [], scales, table.iloc[:0])
    assert [ax.get_xlabel() for ax in figure.axes] == [scales[name].label for name in ("gap", "nll_gap")]
    for ax, factor in zip(figure.axes, (100, 1), strict=True):
        assert sorted(bar[1] for bar in bars(ax, upright=False)) == pytest.approx([0, 0.01 * factor])


def test_a_map_is_blue_where_a_is_ahead_and_faint_where_the_interval_has_0():
    table = rows(dataset=["one"], contrast=["bn - none"], position=["after", "before"], lr=[0.1, 0.2], rate=[0.3])
    table["estimate"] = [0.05, -0.05, 0.01, 0.02]
    table = table.assign(ci_low=table["estimate"] - 0.015, ci_high=table["estimate"] + 0.015)
    figure = figures.regime(table, ["lr"], SCALE)
    after, before = figure.axes[:2]
    (image,) = after.get_images()
    red, _, blue, _ = np.moveaxis(image.to_rgba(image.get_array())[:, 0], -1, 0)
    assert blue[0] > red[0] and red[1] > blue[1]
    assert image.get_alpha()[:, 0].tolist() == [1, 1]
    assert before.get_images()[0].get_alpha()[:, 0].tolist() == [0.25, 1]
    assert [text.get_text() for text in before.texts] == ["+1.0", "+2.0"]


def test_all_maps_share_their_settings_and_rates_and_what_was_not_compared_is_blank():
    table = rows(contrast=["bn - none", "ln - none"], dataset=["one", "two"], lr=[0.1, 0.2], rate=[0.1, 0.5, 0.7])
    table = table.assign(position="after", estimate=table.index / 100, ci_low=-1.0, ci_high=1.0)
    few_rates = table["contrast"].eq("ln - none") & table["rate"].ne(0.5)
    lacking = few_rates | table["dataset"].eq("two") & table["lr"].eq(0.1)
    figure = figures.regime(table[~lacking], ["lr"], figures.Scale("difference in test NLL (nats)", 1))
    lower_left = figure.axes[2]  # names the settings and the rates for all
    assert [label.get_text() for label in lower_left.get_yticklabels()] == ["0.1", "0.2"]
    assert [label.get_text() for label in lower_left.get_xticklabels()] == ["0.1", "0.5", "0.7"]
    for name, contrast, ax in zip(["one", "one", "two", "two"], ["bn", "ln", "bn", "ln"], figure.axes, strict=False):
        assert title(ax) == f"{name}, after: {contrast.upper()}"
        own = table[~lacking & table["contrast"].str.startswith(contrast) & table["dataset"].eq(name)]
        places = zip(own["rate"].map([0.1, 0.5, 0.7].index), own["lr"].map([0.1, 0.2].index), strict=True)
        drawn = {text.get_position(): text.get_text() for text in ax.texts}
        assert drawn == dict(zip(places, own["estimate"].map("{:+.2f}".format), strict=True))
    lost = table.assign(estimate=np.nan, ci_low=np.nan, ci_high=np.nan)
    assert not any(ax.texts for ax in figures.regime(lost, ["lr"], SCALE).axes), "all diverged"


def test_a_side_is_named_where_more_of_the_metric_speaks_for_it():
    study = made("study", datasets=1, **ORDERING)
    assert page.scale(study, "test_acc").sides == "← dropout first better · BN first better →"
    assert page.scale(study, "test_nll").sides == "← BN first better · dropout first better →"
    assert (page.scale(study, "test_acc").factor, page.scale(study, "test_nll").factor) == (100, 1)


@pytest.mark.parametrize(("metric", "blue"), [("test_acc", "BN first"), ("test_nll", "dropout first")])
def test_the_caption_of_a_map_names_the_side_that_its_colours_speak_for(metric, blue):
    section = page.section(made("study", datasets=1, metrics=(metric,)))
    section.figures["regime"] = "map.png"
    assert f"Blue: {blue} is better" in page.texts(section)["answer"]


def test_a_study_of_sizes_draws_its_rungs():
    declared = {"claim": "size", "kind": "ladder", "over": "data.train_size", "family": "same_rate"}
    study = made("size", datasets=1, arrangements=("bn_dropout", "dropout_bn"), sizes=(250, 1000, 4000), **declared)
    section = page.section(study)
    ((name, figure),) = page.draw(section)
    assert name == "ladder" and "change" not in figure.get_supylabel(), "a rung's difference, not the trend"
    for ax in figure.axes:
        assert [label.get_text() for label in ax.get_xticklabels()] == ["250", "1,000", "4,000"]
        rings = [line for line in ax.get_lines() if line.get_markersize() == 10]
        (ring, _) = sorted(rings, key=lambda r: -len(r.get_ydata()))
        assert list(ring.get_ydata()) == list(ax.containers[0].lines[0].get_ydata()), "validation prefers rate 0.1"


def test_the_shift_is_drawn_as_it_was_measured_from_the_line_at_1(tmp_path):
    study = {"kind": "mechanism", "claim": "mechanism", "rope": {}, "secondary": []}
    for arrangement, measured in (("bn_dropout", 1.3), ("dropout_bn", 0.6)):
        entry = {"layer": 1, "seed": 0, "measured": measured, "case": "noise", "epoch": "end", "running": None}
        write(tmp_path, arrangement, runs(0.8 + normal(0), recal_test_acc=0.8), shift=[entry], study=study)
    (ax,) = dict(page.draw(page.section(study_of(tmp_path))))["shift"].axes
    assert sorted(bar[1] for bar in bars(ax)) == pytest.approx([0.6, 1.3])
    assert [list(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 2] == [[1.0, 1.0]]
