"""A study's plan: the distinct configurations of a grid, checked, where each lies, and which seeds are missing."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from normdrop.study import config as configs
from normdrop.study import record

NAMED = ("data", "data.dataset", "arrangement", "position", "rate")  # what a configuration's path shows by itself
PLAN = "plan.json"


@dataclass(frozen=True)
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
    """A study's folder, its configurations, and its grid in the words of their settings."""

    root: Path
    conditions: list[Condition]
    grid: dict[str, list[str]]
    known: Known


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
        self.is_group, self.base = cache(lambda key: bool(loader.get_group_options(key))), cache(self._base)
        every: set[str] = set().union(*points)
        self.varying = {bare(key) for key in every if len({point.get(key) for point in points}) > 1}
        self.unused: dict[str, set[str]] = defaultdict(set)
        self.used: set[str] = set()

    def __call__(self, point: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The resolved config of a point, the choices of its groups, and which keys of the point are in it."""
        groups = {key: value for key, value in point.items() if self.is_group(bare(key))}
        values = {key: value for key, value in point.items() if key not in groups}
        _, known, _ = self.base(*groups.items())
        for key in [key for key in values if key not in known]:
            group, value = key.split(".")[0], values.pop(key)
            if group in self.varying and group != key:
                self.unused[key].add(f"{group}={point.get(group)}")
            else:
                groups[key] = value  # not a plain value of what is there: Hydra knows what to make of it
        base, _, choices = self.base(*groups.items())
        config = copy.deepcopy(base)
        for key, value in values.items():
            OmegaConf.update(config, key, _parsed(f"{key}={value}"), merge=True)
        self.used.update(values, groups)
        return configs.resolved(config), choices, [*groups, *values]

    def _base(self, *overrides: tuple[str, str]) -> tuple[DictConfig, set[str], dict[str, str]]:
        config = self.loader.load_sweep_config(self.master, [f"{key}={value}" for key, value in overrides])
        plain = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items() if "hydra/" not in str(k)}
        for group, choice in choices.items():
            if choice.startswith("_"):
                raise ValueError(f"{group}={choice}: is a part of others; choose one whose name has no _ in front")
        return plain, configs.keys_of(plain), choices


@cache
def _parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


class Known:
    """Answers of `facts`, which takes seconds to import, kept in plan.json from one start to the next."""

    def __init__(self, kept: Mapping[str, str]):
        self.kept, self.now = dict(kept), dict[str, str]()
        package = Path(__file__).parents[1]
        code = [file for room in ("data", "engine", "networks") for file in (package / room).glob("*.py")]
        self.code = max(file.stat().st_mtime_ns for file in code)
        self.installed = {point.name for point in importlib.metadata.entry_points(group="normdrop.sources")}

    def fingerprint(self, data: Mapping[str, Any]) -> str:
        def find() -> str:
            from normdrop.study.facts import fingerprint_of

            return fingerprint_of(data)

        file = Path(str(data.get("path")))
        changed = [file.stat().st_mtime_ns, file.stat().st_size] if file.is_file() else []
        # What another package makes may change without a file of ours, and a server's likewise.
        return self._of(find, data["source"] not in {*self.installed, "openml"}, data, changed)

    def engine(self, config: Mapping[str, Any]) -> str:
        def find() -> str:
            from normdrop.study.facts import engine_of

            return engine_of(config)

        decisive = ("engine", "model", "optimizer", "noise", "arrangement", "position", "trainer")
        here = importlib.util.find_spec("numba") is not None, os.environ.get("NUMBA_DISABLE_JIT")
        return self._of(find, True, {key: config[key] for key in decisive}, here)

    def _of(self, find: Callable[[], str], keep: bool, *asked: Any) -> str:
        key = hashlib.sha256(json.dumps([self.code, asked], sort_keys=True).encode()).hexdigest()[:16]
        answers = self.kept if keep else self.now
        if key not in answers:
            answers[key] = find()
        return answers[key]


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


def plan(points: Sequence[Mapping[str, str]], compose: Composer, folder: Path, typed: Collection[str]) -> Plan:
    """The distinct configurations of a grid, checked, and where they lie. Raises ValueError.

    folder: of the study by its name. typed: the keys of the command line.
    """
    _check_swept(compose.varying)
    grid: dict[str, set[str]] = defaultdict(set)
    asked = []
    for point in points:
        given, choices, used = compose(point)
        _check_question(point)
        spelled = configs.check(given)
        if spelled["name"] != compose.master.name:
            raise ValueError(f"name={compose.master.name}: depends on a swept key; name the study without it")
        values = {}
        for key in map(bare, sorted(used)):
            with suppress(KeyError):  # deleted, or Hydra's own
                values[key] = choices[key] if key in choices else configs.lookup(spelled, key)
                grid[key].add(str(values[key]))
        setting = {key: value for key, value in values.items() if key not in NAMED and key in compose.varying}
        asked.append((point, configs.known_as(spelled), setting, choices))
    for key in compose.unused.keys() - compose.used:
        raise ValueError(f"{key}: none of {', '.join(sorted(compose.unused[key]))} has such a key")
    root = folder
    if "data" in typed and not {"name", "hydra.sweep.dir"} & {*typed}:
        root = _beside(folder, list(dict.fromkeys(config["data"]["name"] for _, config, _, _ in asked)))
    known = Known(read_plan(root)["known"])
    for _, config, _, _ in asked:
        config["name"] += root.name.removeprefix(folder.name)
        config["data"]["fingerprint"] = known.fingerprint(config["data"])
    engines = {known.engine(config) for _, config, _, _ in asked}
    if len(engines) > 1:
        known.kept["one for all"] = "torch"  # so that no comparison has two; also where a part of the grid is asked for
    one = known.kept.get("one for all") or engines.pop()
    conditions: dict[str, Condition] = {}
    for point, config, setting, choices in asked:
        config["engine"] = one if config["engine"] == "auto" else config["engine"]
        path = _path(config, setting)
        if path not in conditions:
            overrides = [f"{key}={value}" for key, value in point.items()]
            conditions[path] = Condition(path, overrides, config, setting, choices, missing(config, root / path))
        elif configs.config_hash(conditions[path].config) != configs.config_hash(config):
            raise ValueError(f"{path}: two different configurations of this grid would share this folder")
    spelled_grid = {key: sorted(values, key=_natural) for key, values in grid.items()}
    return Plan(root, list(conditions.values()), spelled_grid, known)


def _beside(folder: Path, names: Sequence[str]) -> Path:
    """The folder of an experiment on data that the command line chose: never among another study's."""
    told = names if len(names) < 4 else [names[0], f"{len(names) - 1}_more"]
    return folder.with_name("_".join([folder.name, *told]))


def _check_swept(varying: Collection[str]) -> None:
    for key in varying:
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in (*record.FIXED, "experiment", "hydra")):
            raise ValueError(f"{key}: cannot be swept; give one value, or run the command once for each")


def _check_question(point: Mapping[str, str]) -> None:
    keys = [*map(bare, point)]
    other = [key for key in keys if re.match(r"study\.(contrast|metric|kind|over)\b", key)]
    if other and "study.sentence" not in keys:
        raise ValueError(f"{other[0]}: asks another question than the declared study.sentence; change that too")


def _path(config: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    """Where a configuration lies below the study's folder. Raises ValueError for a name that no folder can have."""
    rate = config["rate"]  # two decimals, more where they are needed to tell rates apart
    spelled = f"q{rate:.2f}" if round(rate, 2) == rate else f"q{rate:g}"
    parts = [config["data"]["name"], config["arrangement"], config["position"], spelled]
    if setting:
        parts.append(",".join(re.sub(r"[^\w.=+-]", "_", f"{key}={value}") for key, value in setting.items()))
    if len(parts[0]) > 200:
        raise ValueError(f"data.name={parts[0]}: too long for the name of a folder; give another, data.name=…")
    if len(parts[-1].encode()) > 200:
        raise ValueError(f"{parts[-1]}: too many keys vary for the name of a folder; sweep fewer of them at a time")
    return "/".join(parts)


def _natural(value: str) -> tuple[float, str]:
    """The place of a value among others: numbers first, in their order; what is equal (1, 1.0) by its text."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def missing(config: Mapping[str, Any], directory: Path) -> list[int]:
    """The seeds that a configuration's folder lacks. Raises ValueError if its record is another config's."""
    found = record.read(directory)
    if found is None:
        return configs.seeds(config)
    held = found.record
    differing = [*_differences(held["config"], config)]
    declared = any(difference.startswith("study.") for difference in differing)
    if held["config_hash"] != configs.config_hash(config) or declared:
        said = "; ".join(differing)
        raise ValueError(f"{directory}: holds a record of another config ({said}); choose another name=")
    return [seed for seed in configs.seeds(config) if seed not in held["seeds"]]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = ({key: configs.lookup(c, key) for key in configs.keys(c)} for c in (old, new))
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was != now and key not in record.NOT_HASHED and not isinstance(was, dict) and not isinstance(now, dict):
            rows = "its rows are others than those that were trained on"
            yield rows if key == "data.fingerprint" else f"{key} was {was}, now {now}"
