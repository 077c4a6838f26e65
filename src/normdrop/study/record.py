"""The record of a finished configuration: written once, whole, last.

Its folder holds replicates.csv, history.csv and record.json. The record names the checksums of the tables and is
written last: where a record stands and the checksums fit, the configuration is finished; otherwise it is not. Only the
holder of a folder's lock changes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from normdrop.whole import whole

if TYPE_CHECKING:
    import pandas as pd

# The first columns of replicates.csv, in this order; others follow.
COLUMNS = (
    *("dataset", "arrangement", "position", "rate", "setting", "depth", "width", "seed", "rerun"),
    *("epoch", "epochs_after"),
    *("train_acc", "train_nll", "val_acc", "val_nll", "test_acc", "test_balanced_acc", "test_nll", "test_ece"),
    *("gap", "nll_gap", "steps_to_level", "diverged", "recal_test_acc", "recal_test_nll"),
)
# What changes no number in a seed's row: who trains beside it, where, under which name, and what is drawn of it.
FIXED = (
    *("first_seed", "replicates", "replicates_at_a_time", "name", "logging", "study"),
    *("checkpoint_minutes", "save_networks"),
)
# And what older records had.
NOT_HASHED = (
    *FIXED,
    *("seeds", "precision", "replicates_max", "measure.activation_epochs", "measure.activation_seed"),
    "data.standardise",
)
# Another number wherever an older record can no longer be read or compared.
FORMAT = 3
RECORD = "record.json"
PLAN = "plan.json"
TABLES = ("replicates.csv", "history.csv")
ERROR = "error.txt"


@contextmanager
def locked(directory: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder's lock, reentrant; the system frees that of a process that dies. Raises Timeout if it is taken."""
    lock = FileLock(directory / ".lock", is_singleton=True)
    try:
        lock.acquire(blocking=wait)
    except OSError as error:
        if error.filename is None and not isinstance(error, Timeout):  # a file system without locks
            raise OSError(error.errno, error.strerror, str(directory / ".lock")) from error
        raise
    try:
        yield
    finally:
        lock.release()


@lru_cache(maxsize=1)
def commit() -> tuple[str | None, bool | None]:
    """The git commit of the checkout that this code stands in, and whether code and config are as it has them, or None:
    a table or a network of a user's own may lie there."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None, None
    asked = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", "src", "conf"]
    try:
        first, *lines = subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return first.removeprefix("# branch.oid "), all(line.startswith("#") for line in lines)


@dataclass(frozen=True)
class Finished:
    """A finished configuration as it stands in its folder."""

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
        import pandas as pd  # here: a finished sweep is told without it

        # round_trip: a table read and written again must give the same bytes.
        return pd.read_csv(io.BytesIO(self.tables[name]), float_precision="round_trip")


def read(directory: Path) -> Finished | None:
    """The finished configuration of a folder, or None; changes nothing. Raises ValueError for another version's."""
    return _read(directory) or _read(directory)  # a running sweep may have replaced files between our reads of them


def _read(directory: Path) -> Finished | None:
    path = directory / RECORD
    try:
        record = json.loads(path.read_bytes())
        tables = {name: (directory / name).read_bytes() for name in TABLES}
        fits = all(_checksum(text) == record["tables"][name] for name, text in tables.items())
        written = record["format"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    if written != FORMAT:
        formats = f"format {written}, this one has {FORMAT}"
        raise ValueError(f"{path}: was written by another version ({formats}); choose another name=")
    return Finished(record, tables) if fits else None


def read_plan(root: Path) -> dict[str, Any]:
    """What stands in a study's plan.json. Raises ValueError if it cannot be read."""
    path = root / PLAN
    empty: dict[str, Any] = {"sweeps": [], "conditions": {}, "known": {}}
    try:
        return empty | json.loads(path.read_bytes())
    except FileNotFoundError:
        return empty
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); move it away, the same command writes it again") from error


def positions_of(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """The positions that the sweeps of these records asked for: a network also stands for others."""
    positions: set[str] = set()
    for record in records:
        positions.update((record["study"].get("grid") or {}).get("position", [record["position"]]))
    return positions


def names_of(record: Mapping[str, Any], positions: set[str]) -> list[tuple[str, str]]:
    """Each arrangement and position, of these, that a record's network stands for; first that by which it is known."""
    itself = (record["arrangement"], record["position"])
    return [name for name in dict.fromkeys([itself, *map(tuple, record["stands_for"])]) if name[1] in positions]


def budget(record: Mapping[str, Any]) -> int:
    """The optimizer steps of all epochs."""
    config = record["config"]
    batches, rest = divmod(record["rows"]["train"], config["batch_size"])
    return int(config["trainer"]["max_epochs"] * (batches + (rest > 1)))  # a row alone is left out


def claimed(directory: Path) -> list[int]:
    """The seeds that a folder's record names, whether or not its tables fit it."""
    try:
        return list(json.loads((directory / RECORD).read_bytes())["seeds"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write(directory: Path, record: Mapping[str, Any], replicates: pd.DataFrame, history: pd.DataFrame) -> None:
    """Finish a configuration: the tables, then the record that vouches for them, each whole or not at all."""
    tables = {"replicates.csv": replicates, "history.csv": history}
    texts = {name: table.to_csv(index=False, lineterminator="\n").encode() for name, table in tables.items()}
    sealed = {"format": FORMAT, **record, "tables": {name: _checksum(text) for name, text in texts.items()}}
    texts[RECORD] = (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode()
    for name, text in texts.items():
        with whole(directory / name) as part:
            part.write_bytes(text)
    (directory / ERROR).unlink(missing_ok=True)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
