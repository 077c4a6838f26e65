"""A study as one tidy table: a row for each seed, a column for each key that its grid varies, one for each metric.

What a sweep left in folders and what was published are read here; from then on both are a `Study`.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from normdrop.asked import count
from normdrop.data import SERVED
from normdrop.kinds import KINDS, Kind
from normdrop.metrics import METRICS
from normdrop.report import publish
from normdrop.study import record as store

Record = dict[str, Any]
MAIN = "ordering"  # the claim that the project is about
NEEDED = ["seed", "diverged", "val_acc", "val_nll", "test_acc"]  # of replicates.csv
# What may differ between two configurations that are compared, or has no influence on a result.
FREE = (
    *store.NOT_HASHED,
    *("arrangement", "position", "rate", "rerun", "measure"),
    *("data.path", "trainer.accelerator"),
)
# Measures that are no counts: five digits are far below what matters, and more would fill a published study.
INEXACT = [name for name, metric in METRICS.items() if metric.scale == 1 or name.endswith("ece")]
STEPS = [name for name, metric in METRICS.items() if metric.unit == "steps"]
NEVER = math.nextafter(1, 2)  # the whole budget, and yet not a level that the last step reached


@dataclass(frozen=True)
class Declared:
    """The study block of a config."""

    claim: str = "undeclared"
    sentence: str = ""
    contrast: dict[str, Any] = field(default_factory=lambda: {"a": "bn_dropout", "b": "dropout_bn"})
    metrics: tuple[str, ...] = ("test_acc",)
    secondary: tuple[str, ...] = ("test_nll", "test_ece")
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

    @property
    def within(self) -> list[str]:
        """Keys, beside the rate, over whose values a comparison goes: those that are tuned or consumed."""
        return [key for key in (*self.tuned, self.over) if key and key != "rate"]


@dataclass
class Study:
    """All finished configurations that one declaration governs."""

    name: str
    """its path below the folder that was asked for"""
    folder: Path
    declared: Declared
    records: list[Record]
    table: pd.DataFrame
    """one row per seed and (arrangement, position) that its network stands for: condition, dataset, arrangement,
    position, rate, the keys that vary, rerun, seed, stands_in (trained under another name), beyond (outside of the grid
    proper), fresh_rows, test_train_ratio (NaN: a fixed test part), test_rows, fingerprint and served (of the rows, and
    how they are split and served), budget (of steps), diverged, the metrics (steps as shares of that budget)"""
    keys: list[str]
    """columns that tell settings apart: keys that vary, but for those that are tuned or consumed"""
    told_apart: list[str] = field(default_factory=list)
    """a line for each key that differs though no sweep named it"""
    failed: dict[str, str] = field(default_factory=dict)
    """configurations and what is wrong with them, as in the next two"""
    unfinished: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KINDS[self.declared.kind]

    @property
    def own_network(self) -> bool:
        """Whether it is of a network of one's own: its position is where that has its BN layers."""
        return bool(self.records) and "function" in self.records[0]["config"]["model"]

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

    def good(self, metric: str) -> bool:
        """Whether more is better of what its kind makes of a metric."""
        return self.kind.good(METRICS[metric].higher_is_better)

    def rope(self, metric: str) -> float:
        """Differences up to this are of no practical consequence: as declared, or else as the metric has it."""
        ropes = self.declared.rope
        return float(ropes.get(metric, ropes.get(metric.removeprefix("recal_"), METRICS[metric].rope)))


@dataclass
class _Folder:
    """What a study's folder holds."""

    finished: list[tuple[Record, pd.DataFrame]] = field(default_factory=list)
    """records with their replicates"""
    planned: dict[str, set[int]] = field(default_factory=dict)
    """the seeds that each configuration was asked for"""
    left: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in publish.LEFT})


def load(directory: Path) -> list[Study]:
    """Read every study under `directory`, the main claim first. Links are followed.

    A configuration whose record or tables cannot be trusted is named as damaged and left out. Raises ValueError if
    there is no such directory or nothing in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    top = Path(os.path.abspath(directory))
    folders: dict[Path, _Folder] = defaultdict(_Folder)
    for path, files in _walk(top):
        if publish.STUDY in files or "plan.json" in files:
            root = path
        else:
            root = next((above for above in path.parents if above in folders), top)
        name = os.path.relpath(path, root)
        try:
            if publish.STUDY in files:
                folders[root].finished, folders[root].left = publish.read(path)
            if "plan.json" in files:
                conditions = json.loads((path / "plan.json").read_text(encoding="utf-8"))["conditions"]
                folders[root].planned = {known: set(planned["seeds"]) for known, planned in conditions.items()}
            if store.RECORD in files:
                named, record, replicates = _finished(path)
                folders[named].finished.append((record, replicates))
            elif store.ERROR in files:
                lines = (path / store.ERROR).read_text(encoding="utf-8", errors="replace").splitlines()
                folders[root].left["failed"][name] = lines[0] if lines else "no reason was recorded"
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            folders[root].left["damaged"][name] = f"its record, its table or its plan: {error}"
    # A study and a link to it are one: of its names the one that is no link, where it has one here.
    once = {os.path.realpath(path): path for path in sorted(folders, key=lambda path: path == path.resolve())}
    studies = [study for path in sorted(once.values()) for study in _studies(path, folders[path], top)]
    if not studies:
        raise ValueError(f"{directory}: no configurations in it; `normdrop` writes them")

    def rank(study: Study) -> tuple[bool, bool, int]:
        main = study.declared.claim == MAIN
        return not main, study.undeclared, -study.table["dataset"].nunique() if main else 0

    return sorted(studies, key=rank)


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, through links, but not in circles."""
    for here, folders, files in os.walk(top, followlinks=True):
        path = Path(here)
        yield path, files
        above = {os.path.realpath(parent) for parent in (path, *path.parents)}
        # A report of ours also holds a replicates.csv; it is no configuration.
        inner = [name for name in folders if name != "report" and not name.startswith(".")]
        folders[:] = sorted(name for name in inner if os.path.realpath(path / name) not in above)


def _finished(path: Path) -> tuple[Path, Record, pd.DataFrame]:
    """A configuration's study, by what its record says, record and replicates. Raises what `load` catches."""
    read = store.read(path)
    if read is None:
        raise ValueError("the tables are not those of the record; the same command trains it again")
    record, replicates = read.record, read.replicates
    condition = Path(record["condition"])
    if path.parts[-len(condition.parts) :] != condition.parts:
        raise ValueError(f"its record is of another configuration, {condition}")
    # What cannot be used is to be told here, not where all configurations are put together.
    _declared(record["study"])
    _networks(record, asked=set())
    replicates[NEEDED]
    record["shift"] = publish.averaged(record["shift"])
    return path.parents[len(condition.parts) - 1], record, replicates


def _studies(path: Path, folder: _Folder, top: Path) -> Iterator[Study]:
    """A folder's studies: one, unless several declarations were used under one name."""
    left: dict[str, Any] = folder.left
    groups: dict[str, list[tuple[Record, pd.DataFrame]]] = defaultdict(list)
    seeds = {record["condition"]: set(table["seed"]) for record, table in folder.finished}
    for name, planned in folder.planned.items():
        if lacking := planned - seeds.get(name, planned):
            left["unfinished"][name] = f"lacks {len(lacking)} of {len(planned)} planned seeds"
        elif not {name} & {*seeds, *left["failed"], *left["damaged"]}:
            left["unfinished"][name] = "planned, not finished"
    for record, table in folder.finished:
        groups[repr(_declared(record["study"]))].append((record, table))
    name = os.path.relpath(path, top)
    if name.startswith("."):  # the folder itself, or the one that it lies in
        name = path.name
    if not groups and any(left.values()):
        yield Study(name, path, Declared(), [], pd.DataFrame(columns=["dataset"]), [], **left)
    for number, said in enumerate(sorted(groups), 1):
        yield _study(name if number == 1 else f"{name} ({number})", path, groups[said], left)
        left = {}  # told once: whose they are nothing says


def _declared(study: dict[str, Any]) -> Declared:
    """A record's declaration. Raises KeyError or ValueError for what it lacks or this version does not know."""
    # A key that says nothing is one that an earlier version did not have.
    said = {key: value for key, value in study.items() if key != "grid" and value is not None}
    if not said:
        return Declared()
    metric, kind = said.pop("metric"), said["kind"]
    said["metrics"] = [metric] if isinstance(metric, str) else metric
    said.setdefault("secondary", [])
    if kind not in KINDS:
        raise ValueError(f"kind {kind}: known are {', '.join(KINDS)}")
    if unknown := {*said["metrics"], *said["secondary"]} - set(METRICS):
        raise ValueError(f"metric {', '.join(sorted(unknown))}: known are {', '.join(METRICS)}")
    if kind == "mechanism":  # is of what recalibration leaves of the difference
        said["secondary"] = [*said["secondary"], "recal_test_acc"]
    if not KINDS[kind].consumes:
        said.pop("over", None)
    known: dict[str, Any] = {}
    for key in said.keys() & Declared.__dataclass_fields__.keys():
        known[key] = tuple(said[key]) if isinstance(said[key], list) else said[key]
    return Declared(**known)


def _study(name: str, path: Path, finished: list[tuple[Record, pd.DataFrame]], left: dict[str, Any]) -> Study:
    records = [record for record, _ in finished]
    declared = _declared(records[0]["study"])
    if "rate" not in declared.tuned and len({record["rate"] for record in records} - {0.0}) > 1:
        declared = replace(declared, tuned=("rate", *declared.tuned))  # best against best is over all rates
    settings, told_apart = _settings(records, declared.within)
    keys = [str(key) for key in settings if key not in (*declared.within, "beyond")]
    asked = store.positions_of(records)
    networks = pd.DataFrame([network for record in records for network in _networks(record, asked)])
    table = networks.merge(settings, left_on="condition", right_index=True)
    replicates = pd.concat([rows.assign(condition=record["condition"]) for record, rows in finished])
    measured = replicates.columns.intersection(["condition", "seed", "epoch", "epochs_after", "diverged", *METRICS])
    table = _measured(table.merge(replicates[measured], on="condition"))
    # Plain objects: of small frames pandas takes and groups them several times as fast as its arrow strings.
    words = [column for column in table if pd.api.types.is_string_dtype(table[column])]
    table = table.astype(dict.fromkeys(words, object))
    # Two networks may stand for one point (none was trained at two positions, say): the one trained there counts.
    point = ["dataset", "arrangement", "position", "rate", *keys, *declared.within, "rerun", "seed"]
    table = table.sort_values("stands_in", kind="stable").drop_duplicates(point)
    table = table.sort_values(["dataset", "arrangement", "position", "rate", "condition", "seed"], ignore_index=True)
    return Study(name, path, declared, records, table, keys, told_apart, **left)


def _networks(record: Record, asked: set[str]) -> list[dict[str, Any]]:
    """What is known of a configuration, once for each arrangement and asked position that its network stands for."""
    rows, config = record["rows"], record["config"]
    row = {
        "condition": record["condition"],
        "dataset": record["dataset"],
        "rate": float(record["rate"]),
        "rerun": int(config.get("rerun") or 0),
        "fresh_rows": bool(record["fresh_rows"]),
        "test_train_ratio": math.nan if rows.get("fixed_test") else rows["test"] / rows["train"],
        "test_rows": rows["test"],
        "fingerprint": config["data"].get("fingerprint", record["dataset"]),
        "served": str([config["data"].get(key) for key in SERVED]),
        "budget": store.budget(record),
    }
    names = store.names_of(record, asked)
    return [row | {"arrangement": a, "position": p, "stands_in": (a, p) != names[0]} for a, p in names]


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Measures as a report knows them, published or live; steps are shares of the budget, or `NEVER`."""
    table = table.astype({"diverged": bool})
    for name in table.columns.intersection(INEXACT):
        table[name] = table[name].map("{:.5g}".format).astype(float)
    for name in table.columns.intersection(STEPS):
        steps = table[name].astype(float).where(~table["diverged"])
        table[name] = (steps / table["budget"]).fillna(NEVER)
    return table


def _settings(records: list[Record], own: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """A column for each config key that varies and for each of `own`, and `beyond`; the index is the condition.

    A key counts that a sweep named and that has several values; further ones are added, each with a line, if without
    them two configurations could not be told apart. A line also says how many a later sweep puts beyond the grid.
    """
    flat = flattened(records)
    flat = flat.drop(columns=[key for key in flat if under(str(key), FREE)])
    named = [{key for key in record["setting"] if not under(key, (*FREE, *own))} for record in records]
    told = [*own, *sorted(set().union(*named))]
    for key in set(told) - set(flat):  # a group of the config, by its name
        flat[key] = [record["choices"].get(key, "") for record in records]
    for key in told:  # as the sweep named it: beside a network without depth, its depth 1 would be 1.0
        values = zip(records, flat[key], strict=True)
        flat[key] = pd.Series(
            [_cell(record["setting"].get(key, value)) for record, value in values], flat.index, object
        )
    told = [key for key in told if key in own or flat[key].nunique() > 1]
    groups = [[record["dataset"] for record in records], *(flat[key].astype(str) for key in told)]
    several = flat.astype(str).groupby(groups).nunique().gt(1).any()
    untold = [str(key) for key, differs in several.items() if differs and not under(str(key), told)]
    # The grid proper is that of the sweep begun first: a later one that names fewer keys puts none of it beyond.
    grids = [record["study"].get("grid") for record in records]
    first = grids[min(range(len(records)), key=lambda place: batches_of(records[place])[0]["began"])]
    proper = min((keys for keys, grid in zip(named, grids, strict=True) if grid == first), key=len)
    beyond = [not keys <= proper for keys in named]
    doubts = [f"{key}: {', '.join(sorted(set(flat[key].astype(str))))}" for key in untold]
    if later := sum(out and grid != first for out, grid in zip(beyond, grids, strict=True)):
        doubts.append(
            f"{count(later, 'configuration')} of a later sweep with keys that the first one lacks: no word counts them."
        )
    if later := sum(not out and grid != first for out, grid in zip(beyond, grids, strict=True)):
        doubts.append(f"{count(later, 'configuration')} of a later sweep with another grid: words count them too.")
    return flat[[*told, *untold]].infer_objects().assign(beyond=beyond), doubts


def batches_of(record: Record) -> list[Record]:
    """One for each time that seeds were added, with its `began`; a record of before does not tell them apart."""
    ended = record.get("finished", 0.0)
    whole = {"began": ended - record["wall_seconds"], "finished": ended, "versions": {}, "commit": None, "clean": None}
    return record.get("batches") or [whole | record]


def flattened(records: list[Record]) -> pd.DataFrame:
    """The configs, a column for each dotted key ("": there is no such key or value); the index is the condition."""
    flat = pd.json_normalize([record["config"] for record in records]).astype(object)
    return flat.map(_cell).set_axis([record["condition"] for record in records])


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return str(value)
    return "" if value is None or value != value else value


def under(key: str, groups: Iterable[str]) -> bool:
    """Whether a key is one of `groups` or lies in one."""
    return any(f"{key}.".startswith(f"{group}.") for group in groups)
