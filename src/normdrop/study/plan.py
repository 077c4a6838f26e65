"""A study's plan: the distinct configurations of a grid, checked, where each lies, and which seeds are missing."""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib
import importlib.metadata
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from normdrop.asked import differences, dotted
from normdrop.study import config as configs
from normdrop.study import record
from normdrop.study.told import unknown_key

NAMED = ("data", "data.dataset", "arrangement", "position", "rate")  # what a configuration's path shows by itself
ENGINE = "one for all"  # under which plan.json knows the engine of a study whose config leaves it open


@dataclass
class Condition:
    """One distinct configuration of a study: its path under the study's folder, and how it was asked for."""

    path: str
    overrides: list[str]
    config: dict[str, Any]
    setting: dict[str, Any]
    choices: dict[str, str]  # of the groups
    missing: list[int]  # seeds that its record lacks


@dataclass(frozen=True)
class Plan:
    """A study's folder, its configurations, its grid in the words of their settings, and what plan.json knows."""

    root: Path
    conditions: list[Condition]
    grid: dict[str, list[str]]
    known: dict[str, str]


def bare(key: str) -> str:
    """A key of the command line without what Hydra adds to it."""
    return key.lstrip("+~").split("@")[0]


class Composer:
    """The config of a point of the grid, as Hydra composes it.

    Hydra reads files and merges them, 50 ms, for each distinct choice of groups alone: the values are then put into a
    copy by the very call that it uses. A value of a group that is swept is left out where the point's choice has no
    such key; `unused` says where.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, points: Sequence[Mapping[str, str]]):
        self.loader, self.master = loader, master
        self.is_group = cache(lambda key: "." not in key and bool(loader.get_group_options(key)))
        self.base = cache(self._base)
        every: set[str] = set().union(*points)
        self.varying = {bare(key) for key in every if len({point.get(key) for point in points}) > 1}
        self.unused: dict[str, set[str]] = defaultdict(set)
        self.used: set[str] = set()

    def __call__(self, point: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The resolved config of a point, the choices of its groups, and which keys of the point are in it."""
        groups = {key: value for key, value in point.items() if key[0] in "+~" or self.is_group(bare(key))}
        base, choices = self.base(*groups.items())
        config = copy.deepcopy(base)
        used = [*groups]
        for key, value in point.items():
            if key in groups:
                continue
            group = key.split(".")[0]
            try:
                OmegaConf.update(config, key, _parsed(f"{key}={value}"), merge=True)
                used.append(key)
            except (ConfigAttributeError, ConfigKeyError):
                if group not in self.varying or group == key:
                    raise ValueError(unknown_key(key, dotted(configs.plain(base, resolve=False)))) from None
                self.unused[key].add(f"{group}={point.get(group)}")
        self.used.update(used)
        return configs.plain(config), choices, used

    def _base(self, *overrides: tuple[str, str]) -> tuple[DictConfig, dict[str, str]]:
        config = self.master
        if any(config.hydra.runtime.choices.get(key) != value for key, value in overrides):
            config = self.loader.load_sweep_config(config, [f"{key}={value}" for key, value in overrides])
        choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items() if "hydra/" not in str(k)}
        base = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        OmegaConf.set_struct(base, True)
        return base, choices


@cache
def _parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def plan(points: Sequence[Mapping[str, str]], compose: Composer, typed: Collection[str]) -> Plan:
    """The distinct configurations of a grid, checked, and where they lie. Raises ValueError.

    typed: the keys of the command line.
    """
    for key in compose.varying:
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in (*record.FIXED, "experiment", "hydra")):
            raise ValueError(f"{key}: cannot be swept; give one value, or run the command once for each")
    grid: dict[str, set[str]] = defaultdict(set)
    asked: list[Condition] = []
    for point in points:
        _check_question(point)
        given, choices, used = compose(point)
        spelled = configs.checked(given)
        values = dotted(spelled) | choices
        setting = {}
        for key in map(bare, sorted(used)):
            if key not in values:  # deleted, or Hydra's own
                continue
            grid[key].add(str(values[key]))
            if key in compose.varying and key not in NAMED:
                setting[key] = values[key]
        overrides = [f"{key}={value}" for key, value in point.items()]
        asked.append(Condition("", overrides, configs.canonical(given), setting, choices, []))
    for key in compose.unused.keys() - compose.used:
        raise ValueError(f"{key}: none of {', '.join(sorted(compose.unused[key]))} has such a key")
    names = {condition.config["name"] for condition in asked}
    if len(names) > 1:
        raise ValueError(f"name={min(names)}: depends on a swept key; name the study without it")
    _check_folder(configs.plain(compose.master.hydra.sweep, resolve=False)["dir"])
    compose.master.name = names.pop()
    folder = Path(compose.master.hydra.sweep.dir)
    if "data" in typed and not {"name", "hydra.sweep.dir"} & {*typed}:
        folder = _beside(folder, asked)
    _check_length("name", folder.name, "give a shorter one")
    known = _settle([condition.config for condition in asked], record.read_plan(folder)["known"])
    distinct: dict[str, Condition] = {}
    for condition in asked:
        condition.path = _path(condition.config, condition.setting)
        first = distinct.setdefault(condition.path, condition)
        if configs.config_hash(first.config) != configs.config_hash(condition.config):
            raise ValueError(f"{first.path}: two different configurations of this grid would share this folder")
    for condition in distinct.values():
        condition.missing = missing(condition.config, folder / condition.path)
    spelled_grid = {key: sorted(values, key=_natural) for key, values in grid.items()}
    return Plan(folder, [*distinct.values()], spelled_grid, known)


def _check_folder(asked: str) -> None:
    """Refuse a folder that depends on a key: Hydra would put in the default's value, not the one that is asked for."""
    for key in re.findall(r"\$\{([\w.]+)\}", asked):
        if key != "name" and not key.startswith("hydra."):
            allowed = "of the config's keys only name may stand there"
            raise ValueError(f"hydra.sweep.dir={asked}: depends on {key}; {allowed}")


def _check_question(point: Mapping[str, str]) -> None:
    keys = [*map(bare, point)]
    other = [key for key in keys if re.match(r"study\.(contrast|metric|kind|over)\b", key)]
    if other and "study.sentence" not in keys:
        raise ValueError(f"{other[0]}: asks another question than the declared study.sentence; change that too")


def _beside(folder: Path, asked: Sequence[Condition]) -> Path:
    """The folder of an experiment on data that the command line chose: never among another study's."""
    names = list(dict.fromkeys(condition.config["data"]["name"] for condition in asked))
    if len(names) > 3:
        names[1:] = [f"{len(names) - 1}_more"]
    added = "".join(f"_{name}" for name in names)
    for condition in asked:
        condition.config["name"] += added
    return folder.with_name(folder.name + added)


def _settle(asked: Sequence[dict[str, Any]], before: Mapping[str, str]) -> dict[str, str]:
    """Give each config its rows' fingerprint and its engine. What was found, plan.json knows: to find it anew takes
    libraries that take seconds to import.
    """
    changing = {"openml", *(point.name for point in importlib.metadata.entry_points(group="normdrop.sources"))}
    code = max(file.stat().st_mtime_ns for file in Path(__file__).parents[1].glob("data/*.py"))
    now: dict[str, str] = {}
    for config in asked:
        file = Path(str(config["data"].get("path")))
        state = file.stat().st_ctime_ns if file.is_file() else 0  # which nobody can set back
        about = json.dumps([code, config["data"], state], sort_keys=True)
        key = hashlib.sha256(about.encode()).hexdigest()[:16]
        if key in before and config["data"]["source"] not in changing:
            now[key] = before[key]
        if key not in now:
            now[key] = facts().fingerprint_of(config["data"])
        config["data"]["fingerprint"] = now[key]
    known = {**before, **now}
    open_ones = [config for config in asked if config["engine"] == "auto"]
    if open_ones and ENGINE not in known:
        known[ENGINE] = facts().one_engine(open_ones)
    for config in open_ones:
        config["engine"] = known[ENGINE]
    return known


def facts() -> Any:
    """The module of that name. Its import takes seconds, and a fifth more where Python looks for garbage meanwhile."""
    if "normdrop.study.facts" not in sys.modules:
        print("loading PyTorch and the data …", flush=True)
        gc.disable()
        try:
            importlib.import_module("normdrop.study.facts")
        finally:
            gc.freeze()  # or the first look for garbage, a third of a second, comes now
            gc.enable()
    return sys.modules["normdrop.study.facts"]


def _path(config: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    """Where a configuration lies below the study's folder. Raises ValueError for a name that no folder can have."""
    rate = config["rate"]  # two decimals, more where they are needed to tell rates apart
    spelled = f"q{rate:.2f}" if round(rate, 2) == rate else f"q{rate:g}"
    parts = [config["data"]["name"], config["arrangement"], config["position"], spelled]
    _check_length("data.name", parts[0], "give a shorter one")
    if setting:
        parts.append(",".join(re.sub(r"[^\w.=+-]", "_", f"{key}={value}") for key, value in setting.items()))
        _check_length("what is swept", parts[-1], "sweep fewer keys at a time")
    return "/".join(parts)


def _check_length(key: str, name: str, way: str) -> None:
    if len(name.encode()) > 200:
        raise ValueError(f"{key}={name}: too long for the name of a folder; {way}")


def _natural(value: str) -> tuple[float, str]:
    """The place of a value among others: numbers first, in their order; what is equal (1, 1.0) by its text."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def missing(config: Mapping[str, Any], directory: Path) -> list[int]:
    """The seeds that a configuration's folder lacks. Raises ValueError if its record is another config's."""
    found = record.read(directory)
    if found is None:  # what was finished once, though its tables changed, is made again and not lost
        return sorted({*configs.seeds(config), *record.claimed(directory)})
    differing = dict(differences(found.record["config"], config, record.NOT_HASHED))
    if "data.fingerprint" in differing:
        differing["data.fingerprint"] = "its rows are others than those that were trained on"
    declared = any(key.startswith("study.") for key in differing)
    if found.record["config_hash"] != configs.config_hash(config) or declared:
        said = "; ".join(differing.values())
        raise ValueError(f"{directory}: holds a record of another config ({said}); choose another name=")
    left = [seed for seed in configs.seeds(config) if seed not in found.record["seeds"]]
    if left and "batches" not in found.record:
        raise ValueError(f"{directory}: an older version trained its seeds and cannot be grown; choose another name=")
    return left
