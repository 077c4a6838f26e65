"""What a person sees in TensorBoard: written from a condition's finished tables, never while it trains.

A condition is one run, named by its folder: its curves are means over the seeds that did not diverge, with a band from
the 10 % to the 90 % quantile (`whiskers/...`). Its seeds are runs below it (`seeds/07`), each an HPARAMS session, all
in one session group, so that TensorBoard's own average over a group is the mean over seeds. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from normdrop.metrics import METRICS

# What a session has: by tag the column in replicates.csv and its words, in the order of HPARAMS' columns.
TAGS = {metric.tag: (metric.column, metric.words) for metric in METRICS.values() if metric.tag} | {
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
}

# The hyperparameters of every condition, with their keys in a sweep's grid; what else a grid varies is added to them.
_COLUMNS = {
    "dataset": "data",
    "arrangement": "arrangement",
    "position": "position",
    "rate": "rate",
    "depth": "model.depth",
    "width": "model.width",
    "rerun": "rerun",
}


def write_condition(
    directory: Path,
    record: Mapping[str, Any],
    replicates: pd.DataFrame,
    history: pd.DataFrame,
    logging: str = "full",
    swept: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the event files of one finished condition, in place of any that stand in its folder.

    record, replicates and history are what its three files hold; the record's `shift` and `activations` may be empty.
    logging: `minimal` (the curves, and the condition as one session), `full` (a session for each seed) or `per_seed`
    (the curves of each seed too). swept: the keys that vary in the whole study, with their values; without it, those of
    the record's own sweep. The folder's path below `--logdir` is the run's name.
    """
    _clear(directory)
    shutil.rmtree(directory / "seeds", ignore_errors=True)

    history = _curves(history)
    last = int(record["steps"])
    shift = _shift(record, last)

    finals = replicates.set_index("seed").reindex(columns=[column for column, _ in TAGS.values()])
    finals = finals.set_axis(list(TAGS), axis=1).astype(float)
    finals["variance_shift/mean"] = shift[shift["at_end"]].groupby("seed")["measured"].mean()
    finals.loc[finals["train/diverged"] == 1, finals.columns != "train/diverged"] = np.nan
    sound = finals.index[finals["train/diverged"] == 0]
    sound_history = history[history["seed"].isin(sound)].drop(columns="seed")
    shift = shift[shift["seed"].isin(sound)]
    seconds, finished = float(record["wall_seconds"]), float(record["finished"])

    def event(step: int, *summaries: Summary) -> Event:
        # Replicates train side by side, so a step has one time for all of them.
        elapsed = seconds * min(step / max(last, 1), 1)
        value = [value for summary in summaries for value in summary.value]
        return Event(wall_time=finished - seconds + elapsed, step=step, summary=Summary(value=value))

    def points(curves: pd.DataFrame, final: Mapping[Any, float] | None = None) -> list[Event]:
        # A final metric takes the place of its curve's last point: HPARAMS shows the last point of a tag.
        rows: dict[Any, Any] = curves.to_dict("index")
        if final:
            rows[last] = {**rows.get(last, {}), **final}
        return [event(int(step), _scalars(values)) for step, values in rows.items()]

    columns, hparams = _hparams(record, replicates, swept or record["study"].get("grid") or {})
    # Two studies below one --logdir may each have a condition of this name: they are not one group.
    trial = f"{record['condition']}@{str(directory.resolve()).removesuffix(record['condition']).rstrip('/')}"
    session = event(0, hparams_pb(hparams, trial_id=trial, start_time_secs=finished - seconds))

    curves = _with_band(sound_history)
    # The x axis of this one is the layer, from 1, so that the shift of a whole network is one line.
    by_layer = shift[shift["at_end"]].set_index("layer")[["measured"]].set_axis(["variance_shift/by_layer"], axis=1)
    shift_charts = {"at the end of training (x axis: layer)": "variance_shift/by_layer"} if len(by_layer) else {}
    if not shift["at_end"].all():
        by_step = shift.pivot_table(index=["step", "seed"], columns="layer", values="measured").droplevel("seed")
        shift_charts |= {f"layer {layer}, during training": f"variance_shift/layer{layer}" for layer in by_step}
        curves = curves.join(_with_band(by_step.add_prefix("variance_shift/layer")), how="outer")
    # DISTRIBUTIONS draws nothing for a single step: there the spread over seeds is seen in validation accuracy.
    histograms: dict[str, Mapping[Any, Any]] = {
        "test/acc_over_seeds": {last: finals["test/acc"].dropna()},
        "val/acc_over_seeds": {step: own.dropna() for step, own in sound_history["val/acc"].groupby(level=0)},
    }
    events = [
        event(0, columns, _layout(shift_charts)),
        *points(curves, finals.mean().to_dict()),
        *points(_with_band(by_layer)),
        *(event(step, _histogram(tag, steps[step])) for tag, steps in histograms.items() for step in sorted(steps)),
        *(event(entry["step"], _activations(entry)) for entry in record.get("activations", [])),
    ]
    if logging == "minimal":
        _write(directory, [session, *events])
        return
    _write(directory, events)
    for seed, final in finals.to_dict("index").items():
        own = history[history["seed"] == seed] if logging == "per_seed" else history.head(0)
        _write(directory / "seeds" / f"{seed:02d}", [session, *points(own.drop(columns="seed"), final)])


def write_live(directory: Path, history: pd.DataFrame) -> None:
    """Write the curves of a condition that trains, as far as they go, until `write_condition` takes their place."""
    curves: dict[Any, Any] = _with_band(_curves(history).drop(columns="seed")).to_dict("index")
    now = time.time()
    points = [Event(wall_time=now, step=int(step), summary=_scalars(values)) for step, values in curves.items()]
    _clear(directory)
    _write(directory, points)


def _curves(history: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and validation by step: the seed, and the curves by tag."""
    history = history.assign(loss_gap=history["val_nll"] - history["train_loss"])
    return history[["seed", "step", *_CURVES]].rename(columns=_CURVES).set_index("step").sort_index()


def write_report(
    directory: Path,
    figures: Mapping[str, Path],
    tables_markdown: Mapping[str, str],
    replicates: pd.DataFrame | None = None,
) -> None:
    """Write the report's run, in place of event files that stand in its folder.

    figures: PNG files by tag, for IMAGES. tables_markdown: Markdown by tag, for TEXT. replicates: the study's, all
    conditions in one table: for DISTRIBUTIONS, test accuracy over seeds against the rate in percent, which stands where
    the step usually is.
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
        cells: Any = table[swept].groupby([*names, "rate"])["test_acc"]
        for (*place, rate), accuracies in cells:
            summary = _histogram("/".join(["test_acc_by_rate", *filter(None, place)]), accuracies)
            events.append(Event(wall_time=now, step=round(100 * rate), summary=summary))
    _write(directory, events)


def _clear(run: Path) -> None:
    """Remove a run's event files: a condition that was stopped, or gets more seeds, must not show its old points."""
    for path in run.glob("events.out.tfevents.*"):
        path.unlink()


def _write(run: Path, events: Sequence[Event]) -> None:
    """Write one run's one event file.

    A plain file, because the package's EventFileWriter starts a thread for each. The name is new each time: a server
    that is watching would read on in a file of the old name from where it stopped.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / f"events.out.tfevents.{time.time():.6f}.normdrop", "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=events[0].wall_time, file_version="brain.Event:2").SerializeToString())
        for event in events:
            writer.write(event.SerializeToString())


def _scalars(values: Mapping[Any, float]) -> Summary:
    """The finite ones of the values as scalars; a missing metric leaves no point, so no mean counts it."""
    return Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items() if np.isfinite(v)])


def _histogram(tag: str, values: Any) -> Summary:
    """A histogram of about twice the square root of the number of values in buckets: ten for thirty seeds."""
    return histogram_pb(tag, values, buckets=int(np.clip(2 * np.sqrt(np.size(values)), 5, 30)))


def _activations(entry: Mapping[str, Any]) -> Summary:
    """An entry of the record's `activations` as it was counted; TensorBoard takes (buckets, 3): left, right, count."""
    tag = f"activations/layer{entry['layer']}/{entry['where']}/{entry['mode']}"
    metadata = histogram_metadata.create_summary_metadata(None, f"The replicate of seed {entry['seed']}")
    buckets = np.column_stack([entry["edges"][:-1], entry["edges"][1:], entry["counts"]])
    tensor = make_tensor_proto(buckets, dtype=np.float64)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _shift(record: Mapping[str, Any], last: int) -> pd.DataFrame:
    """The record's variance shift, one row per layer, seed and time: layer, seed, measured, step, at_end."""
    shift = pd.DataFrame(list(record["shift"]), columns=["layer", "seed", "measured", "epoch"])
    shift["at_end"] = shift["epoch"] == "end"
    epochs = record["config"]["trainer"]["max_epochs"]
    shift["step"] = shift["epoch"].where(~shift["at_end"], epochs).astype(int) * last // epochs
    return shift.drop(columns="epoch").astype({"layer": int, "seed": int, "measured": float, "at_end": bool})


def _with_band(table: pd.DataFrame) -> pd.DataFrame:
    """For each value of the index (a step, or a layer) the mean of each column and the ends of its band."""
    groups = table.groupby(level=0)
    bands = [groups.quantile(q).rename(columns={t: _band(str(t), s) for t in table}) for s, q in _BAND.items()]
    return pd.concat([groups.mean(), *bands], axis=1)


def _band(tag: str, side: str) -> str:
    """The tag of a band's end, in a group that sorts behind all others in SCALARS."""
    return f"whiskers/{tag}/{side}"


def _hparams(
    record: Mapping[str, Any], replicates: pd.DataFrame, swept: Mapping[str, Sequence[str]]
) -> tuple[Summary, dict[str, Any]]:
    """What HPARAMS' columns are, and this condition's values in them.

    TensorBoard takes the columns from the first run that describes them, so every condition does; were there none, it
    would find them from the runs, the metrics in alphabetical order and every curve among them.
    """
    values = {name: replicates[name].iloc[0] for name in _COLUMNS}
    chosen = {**record["choices"], **record["setting"]}
    for key in sorted({*swept, *record["setting"]} - set(_COLUMNS.values())):
        values[key] = chosen[key] if key in chosen else _lookup(record["config"], key)
    infos, hparams = [], {}
    for name, value in values.items():
        value = value.item() if isinstance(value, np.generic) else value
        domain = {str(value), *map(str, swept.get(_COLUMNS.get(name, name), []))}
        overridden = name not in _COLUMNS and name not in record["setting"]
        if overridden and (len(domain) == 1 or isinstance(value, Mapping)):
            continue  # the same everywhere, or a choice of a whole group
        number = isinstance(value, int | float)  # a bool too
        hparams[name] = value if number else str(value)
        kind = "BOOL" if isinstance(value, bool) else "FLOAT64" if number else "STRING"
        info = api_pb2.HParamInfo(name=name, differs=len(domain) > 1, type=f"DATA_TYPE_{kind}")
        if not number:
            info.domain_discrete.extend(sorted(domain))
        infos.append(info)
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name) for tag, (_, name) in TAGS.items()
    ]
    data = plugin_data_pb2.HParamsPluginData(experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics))
    columns = Summary.Value(
        tag=hparams_metadata.EXPERIMENT_TAG,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return Summary(value=[columns]), hparams


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _layout(shifts: Mapping[str, str]) -> Summary:
    """CUSTOM SCALARS' margin charts, those of variance shift by title. TensorBoard merges all runs' layouts."""
    layout = layout_pb2.Layout()
    for title, charts in {**_MARGINS, **({"Variance shift": shifts} if shifts else {})}.items():
        category = layout.category.add(title=title)
        for name, tag in charts.items():
            series = layout_pb2.MarginChartContent.Series(value=tag, **{side: _band(tag, side) for side in _BAND})
            category.chart.add(title=name, margin=layout_pb2.MarginChartContent(series=[series]))
    tensor, metadata = make_tensor_proto(layout.SerializeToString()), custom_scalar.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)])
