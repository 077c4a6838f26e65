"""What a person sees in TensorBoard, written from finished tables. Nothing here imports torch.

A configuration is one run, named by its folder below --logdir: curves that are means over its seeds, with a
band from the 10 % to the 90 % quantile, the means of its final metrics, one HPARAMS session. A study's folder
`overview` sums all of them up in at most 20 runs. Diverged seeds are counted and otherwise left out.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from normdrop.metrics import METRICS

# Final metrics by column of replicates.csv, in the order of HPARAMS' columns.
FINALS = {metric.column: metric.tag for metric in METRICS.values() if metric.tag}
DIVERGED, SHIFT, LEFT = "train/diverged", "variance_shift/by_layer", "train/seeds"
# Curves by column of history.csv. train_loss is the loss that was minimised, in training mode.
CURVES = {"val_acc": "val/acc", "val_nll": "val/loss", "train_loss": "train/loss"}
# The overview's, named so that they come first in TIME SERIES. A step is a whole number: hence the 1000. A tag
# with parentheses would have no line in CUSTOM SCALARS, which takes what stands in them for the run.
BY_EPOCH = {
    "val_acc": "accuracy/validation by epoch",
    "val_nll": "loss/validation by epoch",
    "train_loss": "loss/training by epoch",
}
BY_RATE = {
    "test_acc": "accuracy/test by 1000 × rate",
    "test_nll": "loss/test by 1000 × rate",
}
MOST_RUNS = 20
# Beginnings of a config's keys that are no hyperparameters.
NOT_SHOWN = (
    *("study", "name", "logging", "seeds", "first_seed", "replicates", "precision", "checkpoint"),
    *("save", "engine", "measure", "data.fingerprint"),
)


def write_condition(
    directory: Path,
    record: Mapping[str, Any],
    replicates: pd.DataFrame,
    history: pd.DataFrame,
    logging: str = "full",
) -> None:
    """Write a finished configuration's event files, in place of those in its folder.

    record, replicates and history are what its three files hold. logging: `full`, `minimal` (no curves) or
    `per_seed` (the curves of each seed too, as runs `seeds/07`).
    """
    shutil.rmtree(directory / "seeds", ignore_errors=True)
    diverged = replicates["diverged"].astype(bool)
    sound = replicates[~diverged]
    steps, seconds = int(record["steps"]), float(record["wall_seconds"])
    began = float(record["finished"]) - seconds

    run = Run(began, seconds / max(steps, 1))
    run.add(0, _session(_hparams(record["config"]), began))
    run.add(steps, _scalars(_finals(sound) | {DIVERGED: float(diverged.sum())}))
    if logging != "minimal":
        run.curves(_curves(history[history["seed"].isin(sound["seed"])].assign(cell=""), "step", CURVES))
        run.curves(_shift(record, sound["seed"]))
        run.add(0, _margin_charts([*CURVES.values(), SHIFT]))
    run.write(directory)
    if logging == "per_seed":
        for seed, curves in history.groupby("seed"):
            run = Run(began, seconds / max(steps, 1))
            run.curves(curves.set_index("step")[list(CURVES)].rename(columns=CURVES))
            run.write(directory / "seeds" / f"{seed:02d}")


def write_live(directory: Path, history: pd.DataFrame) -> None:
    """Write the curves of a configuration that trains, until `write_condition` takes their place."""
    run = Run(time.time())
    run.curves(_curves(history.assign(cell=""), "step", CURVES))
    run.write(directory)


def write_overview(folder: Path, texts: Mapping[str, str], figures: Mapping[str, Path]) -> None:
    """Write a study's `overview`: a run for each arrangement and position, and the run `answer`.

    folder: the study's, with plan.json. texts: Markdown by tag, for TEXT. figures: PNG files by tag, for
    IMAGES. A finished configuration whose event files were deleted gets them again, from its record.
    """
    finished = _finished(folder)
    for directory in finished:
        if not any(directory.glob("events.out.tfevents.*")):
            record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
            replicates, history = (pd.read_csv(directory / f"{name}.csv") for name in ("replicates", "history"))
            write_condition(directory, record, replicates, history, record["config"]["logging"])
    if finished:
        _write_overview(folder, finished, texts, figures)


def write_overview_live(folder: Path) -> None:
    """Write a study's `overview` of what is finished, if that has changed since the last time."""
    finished = _finished(folder)
    if not finished or _shown.get(folder) == finished:
        return
    text = f"{len(finished)} configurations are finished so far; `normdrop-report` writes the answer."
    try:
        _write_overview(folder, finished, {"answer": text}, {})
    except (OSError, ValueError, LookupError):  # a folder that is damaged or being written: the report tells
        return
    _shown[folder] = finished


# By study's folder, what `write_overview_live` has shown.
_shown: dict[Path, dict[Path, int]] = {}


class Run:
    """The events of one run. A step takes `seconds`: seeds train side by side and share its time."""

    def __init__(self, began: float, seconds: float = 0.0) -> None:
        self.began, self.seconds = began, seconds
        self.events = [Event(wall_time=began, file_version="brain.Event:2")]

    def add(self, step: int, summary: Summary) -> None:
        self.events.append(Event(wall_time=self.began + self.seconds * step, step=step, summary=summary))

    def curves(self, curves: pd.DataFrame) -> None:
        """Add curves: their x as the index, a column for each tag."""
        points: dict[Any, Any] = curves.sort_index().to_dict("index")
        for x, values in points.items():
            self.add(int(x), _scalars(values))

    def write(self, directory: Path) -> None:
        """Write the run's one event file, in place of any that stand there.

        A plain file, because the package's EventFileWriter starts a thread for each. The name is new each
        time: a server that is watching would read on in a file of the old name from where it stopped.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("events.out.tfevents.*"):
            path.unlink()
        with open(directory / f"events.out.tfevents.{time.time():.6f}.normdrop", "wb") as file:
            writer = RecordWriter(file)
            for event in self.events:
                writer.write(event.SerializeToString())


def _scalars(values: Mapping[Any, float]) -> Summary:
    """The finite ones of the values as scalars; a missing metric leaves no point."""
    summary = Summary()
    for tag, value in values.items():
        if np.isfinite(value):
            summary.value.add(tag=tag, simple_value=value)
    return summary


def _session(values: Mapping[str, Any], began: float) -> Summary:
    # Without a trial's name a session is a group of its own: two studies below one --logdir never mix.
    return hparams.hparams_pb(values, trial_id="", start_time_secs=began)


def _hparams(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All of a config's values by dotted key, for a later sweep may vary any: numbers as floats, or text."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            values |= _hparams(value, f"{key}.")
        elif value is not None and not key.startswith(NOT_SHOWN):
            values[key] = float(value) if type(value) in (int, float) else str(value)
    return values


def _finals(seeds: pd.DataFrame) -> dict[Any, float]:
    """The mean of each final metric that was measured, by tag."""
    return {tag: float(seeds[column].astype(float).mean()) for column, tag in FINALS.items() if column in seeds}


def _curves(history: pd.DataFrame, x: str, tags: Mapping[str, str]) -> pd.DataFrame:
    """Means over seeds and their bands, by x and tag.

    history: a row per seed, `cell` (data set and setting) and x. A seed that stopped early goes on with its
    last value, so that a curve does not end as that of the few that are left; LEFT counts those that train.
    """
    points = history.drop_duplicates([x, "cell", "seed"], keep="last").set_index([x, "cell", "seed"])
    curves = []
    for column, tag in tags.items():
        values = points[column].unstack(["cell", "seed"]).sort_index()
        by_seed = values.ffill().T.groupby("seed").mean().T  # each data set and setting counts alike
        curves.append(_with_band(tag, by_seed))
    left = values.bfill().notna().T.groupby("seed").any().sum()
    if left.nunique() > 1:
        curves.append(left.to_frame(LEFT))
    return pd.concat(curves, axis=1)


def _shift(record: Mapping[str, Any], seeds: pd.Series) -> pd.DataFrame:
    """The variance shift at the end of training by layer, from 1, and its band."""
    shift = pd.DataFrame(list(record["shift"]), columns=["layer", "seed", "measured", "epoch"])
    shift = shift[shift["seed"].isin(seeds) & (shift["epoch"] == "end")]
    return _with_band(SHIFT, shift.pivot(index="layer", columns="seed", values="measured").astype(float))


def _with_band(tag: str, by_seed: pd.DataFrame) -> pd.DataFrame:
    """The mean of each row of (x, seed), and the ends of its band."""
    if by_seed.empty:  # every seed diverged, or nothing was measured
        return pd.DataFrame()
    lower, upper = _band(tag)
    bands = {lower: by_seed.quantile(0.1, axis=1), upper: by_seed.quantile(0.9, axis=1)}
    return pd.DataFrame({tag: by_seed.mean(axis=1), **bands})


def _band(tag: str) -> tuple[str, str]:
    """The tags of a band's ends, in a group that sorts behind all others."""
    return f"whiskers/{tag}/lower", f"whiskers/{tag}/upper"


def _margin_charts(tags: Iterable[str]) -> Summary:
    """CUSTOM SCALARS' charts, one for each tag with its band. TensorBoard merges all runs' layouts."""
    layout = layout_pb2.Layout()
    category = layout.category.add(title="Mean over seeds, and where 80 % of them lie")
    for tag in tags:
        lower, upper = _band(tag)
        series = layout_pb2.MarginChartContent.Series(value=tag, lower=lower, upper=upper)
        category.chart.add(title=tag, margin=layout_pb2.MarginChartContent(series=[series]))
    summary = Summary()
    tensor, metadata = make_tensor_proto(layout.SerializeToString()), custom_scalar.create_summary_metadata()
    summary.value.add(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
    return summary


def _finished(folder: Path) -> dict[Path, int]:
    """The folders of a study's finished configurations, with their records' times of writing."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    records = [folder / path / "record.json" for path in plan["conditions"]]
    return {record.parent: record.stat().st_mtime_ns for record in records if record.exists()}


@cache
def _read(directory: Path, written: int) -> tuple[dict[str, Any], set[str], pd.DataFrame, pd.DataFrame]:
    """A finished configuration: hyperparameters, the tuned ones among them, a row per seed, its history.

    written: the record's time, so that a configuration that got more seeds is read again.
    """
    record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    tuned = {"rate", *record["study"].get("tuned", [])}
    setting = {key: value for key, value in record["setting"].items() if key not in tuned}
    table = pd.read_csv(directory / "replicates.csv").reindex(columns=["seed", "diverged", *FINALS])
    table = table.assign(
        run=f"{record['arrangement']} {record['position']}",
        cell=f"{record['dataset']} {setting}",
        rate=record["rate"],
        rerun=record["config"]["rerun"],
        directory=str(directory),
    )
    history = pd.read_csv(directory / "history.csv", usecols=["seed", "epoch", *CURVES])
    return _hparams(record["config"]), tuned, table, history.assign(directory=str(directory))


def _write_overview(
    folder: Path, finished: Mapping[Path, int], texts: Mapping[str, str], figures: Mapping[str, Path]
) -> None:
    """Write the overview's runs, in place of those that stand there."""
    found = {str(directory): _read(directory, written) for directory, written in finished.items()}
    table = pd.concat([rows for _, _, rows, _ in found.values()], ignore_index=True)
    table, left_out = _comparable(table[table["rerun"] == 0])
    overview, now = folder / "overview", time.time()
    names = sorted(table.loc[~table["diverged"].astype(bool), "run"].unique())[: MOST_RUNS - 1]
    for stale in {path.name for path in overview.glob("*")} - {*names, "answer"}:
        shutil.rmtree(overview / stale)
    for name in names:
        rows = table[table["run"] == name]
        chosen = _chosen(rows, ["cell", "seed"])
        values, tuned, _, _ = found[chosen["directory"].mode().iloc[0]]
        shown = {"arrangement", "position", "rerun", *tuned}
        run = Run(now)
        run.add(0, _session({key: value for key, value in values.items() if key in shown}, now))
        histories = pd.concat([found[directory][3] for directory in chosen["directory"].unique()])
        _add_as_tuned(run, rows, chosen, histories)
        _add_by_rate(run, rows, sorted(set(table["rate"]) - {0.0}))
        run.write(overview / name)

    answer = Run(now)
    answer.add(0, _columns(pd.DataFrame([values for values, _, _, _ in found.values()])))
    answer.add(0, _margin_charts([*BY_RATE.values(), *BY_EPOCH.values()]))
    for tag, markdown in {**texts, "runs": _legend(table, names, left_out)}.items():
        answer.add(0, text_pb(tag, markdown))
    for tag, path in figures.items():
        image = Summary.Image(encoded_image_string=path.read_bytes())
        answer.add(0, Summary(value=[Summary.Value(tag=tag, image=image)]))
    answer.write(overview / "answer")


def _comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of the data sets and settings that have the most, and how many others there are.

    A curve by rate whose points are means over different data sets would show the data sets.
    """
    points = table["run"] + " " + table["rate"].astype(str)
    by_cell = points.groupby(table["cell"]).agg(frozenset)
    fullest = max(by_cell, key=len, default=None)
    cells = [cell for cell, points in by_cell.items() if points == fullest]
    return table[table["cell"].isin(cells)], len(by_cell) - len(cells)


def _chosen(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Of each group the row that validation prefers: accuracy, ties by NLL, then the lower rate."""
    sound = rows[~rows["diverged"].astype(bool)]
    best_first = sound.sort_values(["val_acc", "val_nll", "rate"], ascending=[False, True, True])
    return best_first.drop_duplicates(by)


def _add_as_tuned(run: Run, rows: pd.DataFrame, chosen: pd.DataFrame, histories: pd.DataFrame) -> None:
    """Add the learning curves and the final metrics of each seed's own choice."""
    curves = _curves(histories.merge(chosen[["directory", "seed", "cell"]]), "epoch", BY_EPOCH)
    run.curves(curves)
    finals = _finals(chosen.groupby("seed")[list(FINALS)].mean())
    run.add(int(curves.index.max()), _scalars(finals | {DIVERGED: float(rows["diverged"].sum())}))


def _add_by_rate(run: Run, rows: pd.DataFrame, rates: list[float]) -> None:
    """Add accuracy and loss against the rate; without dropout they are a level line to compare with."""
    fixed = _chosen(rows, ["cell", "seed", "rate"])
    for column, tag in BY_RATE.items():
        by_rate = fixed.pivot_table(index="rate", columns="seed", values=column)
        if rates and set(rows["rate"]) == {0.0}:
            by_rate = by_rate.reindex(rates, method="ffill")
        by_rate.index = pd.Index([round(1000 * float(rate)) for rate in by_rate.index])
        run.curves(_with_band(tag, by_rate))


def _columns(configs: pd.DataFrame) -> Summary:
    """HPARAMS' columns: what varies, and METRICS. By itself TensorBoard would take every curve too."""
    columns = []
    for key in configs:
        values = configs[key].dropna().unique().tolist()
        if len(values) > 1:
            mixed = len({type(value) for value in values}) > 1
            columns.append(hparams.HParam(key, None if mixed else hparams.Discrete(values)))
    metrics = [hparams.Metric(tag, display_name=METRICS[column].words) for column, tag in FINALS.items()]
    metrics.append(hparams.Metric(DIVERGED, display_name="diverged seeds"))
    return hparams.hparams_config_pb(columns, metrics)


def _legend(table: pd.DataFrame, names: list[str], left_out: int) -> str:
    """What the runs of the overview are, in Markdown."""
    return f"""
A run is an arrangement and its position ({len(names)} of {table["run"].nunique()} stand here), at the rate
(and what else is tuned) that each seed's own validation part prefers. Values are means over
{table["seed"].nunique()} seeds and {table["cell"].nunique()} data sets or settings ({left_out} others lack an
arrangement or a rate). Without dropout the line by rate is level. A seed that stopped early goes on with its
last value.
"""
