"""A study as one tidy table: a row for each seed, a column for each key that its grid varies, one for each metric.

What a sweep left in folders and what was published are read here; from then on both are a `Study`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from normdrop.arrangement import ARRANGEMENTS
from normdrop.kinds import KINDS, Kind
from normdrop.metrics import METRICS
from normdrop.report import publish
from normdrop.study import record as store

MAIN = "ordering"  # the claim that the project is about
# Columns of replicates.csv that a report reads, beside the metrics.
READ = ("seed", "epoch", "epochs_after", "diverged")
NEEDED = {"seed", "diverged", "val_acc", "val_nll", "test_acc"}
# What may differ between two configurations that are compared, or has no influence on a result.
FREE = (
    *store.NOT_HASHED,
    *("arrangement", "position", "rate", "rerun", "measure"),
    *("data.path", "trainer.accelerator", "trainer.devices"),
)


@dataclass(frozen=True)
class Declared:
    """The study block of a config."""

    claim: str = "undeclared"
    sentence: str = ""
    contrast: dict[str, Any] = field(default_factory=lambda: {"a": "bn_dropout", "b": "dropout_bn"})
    metrics: tuple[str, ...] = ("test_acc",)
    secondary: tuple[str, ...] = ("test_nll",)
    kind: str = "difference"
    family: str | None = None
    """what the verdict rests on, best_vs_best or same_rate; None: nothing was declared"""
    over: str | None = None
    core: tuple[Any, ...] | None = None
    tuned: tuple[str, ...] = ("rate",)
    rope: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    apart: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def sides(self) -> list[list[str]]:
        """The arrangements of A and of B; of several the better one by validation counts."""
        return [[side] if isinstance(side, str) else list(side) for side in (self.contrast["a"], self.contrast["b"])]


@dataclass
class Study:
    """All finished configurations that one declaration governs; see the package's interface for `table`."""

    name: str
    """its path below the folder that was asked for"""
    folder: Path
    declared: Declared
    records: list[dict[str, Any]]
    table: pd.DataFrame
    """one row per seed and (arrangement, position) that its network stands for: condition, dataset, arrangement,
    position, rate, the keys that vary, rerun, seed, stands_in (trained under another name), beyond (outside of the grid
    proper), fresh_rows, test_train_ratio (NaN: a fixed test part), test_rows, fingerprint, diverged, the metrics"""
    keys: list[str]
    """columns that tell settings apart: keys that vary, but for those that are tuned or consumed"""
    told_apart: list[str] = field(default_factory=list)
    """a line for each key that differs though no sweep named it"""
    planned: dict[str, int] = field(default_factory=dict)
    """configurations that were asked for, and for how many seeds"""
    failed: dict[str, str] = field(default_factory=dict)
    """configurations and what is wrong with them, as in the next two"""
    unfinished: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KINDS[self.declared.kind]

    @property
    def place(self) -> list[str]:
        return ["dataset", "position", *self.keys]

    @property
    def undeclared(self) -> bool:
        return self.declared.claim == Declared.claim

    @property
    def first(self) -> pd.DataFrame:
        """The table without what was trained again for A/A."""
        return self.table[self.table["rerun"] == 0]

    @property
    def arrangements(self) -> list[str]:
        trained = set(self.table["arrangement"])
        return [*(name for name in ARRANGEMENTS if name in trained), *sorted(trained - set(ARRANGEMENTS))]

    def rope(self, metric: str) -> float:
        """Differences up to this are of no practical consequence: as declared, or else as the metric has it."""
        ropes = self.declared.rope
        return float(ropes.get(metric, ropes.get(metric.removeprefix("recal_"), METRICS[metric].rope)))

    def history(self, record: dict[str, Any]) -> pd.DataFrame | None:
        """A configuration's learning curves: seed, epoch, step, train_loss, val_nll, val_acc; None if published."""
        found = store.read(self.folder / record["condition"])
        return None if found is None else found.history


# One finished configuration: its record and its replicates.
Finished = tuple[dict[str, Any], pd.DataFrame]


def load(directory: Path) -> list[Study]:
    """Read every study under `directory`, the main claim first. Links are followed.

    A configuration whose record or tables cannot be trusted is named as damaged and left out. Raises ValueError if
    there is no such directory or nothing in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    found: dict[Path, _Folder] = {}
    for path, folders, files in _walk(directory):
        if publish.is_published(path):
            found[path] = _Folder.published(path)
        elif "plan.json" in files:
            found.setdefault(path, _Folder()).planned = _plan(path)
        if store.RECORD in files or store.ERROR in files or ".hydra" in folders:
            _condition(directory, path, found)
    studies = [study for path, folder in sorted(found.items()) for study in _studies(path, folder, directory)]
    if not studies:
        raise ValueError(f"{directory}: no configurations in it; `normdrop` writes them")

    def rank(study: Study) -> tuple[bool, bool, int]:
        main = study.declared.claim == MAIN
        return not main, study.undeclared, -len(set(study.table["dataset"])) if main else 0

    return sorted(studies, key=rank)


@dataclass
class _Folder:
    """What a study's folder holds."""

    finished: list[Finished] = field(default_factory=list)
    planned: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def published(cls, path: Path) -> _Folder:
        try:
            finished, left = publish.read(path)
        except ValueError as error:
            return cls(damaged={".": str(error)})
        return cls(finished, {record["condition"]: len(table) for record, table in finished}, **left)


def _walk(directory: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` that follows links, but not in circles."""
    for here, folders, files in os.walk(directory, followlinks=True):
        path = Path(here)
        above = {os.path.realpath(parent) for parent in (path, *path.parents)}
        yield path, folders, files
        # A report of ours also holds a replicates.csv; it is no configuration.
        inner = [name for name in folders if name != "report" and not name.startswith(".")]
        folders[:] = sorted(name for name in inner if os.path.realpath(path / name) not in above)


def _plan(path: Path) -> dict[str, int]:
    try:
        conditions = json.loads((path / "plan.json").read_text(encoding="utf-8"))["conditions"]
        return {name: len(planned["seeds"]) for name, planned in conditions.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _condition(directory: Path, path: Path, found: dict[Path, _Folder]) -> None:
    """Put a configuration's folder to its study's, the nearest above it that has a plan, or that its record names."""
    planned = [parent for parent in path.parents if parent in found]
    root = planned[0] if planned else directory
    name = os.path.relpath(path, root)
    if (path / store.RECORD).exists():
        try:
            record, table = _read(path)
        except ValueError as error:
            found.setdefault(root, _Folder()).damaged[name] = str(error)
            return
        name = record["condition"]
        root = Path(os.path.normpath(path / Path(*[".."] * len(Path(name).parts))))
        found.setdefault(root, _Folder()).finished.append((record, table))
    elif (path / store.ERROR).exists():
        lines = (path / store.ERROR).read_text(encoding="utf-8", errors="replace").splitlines()
        found.setdefault(root, _Folder()).failed[name] = next(iter(lines), "no reason was recorded")
    elif path not in found:  # a folder of Hydra's, of which nothing more is there
        found.setdefault(root, _Folder()).unfinished[name] = "begun"


def _read(path: Path) -> Finished:
    """Raises ValueError with what is damaged or not understood."""
    found = store.read(path)
    assert found is not None
    record, table = found.record, found.replicates
    condition = Path(record["condition"]).parts
    if path.absolute().parts[-len(condition) :] != condition:
        raise ValueError(f"its record is of another configuration, {record['condition']}")
    return record, table


def _studies(path: Path, folder: _Folder, directory: Path) -> Iterator[Study]:
    """A folder's studies: one, unless several declarations were used under one name."""
    groups: dict[str, list[Finished]] = {}
    for record, table in folder.finished:
        try:
            groups.setdefault(_declaration(record, table), []).append((record, table))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            folder.damaged[record["condition"]] = f"its record or its table: {error}"
    finished = {record["condition"]: len(table) for group in groups.values() for record, table in group}
    for name, seeds in folder.planned.items():
        if name in folder.failed or name in folder.damaged:
            continue
        if name not in finished:
            folder.unfinished.setdefault(name, "planned, not begun")
        elif finished[name] < seeds:
            folder.unfinished[name] = f"{finished[name]} of {seeds} planned seeds"
    left = {key: getattr(folder, key) for key in ("planned", "failed", "unfinished", "damaged")}
    name = os.path.relpath(path, directory)
    if name == "." or name.startswith(".."):
        name = path.resolve().name
    if not groups and any(left.values()):
        yield Study(name, path, Declared(), [], pd.DataFrame(columns=["dataset"]), [], **left)
    for number, said in enumerate(sorted(groups), 1):
        records = [record for record, _ in groups[said]]
        tables = [table.assign(condition=record["condition"]) for record, table in groups[said]]
        own = name if number == 1 else f"{name} ({number})"
        yield _study(own, path, records, pd.concat(tables, ignore_index=True), left)


def _declaration(record: dict[str, Any], table: pd.DataFrame) -> str:
    """A record's declaration as text. Raises ValueError for what this version does not know or lacks."""
    if lacking := NEEDED - set(table):
        raise ValueError(f"lacks the column {', '.join(sorted(lacking))}")
    record["rows"]["train"], record["stands_for"], record["setting"], record["config"]["trainer"]  # or KeyError
    # A key that says nothing is one that an earlier version did not have.
    said = {key: value for key, value in record["study"].items() if key != "grid" and value is not None}
    if said:
        metrics = said["metric"] if isinstance(said["metric"], list) else [said["metric"]]
        if unknown := {*metrics, *said.get("secondary", [])} - set(METRICS):
            raise ValueError(f"metric {', '.join(sorted(unknown))}: known are {', '.join(METRICS)}")
        if said["kind"] not in KINDS:
            raise ValueError(f"kind {said['kind']}: known are {', '.join(KINDS)}")
        said["claim"], said["contrast"]["a"], said["contrast"]["b"]
    return json.dumps(said, sort_keys=True)


def _declared(study: dict[str, Any]) -> Declared:
    if not study.keys() - {"grid"}:
        return Declared(secondary=("test_nll", "test_ece"))
    said = {key: value for key, value in study.items() if key not in ("grid", "metric") and value is not None}
    said["metrics"] = (study["metric"],) if isinstance(study["metric"], str) else tuple(study["metric"])
    for key in ("secondary", "tuned", "core", "apart"):
        if key in said:
            said[key] = tuple(said[key])
    if not KINDS[said["kind"]].consumes:
        said.pop("over", None)
    if said["kind"] == "mechanism":  # is of what recalibration leaves of the difference
        said["secondary"] = tuple(dict.fromkeys([*said.get("secondary", ()), "recal_test_acc"]))
    known = Declared.__dataclass_fields__.keys()
    return Declared(**{key: value for key, value in said.items() if key in known})


def _study(name: str, path: Path, records: list[dict[str, Any]], replicates: pd.DataFrame, left: Any) -> Study:
    declared = _declared(records[0]["study"])
    if "rate" not in declared.tuned and len({record["rate"] for record in records} - {0.0}) > 1:
        declared = replace(declared, tuned=("rate", *declared.tuned))  # best against best is over all rates
    own = [key for key in (*declared.tuned, declared.over) if key and key != "rate"]
    settings, told_apart = _settings(records, own)
    keys = [key for key in settings if key not in own and key != "beyond"]
    # A network also stands for positions that nobody asked for.
    asked = {p for r in records for p in (r["study"].get("grid") or {}).get("position", [r["position"]])}
    networks = [network for record in records for network in _networks(record) if network["position"] in asked]
    columns = [column for column in replicates if column in READ or column in METRICS]
    table = pd.DataFrame(networks).merge(settings, left_on="condition", right_index=True)
    table = _measured(table.merge(replicates[["condition", *columns]], on="condition"))
    # Two networks may stand for one point (none was trained at two positions, say): the one trained there counts.
    point = ["dataset", "arrangement", "position", "rate", *keys, *own, "rerun", "seed"]
    table = table.sort_values("stands_in", kind="stable").drop_duplicates(point)
    table = table.sort_values(["dataset", "arrangement", "position", "rate", "condition", "seed"], ignore_index=True)
    return Study(name, path, declared, records, table, keys, told_apart, **left)


def _networks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of a configuration, once for each arrangement and position that its network stands for."""
    rows, config = record["rows"], record["config"]
    row = {key: record[key] for key in ("condition", "dataset")} | {"rate": float(record["rate"])}
    row["rerun"] = int(record["setting"].get("rerun", config.get("rerun")) or 0)
    row["fresh_rows"] = bool(record.get("fresh_rows"))
    row["test_train_ratio"] = math.nan if rows.get("fixed_test") else rows["test"] / rows["train"]
    row["test_rows"] = rows["test"]
    row["fingerprint"] = config["data"].get("fingerprint", record["dataset"])
    row["budget"] = config["trainer"]["max_epochs"] * _epoch_steps(rows["train"], config["batch_size"])
    itself = (record["arrangement"], record["position"])
    names = dict.fromkeys([itself, *map(tuple, record["stands_for"])])
    return [row | {"arrangement": a, "position": p, "stands_in": (a, p) != itself} for a, p in names]


def _epoch_steps(rows: int, batch_size: int) -> int:
    """Optimizer steps of an epoch: a last batch of one row is left out."""
    return math.ceil((rows - (batch_size > 1 and rows % batch_size == 1)) / batch_size)


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Measures as a report knows them, whether published or live: steps are shares of the budget, never reached is 1."""
    table = publish.rounded(table)
    table["diverged"] = table["diverged"].astype(bool)
    counted = [name for name, metric in METRICS.items() if metric.unit == "steps" and name in table]
    for name in counted:
        steps = table[name].astype(float).where(~table["diverged"])
        # A column without any number was not measured, or nothing can be said of it.
        table[name] = (steps / table["budget"]).fillna(1.0) if steps.notna().any() else math.nan
    return table.drop(columns="budget")


def _settings(records: list[dict[str, Any]], own: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """A column for each config key that varies and for each of `own`, and `beyond`; the index is the condition.

    A key counts that a sweep named and that has several values; further ones are added, each with a line, if without
    them two configurations could not be told apart.
    """
    names = [record["condition"] for record in records]
    flat = pd.DataFrame([flatten(record["config"]) for record in records], index=names, dtype=object)
    flat = flat.drop(columns=[key for key in flat if under(key, FREE)]).map(_hashable)
    named = [{key for key in record["setting"] if not under(key, (*FREE, *own))} for record in records]
    settings = pd.DataFrame(index=names)
    for key in dict.fromkeys([*own, *sorted(set().union(*named))]):
        values = [_hashable(_value(record, key)) for record in records]
        if key in own or len(set(values)) > 1:
            settings[key] = values
    groups = [[record["dataset"] for record in records], *(settings[key].astype(str) for key in settings)]
    several = flat.astype(str).groupby(groups).nunique().groupby(level=0).max() > 1
    told_apart = []
    for dataset, key in several.stack()[lambda different: different].index:
        if under(key, tuple(settings)):
            continue
        values = flat[key][[record["dataset"] == dataset for record in records]].astype(str)
        told_apart.append(f"{dataset}: {key} is {' in some configurations, '.join(sorted(set(values)))}.")
    for line_key in dict.fromkeys(several.stack()[lambda different: different].index.get_level_values(1)):
        if not under(line_key, tuple(settings)):
            settings[line_key] = flat[line_key]
    fewest = min(map(len, named))
    settings["beyond"] = [len(keys) > fewest for keys in named]
    return settings.infer_objects(), told_apart


def _value(record: dict[str, Any], key: str) -> Any:
    """A configuration's value of a key: as its sweep named it, or the name of a group, or as its config has it."""
    for values in (record["setting"], record["choices"]):
        if key in values:
            return values[key]
    return flatten(record["config"]).get(key)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one: {a: {b: 1}} → {a.b: 1}; an empty group stays."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def under(key: str, groups: tuple[str, ...]) -> bool:
    """Whether a key is one of `groups` or lies in one."""
    return any(f"{key}.".startswith(f"{group}.") for group in groups)


def _hashable(value: Any) -> Any:
    """A value as a column holds it; "": there is none."""
    if value is None:
        return ""
    return str(value) if isinstance(value, (list, dict)) else value
