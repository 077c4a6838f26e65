"""The record of a finished condition: written once, whole, last.

A condition's folder holds replicates.csv, history.csv and record.json. The record names the checksums of the tables and
is written last: a condition with a record is finished, one without is not. New tables are first written beside the old
ones under names ending in .new, the record among them last; from then on the change counts as made, and whoever opens
the folder next completes the renames that a crash may have left open. Only the holder of a folder's lock changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

RECORD = "record.json"
TABLES = ("replicates.csv", "history.csv")
ERROR = "error.txt"


def lock(directory: Path) -> FileLock:
    """The lock of a condition's folder, reentrant; the operating system frees that of a process that dies."""
    return FileLock(directory / ".lock", is_singleton=True)


def read(directory: Path) -> dict[str, Any] | None:
    """The record of a finished condition, or None. Raises ValueError if what is there is damaged."""
    if (directory / f"{RECORD}.new").exists():
        # A crash left these renames open, or their process is at them: then it holds the lock for a moment more.
        with contextlib.suppress(Timeout), lock(directory).acquire(timeout=10):
            _complete(directory)
    try:
        return _read(directory)
    except ValueError:
        return _read(directory)  # another process may have changed the folder between our reads of its files


def _read(directory: Path) -> dict[str, Any] | None:
    path = directory / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, checksum in record["tables"].items():
            if _checksum((directory / name).read_bytes()) != checksum:
                raise ValueError(
                    f"{directory / name}: damaged (its checksum is not the record's); move the folder away"
                )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"{path}: damaged ({error}); move the folder away to train it again") from error
    return record


def tables(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The replicates and the history of a finished condition."""
    # round_trip: a table read and written again must give the same bytes.
    replicates, history = (pd.read_csv(directory / name, float_precision="round_trip") for name in TABLES)
    replicates["setting"] = replicates["setting"].astype(object).fillna("")
    return replicates.astype({"steps_to_level": "Int64", "width": "string"}), history


def write(directory: Path, record: Mapping[str, Any], replicates: pd.DataFrame, history: pd.DataFrame) -> None:
    """Finish a condition: the tables, then the record that vouches for them, each whole or not at all."""
    texts = {
        name: table.to_csv(index=False, lineterminator="\n").encode()
        for name, table in zip(TABLES, (replicates, history), strict=True)
    }
    sealed = dict(record) | {"tables": {name: _checksum(text) for name, text in texts.items()}}
    texts[RECORD] = (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode()
    for name, text in texts.items():
        _write(directory / f"{name}.new", text)
    _complete(directory)
    (directory / ERROR).unlink(missing_ok=True)


def _write(path: Path, text: bytes) -> None:
    """Write a file that is there whole or not at all, after a power cut too."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _complete(directory: Path) -> None:
    """Carry out the renames of a change that is written, the record's last."""
    if (directory / f"{RECORD}.new").exists():
        for name in (*TABLES, RECORD):
            new = directory / f"{name}.new"
            if new.exists():
                new.replace(directory / name)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
