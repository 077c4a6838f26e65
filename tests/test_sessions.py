"""What TensorBoard is given: every seed's own final metrics, curves with their bands, read from the event files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util.tensor_util import make_ndarray

from fake_study import fake_replicates, write_condition
from normdrop import tensorboard

SEEDS = [2, 3, 7, 11, 20, 21, 30]
DIVERGED = 11
# Tag and column of every final metric.
FINALS = {
    "test/acc": "test_acc",
    "test/loss": "test_nll",
    "test/ece": "test_ece",
    "test/acc_gap": "gap",
    "test/loss_gap": "nll_gap",
    "train/steps_to_level": "steps_to_level",
    "test/acc_recalibrated": "recal_test_acc",
    "test/loss_recalibrated": "recal_test_nll",
    "train/acc": "train_acc",
    "train/acc_train_mode": "train_mode_acc",
    "train/nll": "train_nll",
    "val/acc": "val_acc",
    "val/loss": "val_nll",
    "test/reliance": "reliance",
    "train/diverged": "diverged",
}
CURVES = {"train/loss": "train_loss", "val/loss": "val_nll", "val/acc": "val_acc"}
EPOCHS = 4


def events(run: Path) -> list[Event]:
    (file,) = run.glob("events.out.tfevents.*")
    return [Event.FromString(record) for record in RawEventFileLoader(str(file)).Load()]


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """tag → step → value"""
    found: dict[str, dict[int, float]] = {}
    for event in events(run):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert event.step not in found.get(value.tag, {}), f"{value.tag} has two points at {event.step}"
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def histograms(run: Path) -> dict[str, dict[int, np.ndarray]]:
    found: dict[str, dict[int, np.ndarray]] = {}
    for event in events(run):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "histograms":
                found.setdefault(value.tag, {})[event.step] = make_ndarray(value.tensor)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """A condition of seven seeds, one of which diverged, with its curves by seed and its shift at three times."""
    rng = np.random.default_rng(0)
    replicates = fake_replicates(rng, 0.8, rng.normal(0, 0.05, len(SEEDS)), 0.02, 100, 115)
    replicates = replicates.assign(seed=SEEDS, reliance=rng.uniform(0.1, 0.3, len(SEEDS)))
    replicates["diverged"] = replicates["seed"] == DIVERGED
    shift = [
        {"layer": layer, "seed": seed, "measured": rng.uniform(0.3, 0.9), "epoch": epoch}
        for epoch in (1, 2, "end")
        for layer in (1, 2)
        for seed in SEEDS
    ]
    root = tmp_path_factory.mktemp("outputs")
    folder = write_condition(
        root,
        replicates,
        dataset="digits",
        arrangement="dropout_bn",
        position="after",
        rate=0.5,
        shift=shift,
        config={"name": "ordering"},
        epochs=EPOCHS,
    )
    record = {"finished": 1.7e9, **json.loads((folder / "record.json").read_text())}
    table, history = (pd.read_csv(folder / f"{name}.csv") for name in ("replicates", "history"))
    history["train_loss"] += rng.normal(0, 0.1, len(history))
    history["val_nll"] += rng.normal(0, 0.1, len(history))
    tensorboard.write_condition(folder, record, table, history, "per_seed")
    return folder, record, table, history


def test_every_seeds_session_has_its_own_final_metrics(written: Any) -> None:
    folder, record, table, _ = written
    shift = pd.DataFrame(record["shift"]).query("epoch == 'end'").groupby("seed")["measured"].mean()
    runs = sorted(path.name for path in (folder / "seeds").iterdir())
    assert runs == [f"{seed:02d}" for seed in SEEDS]
    for row in table.to_dict("records"):
        points = scalars(folder / "seeds" / f"{row['seed']:02d}")
        finals = {tag: steps[10 * EPOCHS] for tag, steps in points.items() if 10 * EPOCHS in steps}
        expected = {tag: float(row[column]) for tag, column in FINALS.items() if pd.notna(row[column])}
        expected["variance_shift/mean"] = shift[row["seed"]]
        if row["seed"] == DIVERGED:
            expected = {"train/diverged": 1.0}
        assert set(finals) - {"train/loss", "val/loss_gap"} == set(expected)
        assert {tag: finals[tag] for tag in expected} == pytest.approx(expected, rel=1e-6)


def test_every_seeds_curves_are_its_own(written: Any) -> None:
    folder, _, table, history = written
    for seed in SEEDS:
        points = scalars(folder / "seeds" / f"{seed:02d}")
        own = history[history["seed"] == seed].set_index("step")
        for tag, column in CURVES.items():
            expected = own[column].to_dict()
            if column in table:  # the final metric takes the place of the last point; of a diverged run there is none
                expected[10 * EPOCHS] = table.set_index("seed").loc[seed, column]
                if seed == DIVERGED:
                    del expected[10 * EPOCHS]
            assert points[tag] == pytest.approx(expected, rel=1e-6)
        assert points["val/loss_gap"] == pytest.approx((own["val_nll"] - own["train_loss"]).to_dict(), rel=1e-5)


def test_a_conditions_finals_are_the_means_of_what_did_not_diverge(written: Any) -> None:
    folder, record, table, _ = written
    points = scalars(folder)
    sound = table[~table["diverged"]]
    for tag, column in FINALS.items():
        rows = table if column == "diverged" else sound
        assert points[tag][10 * EPOCHS] == pytest.approx(rows[column].astype(float).mean(), rel=1e-6)
    shift = pd.DataFrame(record["shift"]).query("epoch == 'end' and seed != @DIVERGED")
    assert points["variance_shift/mean"] == pytest.approx({10 * EPOCHS: shift["measured"].mean()})
    assert points["variance_shift/by_layer"] == pytest.approx(shift.groupby("layer")["measured"].mean().to_dict())


def test_a_conditions_curves_are_means_with_a_band_from_the_10th_to_the_90th_percentile(written: Any) -> None:
    folder, _, _, history = written
    points = scalars(folder)
    sound = history[history["seed"] != DIVERGED].assign(gap=lambda h: h["val_nll"] - h["train_loss"])
    for tag, column in (CURVES | {"val/loss_gap": "gap"}).items():
        by_step = sound.groupby("step")[column]
        mean = {step: value for step, value in points[tag].items() if step < 10 * EPOCHS}
        assert mean == pytest.approx(by_step.mean().head(EPOCHS - 1).to_dict(), rel=1e-6)
        for side, q in (("lower", 0.1), ("upper", 0.9)):
            assert points[f"whiskers/{tag}/{side}"] == pytest.approx(by_step.quantile(q).to_dict(), rel=1e-5)


def test_shift_during_training_is_a_curve_of_each_layer_at_the_steps_of_its_epochs(written: Any) -> None:
    folder, record, _, _ = written
    points = scalars(folder)
    shift = pd.DataFrame(record["shift"]).query("seed != @DIVERGED")
    steps = shift["epoch"].replace("end", EPOCHS).astype(int) * 10
    for layer in (1, 2):
        here = shift["layer"] == layer
        by_step = shift[here].groupby(steps[here])["measured"]
        tag = f"variance_shift/layer{layer}"
        assert points[tag] == pytest.approx(by_step.mean().to_dict(), rel=1e-6)
        for side, q in (("lower", 0.1), ("upper", 0.9)):
            assert points[f"whiskers/{tag}/{side}"] == pytest.approx(by_step.quantile(q).to_dict(), rel=1e-5)


def test_histograms_over_seeds_hold_every_seed_that_did_not_diverge_once(written: Any) -> None:
    folder, _, table, history = written
    found = histograms(folder)
    sound = table[~table["diverged"]]["test_acc"]
    assert list(found["test/acc_over_seeds"]) == [10 * EPOCHS]
    val = history[history["seed"] != DIVERGED].groupby("step")["val_acc"]
    assert list(found["val/acc_over_seeds"]) == [10, 20, 30, 40]
    for step, buckets in {0: found["test/acc_over_seeds"][10 * EPOCHS], **found["val/acc_over_seeds"]}.items():
        values = val.get_group(step) if step else sound
        assert buckets[:, 2].sum() == 6
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((values.min(), values.max()))
        assert buckets[:, 2].tolist() == np.histogram(values, bins=[*buckets[:, 0], buckets[-1, 1]])[0].tolist()


def test_every_session_is_of_its_conditions_values_and_group(written: Any) -> None:
    folder, record, *_ = written
    for seed in SEEDS:
        (start,) = (
            hparams.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
            for event in events(folder / "seeds" / f"{seed:02d}")
            for value in event.summary.value
            if value.tag == hparams.SESSION_START_INFO_TAG
        )
        assert start.group_name == f"{record['condition']}@{folder.resolve().parents[3]}"
        values = {
            name: value.string_value if value.HasField("string_value") else value.number_value
            for name, value in start.hparams.items()
        }
        assert values == {
            **{"dataset": "digits", "arrangement": "dropout_bn", "position": "after", "rate": 0.5},
            **{"depth": 3, "width": 128, "rerun": 0},
        }


def test_each_margin_chart_shows_the_curve_of_its_title_between_its_own_band(written: Any) -> None:
    folder, *_ = written
    (layout,) = (
        layout_pb2.Layout.FromString(value.tensor.string_val[0])
        for event in events(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "custom_scalars"
    )
    charts = {
        (category.title, chart.title): series
        for category in layout.category
        for chart in category.chart
        for series in chart.margin.series
    }
    tags = {title: series.value for title, series in charts.items()}
    assert tags == {
        ("Loss", "validation loss"): "val/loss",
        ("Loss", "training loss"): "train/loss",
        ("Accuracy", "validation accuracy"): "val/acc",
        ("Generalisation gap", "validation loss minus training loss"): "val/loss_gap",
        ("Variance shift", "at the end of training (x axis: layer)"): "variance_shift/by_layer",
        ("Variance shift", "layer 1, during training"): "variance_shift/layer1",
        ("Variance shift", "layer 2, during training"): "variance_shift/layer2",
    }
    for series in charts.values():
        assert (series.lower, series.upper) == (f"whiskers/{series.value}/lower", f"whiskers/{series.value}/upper")


def test_points_stand_between_the_start_and_the_end_of_training_in_time(written: Any) -> None:
    folder, record, *_ = written
    times = {event.step: event.wall_time for event in events(folder) if event.step % 10 == 0 and event.step}
    start, took = record["finished"] - record["wall_seconds"], record["wall_seconds"]
    since = {step: time - start for step, time in times.items()}
    assert since == pytest.approx({step: took * step / 40 for step in (10, 20, 30, 40)}, abs=1e-3)


def test_the_reports_distributions_have_each_rates_own_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"dataset": "d", "arrangement": a, "position": "after", "setting": "", "rate": rate, "test_acc": acc}
        for a in ("bn_dropout", "dropout_bn")
        for rate in (0.1, 0.29)
        for acc in rng.normal(0.5 + rate / 10, 0.01, 9)
    ]
    rows.append({**rows[0], "arrangement": "none", "rate": 0.0})
    rows.append({**rows[0], "test_acc": np.nan})
    table = pd.DataFrame(rows)
    tensorboard.write_report(tmp_path, {}, {"verdicts": "words"}, table)
    found = histograms(tmp_path)
    assert set(found) == {f"test_acc_by_rate/d/{a}/after" for a in ("bn_dropout", "dropout_bn")}
    for tag, steps in found.items():
        assert list(steps) == [10, 29]
        for percent, buckets in steps.items():
            here = (table["arrangement"] == tag.split("/")[2]) & (table["rate"] == percent / 100)
            values = table[here]["test_acc"].dropna()
            assert buckets[:, 2].sum() == len(values) == 9
            assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((values.min(), values.max()))
