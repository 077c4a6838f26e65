"""A study as it is published: its table, and what its records say, in place of a folder for each configuration.

study.json.xz has the table, each column as a list (as lines of a CSV file they would take a third more bytes): a row
per trained network and seed, where it stands, for people, and what was measured. It has the records too; learning
curves are left out, and of variance shift all but the means over seeds.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from normdrop.metrics import METRICS
from normdrop.whole import whole

if TYPE_CHECKING:
    from normdrop.report.study import Record, Study

STUDY = "study.json.xz"
LEFT = ("failed", "unfinished", "damaged")
# What the report reads of a seed beside the metrics that a study declares.
MEASURED = ("seed", "epochs_after", "val_acc", "val_nll", "test_acc", "test_nll", "diverged", "recal_test_acc")
UNREAD = ("tables", "data", "config_hash", "steps")  # what nothing reads of a record that is published


def write(studies: Sequence[Study], target: Path) -> None:
    """Write each study to a folder of its name below `target`; the verdicts that follow from it are the same."""
    for study in studies:
        table = study.table[~study.table["stands_in"]].copy()
        for name in table:
            if name in METRICS and METRICS[name].unit == "steps":  # empty: never reached
                steps = (table[name] * table["budget"]).round()
                table[name] = steps.where(table[name] <= 1).astype("Int64")
        declared = study.declared
        places = ["condition", "dataset", "arrangement", "position", "rate", *study.keys, *declared.within, "rerun"]
        recalibrated = [f"recal_{metric}" for metric in declared.metrics]
        measured = dict.fromkeys([*MEASURED, *declared.metrics, *declared.secondary, *recalibrated])
        table = table[[*places, *(name for name in measured if name in table)]]
        table = table.astype(object).where(table.notna(), None)
        records, conditions = [], set(table["condition"])
        for record in study.records:
            if record["condition"] in conditions:
                records.append({key: record[key] for key in record if key not in UNREAD})
        left = {key: getattr(study, key) for key in LEFT}
        said = {"table": table.to_dict("list"), "left": left, "records": records}
        folder = target / study.name
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / STUDY) as part:
            part.write_bytes(lzma.compress(json.dumps(said, allow_nan=False).encode(), preset=9))


def read(folder: Path) -> tuple[list[tuple[Record, pd.DataFrame]], dict[str, dict[str, str]]]:
    """A published study's records, each with its replicates, and what was left (`LEFT`). ValueError: it is damaged."""
    try:
        said = json.loads(lzma.decompress((folder / STUDY).read_bytes()))
        columns = {name: [math.nan if value is None else value for value in own] for name, own in said["table"].items()}
        table = pd.DataFrame(columns)
        tables = dict(iter(table.groupby("condition", sort=False)))
        return [(record, tables[record["condition"]]) for record in said["records"]], said["left"]
    except (lzma.LZMAError, ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder}: damaged ({error})") from error


def averaged(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Variance shift of one configuration, averaged over its seeds: epoch, layer, case, then measured (variance in
    evaluation over that in training) and running (None: not known), and the number of seeds."""
    if not entries:
        return []
    values = ["measured", "running"]
    groups = pd.DataFrame(entries).astype(dict.fromkeys(values, float)).groupby(["epoch", "layer", "case"], sort=False)
    table = groups[values].mean().assign(seeds=groups["measured"].count()).reset_index()
    averages: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=5))
    return averages
