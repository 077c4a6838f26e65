"""What a person sees in TensorBoard: written from a condition's finished tables, never while it trains.

A condition is one run, named by its folder: its curves are means over the seeds that did not diverge, with a band from
the 10 % to the 90 % quantile (`whiskers/...`). Its seeds are runs below it (`seeds/07`), each an HPARAMS session, all
in one session group, so that TensorBoard's own average over a group is the mean over seeds. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

LOGGING = ("minimal", "full", "per_seed")

# The metrics of a session by tag, with their columns in replicates.csv, in the order of HPARAMS' columns (it shows the
# first five until asked for more). Losses are mean NLL in nats, in evaluation mode.
METRICS = {
    "test/acc": ("test_acc", "test accuracy"),
    "test/loss": ("test_nll", "test NLL"),
    "test/ece": ("test_ece", "test ECE"),
    "test/acc_gap": ("gap", "accuracy gap, train minus test"),
    "train/steps_to_level": ("steps_to_level", "steps to level"),
    "test/acc_recalibrated": ("recal_test_acc", "test accuracy, recalibrated"),
    "test/loss_recalibrated": ("recal_test_nll", "test NLL, recalibrated"),
    "test/loss_gap": ("nll_gap", "NLL gap, test minus train"),
    "train/acc": ("train_acc", "training accuracy"),
    "train/acc_train_mode": ("train_mode_acc", "training accuracy, training mode"),
    "train/nll": ("train_nll", "training NLL"),
    "val/acc": ("val_acc", "validation accuracy"),
    "val/loss": ("val_nll", "validation NLL"),
    "test/reliance": ("reliance", "accuracy lost to silenced units"),
    "variance_shift/mean": ("shift", "variance shift, mean over layers"),
    "train/diverged": ("diverged", "diverged"),
}
# The curves by column of history.csv. train/loss is the loss that was minimised, in training mode.
_CURVES = {"train_loss": "train/loss", "val_nll": "val/loss", "val_acc": "val/acc", "loss_gap": "val/loss_gap"}
_BAND = {"lower": 0.1, "upper": 0.9}
_MARGINS = {
    "Loss": {"validation loss": "val/loss", "training loss": "train/loss"},
    "Accuracy": {"validation accuracy": "val/acc"},
    "Generalisation gap": {"validation loss minus training loss": "val/loss_gap"},
    "Variance shift": {"variance shift by layer (x axis: layer)": "variance_shift/by_layer"},
}

_COLUMNS: dict[str, tuple[str, ...]] = {  # hyperparameters of every condition, with the values a string can take
    "dataset": (),
    "arrangement": ("none", "dropout", "bn", "bn_dropout", "dropout_bn"),
    "position": ("before", "after", "around"),
    "rate": (),
    "depth": (),
    "width": (),
    "rerun": (),
}
_GRID = {"dataset": "data", "depth": "model.depth", "width": "model.width"}  # a column's key in the declared grid


def write_condition(
    directory: Path,
    record: Mapping[str, Any],
    replicates: pd.DataFrame,
    history: pd.DataFrame,
    logging: str = "full",
    activations: Mapping[str, Mapping[int, np.ndarray]] | None = None,
) -> None:
    """Write the event files of one finished condition, in place of any that stand there.

    Args:
        directory: the condition's folder; its path below `--logdir` is the run's name.
        record: record.json's content; `shift` may be empty.
        replicates: replicates.csv, one row per seed.
        history: history.csv, one row per seed and validation.
        logging: `minimal` (the curves, and the condition as one session), `full` (a session for each seed) or
            `per_seed` (the curves of each seed too).
        activations: optional, histograms to draw: tag → optimizer steps so far → values of any shape.

    Raises:
        ValueError: `logging` is none of the three.
    """
    if logging not in LOGGING:
        raise ValueError(f"logging={logging!r}: it must be one of {', '.join(LOGGING)}")
    _clear(directory)
    shutil.rmtree(directory / "seeds", ignore_errors=True)

    history = history.assign(loss_gap=history["val_nll"] - history["train_loss"])
    history = history[["seed", "step", *_CURVES]].rename(columns=_CURVES).sort_values(["seed", "step"])
    shift = pd.DataFrame(list(record["shift"]), columns=["layer", "seed", "measured", "epoch"])
    shift = shift[shift["epoch"] == "end"].drop(columns="epoch").astype(float)

    finals = replicates.set_index("seed").reindex(columns=[column for column, _ in METRICS.values()])
    finals = finals.set_axis(list(METRICS), axis=1).astype(float)
    finals["variance_shift/mean"] = shift.groupby("seed")["measured"].mean()
    finals.loc[finals["train/diverged"] == 1, finals.columns != "train/diverged"] = np.nan
    sound = finals.index[finals["train/diverged"] == 0]

    last = int(max(history["step"], default=0))
    seconds, end = float(record["wall_seconds"]), time.time()

    def event(step: int, *summaries: Summary) -> Event:
        # Replicates train side by side, so a step has one time for all of them.
        elapsed = seconds * min(step / max(last, 1), 1)
        value = [value for summary in summaries for value in summary.value]
        return Event(wall_time=end - seconds + elapsed, step=step, summary=Summary(value=value))

    def points(curves: Mapping[Any, Mapping[Any, float]], final: Mapping[Any, float] | None = None) -> list[Event]:
        # A final metric takes the place of its curve's last point: HPARAMS shows the last point of a tag.
        rows = {**curves, last: {**curves.get(last, {}), **final}} if final else curves
        return [event(int(step), _scalars(values)) for step, values in rows.items()]

    hparams = _hparams(record, replicates)
    # Two studies below one --logdir may each have a condition of this name: they are not one group.
    trial = f"{record['condition']}@{record['config']['name']}"
    session = event(0, hparams_pb(hparams, trial_id=trial, start_time_secs=end - seconds))

    history_of_sound = history[history["seed"].isin(sound)].set_index("step").drop(columns="seed")
    curves = _with_band(history_of_sound)
    by_layer = shift[shift["seed"].isin(sound)].set_index("layer")[["measured"]]
    by_layer = _with_band(by_layer.set_axis(["variance_shift/by_layer"], axis=1))
    events = [
        event(0, _experiment(record, hparams), _layout(shifts=len(by_layer) > 0)),
        *points(curves.to_dict("index"), finals.mean().to_dict()),
        *points(
            by_layer.to_dict("index")
        ),  # the x axis of this one is the layer, from 1: the shift of a whole network is one line
    ]
    # DISTRIBUTIONS draws nothing for a single step: there the spread over seeds is seen in validation accuracy.
    histograms: dict[str, Mapping[int, Any]] = {
        "test/acc_over_seeds": {last: finals["test/acc"].dropna()},
        "val/acc_over_seeds": {s: history_of_sound.loc[[s], "val/acc"].dropna() for s in curves.index.astype(int)},
        **(activations or {}),
    }
    for tag, steps in histograms.items():
        events += [event(step, _histogram(tag, values)) for step, values in sorted(steps.items())]
    _write(directory, [session, *events] if logging == "minimal" else events)
    if logging == "minimal":
        return
    for seed, final in finals.to_dict("index").items():
        own = history[history["seed"] == seed] if logging == "per_seed" else history.head(0)
        own_curves = own.set_index("step").drop(columns="seed").to_dict("index")
        _write(directory / "seeds" / f"{seed:02d}", [session, *points(own_curves, final)])


def write_report(
    directory: Path,
    figures: Mapping[str, Path],
    tables_markdown: Mapping[str, str],
    replicates: pd.DataFrame | None = None,
) -> None:
    """Write the report's run, in place of event files that stand there.

    Args:
        directory: the report's folder; its path below `--logdir` is the run's name.
        figures: PNG files by tag, for IMAGES.
        tables_markdown: Markdown by tag, for TEXT.
        replicates: the study's replicates, all conditions in one table: for DISTRIBUTIONS, test accuracy over seeds
            against the rate in percent, which stands where the step usually is.
    """
    _clear(directory)
    summaries = [text_pb(tag, markdown) for tag, markdown in tables_markdown.items()]
    for tag, path in figures.items():
        image = Summary.Image(encoded_image_string=path.read_bytes())
        summaries.append(Summary(value=[Summary.Value(tag=tag, image=image)]))
    now = time.time()
    events = [Event(wall_time=now, summary=summary) for summary in summaries]
    if replicates is not None:
        table = replicates.fillna({"setting": ""}).dropna(subset="test_acc")
        names = ["dataset", "arrangement", "position", "setting"]
        swept = table.groupby(names)["rate"].transform("nunique") > 1  # a single rate is not drawn
        for _, rows in table[swept].groupby([*names, "rate"]):
            first = rows.iloc[0]
            tag = "/".join(["test_acc_by_rate", *filter(None, first[names])])
            percent = round(100 * first["rate"])
            events.append(Event(wall_time=now, step=percent, summary=_histogram(tag, rows["test_acc"])))
    _write(directory, events)


def _clear(run: Path) -> None:
    """Remove a run's event files: a condition that was stopped, or gets more seeds, must not show its old points."""
    for path in run.glob("events.out.tfevents.*"):
        path.unlink()


def _write(run: Path, events: Iterable[Event]) -> None:
    """Write one run's one event file.

    A plain file, because the package's EventFileWriter starts a thread for each. The name is new each time: a server
    that is watching would read on in a file of the old name from where it stopped.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / f"events.out.tfevents.{time.time():.6f}.normdrop", "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for event in events:
            writer.write(event.SerializeToString())


def _scalars(values: Mapping[Any, float]) -> Summary:
    """The finite ones of the values as scalars; a missing metric leaves no point, so no mean counts it."""
    return Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items() if np.isfinite(v)])


def _histogram(tag: str, values: Any) -> Summary:
    """A histogram of about twice the square root of the number of values in buckets: ten for thirty seeds."""
    return histogram_pb(tag, values, buckets=int(np.clip(2 * np.sqrt(np.size(values)), 5, 30)))


def _with_band(table: pd.DataFrame) -> pd.DataFrame:
    """For each value of the index (a step, or a layer) the mean of each column and the ends of its band."""
    groups = table.groupby(level=0)
    bands = [
        groups.quantile(q).rename(columns={tag: _band(str(tag), side) for tag in table}) for side, q in _BAND.items()
    ]
    return pd.concat([groups.mean(), *bands], axis=1)


def _band(tag: str, side: str) -> str:
    """The tag of a band's end, in a group that sorts behind all others in SCALARS."""
    return f"whiskers/{tag}/{side}"


def _hparams(record: Mapping[str, Any], replicates: pd.DataFrame) -> dict[str, Any]:
    values = {key: replicates[key].iloc[0] for key in _COLUMNS}
    values |= {key: value for key, value in record["setting"].items() if key not in _GRID.values()}
    return {key: v if isinstance(v, bool | int | float | str | np.generic) else str(v) for key, v in values.items()}


def _experiment(record: Mapping[str, Any], hparams: Mapping[str, Any]) -> Summary:
    """What HPARAMS' columns are. TensorBoard takes the first run's that has one, so every condition carries it.

    Without it the columns are found from the runs, metrics in alphabetical order and every curve among them.
    """
    grid = record["study"].get("grid") or {}
    infos = []
    for key, value in hparams.items():
        swept = grid.get(_GRID.get(key, key), [])
        info = api_pb2.HParamInfo(name=key, differs=len(swept) > 1 or key in record["setting"])
        if isinstance(value, str):
            info.type = api_pb2.DATA_TYPE_STRING
            info.domain_discrete.extend(_COLUMNS.get(key) or sorted({value, *map(str, swept)}))
        elif isinstance(value, bool | np.bool_):
            info.type = api_pb2.DATA_TYPE_BOOL
        else:
            info.type = api_pb2.DATA_TYPE_FLOAT64
        infos.append(info)
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name) for tag, (_, name) in METRICS.items()
    ]
    data = plugin_data_pb2.HParamsPluginData(experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics))
    value = Summary.Value(
        tag=hparams_metadata.EXPERIMENT_TAG,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return Summary(value=[value])


def _layout(shifts: bool) -> Summary:
    """CUSTOM SCALARS' margin charts. TensorBoard merges the layouts of all runs and drops equal charts."""
    layout = layout_pb2.Layout()
    for title, charts in _MARGINS.items():
        if title == "Variance shift" and not shifts:
            continue
        category = layout.category.add(title=title)
        for name, tag in charts.items():
            series = layout_pb2.MarginChartContent.Series(
                value=tag, lower=_band(tag, "lower"), upper=_band(tag, "upper")
            )
            category.chart.add(title=name, margin=layout_pb2.MarginChartContent(series=[series]))
    value = Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG,
        metadata=custom_scalar.create_summary_metadata(),
        tensor=TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto()),
    )
    return Summary(value=[value])
