"""A study from its grid to its last condition: plan, check, resume, launch, and say what failed."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib
from filelock import Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from joblib.externals.loky import get_reusable_executor
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import has
from normdrop.study import config as configs
from normdrop.study import record
from normdrop.study.app import command
from normdrop.study.progress import console, display, note_of
from normdrop.whole import whole

NAMED = ("data", "data.dataset", "arrangement", "position", "rate")  # what a condition's path shows by itself


@dataclass(frozen=True)
class Condition:
    """One distinct condition of a study: its path under the study's folder, its config, and how that was asked for."""

    path: str
    overrides: list[str]
    config: dict[str, Any]
    setting: dict[str, Any]
    choices: dict[str, str]  # of the groups
    missing: list[int]  # seeds that its record lacks


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
        keys: set[str] = set().union(*points)
        self.varying = {bare(key) for key in keys if len({point.get(key) for point in points}) > 1}
        self.unused: dict[str, set[str]] = defaultdict(set)
        self.used: set[str] = set()

    def __call__(self, point: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The resolved config of a point, the choices of its groups, and which keys of the point are in it."""
        groups = {key: value for key, value in point.items() if self.is_group(bare(key))}
        values = {key: value for key, value in point.items() if key not in groups}
        _, known, _ = self.base(*groups.items())
        for key in [key for key in values if key not in known]:
            group, value = key.split(".")[0], values.pop(key)
            if group in self.varying:
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
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items() if "hydra/" not in str(k)}
        for group, choice in choices.items():
            if choice.startswith("_"):
                raise ValueError(f"{group}={choice}: is a part of others; choose one whose name has no _ in front")
        return own, configs.keys_of(own), choices


@cache
def _parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def run_study(
    points: Sequence[Mapping[str, str]],
    compose: Composer,
    launcher: Any,
    config: DictConfig,
    needed: Callable[[], Mapping[tuple[str, str], int]] | None = None,
) -> None:
    """Train what is missing of a grid.

    points: the overrides of each point of the grid, by key. launcher: Hydra's. needed: asked at the end for how many
    replicates a data set and position need; then these are trained. Nothing trains before every condition has passed
    its checks. Raises ValueError if a condition failed.
    """
    root = Path(config.hydra.sweep.dir)
    processes = joblib.effective_n_jobs(launcher.joblib["n_jobs"]) if hasattr(launcher, "joblib") else 0
    study, grid = plan(points, compose, root)
    imports: Iterable[Any] = ()
    if processes > 1 and any(condition.missing for condition in study):
        # The launcher's processes, which it will find there, import what training needs while the data are checked.
        same = {key: value for key, value in launcher.joblib.items() if key not in ("pre_dispatch", "batch_size")}
        parallel = joblib.Parallel(**same | {"backend": "loky"}, return_as="generator_unordered")
        imports = parallel(joblib.delayed(import_module)("normdrop.study.job") for _ in range(processes))

    def launch(number: int, todo: Sequence[Condition]) -> Any:
        list(imports)  # wait for them, once
        return _launch(launcher, processes, root, number, todo)

    try:
        _announce(root, study, compose.unused)
    except BaseException:
        if imports:
            get_reusable_executor().shutdown(kill_workers=True)  # or the message would wait for their imports
            warnings.filterwarnings("ignore", module="joblib")  # nor shall it stand below one on their results
        raise
    _train(root, study, grid, launch)
    if needed is not None:
        places = needed()
        study = [_enlarged(root, condition, places) for condition in study]
        _announce(root, study, {})
        _train(root, study, grid, launch)


def _enlarged(root: Path, condition: Condition, needed: Mapping[tuple[str, str], int]) -> Condition:
    """A condition with as many replicates as any comparison that it stands in needs."""
    config = condition.config
    asked = [needed.get((config["data"]["name"], position), 0) for _, position in configs.stands_for(config)]
    config = config | {"replicates": max(config["replicates"], *asked)}
    return replace(condition, config=config, missing=missing(config, root / condition.path))


def _announce(root: Path, study: Sequence[Condition], unused: Mapping[str, set[str]]) -> None:
    """Say what will be trained, of which data, and what has no effect. Raises ValueError for what cannot be trained."""
    todo = [condition for condition in study if condition.missing]
    replicates = sum(len(configs.seeds(condition.config)) for condition in study)
    console.print(
        f"[bold]{root}[/bold]: {len(study)} conditions, {replicates} replicates; {len(study) - len(todo)} "
        f"conditions are finished, {len(todo)} to train ({sum(len(c.missing) for c in todo)} replicates)"
    )
    for line in [*check_fits(todo), *_remarks(root, study, unused)]:
        console.print(line, markup=False)


def _train(root: Path, study: Sequence[Condition], grid: Mapping[str, Any], launch: Callable[..., Any]) -> None:
    """Train what is missing of a planned study. Raises ValueError if a condition failed."""
    todo: Sequence[Condition] = [condition for condition in study if condition.missing]
    for condition in (c for c in study if not c.missing):
        _redraw(root / condition.path, None, condition.config["logging"])
    if todo:
        number = _write_plan(root, study, todo, grid)
        try:
            todo = _rounds(root, todo, partial(launch, number))
        except KeyboardInterrupt:
            finished = sum(not missing(condition.config, root / condition.path) for condition in study)
            raise KeyboardInterrupt(f"{finished} of {len(study)} conditions are finished") from None
    failed = [condition.path for condition in study if (root / condition.path / record.ERROR).exists()]
    for path in failed:
        reason = (root / path / record.ERROR).read_text(encoding="utf-8").splitlines()[0]
        console.print(f"failed: {path}: {reason}", markup=False)
    if failed or todo:
        left = f"{len(failed)} of {len(study)} conditions failed" + (f", {len(todo)} did not finish" if todo else "")
        again = f"the traceback of each stands in its {record.ERROR}. The same command tries them again"
        raise ValueError(f"{left}; {again}")


def _rounds(root: Path, todo: Sequence[Condition], launch: Callable[..., Any]) -> Sequence[Condition]:
    """Launch conditions until each is finished or has failed; those that are left without either are returned."""
    for condition in todo:
        for trace in (root / condition.path / record.ERROR, note_of(root, condition.path)):
            trace.unlink(missing_ok=True)
    while todo:
        with display(root, [condition.path for condition in todo]):
            try:
                returned = launch(todo)
            except OSError:  # a full disk, not a fault of the job's
                raise
            except Exception as error:
                returned = []
                _mark_killed(root, todo, error)
        if said := [job.return_value for job in returned if job.return_value is not None]:
            raise ValueError(said[0])
        left = [c for c in todo if missing(c.config, root / c.path) and not (root / c.path / record.ERROR).exists()]
        elsewhere = False
        for condition in left:
            lock = record.lock(root / condition.path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                elsewhere = True
                console.print(f"waiting for {condition.path}, in work in another process", markup=False)
                lock.acquire()  # and take over what it leaves
            lock.release()
        if len(left) == len(todo) and not elsewhere:
            return left
        todo = left
    return []


def _mark_killed(root: Path, todo: Sequence[Condition], error: Exception) -> None:
    """Fail the conditions that were in work in processes that died; without any the fault was the launcher's own."""
    text = f"{type(error).__name__}: its process was killed, perhaps for want of memory; fewer side by side: "
    text += f"hydra.launcher.n_jobs=1\n\n{error}\n"
    dead = False
    for condition in todo:
        directory, note = root / condition.path, note_of(root, condition.path)
        with suppress(Timeout), record.lock(directory).acquire(blocking=False):
            if note.exists() and missing(condition.config, directory):
                (directory / record.ERROR).write_text(text, encoding="utf-8")
                note.unlink()
                dead = True
    if not dead and isinstance(error, BrokenProcessPool):
        raise ValueError("a worker process was killed before it began a condition; the same command goes on") from error
    if not dead:
        raise error


def _launch(launcher: Any, processes: int, root: Path, number: int, todo: Sequence[Condition]) -> Any:
    """One Hydra job for each process, which takes conditions until none is left; elsewhere one for each condition."""
    if type(launcher).__name__ == "BasicLauncher":
        processes = 1
    paths = ["."] * min(processes, len(todo)) if processes else [condition.path for condition in todo]
    folder, *names = (QuotedString(path, Quote.single).with_quotes() for path in (str(root.absolute()), *paths))
    shared = [f"+sweep={number}", f"hydra.sweep.dir={folder}", "hydra.output_subdir=null"]
    return launcher.launch([[*shared, f"hydra.sweep.subdir={name}"] for name in names], initial_job_idx=0)


def plan(
    points: Sequence[Mapping[str, str]], compose: Composer, root: Path
) -> tuple[list[Condition], dict[str, list[str]]]:
    """The distinct conditions of a grid, checked, and the grid in the words of their settings. Raises ValueError."""
    for key in compose.varying:
        if any(f"{key}.".startswith(f"{name}.") for name in (*record.NOT_HASHED, "experiment", "hydra")):
            raise ValueError(f"{key}: cannot be swept; give one value, or run the command once for each")
    from normdrop.data.sources import standard_rows  # here: pandas and scikit-learn take a second to import

    conditions: dict[str, Condition] = {}
    fingerprints: dict[str, str] = {}
    grid: dict[str, set[str]] = defaultdict(set)
    for point in points:
        config, choices, used = compose(point)
        configs.check(config)
        keys = [*map(bare, point)]
        other = [key for key in keys if re.match(r"study\.(contrast|metric|kind|over)\b", key)]
        if other and "study.sentence" not in keys:
            raise ValueError(f"{other[0]}: asks another question than the declared study.sentence; change that too")
        arrangement, position, values = config["arrangement"], config["position"], {}
        for key in map(bare, sorted(used)):
            with suppress(KeyError):  # deleted, or Hydra's own
                values[key] = choices[key] if key in choices else configs.spelled(config, key)
                grid[key].add(str(values[key]))
        config = configs.canonical(config)
        setting = {key: value for key, value in values.items() if key not in NAMED and key in compose.varying}
        given = json.dumps(config["data"], sort_keys=True)
        if given not in fingerprints:
            fingerprints[given] = standard_rows(config["data"]).fingerprint
        config["data"]["fingerprint"] = fingerprints[given]
        rate = config["rate"]  # two decimals, more where they are needed to tell rates apart
        spelled = f"q{rate:.2f}" if round(rate, 2) == rate else f"q{rate:g}"
        path = "/".join((str(config["data"]["name"]), arrangement, config["position"], spelled))
        if setting:
            path += "/" + ",".join(re.sub(r"[^\w.=+-]", "_", f"{key}={value}") for key, value in setting.items())
        if len(max(path.split("/"), key=len)) > 200:
            raise ValueError(f"{path}: too many keys vary for the name of a folder; sweep fewer of them at a time")
        if path in conditions:
            if configs.config_hash(conditions[path].config) != configs.config_hash(config):
                raise ValueError(f"{path}: two different conditions of this grid would share this folder")
            continue
        if position != config["position"] and len(points) == 1:
            same = f"{arrangement} {config['position']}"
            print(f"{arrangement} {position} is the same network as {same} and is recorded there")
        overrides = [f"{key}={value}" for key, value in point.items()]
        conditions[path] = Condition(path, overrides, config, setting, choices, missing(config, root / path))
    known = _recorded(root, conditions) if any(condition.missing for condition in conditions.values()) else {}
    for path, condition in conditions.items():
        if found := known.get(configs.config_hash(condition.config)):
            print(f"{path}: is the same condition as {found[0]} and is recorded there")
            lacks = missing(condition.config, root / found[0])
            conditions[path] = replace(condition, path=found[0], setting=found[1], missing=lacks)
    for key in compose.unused.keys() - compose.used:
        raise ValueError(f"{key}: none of {', '.join(sorted(compose.unused[key]))} has such a key")
    return list(conditions.values()), {key: sorted(values, key=_natural) for key, values in grid.items()}


def _recorded(root: Path, planned: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path and setting of what is finished under a name that is not planned, by hash: other sweeps vary other keys."""
    found = {}
    for here, folders, files in os.walk(root):
        path = os.path.relpath(here, root)
        inner = "plan.json" in files and path != "."  # another study's folder
        folders[:] = [name for name in folders if not inner and name not in configs.RESERVED and name[0] != "."]
        if record.RECORD in files and path not in planned:
            with suppress(ValueError):  # damaged: whoever asks for it is told
                if held := record.read(Path(here)):
                    found[held.record["config_hash"]] = path, held.record["setting"]
    return found


def _natural(value: str) -> tuple[float, str]:
    """The place of a value among others: numbers first, in their order; what is equal (1, 1.0) by its text."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def missing(config: Mapping[str, Any], directory: Path) -> list[int]:
    """The seeds that a condition's folder lacks. Raises ValueError if its record is another config's or damaged."""
    record.settle(directory)
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


def check_fits(conditions: Sequence[Condition]) -> list[str]:
    """Set up each distinct data config once, with one replicate, and say what it holds. Raises ValueError."""
    if not conditions:  # nor import what takes seconds
        return []
    from normdrop.data.module import trained
    from normdrop.data.rows import remarks, sentence  # here, as PyTorch: not what tells of a mistake at once
    from normdrop.data.sources import standard_rows
    from normdrop.networks import shown
    from normdrop.training.check import check_fit
    from normdrop.training.fit import quiet

    quiet()
    seen: set[str] = set()
    lines: dict[str, None] = {}
    for condition in conditions:
        config = condition.config
        parts = [config[key] for key in ("data", "batch_size", "trainer", "model", "noise", "optimizer")]
        key = json.dumps([*parts, has(config["arrangement"], "bn")], sort_keys=True)
        if key not in seen:
            seen.add(key)
            rows = check_fit(config, condition.missing[0])
            facts, batch = standard_rows(config["data"]).facts() | {"parts": rows}, config["batch_size"]
            said = [sentence(facts), *remarks(facts)]
            if trained(rows["train"], batch) < rows["train"]:
                said.append(f"batch_size={batch} leaves a last batch of one row, left out: another row each epoch")
            lines |= dict.fromkeys(f"{config['data']['name']}: {text}" for text in said)
            lines |= dict.fromkeys(shown(config, config["data"]["shape"] or facts["shape"], len(facts["classes"])))
    return list(lines)


def _remarks(root: Path, study: Sequence[Condition], unused: Mapping[str, set[str]]) -> Iterator[str]:
    """A line for each thing that was asked for and has no effect."""
    for key, where in unused.items():
        yield f"{key}: without effect where {' or '.join(sorted(where))}, which has no such key"
    hashes = {configs.config_hash(c.config | {"rerun": 0}) for c in study if not c.config["rerun"]}
    for condition in (c for c in study if c.config["rerun"]):
        first = re.sub(r"(?<=[/,])rerun=\d+,?", "", condition.path).rstrip("/,")
        partner = configs.config_hash(condition.config | {"rerun": 0}) in hashes
        if not partner and not (root / first / record.RECORD).exists():
            yield f"{condition.path}: has no partner with rerun=0 here, so its A/A row stays empty; sweep {first} too"
    finished = [c for c in study if not c.missing]
    without = sum(c.config["save_networks"] and not (root / c.path / "networks.pt").exists() for c in finished)
    if without:
        yield f"save_networks=true: {without} finished conditions have kept no networks; another name= trains them anew"
    drawn = ((c, record.read(root / c.path)) for c in finished if c.config["measure"]["activation_epochs"])
    # A finished condition's record differs from what is asked for in what is not hashed alone.
    if any(held and held.record["config"]["measure"] != c.config["measure"] for c, held in drawn):
        yield "measure.activation_epochs: without effect on what is finished; another name= trains it anew"


def _write_plan(root: Path, study: Sequence[Condition], todo: Sequence[Condition], grid: Mapping[str, Any]) -> int:
    """plan.json: what was asked for, so that jobs know their configs and a report knows what is missing.

    Sweeps that share a folder add to it: `sweeps` lists their commands, grids and jobs, `conditions` says which asked
    last. TensorBoard's files of what is finished follow the study's new columns. Returns the number of this sweep.
    """
    sweep: dict[str, Any] = {"command": command(), "grid": grid}
    path = root / "plan.json"
    root.mkdir(parents=True, exist_ok=True)
    with record.lock(root):
        plan: dict[str, Any] = {"sweeps": [], "conditions": {}}
        if path.exists():
            plan |= json.loads(path.read_text(encoding="utf-8"))
        before, sweeps = record.swept(plan["sweeps"]), plan["sweeps"]
        number = next((n for n, old in enumerate(sweeps) if sweep.items() <= old.items()), len(sweeps))
        jobs = {c.path: {k: getattr(c, k) for k in ("config", "overrides", "setting", "choices")} for c in todo}
        sweeps[number : number + 1] = [sweep | {"jobs": jobs}]
        columns = record.swept(sweeps)
        for condition in plan["conditions"].keys() - jobs.keys() if columns != before else ():
            _redraw(root / condition, columns)
        asked = {c.path: {"setting": c.setting, "seeds": configs.seeds(c.config), "sweep": number} for c in study}
        plan["conditions"] |= asked
        with whole(path) as part:
            part.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    return number


def _redraw(directory: Path, columns: Mapping[str, list[str]] | None, logging: str | None = None) -> None:
    """Write a finished condition's event files anew, with other columns or as `logging` now asks."""
    with suppress(Timeout), record.lock(directory).acquire(blocking=False):
        found = record.read(directory)
        if found is None or logging == found.record["config"]["logging"]:
            return
        from normdrop import tensorboard  # here: seldom needed

        held, tables = found.record, (found.replicates, found.history)
        held["config"]["logging"] = logging or held["config"]["logging"]
        tensorboard.write_condition(directory, held, *tables, held["config"]["logging"], columns)
        record.write(directory, held, *tables)
