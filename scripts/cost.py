"""What each study of a folder took, as CSV; a record has the seconds of one core, if nothing else ran on it."""

import json
import sys
from pathlib import Path

import pandas as pd

rows = []
for path in Path(sys.argv[1]).rglob("record.json"):
    record = json.loads(path.read_text(encoding="utf-8"))
    costs = {"replicates": len(record["seeds"]), "core_minutes": record["wall_seconds"] / 60}
    rows.append({"experiment": record["config"]["name"].split("/")[-1], "machine": record["hardware"]} | costs)
studies = pd.DataFrame(rows).groupby("experiment")
table = studies.agg({"replicates": "sum", "core_minutes": "sum", "machine": "first"}).round(1)
table.insert(0, "configurations", studies.size())
print(table.to_csv(lineterminator="\n"), end="")
