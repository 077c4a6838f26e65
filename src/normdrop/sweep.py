"""A study from its grid to its last condition: plan, check, resume, launch, and say what failed."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from normdrop import config as configs
from normdrop import results
from normdrop.data import check_name
from normdrop.train import check_fit

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
        # A second pass waits for what another process had in work during the first, and takes over what it left.
        for wait in (False, True):
            _write_plan(root, study, grid, wait)
            with display(console, root, todo):
                launch([condition.overrides for condition in todo], initial_job_idx=0)
            todo = [c for c in todo if not _finished(root / c.path) and not (root / c.path / results.ERROR).exists()]
            if not todo:
                break
    failed = [condition for condition in study if (root / condition.path / results.ERROR).exists()]
    for condition in failed:
        reason = (root / condition.path / results.ERROR).read_text(encoding="utf-8").splitlines()[0]
        console.print(f"failed: {condition.path}: {reason}", markup=False, soft_wrap=True)
    if failed or todo:
        left = f"{len(failed)} of {len(study)} conditions failed" + (f", {len(todo)} did not finish" if todo else "")
        raise ValueError(
            f"{left}; the traceback of each stands in its {results.ERROR}. The same command tries them again"
        )


def plan(
    points: Sequence[Mapping[str, str]], varying: set[str], compose: Callable[[list[str]], DictConfig], root: Path
) -> list[Condition]:
    """The distinct conditions of a grid, checked. Raises ValueError with one line for the first thing wrong."""
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
        path = "/".join((check_name(named[0]), *named[1:]))
        if setting:
            path += "/" + ",".join(re.sub(r"[^\w.=+-]", "_", f"{key}={value}") for key, value in setting.items())
        known = conditions.get(path)
        if known is not None:
            if configs.config_hash(known.config) != configs.config_hash(config):
                raise ValueError(f"{path}: two different conditions of this grid would share this folder")
            continue
        if asked != (config["arrangement"], config["position"]) and len(points) == 1:
            print(f"{asked[0]} {asked[1]} is the same network as {asked[0]} {config['position']} and is recorded there")
        settled = dict(point) | {key: str(value) for key, value in fixed.items()} | {"hydra.sweep.subdir": f"'{path}'"}
        overrides = [f"{key}={value}" for key, value in settled.items()]
        conditions[path] = Condition(path, overrides, config, setting, _missing(root / path, config))
    return list(conditions.values())


def _rate(rate: float) -> str:
    """Two decimals, more where they are needed to tell rates apart."""
    return f"{rate:.2f}" if round(rate, 2) == rate else f"{rate:g}"


def _natural(value: str) -> tuple[int, float | str]:
    try:
        return 0, float(value)
    except ValueError:
        return 1, value


def _missing(directory: Path, config: Mapping[str, Any]) -> list[int]:
    """The seeds to train. Raises ValueError if the folder holds another config's record or a damaged one."""
    record = results.read(directory)
    if record is None:
        return configs.seeds(config)
    if record["config_hash"] != configs.config_hash(config):
        changed = ", ".join(_differences(record["config"], config))
        raise ValueError(
            f"{directory}: holds a record of another config ({changed}); choose another name= or move it away"
        )
    if (record["config"]["study"] or {}) != (config["study"] or {}):
        changed = ", ".join(_differences(record["config"]["study"] or {}, config["study"] or {}, "study."))
        raise ValueError(
            f"{directory}: was trained under another declaration ({changed}); a study is declared before it runs: "
            "choose another name="
        )
    return [seed for seed in configs.seeds(config) if seed not in record["seeds"]]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*old, *new}, key=str):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in (
            "replicates",
            "seeds",
            "name",
            "logging",
            "replicates_at_a_time",
        ):
            yield f"{prefix}{key} was {before}, now {after}"


def check_fits(conditions: Sequence[Condition]) -> None:
    """Set up each distinct data config once, with one replicate. Raises ValueError."""
    seen = set()
    for condition in conditions:
        config = condition.config
        key = json.dumps(
            [config["data"], config["batch_size"], config["trainer"], "bn" in config["arrangement"]], sort_keys=True
        )
        if key not in seen:
            seen.add(key)
            check_fit(config, condition.missing[0])


def _write_plan(root: Path, study: Sequence[Condition], grid: Mapping[str, Any], wait: bool) -> None:
    """plan.json: what was asked for, so that jobs know their names and a report knows what is missing."""
    path = root / "plan.json"
    old = json.loads(path.read_text(encoding="utf-8"))["conditions"] if path.exists() else {}
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    asked = {c.path: {"setting": c.setting, "seeds": configs.seeds(c.config)} for c in study}
    text = json.dumps({"command": command, "grid": grid, "wait": wait, "conditions": old | asked}, indent=1)
    root.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _finished(directory: Path) -> bool:
    return (directory / results.RECORD).exists()


@contextmanager
def display(console: Console, root: Path, todo: Sequence[Condition]) -> Iterator[None]:
    """One progress line for all processes: on a terminal a bar, elsewhere a line for each condition that ends."""
    notes, started, stop = root / ".progress", time.monotonic(), threading.Event()
    before = {c.path: _stamp(root / c.path) for c in todo}
    ended: list[str] = []

    def look() -> tuple[float, str]:
        parts = {}
        for note in notes.glob("*") if notes.is_dir() else ():
            try:
                parts[note.name.replace("+", "/")] = float(note.read_text() or 0)
            except (OSError, ValueError):  # it ended, or is being written, at this moment
                continue
        for condition in todo:
            path = condition.path
            if path not in ended and path not in parts and _stamp(root / path) != before[path]:
                ended.append(path)
        running = {path: part for path, part in parts.items() if path in before and path not in ended}
        return len(ended) + sum(running.values()), ", ".join(running)

    def remaining(done: float) -> str:
        if done < 0.05:
            return "…"
        left = (time.monotonic() - started) / done * (len(todo) - done)
        return f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"

    def watch() -> None:
        if not console.is_terminal:
            told = 0
            while not stop.wait(0.5):
                done, _ = look()
                for path in ended[told:]:
                    console.print(
                        f"[{told + 1}/{len(todo)}] {path} ({remaining(done)} left)", markup=False, soft_wrap=True
                    )
                    told += 1
            look()
            for path in ended[told:]:
                told += 1
                console.print(f"[{told}/{len(todo)}] {path}", markup=False, soft_wrap=True)
            return
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=len(todo), text="starting")
            while not stop.wait(0.5):
                done, running = look()
                text = f"condition {len(ended)} of {len(todo)} finished, {remaining(done)} left; now {running}"
                bar.update(task, completed=done, text=text)
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    minutes = (time.monotonic() - started) / 60
    console.print(f"{len(ended)} of {len(todo)} conditions ended in {minutes:.1f} min")


def _stamp(directory: Path) -> tuple[int, ...]:
    """Changes when a condition finishes or fails."""
    files = [directory / name for name in (results.RECORD, results.ERROR)]
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
