"""What a person sees in TensorBoard, written from finished tables. Nothing here imports torch.

A configuration is one run, named by its folder below --logdir: curves that are means over its seeds, with a band from
the 10 % to the 90 % quantile, the means of its final metrics, one HPARAMS session. A study's folder `overview` sums all
of them up in at most 20 runs. Diverged seeds are counted and otherwise left out; a loss that was never reached
took all steps.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
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

from normdrop.asked import count, leaves
from normdrop.metrics import METRICS
from normdrop.study.record import Finished, budget, names_of, positions_of, read, read_plan

# Final metrics by column of replicates.csv, in the order of HPARAMS' columns.
FINALS = {metric.column: metric.tag for metric in METRICS.values() if metric.tag}
DIVERGED, SHIFT, LEFT = "train/diverged", "variance_shift/by_layer", "train/seeds"
# Curves by column of history.csv. train_loss is the loss that was minimised, in training mode.
CURVES = {"val_acc": "val/acc", "val_nll": "val/loss", "train_loss": "train/loss"}
# The overview's, named so that they come first in TIME SERIES. A step is a whole number: hence the 1000. A tag with
# parentheses would have no line in CUSTOM SCALARS, which takes what stands in them for the run.
BY_EPOCH = {
    "val_acc": "accuracy/validation by epoch",
    "val_nll": "loss/validation by epoch",
    "train_loss": "loss/training by epoch",
}
BY_RATE = {"test_acc": "accuracy/test by 1000 × rate", "test_nll": "loss/test by 1000 × rate"}
MOST_RUNS = 20
# Beginnings of a config's keys that are no hyperparameters.
NOT_SHOWN = (
    *("study", "name", "logging", "seeds", "first_seed", "replicates", "precision", "checkpoint"),
    *("save", "engine", "measure", "data.fingerprint"),
)


def write_condition(
    directory: Path, record: Mapping[str, Any], replicates: pd.DataFrame, history: pd.DataFrame
) -> None:
    """Write the event files of a finished configuration, of which these are the three files' contents.

    `logging` of its config: `full`, `minimal` (no curves) or `per_seed` (each seed's too, as runs `seeds/07`).
    """
    logging, steps, seconds = record["config"]["logging"], record["steps"], record["wall_seconds"]
    timing = record["finished"] - seconds, seconds / max(steps, 1)
    sound = _sound(replicates).fillna({"steps_to_level": budget(record)})
    run = Run(*timing)
    run.session(_hparams(record["config"]))
    run.scalars(steps, _finals(sound) | {DIVERGED: len(replicates) - len(sound)})
    if logging != "minimal":
        run.curves(_curves(history[history["seed"].isin(sound["seed"])].assign(cell=""), "step", CURVES))
        run.curves(_shift(record, sound["seed"]))
        run.charts([*CURVES.values(), SHIFT])
    run.write(directory)
    shutil.rmtree(directory / "seeds", ignore_errors=True)
    if logging == "per_seed":
        for seed, curves in history.groupby("seed"):
            run = Run(*timing)
            run.curves(curves.set_index("step")[list(CURVES)].rename(columns=CURVES))
            run.write(directory / "seeds" / f"{seed:02d}")


def write_live(directory: Path, history: pd.DataFrame) -> None:
    """Write the curves of a configuration that trains, until `write_condition` takes their place."""
    run = Run(time.time())
    run.curves(_curves(history.assign(cell=""), "step", CURVES))
    run.write(directory)


def write_overview(folder: Path, texts: Mapping[str, str], figures: Mapping[str, Path]) -> None:
    """Write a study's `overview`: a run for each arrangement and position, and the run `answer`.

    folder: the study's, with plan.json. texts: Markdown by tag, for TEXT. figures: PNG files by tag, for IMAGES. A
    finished configuration whose event files were deleted gets them again.
    """
    finished = _finished(folder)
    for directory, one in finished.items():
        if not any(directory.glob("events.out.tfevents.*")):
            write_condition(directory, one.record, one.replicates, one.history)
    _write_overview(folder / "overview", finished, texts, figures)


def write_overview_live(folder: Path) -> None:
    """Write a study's `overview` of what is finished so far; event files of configurations are their workers' own."""
    with suppress(OSError, ValueError, LookupError):
        finished = _finished(folder)
        text = f"{count(len(finished), 'configuration')} finished so far; `normdrop-report` writes the answer."
        _write_overview(folder / "overview", finished, {"answer": text}, {})


def _finished(folder: Path) -> dict[Path, Finished]:
    """A study's finished configurations by their folders, without damaged ones. ValueError: its plan is damaged."""
    found = {}
    for directory in [folder / path for path in read_plan(folder)["conditions"]]:
        with suppress(ValueError):  # another version's
            if one := read(directory):
                found[directory] = one
    return found


class Run:
    """The events of one run. A step takes `seconds`: seeds train side by side and share its time."""

    def __init__(self, began: float, seconds: float = 0.0) -> None:
        self.began, self.seconds = began, seconds
        self.events = [Event(wall_time=began, file_version="brain.Event:2")]

    def add(self, step: int, summary: Summary) -> None:
        self.events.append(Event(wall_time=self.began + self.seconds * step, step=step, summary=summary))

    def session(self, values: Any) -> None:
        """Add hyperparameters by key."""
        # Without a trial's name a session is a group of its own: two studies below one --logdir never mix.
        self.add(0, hparams.hparams_pb(dict(values), trial_id="", start_time_secs=self.began))

    def scalars(self, step: int, values: Mapping[Any, float]) -> None:
        """Add the finite ones of the values by tag; a missing metric leaves no point."""
        summary = Summary()
        for tag, value in values.items():
            if np.isfinite(value):
                summary.value.add(tag=tag, simple_value=value)
        self.add(step, summary)

    def curves(self, curves: pd.DataFrame) -> None:
        """Add curves: their x as the index, a column for each tag."""
        points: dict[Any, Any] = curves.sort_index().to_dict("index")
        for x, values in points.items():
            self.scalars(int(x), values)

    def charts(self, tags: Iterable[str]) -> None:
        """Add CUSTOM SCALARS' charts, one for each tag with its band. TensorBoard merges all runs' layouts."""
        layout = layout_pb2.Layout()
        category = layout.category.add(title="Mean over seeds, and where 80 % of them lie")
        for tag in tags:
            lower, upper = _band(tag)
            category.chart.add(title=tag).margin.series.add(value=tag, lower=lower, upper=upper)
        summary = Summary()
        tensor, metadata = make_tensor_proto(layout.SerializeToString()), custom_scalar.create_summary_metadata()
        summary.value.add(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
        self.add(0, summary)

    def write(self, directory: Path) -> None:
        """Write the run's one event file, in place of any that stand there.

        A plain file, because the package's EventFileWriter starts a thread for each. The name is new each time: a
        server that is watching would read on in a file of the old name from where it stopped.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("events.out.tfevents.*"):
            path.unlink()
        with open(directory / f"events.out.tfevents.{time.time():.6f}.normdrop", "wb") as file:
            writer = RecordWriter(file)
            for event in self.events:
                writer.write(event.SerializeToString())


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """All of a config's values by dotted key, for a later sweep may vary any: numbers as floats, or text."""
    values: dict[str, Any] = {}
    for key, value in leaves(config).items():
        if value is not None and not key.startswith(NOT_SHOWN):
            values[key] = float(value) if type(value) in (int, float) else str(value)
    return values


def _sound(replicates: pd.DataFrame) -> pd.DataFrame:
    return replicates[~replicates["diverged"].astype(bool)]


def _finals(seeds: pd.DataFrame) -> dict[Any, float]:
    """The mean of each final metric that was measured, by tag."""
    return {tag: float(seeds[column].astype(float).mean()) for column, tag in FINALS.items() if column in seeds}


def _curves(history: pd.DataFrame, x: str, tags: Mapping[str, str]) -> pd.DataFrame:
    """Means over seeds and their bands, by x and tag.

    history: a row per seed, `cell` (data set and setting) and x. A seed that stopped early goes on with its last value,
    so that a curve does not end as that of the few that are left; LEFT counts those that train.
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


def _write_overview(
    overview: Path, finished: Mapping[Path, Finished], texts: Mapping[str, str], figures: Mapping[str, Path]
) -> None:
    """Write the overview's runs, in place of those that stand there."""
    first = {path: one for path, one in finished.items() if not one.record["config"]["rerun"]}
    if not first:
        return
    configs = pd.DataFrame({str(path): _hparams(one.record["config"]) for path, one in finished.items()}).T
    tuned = {"rate", *next(iter(first.values())).record["study"].get("tuned", [])}
    table, histories = _joined(first, tuned)
    table, left_out = _comparable(table)
    now = time.time()  # of all: TensorBoard sorts runs by their begin, and then by name
    names = sorted(_sound(table)["run"].unique())[: MOST_RUNS - 1]
    for stale in {path.name for path in overview.glob("*")} - {*names, "answer"}:
        shutil.rmtree(overview / stale)
    for name in names:
        rows = table[table["run"] == name]
        chosen = _chosen(rows, ["cell", "seed"])
        curves = _curves(histories.merge(chosen[["directory", "seed", "cell"]]), "epoch", BY_EPOCH)
        finals = _finals(chosen.groupby("seed")[list(FINALS)].mean())
        shown = configs.columns.intersection(["arrangement", "position", "rerun", *tuned])
        run = Run(now)
        run.session(configs.loc[chosen["directory"].mode()[0], shown].dropna())
        run.curves(curves)
        diverged = rows[rows["diverged"].astype(bool)].drop_duplicates(["cell", "seed"])
        run.scalars(int(curves.index.max()), finals | {DIVERGED: len(diverged)})
        for column, tag in BY_RATE.items():
            run.curves(_by_rate(rows, column, tag, sorted(set(table["rate"]) - {0.0})))
        run.write(overview / name)

    answer = Run(now)
    answer.add(0, _columns(configs))
    answer.charts([*BY_RATE.values(), *BY_EPOCH.values()])
    for tag, markdown in {**texts, "runs": _legend(table, names, left_out)}.items():
        answer.add(0, text_pb(tag, markdown))
    for tag, path in figures.items():
        image = Summary.Image(encoded_image_string=path.read_bytes())
        # A tag of its own: where a text has the same one TensorBoard shows the text alone.
        answer.add(0, Summary(value=[Summary.Value(tag=f"figures/{tag}", image=image)]))
    answer.write(overview / "answer")


def _joined(finished: Mapping[Path, Finished], tuned: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All replicates, and all histories, with the run of the overview and the data set and setting of each seed."""
    tables, histories = [], []
    positions = positions_of(one.record for one in finished.values())
    for directory, one in finished.items():
        record = one.record
        setting = {key: value for key, value in record["setting"].items() if key not in tuned}
        place = {"directory": str(directory), "cell": f"{record['dataset']} {setting}", "rate": record["rate"]}
        own = "function" in record["config"]["model"]  # its BN layers stay where they are
        names = [*names_of(record, positions), (record["arrangement"], record["position"])]
        place["run"] = record["arrangement"] if own else " ".join(names[0])
        table = one.replicates.reindex(columns=["seed", "diverged", *FINALS]).assign(**place)
        tables.append(table.fillna({"steps_to_level": budget(record)}))
        histories.append(one.history[["seed", "epoch", *CURVES]].assign(directory=str(directory)))
    return pd.concat(tables, ignore_index=True), pd.concat(histories)


def _comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of the data sets and settings that have the most, and how many others there are.

    A curve by rate whose points are means over different data sets would show the data sets.
    """
    points = table["run"] + " " + table["rate"].astype(str)
    by_cell = points.groupby(table["cell"]).agg(frozenset)
    fullest = max(by_cell, key=len)
    cells = [cell for cell, points in by_cell.items() if points == fullest]
    return table[table["cell"].isin(cells)], len(by_cell) - len(cells)


def _chosen(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Of each group the row that validation prefers: accuracy, ties by NLL, then the lower rate.

    As in the report, a seed that was not trained at every candidate is left out.
    """
    candidates = rows.groupby([name for name in by if name != "seed"])["directory"].transform("nunique")
    rows = rows[rows.groupby(by)["directory"].transform("nunique") == candidates]
    best_first = _sound(rows).sort_values(["val_acc", "val_nll", "rate"], ascending=[False, True, True])
    return best_first.drop_duplicates(by)


def _by_rate(rows: pd.DataFrame, column: str, tag: str, rates: list[float]) -> pd.DataFrame:
    """A metric against the rate; without dropout it is a level line to compare with."""
    by_rate = _chosen(rows, ["cell", "seed", "rate"]).pivot_table(index="rate", columns="seed", values=column)
    if rates and set(rows["rate"]) == {0.0}:
        by_rate = by_rate.reindex(rates, method="ffill")
    by_rate.index = pd.Index([round(1000 * float(rate)) for rate in by_rate.index])
    return _with_band(tag, by_rate)


def _columns(configs: pd.DataFrame) -> Summary:
    """HPARAMS' columns: what varies, and METRICS. By itself TensorBoard would take every curve too."""
    columns = []
    for key in configs:
        values = configs[key].dropna().unique().tolist()
        mixed = len({type(value) for value in values}) > 1
        if len(values) > 1:
            columns.append(hparams.HParam(key, None if mixed else hparams.Discrete(values)))
    metrics = [hparams.Metric(tag, display_name=METRICS[column].words) for column, tag in FINALS.items()]
    metrics.append(hparams.Metric(DIVERGED, display_name="diverged seeds"))
    return hparams.hparams_config_pb(columns, metrics)


def _legend(table: pd.DataFrame, names: list[str], left_out: int) -> str:
    """What the runs of the overview are, in Markdown."""
    runs, cells = table["run"].nunique(), table["cell"].nunique()
    of_run = table.groupby("run")["seed"].nunique()
    seeds = " to ".join(str(number) for number in sorted({of_run.min(), of_run.max()}))
    lacking = f"; {left_out} more lack an arrangement or a rate" if left_out else ""
    return f"""
A run is an arrangement and, but for a network of your own, its position ({len(names)} of {runs} stand here), at what
each seed's own validation part prefers of the rates and of what else is tuned. Values are means over {seeds} seeds at
{count(cells, "place")} (a data set and setting){lacking}.
"""
