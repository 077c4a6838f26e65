"""Numbers, names and tables as a reader sees them. Values come in their metric's stored unit, as in verdicts.csv."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from normdrop.arrangement import operations
from normdrop.kinds import shown
from normdrop.metrics import METRICS
from normdrop.report.study import Study

SPOKEN = {"bn": "BN", "ln": "LN", "none": "plain network"}
OWN = "in your network"  # where both stand in a network of one's own
KEYS = {
    "rate": "dropout rate",
    "optimizer.lr": "learning rate",
    "trainer.max_epochs": "epochs",
    "data.train_size": "number of training examples",
}


def number(value: float, metric: str, sign: str = "+") -> str:
    """A value in its metric's unit, without the unit's name. sign: as in a format, which numbers have one."""
    if pd.isna(value):
        return "—"
    digits = 3 if METRICS[metric].scale == 1 else 2
    # A float: numpy's own rounds otherwise. What rounds to 0 from below would be -0.00 without the + 0.
    return f"{round(METRICS[metric].scale * float(value), digits) + 0:{sign}.{digits}f}"


def spoken(name: str) -> str:
    """An arrangement in the field's words, its layers in their order; any other name as it is."""
    return SPOKEN.get(name) or " then ".join(SPOKEN.get(part, part) for part in name.split("_"))


def sides(study: Study) -> tuple[str, str]:
    """A and B for a reader: of two orders, which comes first."""
    a, b = study.declared.sides
    if len(a) == len(b) == 1 and a != b and operations(a[0])[::-1] == operations(b[0]):
        first, second = (SPOKEN.get(operations(side[0])[0], "dropout") for side in (a, b))
        return f"{first} first", f"{second} first"
    one, other = (" or ".join(map(spoken, side)) for side in (a, b))
    return f"the better of {one}" if len(a) > 1 else one, f"the better of {other}" if len(b) > 1 else other


def key_name(key: str) -> str:
    return KEYS.get(key, key.rpartition(".")[2].replace("_", " "))


def quantity(study: Study, metrics: Iterable[str]) -> str:
    """What a study compares, in words: its kind says what it makes of its metrics."""
    words = " and ".join(METRICS[metric].words for metric in metrics)
    return study.kind.quantity.format(metric=words, over=key_name(study.declared.over or ""))


def varying(rows: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Those of the keys that tell these rows apart."""
    return [key for key in keys if rows[key].astype(str).nunique() > 1]


def place(row: Any, keys: Iterable[str]) -> str:
    """Where a row stands among the settings: `learning rate 0.01, epochs 50`."""
    parts = [f"{key_name(key)} {shown(row[key])}" for key in keys if row[key] != ""]
    return ", ".join([*parts, *filter(None, [row.get("part")])])


def narrow(text: str, limit: int) -> str:
    """A Markdown table without the columns in which no row says anything; in place of too many rows, how many."""
    lines = [[cell.strip() for cell in line.strip(" |").split(" | ")] for line in text.splitlines() if line.strip()]
    header, _, *rows = lines
    if len(rows) > limit:
        return f"{len(rows)} rows, in the tables beside this page.\n"
    kept = [i for i in range(len(header)) if any(row[i] not in ("", "—") for row in rows)]
    return "".join("| " + " | ".join(line[i] for i in kept) + " |\n" for line in lines if kept)
