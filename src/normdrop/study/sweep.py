"""A study from its grid to its last condition: plan, check, resume, launch, and say what failed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from normdrop.arrangement import has
from normdrop.study import config as configs
from normdrop.study import record
from normdrop.study.progress import display, note_of
from normdrop.training.check import check_fit

NAMED = ("data", "arrangement", "position", "rate")  # what a condition's path shows by itself


@dataclass(frozen=True)
class Condition:
    """One distinct condition of a study: its path under the study's folder, and how to compose its config."""

    path: str
    overrides: list[str]
    config: dict[str, Any]
    setting: dict[str, Any]
    missing: list[int]  # seeds that its record lacks


def run_study(
    points: Sequence[Mapping[str, str]],
    varying: set[str],
    compose: Callable[[list[str]], DictConfig],
    launch: Callable[..., Any],
    config: DictConfig,
) -> None:
    """Train what is missing of a grid.

    points: the overrides of each point of the grid, by key. varying: the keys whose values differ among them. compose:
    a point's config from its overrides. launch: a Hydra launcher's. Nothing trains before every condition has passed
    its checks. Exits with status 1 if a condition failed.
    """
    console = Console(highlight=False)
    root = Path(config.hydra.sweep.dir)
    study = plan(points, varying, compose, root)
    todo = [condition for condition in study if condition.missing]
    replicates = sum(len(configs.seeds(condition.config)) for condition in study)
    console.print(
        f"[bold]{root}[/bold]: {len(study)} conditions, {replicates} replicates; {len(study) - len(todo)} conditions "
        f"are finished, {len(todo)} to train ({sum(len(condition.missing) for condition in todo)} replicates)"
    )
    if todo:
        check_fits(todo)
        grid = {
            key: sorted({p[key] for p in points if key in p}, key=_natural)
            for key in dict.fromkeys(k for p in points for k in p)
        }
        _write_plan(root, study, grid)
        try:
            todo = _train(console, root, todo, launch)
        except KeyboardInterrupt:
            finished = sum(not missing(condition.config, root / condition.path) for condition in study)
            raise KeyboardInterrupt(f"{finished} of {len(study)} conditions are finished") from None
    failed = [condition for condition in study if (root / condition.path / record.ERROR).exists()]
    for condition in failed:
        reason = (root / condition.path / record.ERROR).read_text(encoding="utf-8").splitlines()[0]
        console.print(f"failed: {condition.path}: {reason}", markup=False, soft_wrap=True)
    if failed or todo:
        left = f"{len(failed)} of {len(study)} conditions failed" + (f", {len(todo)} did not finish" if todo else "")
        raise ValueError(
            f"{left}; the traceback of each stands in its {record.ERROR}. The same command tries them again"
        )


def _train(console: Console, root: Path, todo: list[Condition], launch: Callable[..., Any]) -> list[Condition]:
    """Launch conditions until each is finished or has failed; those that are left without either are returned."""
    for condition in todo:
        for trace in (root / condition.path / record.ERROR, note_of(root, condition.path)):
            trace.unlink(missing_ok=True)
    while todo:
        with display(console, root, [condition.path for condition in todo]):
            try:
                returned = launch([condition.overrides for condition in todo], initial_job_idx=0)
            except OSError:  # a full disk, not a fault of the job's
                raise
            except Exception as error:
                returned = []
                _mark_killed(root, todo, error)
        for job in returned:
            if job.return_value is not None:
                raise ValueError(job.return_value)
        left = [c for c in todo if missing(c.config, root / c.path) and not (root / c.path / record.ERROR).exists()]
        elsewhere = False
        for condition in left:
            lock = record.lock(root / condition.path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                elsewhere = True
                console.print(f"waiting for {condition.path}, in work in another process", markup=False, soft_wrap=True)
                lock.acquire()  # and take over what it leaves
            lock.release()
        if len(left) == len(todo) and not elsewhere:
            return left
        todo = left
    return []


def _mark_killed(root: Path, todo: Sequence[Condition], error: Exception) -> None:
    """Fail the conditions that were in work in processes that died; without any the fault was the launcher's own."""
    dead = []
    for condition in todo:
        directory, note = root / condition.path, note_of(root, condition.path)
        with suppress(Timeout), record.lock(directory).acquire(blocking=False):
            if note.exists() and missing(condition.config, directory):
                reason = (
                    "its process was killed, perhaps for want of memory; fewer side by side: hydra.launcher.n_jobs=1"
                )
                text = f"{type(error).__name__}: {reason}\n\n{error}\n"
                (directory / record.ERROR).write_text(text, encoding="utf-8")
                note.unlink()
                dead.append(condition)
    if not dead and isinstance(error, BrokenProcessPool):
        raise ValueError("a worker process was killed before it began a condition; the same command goes on") from error
    if not dead:
        raise error


def plan(
    points: Sequence[Mapping[str, str]], varying: set[str], compose: Callable[[list[str]], DictConfig], root: Path
) -> list[Condition]:
    """The distinct conditions of a grid, checked. Raises ValueError with one line for the first thing wrong."""
    for key in (*configs.NOT_HASHED, "experiment"):
        if key in varying or any(name.startswith(f"{key}.") for name in varying):
            raise ValueError(f"{key}: cannot be swept; give one value, or run the command once for each")
    conditions: dict[str, Condition] = {}
    for point in points:
        composed = compose([f"{key}={value}" for key, value in point.items()])
        config = configs.plain(composed)
        configs.check(config)
        asked = (config["arrangement"], config["position"])
        fixed = configs.canonical(config)
        config |= fixed
        setting = {}
        for key in sorted(varying.intersection(point) - set(NAMED)):
            bare = key.lstrip("+")
            choice = OmegaConf.select(composed, f"hydra.runtime.choices.{bare}")
            setting[bare] = choice if choice is not None else configs.lookup(config, bare)
        named = (config["data"]["name"], config["arrangement"], config["position"], f"q{_rate(config['rate'])}")
        path = "/".join((_check_name(named[0]), *named[1:]))
        if setting:
            path += "/" + ",".join(re.sub(r"[^\w.=+-]", "_", f"{key}={value}") for key, value in setting.items())
        if len(max(path.split("/"), key=len)) > 200:
            raise ValueError(f"{path}: too many keys vary for the name of a folder; sweep fewer of them at a time")
        known = conditions.get(path)
        if known is not None:
            if configs.config_hash(known.config) != configs.config_hash(config):
                raise ValueError(f"{path}: two different conditions of this grid would share this folder")
            continue
        if asked != (config["arrangement"], config["position"]) and len(points) == 1:
            print(f"{asked[0]} {asked[1]} is the same network as {asked[0]} {config['position']} and is recorded there")
        settled = dict(point) | {key: str(value) for key, value in fixed.items()} | {"hydra.sweep.subdir": f"'{path}'"}
        overrides = [f"{key}={value}" for key, value in settled.items()]
        conditions[path] = Condition(path, overrides, config, setting, missing(config, root / path))
    return list(conditions.values())


def _rate(rate: float) -> str:
    """Two decimals, more where they are needed to tell rates apart."""
    return f"{rate:.2f}" if round(rate, 2) == rate else f"{rate:g}"


def _natural(value: str) -> tuple[int, float | str]:
    try:
        return 0, float(value)
    except ValueError:
        return 1, value


def missing(config: Mapping[str, Any], directory: Path) -> list[int]:
    """The seeds that a condition's folder lacks. Raises ValueError if its record is another config's or damaged."""
    record.settle(directory)
    found = record.read(directory)
    if found is None:
        return configs.seeds(config)
    held = found.record
    if held["config_hash"] != configs.config_hash(config):
        changed = ", ".join(_differences(held["config"], config))
        raise ValueError(
            f"{directory}: holds a record of another config ({changed}); choose another name= or move it away"
        )
    if (held["config"]["study"] or {}) != (config["study"] or {}):
        changed = ", ".join(_differences(held["config"]["study"] or {}, config["study"] or {}, "study."))
        raise ValueError(
            f"{directory}: was trained under another declaration ({changed}); a study is declared before it runs: "
            "choose another name="
        )
    return [seed for seed in configs.seeds(config) if seed not in held["seeds"]]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*old, *new}, key=str):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in configs.NOT_HASHED:
            yield f"{prefix}{key} was {before}, now {after}"


def _check_name(name: object) -> str:
    """The data set's name, which becomes part of paths."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", str(name)):
        allowed = "letters, digits, '_', '.' and '-' only, not starting with '.' or '-'"
        raise ValueError(f"data.name={name!r}: it must be {allowed}")
    return str(name)


def check_fits(conditions: Sequence[Condition]) -> None:
    """Set up each distinct data config once, with one replicate. Raises ValueError."""
    seen = set()
    for condition in conditions:
        config = condition.config
        key = json.dumps(
            [
                *(config[key] for key in ("data", "batch_size", "trainer", "model", "noise", "optimizer")),
                has(config["arrangement"], "bn"),
            ],
            sort_keys=True,
        )
        if key not in seen:
            seen.add(key)
            check_fit(config, condition.missing[0])


def _write_plan(root: Path, study: Sequence[Condition], grid: Mapping[str, Any]) -> None:
    """plan.json: what was asked for, so that jobs know their names and a report knows what is missing.

    Sweeps that share a folder add to it: `sweeps` lists their commands and grids, `conditions` says which asked last.
    """
    sweep = {"command": command(), "grid": grid}
    path, part = root / "plan.json", root / "plan.json.part"
    root.mkdir(parents=True, exist_ok=True)
    with record.lock(root):
        old: dict[str, Any] = {"sweeps": [], "conditions": {}}
        if path.exists():
            old |= json.loads(path.read_text(encoding="utf-8"))
        sweeps = old["sweeps"] + ([] if sweep in old["sweeps"] else [sweep])
        number = sweeps.index(sweep)
        asked = {c.path: {"setting": c.setting, "seeds": configs.seeds(c.config), "sweep": number} for c in study}
        text = json.dumps({"sweeps": sweeps, "conditions": old["conditions"] | asked}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)


def command() -> str:
    """The command line of this process, as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *(word for word in sys.argv[1:] if word != "--multirun")])
