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

from normdrop.arrangement import ARRANGEMENTS
from normdrop.kinds import KINDS, Kind
from normdrop.metrics import METRICS
from normdrop.report import publish
from normdrop.study import record as store

Record = dict[str, Any]
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
    records: list[Record]
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

    def history(self, condition: str) -> pd.DataFrame | None:
        """A configuration's learning curves: seed, epoch, step, train_loss, val_nll, val_acc; None if published."""
        found = store.read(self.folder / condition)
        return None if found is None else found.history


def load(directory: Path) -> list[Study]:
    """Read every study under `directory`, the main claim first. Links are followed.

    A configuration whose record or tables cannot be trusted is named as damaged and left out. Raises ValueError if
    there is no such directory or nothing in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    found: dict[Path, _Folder] = defaultdict(_Folder)
    for path, files in _walk(directory):
        if publish.RECORDS in files:
            found[path].read_published(path)
        if "plan.json" in files:
            found[path].read_plan(path)
        if store.RECORD in files or store.ERROR in files:
            _configuration(path, directory, found)
    studies = [study for path in sorted(found) for study in _studies(path, found[path], directory)]
    if not studies:
        raise ValueError(f"{directory}: no configurations in it; `normdrop` writes them")

    def rank(study: Study) -> tuple[bool, bool, int]:
        main = study.declared.claim == MAIN
        return not main, study.undeclared, -study.table["dataset"].nunique() if main else 0

    return sorted(studies, key=rank)


@dataclass
class _Folder:
    """What a study's folder holds."""

    finished: list[tuple[Record, pd.DataFrame]] = field(default_factory=list)
    planned: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    def read_plan(self, path: Path) -> None:
        try:
            conditions = json.loads((path / "plan.json").read_text(encoding="utf-8"))["conditions"]
            self.planned = {name: len(planned["seeds"]) for name, planned in conditions.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.damaged["plan.json"] = "cannot be read, so what is unfinished is not known"

    def read_published(self, path: Path) -> None:
        try:
            self.finished, left = publish.read(path)
        except ValueError as error:
            self.damaged["."] = str(error)
            return
        self.failed, self.unfinished, self.damaged = (left[key] for key in publish.LEFT)
        self.planned = {record["condition"]: len(table) for record, table in self.finished}

    def complete(self) -> None:
        """What is planned and not there is unfinished."""
        finished = {record["condition"]: len(table) for record, table in self.finished}
        for name, seeds in self.planned.items():
            if name not in finished and name not in self.failed and name not in self.damaged:
                self.unfinished[name] = "planned, not finished"
            elif finished.get(name, seeds) < seeds:
                self.unfinished[name] = f"{finished[name]} of {seeds} planned seeds"


def _walk(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, through links, but not in circles."""
    for here, folders, files in os.walk(os.path.normpath(directory), followlinks=True):
        path = Path(here)
        yield path, files
        above = {os.path.realpath(parent) for parent in (path, *path.parents)}
        # A report of ours also holds a replicates.csv; it is no configuration.
        inner = [name for name in folders if name != "report" and not name.startswith(".")]
        folders[:] = sorted(name for name in inner if os.path.realpath(path / name) not in above)


def _configuration(path: Path, directory: Path, found: dict[Path, _Folder]) -> None:
    """Put a configuration's folder to its study's: the one that its record names, else the nearest known above."""
    root = next((parent for parent in path.parents if parent in found), Path(os.path.normpath(directory)))
    name = os.path.relpath(path, root)
    if not (path / store.RECORD).exists():
        lines = (path / store.ERROR).read_text(encoding="utf-8", errors="replace").splitlines()
        found[root].failed[name] = lines[0] if lines else "no reason was recorded"
        return
    try:
        read = store.read(path)
        if read is None:
            raise ValueError("the tables are not those of the record; the same command trains it again")
        condition = read.record["condition"]
        parts = len(Path(condition).parts)
        if Path(os.path.abspath(path)).parts[-parts:] != Path(condition).parts:
            raise ValueError(f"its record is of another configuration, {condition}")
        _declaration(read.record, read.replicates)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found[root].damaged[name] = f"its record or its table: {error}"
    else:
        root = Path(os.path.normpath(path / Path(*[".."] * parts)))
        found[root].finished.append((read.record, read.replicates))


def _studies(path: Path, folder: _Folder, directory: Path) -> Iterator[Study]:
    """A folder's studies: one, unless several declarations were used under one name."""
    folder.complete()
    groups: dict[str, list[tuple[Record, pd.DataFrame]]] = defaultdict(list)
    for record, table in folder.finished:
        groups[_declaration(record, table)].append((record, table))
    left = {key: getattr(folder, key) for key in ("planned", *publish.LEFT)}
    name = os.path.relpath(path, directory)
    if name.startswith("."):  # the folder itself, or the one that it lies in
        name = path.resolve().name
    if not groups and any(left.values()):
        yield Study(name, path, Declared(), [], pd.DataFrame(columns=["dataset"]), [], **left)
    for number, said in enumerate(sorted(groups), 1):
        records = [record for record, _ in groups[said]]
        tables = [table.assign(condition=record["condition"]) for record, table in groups[said]]
        own = name if number == 1 else f"{name} ({number})"
        yield _study(own, path, records, pd.concat(tables, ignore_index=True), left)


def _declaration(record: Record, table: pd.DataFrame) -> str:
    """A record's declaration as text. Raises KeyError or ValueError for what it lacks or this version does not know."""
    if lacking := NEEDED - set(table):
        raise ValueError(f"lacks the column {', '.join(sorted(lacking))}")
    record["rows"]["train"], record["stands_for"], record["setting"], record["config"]["trainer"]  # or KeyError
    declared = _declared(record["study"])
    if unknown := {*declared.metrics, *declared.secondary} - set(METRICS):
        raise ValueError(f"metric {', '.join(sorted(unknown))}: known are {', '.join(METRICS)}")
    return repr(declared)


def _declared(study: dict[str, Any]) -> Declared:
    # A key that says nothing is one that an earlier version did not have.
    said = {key: value for key, value in study.items() if key != "grid" and value is not None}
    if not said:
        return Declared(secondary=("test_nll", "test_ece"))
    kind, metric = said["kind"], said.pop("metric")
    if kind not in KINDS:
        raise ValueError(f"kind {kind}: known are {', '.join(KINDS)}")
    said["metrics"] = [metric] if isinstance(metric, str) else metric
    said.setdefault("secondary", [])
    if kind == "mechanism":  # is of what recalibration leaves of the difference
        said["secondary"] = [*said["secondary"], "recal_test_acc"]
    if not KINDS[kind].consumes:
        said.pop("over", None)
    known: dict[str, Any] = {key: value for key, value in said.items() if key in Declared.__dataclass_fields__}
    for key, value in known.items():
        known[key] = tuple(value) if isinstance(value, list) else value
    return Declared(**known)


def _study(name: str, path: Path, records: list[Record], replicates: pd.DataFrame, left: dict[str, Any]) -> Study:
    declared = _declared(records[0]["study"])
    if "rate" not in declared.tuned and len({record["rate"] for record in records} - {0.0}) > 1:
        declared = replace(declared, tuned=("rate", *declared.tuned))  # best against best is over all rates
    own = [key for key in (*declared.tuned, declared.over) if key and key != "rate"]
    settings, told_apart = _settings(records, own)
    keys = [str(key) for key in settings if key not in own and key != "beyond"]
    # A network also stands for positions that nobody asked for.
    asked = {p for r in records for p in (r["study"].get("grid") or {}).get("position", [r["position"]])}
    networks = [network for record in records for network in _networks(record, asked)]
    columns = [column for column in replicates if column in READ or column in METRICS]
    table = pd.DataFrame(networks).merge(settings, left_on="condition", right_index=True)
    table = _measured(table.merge(replicates[["condition", *columns]], on="condition"))
    # Plain objects: of small frames pandas takes and groups them several times as fast as its arrow strings.
    words = [name for name in table if pd.api.types.is_string_dtype(table[name])]
    table = table.astype(dict.fromkeys(words, object))
    # Two networks may stand for one point (none was trained at two positions, say): the one trained there counts.
    point = ["dataset", "arrangement", "position", "rate", *keys, *own, "rerun", "seed"]
    table = table.sort_values("stands_in", kind="stable").drop_duplicates(point)
    table = table.sort_values(["dataset", "arrangement", "position", "rate", "condition", "seed"], ignore_index=True)
    return Study(name, path, declared, records, table, keys, told_apart, **left)


def _networks(record: Record, asked: set[str]) -> list[dict[str, Any]]:
    """What is known of a configuration, once for each arrangement and asked position that its network stands for."""
    rows, config = record["rows"], record["config"]
    batch, alone = config["batch_size"], rows["train"] % config["batch_size"] == 1  # such a row is left out
    row = {
        "condition": record["condition"],
        "dataset": record["dataset"],
        "rate": float(record["rate"]),
        "rerun": int(config.get("rerun") or 0),
        "fresh_rows": bool(record.get("fresh_rows")),
        "test_train_ratio": math.nan if rows.get("fixed_test") else rows["test"] / rows["train"],
        "test_rows": rows["test"],
        "fingerprint": config["data"].get("fingerprint", record["dataset"]),
        "budget": config["trainer"]["max_epochs"] * math.ceil((rows["train"] - (alone and batch > 1)) / batch),
    }
    itself = (record["arrangement"], record["position"])
    names = [name for name in dict.fromkeys([itself, *map(tuple, record["stands_for"])]) if name[1] in asked]
    # A network of a position that nobody asked for is known by the first one that somebody did.
    known = itself if itself in names else next(iter(names), None)
    return [row | {"arrangement": a, "position": p, "stands_in": (a, p) != known} for a, p in names]


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Measures as a report knows them, published or live; steps are shares of the budget, and never reached is 1."""
    table = publish.rounded(table).astype({"diverged": bool})
    for name in table.columns.intersection([name for name in METRICS if METRICS[name].unit == "steps"]):
        steps = table[name].astype(float).where(~table["diverged"])
        # A column without any number was not measured, or nothing can be said of it.
        table[name] = (steps / table["budget"]).fillna(1.0) if steps.notna().any() else math.nan
    return table.drop(columns="budget")


def _settings(records: list[Record], own: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """A column for each config key that varies and for each of `own`, and `beyond`; the index is the condition.

    A key counts that a sweep named and that has several values; further ones are added, each with a line, if without
    them two configurations could not be told apart.
    """
    names = [record["condition"] for record in records]
    flat = flattened(records)
    flat = flat.drop(columns=[key for key in flat if under(str(key), FREE)])
    named = [{key for key in record["setting"] if not under(key, (*FREE, *own))} for record in records]
    settings = pd.DataFrame(index=names)
    for key in dict.fromkeys([*own, *sorted(set().union(*named))]):
        # As the sweep named it, or the name of a group, or as the config has it.
        default = flat[key] if key in flat else [record["choices"].get(key, "") for record in records]
        values = [_cell(record["setting"].get(key, value)) for record, value in zip(records, default, strict=True)]
        if key in own or len(set(values)) > 1:
            settings[key] = values
    groups = [[record["dataset"] for record in records], *(settings[key].astype(str) for key in settings)]
    several = flat.astype(str).groupby(groups).nunique().gt(1).any()
    told = [str(key) for key in settings]
    untold = [str(key) for key, differs in several.items() if differs and not under(str(key), told)]
    told_apart = [f"{key}: {', '.join(sorted(set(flat[key].astype(str))))}" for key in untold]
    fewest = min(map(len, named))
    settings = settings.assign(**{key: flat[key] for key in untold}, beyond=[len(keys) > fewest for keys in named])
    return settings.infer_objects(), told_apart


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
