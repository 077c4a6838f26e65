"""A study as it is published: its table, and what its records say beside it, in place of a folder for each condition.

table.csv.xz has a row per trained network and seed: where it stands (for people) and what was measured. study.json.xz
holds the records without their learning curves: what all of them share once, and what each has of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from normdrop.metrics import METRICS
from normdrop.study import record as store

if TYPE_CHECKING:
    from normdrop.report.study import Study

TABLE, RECORDS = "table.csv.xz", "study.json.xz"
OLD_TABLE, OLD_RECORDS = "replicates.csv.xz", "records.jsonl.xz"
# What the report reads of a record, and of a seed beside the metrics that a study declares.
RECORD = (
    *("condition", "dataset", "arrangement", "position", "rate", "setting", "choices", "stands_for", "seeds", "config"),
    *("study", "rows", "fresh_rows", "versions", "commit", "clean", "batches", "device", "hardware", "wall_seconds"),
    *("finished", "command", "shift"),
)
# Measures that are no counts: five digits are far below what matters, and more would fill a published study.
INEXACT = [name for name, metric in METRICS.items() if metric.unit == "nats" or name.endswith("ece")]
MEASURED = ("seed", "epochs_after", "val_acc", "val_nll", "test_acc", "test_nll", "diverged", "recal_test_acc")


def is_published(folder: Path) -> bool:
    return (folder / RECORDS).exists() or (folder / OLD_RECORDS).exists()


def write(studies: Sequence[Study], target: Path) -> None:
    """Write each study to a folder of its name below `target`; the verdicts that follow from it are the same.

    Raises ValueError for what is published already.
    """
    for study in studies:
        if is_published(study.folder):
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
    places = ["dataset", "arrangement", "position", "rate", *study.keys]
    places += [key for key in (*declared.tuned, declared.over, "rerun") if key and key not in places]
    trained = study.table.loc[~study.table["stands_in"], ["condition", *places]].drop_duplicates("condition")
    wanted = dict.fromkeys([*MEASURED, *declared.metrics, *declared.secondary])
    table = trained.merge(replicates[["condition", *(name for name in wanted if name in replicates)]], on="condition")
    text = rounded(table).to_csv(index=False, lineterminator="\n").encode()
    left = {key: getattr(study, key) for key in ("failed", "unfinished", "damaged")}
    flat = [_flat({key: record[key] for key in RECORD if key in record}) for record in study.records]
    common = {key: value for key, value in flat[0].items() if all(one.get(key, flat) == value for one in flat)}
    each = [{key: value for key, value in one.items() if key not in common} for one in flat]
    described = {"table": hashlib.sha256(text).hexdigest(), "left": left, "common": common, "each": each}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_bytes(lzma.compress(text, preset=9))
    (folder / RECORDS).write_bytes(lzma.compress(json.dumps(described, allow_nan=False).encode(), preset=9))


def read(folder: Path) -> tuple[list[tuple[dict[str, Any], pd.DataFrame]], dict[str, dict[str, str]]]:
    """A published study's records, each with its replicates, and what was failed, unfinished and damaged at the time.

    Also as studies were published before. Raises ValueError if it is damaged.
    """
    new = (folder / RECORDS).exists()
    try:
        said = lzma.decompress((folder / (RECORDS if new else OLD_RECORDS)).read_bytes()).decode()
        text = lzma.decompress((folder / (TABLE if new else OLD_TABLE)).read_bytes())
        if new:
            head = json.loads(said)
            records = [_nested(head["common"] | own) for own in head["each"]]
        else:
            head, *records = map(json.loads, said.splitlines())
        if hashlib.sha256(text).hexdigest() != head["table" if new else "replicates"]:
            raise ValueError(f"{folder}: damaged (the checksum of its table is another)")
        whole = pd.read_csv(io.BytesIO(text), float_precision="round_trip", low_memory=False)
        tables = dict(iter(whole.groupby("condition", sort=False)))
        return [(record, tables[record["condition"]]) for record in records], head["left"]
    except (lzma.LZMAError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder}: damaged ({error!r})") from error


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Replicates as a report knows them, whether they are published or in their folders."""
    for name in table.columns.intersection(INEXACT):
        table[name] = table[name].map("{:.5g}".format).astype(float)
    return table


def _flat(nested: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{a: {b: 1}} → {a/b: 1}; of variance shift the means over seeds."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{key}/")
        else:
            flat[above + key] = averaged(value) if key == "shift" else value
    return flat


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, last = path.split("/")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


def averaged(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Variance shift of one condition, averaged over its seeds: epoch, layer, case, then measured (variance in
    evaluation over that in training), predicted and running (NaN: None), and the number of seeds."""
    if not entries or "seeds" in entries[0]:  # nothing, or as published
        return list(entries)
    table = pd.DataFrame([{"epoch": "end", "case": "", "predicted": None, "running": None} | entry for entry in entries])
    values = ["measured", "predicted", "running"]
    groups = table.astype(dict.fromkeys(values, float)).groupby(["epoch", "layer", "case"], sort=False)
    means = groups[values].mean().assign(seeds=groups["seed"].nunique()).reset_index()
    rows = means.astype(object).where(means.notna(), None).to_dict("records")
    for row in rows:
        row |= {name: row[name] and float(f"{row[name]:.5g}") for name in values}
    return rows
