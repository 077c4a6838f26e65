"""A study as it is published: its table, and what its records say, in place of a folder for each configuration.

table.csv.xz has a row per trained network and seed: where it stands, for people, and what was measured. study.json.xz
has the records; learning curves are left out, and of variance shift all but the means over seeds.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from normdrop.metrics import METRICS
from normdrop.study import record as store

if TYPE_CHECKING:
    from normdrop.report.study import Record, Study

TABLE, RECORDS = "table.csv.xz", "study.json.xz"
LEFT = ("failed", "unfinished", "damaged")
# What the report reads of a record, and of a seed beside the metrics that a study declares.
# fmt: off
RECORD = [
    "condition", "dataset", "arrangement", "position", "rate", "setting", "choices", "stands_for", "seeds",
    "config", "study", "rows", "fresh_rows", "versions", "commit", "clean", "batches", "device", "hardware",
    "wall_seconds", "finished", "command", "shift",
]
# fmt: on
# fmt: off
MEASURED = [
    "seed", "epochs_after", "val_acc", "val_nll", "test_acc", "test_nll", "diverged", "recal_test_acc",
]
# fmt: on
# Measures that are no counts: five digits are far below what matters, and more would fill a published study.
INEXACT = [name for name, metric in METRICS.items() if metric.unit == "nats" or name.endswith("ece")]


def write(studies: Sequence[Study], target: Path) -> None:
    """Write each study to a folder of its name below `target`; the verdicts that follow from it are the same.

    Raises ValueError for what is published already.
    """
    for study in studies:
        if (study.folder / RECORDS).exists():
            raise ValueError(f"{study.folder}: is published already; publish the folder that it was made of")
        tables = []
        for record in study.records:
            found = store.read(study.folder / record["condition"])
            assert found is not None
            tables.append(found.replicates.assign(condition=record["condition"]))
        put(study, pd.concat(tables, ignore_index=True), target / study.name)


def put(study: Study, replicates: pd.DataFrame, folder: Path) -> None:
    """Write one study. replicates: as they stand in its folders, with the column `condition`."""
    declared = study.declared
    own = [key for key in (*declared.tuned, declared.over) if key and key != "rate"]
    places = ["dataset", "arrangement", "position", "rate", *study.keys, *own, "rerun"]
    trained = study.table.loc[~study.table["stands_in"], ["condition", *places]].drop_duplicates("condition")
    wanted = dict.fromkeys([*MEASURED, *declared.metrics, *declared.secondary])
    measured = rounded(replicates[["condition", *(name for name in wanted if name in replicates)]])
    text = trained.merge(measured, on="condition").to_csv(index=False, lineterminator="\n").encode()
    records = []
    for record in study.records:
        kept = {key: record[key] for key in RECORD if key in record}
        records.append(kept | {"shift": averaged(record.get("shift") or [])})
    left = {key: getattr(study, key) for key in LEFT}
    said = json.dumps({"table": hashlib.sha256(text).hexdigest(), "left": left, "records": records}, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((TABLE, text), (RECORDS, said.encode())):
        (folder / name).write_bytes(lzma.compress(content, preset=9))


def read(folder: Path) -> tuple[list[tuple[Record, pd.DataFrame]], dict[str, dict[str, str]]]:
    """A published study's records, each with its replicates, and what was left (`LEFT`). ValueError: it is damaged."""
    try:
        said = json.loads(lzma.decompress((folder / RECORDS).read_bytes()))
        text = lzma.decompress((folder / TABLE).read_bytes())
        if hashlib.sha256(text).hexdigest() != said["table"]:
            raise ValueError("the checksum of its table is another")
        whole = pd.read_csv(io.BytesIO(text), float_precision="round_trip", low_memory=False)
        tables = dict(iter(whole.groupby("condition", sort=False)))
        return [(record, tables[record["condition"]]) for record in said["records"]], said["left"]
    except (lzma.LZMAError, ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder}: damaged ({error})") from error


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Replicates as a report knows them, whether they are published or in their folders."""
    table = table.copy()
    for name in table.columns.intersection(INEXACT):
        table[name] = table[name].map("{:.5g}".format).astype(float)
    return table


def averaged(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Variance shift of one configuration, averaged over its seeds: epoch, layer, case, then measured (variance in
    evaluation over that in training), predicted and running (None: not known), and the number of seeds."""
    if not entries:
        return []
    values = ["measured", "predicted", "running"]
    table = pd.DataFrame([{"epoch": "end", "case": ""} | dict.fromkeys(values) | entry for entry in entries])
    if "seeds" not in table:  # else it is published
        groups = table.astype(dict.fromkeys(values, float)).groupby(["epoch", "layer", "case"], sort=False)
        table = groups[values].mean().assign(seeds=groups["seed"].nunique()).reset_index()
    table = table[["epoch", "layer", "case", *values, "seeds"]]
    averages: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=5))
    return averages
