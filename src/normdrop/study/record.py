"""The record of a finished condition: written once, whole, last.

A condition's folder holds replicates.csv, history.csv and record.json. The record names the checksums of the tables and
is written last: a condition with a record is finished, one without is not. New tables are first written beside the old
ones under names ending in .new, the record among them last; from then on the change counts as made, and whoever opens
the folder next completes the renames that a crash may have left open. Only the holder of a folder's lock changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from normdrop.whole import whole

# The first columns of replicates.csv, in this order; others follow.
COLUMNS = (
    *("dataset", "arrangement", "position", "rate", "setting", "depth", "width", "seed", "rerun"),
    *("epoch", "epochs_after"),
    *("train_acc", "train_nll", "val_acc", "val_nll", "test_acc", "test_balanced_acc", "test_nll", "test_ece"),
    *("gap", "nll_gap", "steps_to_level", "diverged", "recal_test_acc", "recal_test_nll"),
)

# What changes no number in a replicate's row: who trains beside it, where, under which name, and what is drawn of it.
NOT_HASHED = (
    *("seeds", "first_seed", "replicates", "replicates_at_a_time", "name", "logging", "study"),
    *("checkpoint_minutes", "save_networks", "precision", "replicates_max"),
    *("measure.activation_epochs", "measure.activation_seed"),
)
# Another number wherever an older record can no longer be read or compared.
FORMAT = 3
RECORD = "record.json"
TABLES = ("replicates.csv", "history.csv")
ERROR = "error.txt"


def lock(directory: Path) -> FileLock:
    """The lock of a condition's folder, reentrant; the operating system frees that of a process that dies."""
    return FileLock(directory / ".lock", is_singleton=True)


def swept(sweeps: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The keys that a study's sweeps vary, together, with their values."""
    values: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for key, names in sweep["grid"].items():
            values.setdefault(key, {}).update(dict.fromkeys(names))
    return {key: list(names) for key, names in sorted(values.items()) if len(names) > 1}


@lru_cache(maxsize=1)
def commit() -> tuple[str | None, bool | None]:
    """The git commit of the checkout that this code stands in, and whether nothing there was changed; else None."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None, None
    quiet: dict[str, Any] = {"text": True, "stderr": subprocess.DEVNULL}
    try:
        head = subprocess.check_output(["git", "-C", root, "rev-parse", "HEAD"], **quiet).strip()
        changes = subprocess.check_output(["git", "-C", root, "status", "--porcelain"], **quiet).strip()
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return head, not changes


@dataclass(frozen=True)
class Finished:
    """A finished condition as it stands in its folder."""

    record: dict[str, Any]
    tables: dict[str, bytes]

    @property
    def replicates(self) -> pd.DataFrame:
        """One row per seed: COLUMNS and what else was measured."""
        table = self._table("replicates.csv")
        table["setting"] = table["setting"].astype(object).fillna("")
        types = {"epoch": "Int64", "epochs_after": "Int64", "steps_to_level": "Int64", "width": "string"}
        return table.astype({column: kind for column, kind in types.items() if column in table})

    @property
    def history(self) -> pd.DataFrame:
        """One row per seed and validation: seed, epoch, step, train_loss, val_nll, val_acc."""
        return self._table("history.csv")

    def _table(self, name: str) -> pd.DataFrame:
        # round_trip: a table read and written again must give the same bytes.
        return pd.read_csv(io.BytesIO(self.tables[name]), float_precision="round_trip")


def read(directory: Path) -> Finished | None:
    """The finished condition of a folder, or None; changes nothing. Raises ValueError if what is there is damaged."""
    try:
        return _read(directory)
    except ValueError:
        return _read(directory)  # a running sweep may have replaced the files between our reads of them


def _read(directory: Path) -> Finished | None:
    # Once record.json.new is there, the files ending in .new count.
    suffix = ".new" if (directory / f"{RECORD}.new").exists() else ""
    path = directory / RECORD

    def contents(name: str) -> bytes:
        new = directory / f"{name}{suffix}"
        return (new if new.exists() else directory / name).read_bytes()

    if not suffix and not path.exists():
        return None
    try:
        record = json.loads(contents(RECORD))
        if record["format"] != FORMAT:
            formats = f"format {record['format']}, this one has {FORMAT}"
            raise ValueError(f"{path}: was written by another version ({formats}); choose another name=")
        tables = {name: contents(name) for name in TABLES}
        damaged = [name for name, text in tables.items() if _checksum(text) != record["tables"][name]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"{path}: damaged ({error}); move the folder away to train it again") from error
    if damaged:
        raise ValueError(f"{directory / damaged[0]}: damaged (its checksum is not the record's); move the folder away")
    return Finished(record, tables)


def write(directory: Path, record: Mapping[str, Any], replicates: pd.DataFrame, history: pd.DataFrame) -> None:
    """Finish a condition: the tables, then the record that vouches for them, each whole or not at all."""
    tables = zip(TABLES, (replicates, history), strict=True)
    texts = {name: table.to_csv(index=False, lineterminator="\n").encode() for name, table in tables}
    sealed = {"format": FORMAT, **record, "tables": {name: _checksum(text) for name, text in texts.items()}}
    texts[RECORD] = (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode()
    for name, text in texts.items():
        with whole(directory / f"{name}.new") as part:
            part.write_bytes(text)
    _complete(directory)
    (directory / ERROR).unlink(missing_ok=True)


def settle(directory: Path) -> None:
    """Complete what a crash left open, unless another process is at it."""
    if (directory / f"{RECORD}.new").exists():
        with contextlib.suppress(Timeout), lock(directory).acquire(timeout=10):
            _complete(directory)


def _complete(directory: Path) -> None:
    """Carry out the renames of a change that is written, the record's last."""
    if (directory / f"{RECORD}.new").exists():
        for name in (*TABLES, RECORD):
            new = directory / f"{name}.new"
            if new.exists():
                new.replace(directory / name)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
