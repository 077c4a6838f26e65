"""What each experiment of a folder of studies cost, as CSV: its finished conditions and replicates, and core-minutes.

A condition trains in one process of one thread, so the seconds of its record are those of a core; where other work took
turns on it, more.
"""

import csv
import json
import sys
from pathlib import Path


def costs(studies: Path) -> list[list[str | int | float]]:
    """For each study of a folder: its name, conditions, replicates, core-minutes and the machine."""
    rows: list[list[str | int | float]] = []
    for plan in sorted(studies.glob("*/plan.json")):
        records = [json.loads(path.read_text(encoding="utf-8")) for path in plan.parent.rglob("record.json")]
        minutes = sum(record["wall_seconds"] for record in records) / 60
        machines = " and ".join(sorted({record["hardware"] for record in records}))
        replicates = sum(len(record["seeds"]) for record in records)
        rows.append([plan.parent.name, len(records), replicates, round(minutes, 1), machines.replace(",", "")])
    return rows


if __name__ == "__main__":
    header = ["experiment", "conditions", "replicates", "core_minutes", "machine"]
    csv.writer(sys.stdout, lineterminator="\n").writerows([header, *costs(Path(sys.argv[1]))])
