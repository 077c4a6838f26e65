"""What a sweep left behind: finished conditions found, checked, told apart, and laid out as one table per study."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from normdrop.arrangement import ARRANGEMENTS
from normdrop.kinds import KINDS, Kind, kind_of
from normdrop.metrics import METRICS
from normdrop.study import record as store

# fmt: off
# What every record must say.
NEEDED = (
    "condition", "dataset", "arrangement", "position", "rate", "setting", "stands_for", "config", "rows", "seeds",
)
# fmt: on
REQUIRED = {"seed", "val_acc", "val_nll", "test_acc", "diverged"}
# A study as it is published: its replicates in one table; its records, one a line, below a line on the whole.
PUBLISHED, REPLICATES = "records.jsonl.xz", "replicates.csv.xz"
LEVEL_COLUMN = "steps_at_{:g}"  # of the replicates, in place of the learning curves
# Measures that are no counts: five digits are far below what matters, and more would fill a reference.
INEXACT = [name for name, metric in METRICS.items() if metric.unit == "nats" or name.endswith("ece")]
# What may differ between two conditions that are compared, and what has no influence on a result; rows are known by
# their fingerprint, wherever they lie.
_FREE = (
    *store.NOT_HASHED,
    *("arrangement", "position", "rate", "rerun"),
    *("measure", "data.path", "trainer.accelerator", "trainer.devices"),
)
MAIN = "ordering"  # the claim that the project is about
# Conditions trained without an experiment: the table is worth showing, but nothing was declared.
UNDECLARED = {
    "claim": "undeclared",
    "sentence": "",
    "contrast": {"a": "bn_dropout", "b": "dropout_bn"},
    "metric": "test_acc",
    "secondary": ["test_nll", "test_ece"],
    "kind": "difference",
    "family": None,
}


@dataclass
class Study:
    """All finished conditions that one declaration governs."""

    root: Path
    declaration: dict[str, Any]
    """the study block of the config, its grid the list of all grids that were swept under it"""
    records: list[dict[str, Any]]
    replicates: pd.DataFrame
    """one row per replicate and (arrangement, position) it stands for; see `_layout`"""
    told_apart: list[str]
    """one line for each config key that differs though the sweep did not name it"""

    @property
    def published(self) -> bool:
        """Whether it was read from its published form, which has no learning curves."""
        return (self.root / PUBLISHED).exists()

    @property
    def kind(self) -> Kind:
        return kind_of(self.declaration["kind"], self.metric)

    def kind_of(self, metric: str) -> Kind:
        return kind_of(self.declaration["kind"], metric)

    @property
    def over(self) -> str | None:
        """The key of the grid that the kind consumes."""
        return self.declaration["over"] if self.kind.consumes else None

    @property
    def selects(self) -> bool:
        """Whether validation has anything to choose from."""
        candidates = self.replicates.drop_duplicates(["arrangement", *self.declaration["tuned"]])
        return bool(candidates.groupby("arrangement").size().max() > 1)

    def rope(self, metric: str) -> float:
        """Differences up to this are of no practical consequence: as declared, or else as the metric has it."""
        ropes, own = self.declaration["rope"], METRICS[metric].rope
        if METRICS[metric].unit == "steps" and not self.kind_of(metric).ratio:
            own = math.nan  # a number of steps that does not matter depends on how many there are
        return float(ropes.get(metric, ropes.get(metric.removeprefix("recal_"), own)))

    @property
    def arrangements(self) -> list[str]:
        """Those that were trained: the known ones in their order, then any others."""
        trained = set(self.replicates["arrangement"])
        return [*(name for name in ARRANGEMENTS if name in trained), *sorted(trained - set(ARRANGEMENTS))]

    @property
    def metrics(self) -> list[str]:
        """The primary metrics; the figures show the first."""
        declared = self.declaration["metric"]
        return [declared] if isinstance(declared, str) else list(declared)

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The contrast's arrangements; a side of several is the better of them, by validation."""
        a, b = self.declaration["contrast"]["a"], self.declaration["contrast"]["b"]
        return [a] if isinstance(a, str) else list(a), [b] if isinstance(b, str) else list(b)

    @property
    def settings(self) -> list[str]:
        """Every setting, those with the fewest keys first, then in the grid's order."""
        grid = {key: [str(value) for value in values] for g in self.declaration["grid"] for key, values in g.items()}

        def rank(setting: str) -> tuple[int, list[int], str]:
            pairs = [part.partition("=") for part in keys_of(setting)]
            places = [grid[k].index(v) if v in grid.get(k, []) else len(grid.get(k, [])) + 1 for k, _, v in pairs]
            return len(pairs), places, setting

        return sorted(self.replicates["setting"].unique(), key=rank)

    @property
    def base_settings(self) -> list[str]:
        """The settings of the grid proper, with the fewest keys: further ones change something about one of these."""
        fewest = len(keys_of(self.settings[0]))
        return [setting for setting in self.settings if len(keys_of(setting)) == fewest]


@dataclass
class Found:
    """Everything under one directory. The last three map a condition's path to what is wrong or not there yet."""

    directory: Path
    studies: list[Study] = field(default_factory=list)
    planned: int = 0
    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def keys_of(setting: str) -> list[str]:
    """The `key=value` parts of a setting; a value may be a list with commas of its own."""
    return re.findall(r"[^,=]+=(?:\[[^\]]*\]|[^,]*)", setting)


def load(directory: Path) -> Found:
    """Read every condition under `directory`.

    A condition with a record is finished; one whose record or tables cannot be trusted is named as damaged and left
    out. A study may also lie there as `publish.write` leaves it. Raises ValueError if there is no such directory or
    nothing in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    found = Found(directory)
    by_study: dict[tuple[Path, str], list[tuple[dict[str, Any], pd.DataFrame]]] = defaultdict(list)
    plans: dict[str, int] = {}
    for here, folders, files in os.walk(directory):
        folder, name = Path(here), os.path.relpath(here, directory)
        if "plan.json" in files:
            plans |= _planned(folder, name)
        if "error.txt" in files:
            lines = (folder / "error.txt").read_text(errors="replace").splitlines()
            found.failed[name] = lines[0] if lines else "no reason was recorded"
        if PUBLISHED in files:
            try:
                conditions, left = _published(folder)
            except ValueError as error:
                found.damaged[name] = str(error)
                continue
            for what, reasons in left.items():
                known = {os.path.normpath(f"{name}/{condition}"): reason for condition, reason in reasons.items()}
                getattr(found, what).update(known)
                plans |= dict.fromkeys(known, 0)
            for record, table in conditions:
                plans[os.path.normpath(f"{name}/{record['condition']}")] = len(table)
                by_study[folder, _declaration(record)].append((record, table))
        elif "record.json" in files or "record.json.new" in files:
            try:
                record, table = read(folder)
            except ValueError as error:
                found.damaged[name] = str(error)
                continue
            by_study[_above(folder, record["condition"], directory), _declaration(record)].append((record, table))
            if len(table) < plans.get(name, 0):
                found.unfinished[name] = f"{len(table)} of {plans[name]} planned replicates"
        elif "error.txt" not in files and (".hydra" in folders or "history.csv" in files or "replicates.csv" in files):
            found.unfinished[name] = "begun"
        # A report of ours also holds a replicates.csv; it is no condition.
        folders[:] = sorted(f for f in folders if f != "report" and not f.startswith("."))
    finished = [os.path.relpath(root / r["condition"], directory) for (root, _), c in by_study.items() for r, _ in c]
    seen = {*found.failed, *found.damaged, *found.unfinished, *finished}
    found.unfinished |= {name: "planned, not begun" for name in plans if name not in seen}
    found.planned, found.finished = len(plans), len(finished)
    found.studies = [_study(root, conditions) for (root, _), conditions in sorted(by_study.items())]
    found.studies.sort(key=_rank)
    if not (found.studies or found.failed or found.unfinished or found.damaged):
        raise ValueError(f"{directory}: no conditions in it; `normdrop` writes them, see README.md")
    return found


def _above(folder: Path, condition: str, directory: Path) -> Path:
    """The study's folder of a condition's, in the words of the directory, which may lie within it."""
    root = Path(os.path.abspath(folder)).parents[len(Path(condition).parts) - 1]
    return Path(os.path.normpath(directory / os.path.relpath(root, directory)))


def _rank(study: Study) -> tuple[bool, int]:
    """The main claim comes first, and of those who test it the one on the most data sets; else their names decide."""
    main = study.declaration["claim"] == MAIN
    return not main, -study.replicates["dataset"].nunique() if main else 0


def _planned(root: Path, name: str) -> dict[str, int]:
    """Every condition that was asked for and its number of replicates, as the sweeper wrote them down."""
    try:
        conditions = json.loads((root / "plan.json").read_text())["conditions"]
        return {os.path.normpath(f"{name}/{path}"): len(planned["seeds"]) for path, planned in conditions.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return {}


def _declaration(record: dict[str, Any]) -> str:
    # A key that says nothing is one that an earlier version did not have.
    said = {key: value for key, value in record["study"].items() if key != "grid" and value is not None}
    return json.dumps(said, sort_keys=True)


def read_history(study: Study, record: dict[str, Any]) -> pd.DataFrame:
    """The learning curves of one condition: seed, epoch, step, train_loss, val_nll, val_acc."""
    found = store.read(study.root / record["condition"])
    assert found is not None
    return found.history


def at_level(study: Study, factor: float) -> Study:
    """The study with its steps counted to `factor` times the declared level of validation NLL."""
    replicates = study.replicates.copy()
    if (published := LEVEL_COLUMN.format(factor)) in replicates:
        return replace(study, replicates=replicates.assign(steps_to_level=replicates[published]))
    for record in study.records:
        history, level = read_history(study, record), record["config"]["data"]["level"]
        steps = history[history["val_nll"] <= factor * level].groupby("seed")["step"].min()
        own = (replicates["condition"] == record["condition"]) & ~replicates["diverged"].astype(bool)
        replicates.loc[own, "steps_to_level"] = replicates.loc[own, "seed"].map(steps).astype(float)
    return replace(study, replicates=replicates)


def _published(folder: Path) -> tuple[list[tuple[dict[str, Any], pd.DataFrame]], dict[str, dict[str, str]]]:
    """A published study's records, each with its replicates, and what was failed, unfinished and damaged at the time.

    Raises ValueError if it is damaged.
    """
    try:
        head, *records = map(json.loads, lzma.decompress((folder / PUBLISHED).read_bytes()).decode().splitlines())
        text = lzma.decompress((folder / REPLICATES).read_bytes())
        if hashlib.sha256(text).hexdigest() != head["replicates"]:
            raise ValueError(f"{folder / REPLICATES}: damaged (its checksum is not that in {PUBLISHED})")
        whole = pd.read_csv(io.BytesIO(text), float_precision="round_trip")
        tables = dict(iter(whole.drop(columns="condition").groupby(whole["condition"], sort=False)))
        return [(record, _checked(record, tables[record["condition"]])) for record in records], head["left"]
    except (lzma.LZMAError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder / PUBLISHED}: damaged ({error!r})") from error


def read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """A condition's record and its replicates. Raises ValueError with what is damaged."""
    found = store.read(folder)
    assert found is not None
    table = _checked(found.record, found.replicates)
    condition = Path(found.record["condition"]).parts
    if folder.absolute().parts[-len(condition) :] != condition:
        raise ValueError(f"its record is of another condition, {found.record['condition']}")
    return found.record, table


def _checked(record: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """The replicates of a record that has all that is read of it. Raises ValueError with what it lacks."""
    try:
        for key in NEEDED:
            record[key]
        if not set(record["study"]) - {"grid"}:
            record["study"] = {**UNDECLARED, **record["study"]}
        if lacking := {"claim", "contrast", "metric", "kind", "family"} - set(record["study"]):
            raise ValueError(f"its study declares no {', '.join(sorted(lacking))}")
        _understood(record["study"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its record or its table lacks {error}") from None
    if lacking := {*REQUIRED, "steps_to_level"} - set(table.columns):
        raise ValueError(f"replicates.csv lacks the column {', '.join(sorted(lacking))}")
    return table


def _understood(study: dict[str, Any]) -> None:
    """Raises ValueError if the study declares what this version does not know."""
    metrics = [study["metric"]] if isinstance(study["metric"], str) else study["metric"]
    if unknown := {*metrics, *study.get("secondary", [])} - set(METRICS):
        raise ValueError(f"its study measures {', '.join(sorted(unknown))}: known are {', '.join(METRICS)}")
    if study["kind"] not in KINDS:
        raise ValueError(f"its study is of kind {study['kind']}: known are {', '.join(KINDS)}")


def _study(root: Path, conditions: list[tuple[dict[str, Any], pd.DataFrame]]) -> Study:
    records = [record for record, _ in conditions]
    defaults: dict[str, Any] = {
        "sentence": "",
        "secondary": [],
        "over": None,
        "tuned": ["rate"],
        "rope": {},
        "core": None,
        "apart": [],
        "alpha": 0.05,
    }
    declaration = {**defaults, **records[0]["study"]}
    grids = {json.dumps(record["study"].get("grid") or {}, sort_keys=True) for record in records}
    declaration["grid"] = [json.loads(grid) for grid in sorted(grids)]
    # Keys with a column of their own: a grid's values of these are candidates or rungs, not separate verdicts.
    own_column = [key for key in declaration["tuned"] if key != "rate"]
    if KINDS[declaration["kind"]].consumes:
        own_column.append(declaration["over"])
    settings, told_apart = _settings(records, own_column)
    replicates = _layout(conditions, settings, own_column)
    # A network also stands for positions that nobody asked for.
    asked = {p for r in records for p in (r["study"].get("grid") or {}).get("position", [r["position"]])}
    replicates = replicates[replicates["position"].isin(asked)]
    # Two networks may stand for one point (none was trained at two positions, say): the one trained there counts.
    point = ["dataset", "arrangement", "position", "rate", "setting", *own_column, "rerun", "seed"]
    replicates = replicates.sort_values([*point, "stands_in"], kind="stable").drop_duplicates(point)
    if "rate" not in declaration["tuned"] and replicates["rate"].where(replicates["rate"] > 0).nunique() > 1:
        declaration["tuned"] = ["rate", *declaration["tuned"]]  # best against best is over all rates, asked for or not
    return Study(root, declaration, records, replicates.reset_index(drop=True), told_apart)


def _layout(
    conditions: list[tuple[dict[str, Any], pd.DataFrame]], settings: list[str], own_column: Iterable[str]
) -> pd.DataFrame:
    """All replicates of the conditions, once for each (arrangement, position) that their network stands for.

    Added columns: those of `own_column`, condition (the folder), stands_in (True where the network was trained under
    another name), test_train_ratio (NaN where the test part is fixed) and fresh_rows.
    """
    facts = []
    for (record, _), setting in zip(conditions, settings, strict=True):
        rows, itself = record["rows"], (record["arrangement"], record["position"])
        fact = {"condition": record["condition"], "dataset": record["dataset"], "rate": float(record["rate"])}
        fact |= {"setting": setting, "rerun": int(setting_value(record, "rerun") or 0)}
        values = {key: setting_value(record, key) for key in own_column}
        fact |= {key: str(value) if isinstance(value, list) else value for key, value in values.items()}
        fact["test_train_ratio"] = math.nan if rows.get("fixed_test") else rows["test"] / rows["train"]
        fact["fresh_rows"] = bool(record.get("fresh_rows", False))
        for a, p in dict.fromkeys([itself, *((a, p) for a, p in record["stands_for"])]):
            facts.append(fact | {"arrangement": a, "position": p, "stands_in": (a, p) != itself})
    named = pd.DataFrame(facts)
    whole = pd.concat([table.assign(condition=record["condition"]) for record, table in conditions], ignore_index=True)
    whole = rounded(whole).astype({"steps_to_level": float})
    return named.merge(whole.drop(columns=whole.columns.intersection(named.columns.drop("condition"))), on="condition")


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Replicates as a report knows them, whether they are published or in their folders."""
    return table.assign(**{name: table[name].map("{:.5g}".format).astype(float) for name in INEXACT if name in table})


def setting_value(record: dict[str, Any], key: str) -> Any:
    """The condition's value of a config key: as the sweep named it, else as the resolved config has it."""
    if key in record["setting"]:
        return record["setting"][key]
    node: Any = record["config"]
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _settings(records: list[dict[str, Any]], own_column: list[str]) -> tuple[list[str], list[str]]:
    """Each record's setting, and a line on every key that had to be added to it to tell configs apart."""
    free = (*_FREE, *own_column)
    under_free = tuple(f"{key}." for key in free)
    named = [{k: v for k, v in r["setting"].items() if k not in free} for r in records]
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (record, setting) in enumerate(zip(records, named, strict=True)):
        # With the values of own columns: other keys may follow them by interpolation.
        values = setting | {key: setting_value(record, key) for key in own_column}
        groups[record["dataset"], json.dumps(values, sort_keys=True)].append(i)
    told_apart = {}
    for (dataset, _), members in groups.items():
        flat = [
            {k: v for k, v in _flatten(records[i]["config"]).items() if not f"{k}.".startswith(under_free)}
            for i in members
        ]
        for key in sorted(set().union(*flat)):
            texts = [json.dumps(f.get(key)) for f in flat]
            if len(set(texts)) > 1:
                told_apart[dataset, key] = f"{dataset}: {key} is {' in some conditions, '.join(sorted(set(texts)))}."
                for i, text in zip(members, texts, strict=True):
                    named[i] = {**named[i], key: json.loads(text)}
    return [",".join(f"{k}={v}" for k, v in setting.items()) for setting in named], list(told_apart.values())


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
