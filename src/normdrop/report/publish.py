"""A study as it is published: a table of replicates and a file of records, in place of a folder for each condition."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
from pathlib import Path

import pandas as pd

from normdrop.report.mechanism import averaged
from normdrop.report.population import LEVELS
from normdrop.report.records import LEVEL_COLUMN, PUBLISHED, REPLICATES, Found, Study, at_level, read, rounded

# What the report reads of a record and of a replicate, beside the metrics that a study declares.
RECORD = (
    *("condition", "dataset", "arrangement", "position", "rate", "setting", "choices", "stands_for", "seeds", "config"),
    *("study", "rows", "fresh_rows", "versions", "commit", "clean", "device", "hardware", "wall_seconds", "finished"),
    *("command", "shift"),
)
REPLICATE = (
    *("seed", "epochs_after", "val_acc", "val_nll", "test_acc", "test_nll", "diverged"),
    "recal_test_acc",
)


def write(found: Found, target: Path) -> None:
    """Write each experiment of a directory below `target`, in a folder of its name; `records.load` reads it there.

    The verdicts that follow are the same to the byte. Learning curves are left out but for the steps to the levels
    that a sensitivity asks for, and of variance shift all but the means over replicates. Raises ValueError for what
    is published already.
    """
    for root in dict.fromkeys(study.root for study in found.studies):
        studies = [study for study in found.studies if study.root == root]
        if any(study.published for study in studies):
            raise ValueError(f"{root}: is published already; publish the folder that it was made of")
        lines = [
            {key: record[key] for key in RECORD if key in record} | {"shift": _shift(record.get("shift") or [])}
            for study in studies
            for record in study.records
        ]
        table = pd.concat([_replicates(study) for study in studies], ignore_index=True)
        text = table.to_csv(index=False, lineterminator="\n").encode()
        left = {
            what: {
                os.path.relpath(found.directory / name, root): reason
                for name, reason in getattr(found, what).items()
                if (found.directory / name).is_relative_to(root)
            }
            for what in ("failed", "unfinished", "damaged")
        }
        head = {"replicates": hashlib.sha256(text).hexdigest(), "left": left}
        folder = target / root.resolve().name
        folder.mkdir(parents=True, exist_ok=True)
        records = "\n".join(json.dumps(line, allow_nan=False) for line in [head, *lines]).encode()
        for name, content in ((REPLICATES, text), (PUBLISHED, records)):
            (folder / name).write_bytes(lzma.compress(content, preset=9))


def _shift(entries: list[dict[str, object]]) -> list[dict[str, object]]:
    means = averaged(entries)
    return means.astype(object).where(means.notna(), None).to_dict("records")  # type: ignore[return-value]


def _replicates(study: Study) -> pd.DataFrame:
    wanted = [*dict.fromkeys([*REPLICATE, *study.metrics, *study.declaration["secondary"]])]
    tables = []
    for record in study.records:
        _, table = read(study.root / record["condition"])
        tables.append(table[[name for name in wanted if name in table]].assign(condition=record["condition"]))
    whole = pd.concat(tables, ignore_index=True)
    if study.kind.ratio:
        for factor in LEVELS:
            counted = at_level(study, factor).replicates.drop_duplicates(["condition", "seed"])
            steps = counted.set_index(["condition", "seed"])["steps_to_level"].rename(LEVEL_COLUMN.format(factor))
            whole = whole.join(steps, on=["condition", "seed"])
    if "steps_to_level" not in wanted:
        whole["steps_to_level"] = math.nan
    return rounded(whole)
