"""What a person sees in TensorBoard: written from a condition's finished tables, never while it trains.

A condition is one run, named by its folder: the curves are means over the seeds that did not diverge, with a band from
the 10 % to the 90 % quantile. Its seeds are runs below it (`seeds/07`), one HPARAMS session each, all in one session
group, so that TensorBoard's own average over a group is the mean over seeds. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

# The metrics of a session, in the order of HPARAMS' columns (it shows the first five until asked for more).
METRICS = {
    "test_acc": "test accuracy",
    "test_nll": "test NLL",
    "test_ece": "test ECE",
    "gap": "accuracy gap",
    "steps_to_level": "steps to level",
    "shift": "variance shift",
    "recal_test_acc": "recalibrated test accuracy",
    "recal_test_nll": "recalibrated test NLL",
    "nll_gap": "NLL gap",
    "train_acc": "training accuracy",
    "train_nll": "training NLL",
    "train_mode_acc": "training accuracy, training mode",
    "val_acc": "validation accuracy",
    "val_nll": "validation NLL",
    "reliance": "accuracy lost to silenced units",
    "diverged": "diverged",
}
# Tags of the curves, by column of history.csv, and of the means that are known only at the end.
_CURVES = {"train_loss": "train/loss", "val_nll": "val/loss", "val_acc": "val/acc", "loss_gap": "gap/loss"}
_FINAL = {
    "train_acc": "train/acc",
    "test_acc": "test/acc",
    "test_nll": "test/loss",
    "test_ece": "test/ece",
    "gap": "gap/acc",
}
_BAND = {"lower": 0.1, "upper": 0.9}

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

    sound = replicates[~replicates["diverged"].astype(bool)]
    history = history.assign(loss_gap=history["val_nll"] - history["train_loss"]).sort_values(["seed", "step"])
    curves = history[history["seed"].isin(sound["seed"])].groupby("step")[list(_CURVES)]
    shift = pd.DataFrame(list(record["shift"]), columns=["layer", "seed", "measured", "epoch"])
    shift = shift.astype({"layer": int, "seed": int, "measured": float})
    shift = shift[shift["seed"].isin(sound["seed"])]
    at_end = shift[shift["epoch"] == "end"]
    finals = replicates.reindex(columns=["seed", *METRICS]).set_index("seed").astype(float)
    finals["shift"] = at_end.groupby("seed")["measured"].mean().reindex(finals.index)
    last = int(history["step"].max()) if len(history) else 0

    # Replicates train side by side, so a step has one time for all of them.
    end = time.time()

    def event(step: int, *summaries: Summary) -> Event:
        merged = Summary(value=[value for summary in summaries for value in summary.value])
        elapsed = step / last if last else 1.0
        return Event(wall_time=end - (1 - elapsed) * float(record["wall_seconds"]), step=step, summary=merged)

    hparams = _hparams(record, replicates)
    # Two studies below one `--logdir` may share a condition's name; they are not one group.
    trial = f"{record['config']['name']}/{record['condition']}"
    session = hparams_pb(hparams, trial_id=trial, start_time_secs=end - float(record["wall_seconds"]))
    means = finals.mean()

    def condition_events() -> Iterator[Event]:
        yield event(0, _experiment(record, hparams), _layout(sorted(at_end["layer"].unique())))
        if logging == "minimal":
            yield event(0, session)
            yield event(last, _scalars(means.add_prefix("final/")))
        yield from (event(step, summary) for step, summary in _banded(curves, _CURVES))
        yield event(last, _scalars(means[list(_FINAL)].rename(_FINAL)))
        # The x axis of this one chart is the layer, from 1: the shift of a whole network is one line.
        by_layer = at_end.groupby("layer")[["measured"]]
        yield from (event(layer, summary) for layer, summary in _banded(by_layer, {"measured": "shift/by_layer"}))
        yield event(last, histogram_pb("seeds/test_acc", sound["test_acc"], buckets=12))
        for tag, steps in (activations or {}).items():
            yield from (event(step, histogram_pb(tag, values)) for step, values in sorted(steps.items()))

    _write(directory, condition_events())
    if logging == "minimal":
        return
    for seed, final in zip(finals.index.astype(int), finals.to_dict("records"), strict=True):
        events = [event(0, session), event(last, _scalars(pd.Series(final).add_prefix("final/")))]
        if logging == "per_seed":
            curve = history[history["seed"] == seed].set_index("step")[list(_CURVES)].rename(columns=_CURVES)
            events += [event(step, _scalars(values)) for step, values in curve.iterrows()]  # type: ignore[arg-type]
        _write(directory / "seeds" / f"{seed:02d}", events)


def write_report(directory: Path, figures: Mapping[str, Path], tables_markdown: Mapping[str, str]) -> None:
    """Write the report's figures (PNG files, by tag) as images and its tables (Markdown, by tag) as text.

    `directory` is the report's folder, and its name the run's; event files that stand there are replaced.
    """
    _clear(directory)
    images = []
    for tag, path in figures.items():
        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])  # the PNG header, https://www.w3.org/TR/png-3/#11IHDR
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        images.append(Summary.Value(tag=tag, image=image))
    texts = [text_pb(tag, markdown).value[0] for tag, markdown in tables_markdown.items()]
    _write(directory, [Event(wall_time=time.time(), summary=Summary(value=[value])) for value in [*texts, *images]])


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


def _scalars(values: pd.Series) -> Summary:
    """The finite ones of the values as scalars; a missing metric leaves no point, so no mean counts it."""
    return Summary(value=[Summary.Value(tag=str(t), simple_value=v) for t, v in values.items() if np.isfinite(v)])


def _banded(groups: Any, tags: Mapping[str, str]) -> Iterator[tuple[int, Summary]]:
    """For each group (a step, or a layer) the mean of each column and its band."""
    mean = groups.mean().rename(columns=tags)
    bands = [
        groups.quantile(q).rename(columns={c: _band(t, side) for c, t in tags.items()}) for side, q in _BAND.items()
    ]
    for step, values in pd.concat([mean, *bands], axis=1).iterrows():
        yield int(step), _scalars(values)  # type: ignore[arg-type]


def _band(tag: str, side: str) -> str:
    """A group of its own keeps the bands away from the curves in SCALARS."""
    return f"band/{tag}/{side}"


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
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"final/{key}"), display_name=name)
        for key, name in METRICS.items()
    ]
    data = plugin_data_pb2.HParamsPluginData(experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics))
    value = Summary.Value(
        tag=hparams_metadata.EXPERIMENT_TAG,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return Summary(value=[value])


def _layout(layers: Sequence[int]) -> Summary:
    """CUSTOM SCALARS' margin charts. TensorBoard merges the layouts of all runs and drops equal charts."""

    def category(title: str, charts: Mapping[str, str]) -> layout_pb2.Category:
        return layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(
                    title=name,
                    margin=layout_pb2.MarginChartContent(
                        series=[
                            layout_pb2.MarginChartContent.Series(
                                value=tag, lower=_band(tag, "lower"), upper=_band(tag, "upper")
                            )
                        ]
                    ),
                )
                for name, tag in charts.items()
            ],
        )

    categories = [
        category("Loss", {"training loss": "train/loss", "validation loss": "val/loss"}),
        category("Accuracy", {"validation accuracy": "val/acc"}),
        category("Generalisation gap", {"validation loss minus training loss": "gap/loss"}),
    ]
    if layers:
        categories.append(category("Variance shift", {"by layer (x axis: layer)": "shift/by_layer"}))
    content = layout_pb2.Layout(category=categories).SerializeToString()
    value = Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG,
        metadata=custom_scalar.create_summary_metadata(),
        tensor=TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=TensorShapeProto()),
    )
    return Summary(value=[value])
