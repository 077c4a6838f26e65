"""A study from its plan to its last configuration: announce, launch, resume, and say what failed."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from normdrop.asked import count, is_int, quoted, require
from normdrop.study import config as configs
from normdrop.study import record, stop
from normdrop.study.plan import Composer, Condition, Plan, facts, missing, plan
from normdrop.study.progress import display, note_of
from normdrop.study.told import command, runnable
from normdrop.whole import whole

KILLED = "Killed: its process was killed, perhaps for want of memory; fewer side by side: hydra.launcher.n_jobs=1\n"
planned: list[Path] = []  # the folder of the study that this process runs


def run_study(
    points: Sequence[Mapping[str, str]], compose: Composer, launcher: Any, config: DictConfig, typed: Collection[str]
) -> None:
    """Train what is missing of a grid.

    points: the overrides of each point of the grid, by key. launcher: Hydra's. typed: the keys of the command line.
    Nothing trains before every configuration has passed its checks. Raises ValueError if one failed.
    """
    HydraConfig.instance().set_config(config)  # for ${hydra:…} in a value
    n_jobs = getattr(launcher, "n_jobs", None)
    ok = n_jobs is None or (is_int(n_jobs) and n_jobs >= 1)
    require("hydra.launcher.n_jobs", n_jobs, ok, "a whole number, 1 or more, or null for one on each core or GPU")
    study = plan(points, compose, typed)
    planned[:] = [study.root]
    todo = [condition for condition in study.conditions if condition.missing]
    _announce(study, todo)
    if todo:
        for said in facts().check_fits([(c.config, c.missing[0]) for c in todo], compose.varying):
            print(said)
    for said in [*_ignored(config, compose), *_without_effect(study, compose)]:
        print(said)
    if todo:
        number = _write_plan(study, todo)
        _train(study, todo, launcher, number)
    elif study.known != record.read_plan(study.root)["known"]:
        with suppress(OSError):  # a folder that others may only read
            _write_plan(study, [])


def _announce(study: Plan, todo: Sequence[Condition]) -> None:
    """Say what the study is and what will be trained of it."""
    config, total = study.conditions[0].config, len(study.conditions)
    size = f"{count(total, 'configuration')} × {count(len(configs.seeds(config)), 'seed')}"
    epochs = count(max(c.config["trainer"]["max_epochs"] for c in study.conditions), "epoch")
    if config["patience"] is not None:
        epochs = f"up to {epochs}"
    left = f"{total - len(todo)} finished, {len(todo)} to train"
    if todo:
        left += f" ({count(sum(len(c.missing) for c in todo), 'seed')})"
    print(f"{study.root}: {size}, {epochs} each; {left}")


def _ignored(config: DictConfig, compose: Composer) -> Iterator[str]:
    """A line for each of Hydra's own keys that was asked for and has no effect here."""
    typed: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    for word in typed:
        key = word.partition("=")[0]
        if key in ("hydra.sweep.subdir", "hydra.output_subdir", "hydra.run.dir", "hydra.job.chdir"):
            yield f"{key}: without effect; a study lies in hydra.sweep.dir, its configurations by what varies"
    chosen = config.hydra.runtime.choices.get("experiment")
    file = compose.loader.repository.load_config(f"experiment/{chosen}") if chosen else None  # type: ignore[attr-defined]
    for default in file.defaults_list if file is not None and file.defaults_list else []:
        group = getattr(default, "group", "").lstrip("/")
        if group.startswith("hydra/"):
            yield f"experiment={chosen}: its override of {group} has no effect; type {group}={default.value}"


def _without_effect(study: Plan, compose: Composer) -> Iterator[str]:
    """A line for each key of ours that has no effect, for tables that changed and for what finished folders lack."""
    for key, where in compose.unused.items():
        yield f"{key}: without effect where {' or '.join(sorted(where))}, which has no such key"
    yield from _same_networks(study)
    for path in (condition.path for condition in study.conditions if condition.missing):
        if (study.root / path / record.RECORD).exists() and record.read(study.root / path) is None:
            yield f"{path}: its tables are not those that its record knows; it trains again"
    finished = [condition for condition in study.conditions if not condition.missing]
    folders = [study.root / condition.path for condition in finished]
    if without := [folder for folder in folders if not any(folder.glob("events.out.tfevents.*"))]:
        way = f"{runnable('normdrop-report', study.root)} writes them again"
        yield f"{count(len(without), 'finished configuration')} without TensorBoard's files; {way}"
    kept = study.conditions[0].config["save_networks"]
    if kept and (without := [folder for folder in folders if not _networks_kept(folder)]):
        said = f"{count(len(without), 'finished configuration')} without the networks of some or all seeds"
        yield f"{said}; another name= trains anew"
    for condition in finished[:1]:
        logging, found = condition.config["logging"], record.read(study.root / condition.path)
        if found is not None and found.record["config"]["logging"] != logging:
            yield f"logging={logging}: without effect on what is finished; another name= trains anew"
        if found is not None and (more := {*found.record["seeds"]} - {*configs.seeds(condition.config)}):
            said = f"{count(len(more), 'more seed')} finished before, and a report counts them"
            yield f"replicates={condition.config['replicates']}: {said}"


def _same_networks(study: Plan) -> Iterator[str]:
    """A line for each position under which a network was asked for that stands at another one."""
    asked: dict[tuple[str, str], list[str]] = defaultdict(list)
    for condition in study.conditions:
        position = dict(word.split("=", 1) for word in condition.overrides).get("position")
        if position not in (None, condition.config["position"]):
            asked[str(position), condition.config["position"]].append(condition.config["arrangement"])
    for (position, other), arrangements in asked.items():
        names = ", ".join(sorted({*arrangements}))
        yield f"position={position}: of {names} the network is that of position={other}, and stands there"


def _networks_kept(folder: Path) -> bool:
    """Whether a finished folder has the network of each seed: those of some may have been trained without."""
    found = record.read(folder)
    batches = found.record.get("batches", []) if found is not None else []
    return (folder / "networks.pt").exists() and all(batch.get("networks", True) for batch in batches)


def _write_plan(study: Plan, todo: Sequence[Condition]) -> int:
    """plan.json: what was asked for, so that jobs know their configs and a report knows what is missing.

    Sweeps that share a folder add to it: `sweeps` lists their commands, grids and jobs, `conditions` says which asked
    last. Returns the number of this sweep.
    """
    study.root.mkdir(parents=True, exist_ok=True)
    with record.locked(study.root, wait=True):
        found = record.read_plan(study.root) | {"known": study.known}
        sweeps = found["sweeps"]
        sweep: dict[str, Any] = {"command": command(), "grid": study.grid}
        same = [number for number, old in enumerate(sweeps) if sweep.items() <= old.items()]
        number = same[0] if same else len(sweeps)
        if todo:
            jobs = {c.path: {k: getattr(c, k) for k in ("config", "overrides", "setting", "choices")} for c in todo}
            sweeps[number : number + 1] = [sweep | {"jobs": jobs}]
            for condition in study.conditions:
                asked = {"setting": condition.setting, "seeds": configs.seeds(condition.config), "sweep": number}
                found["conditions"][condition.path] = asked
        with whole(study.root / record.PLAN) as part:
            part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return number


def _train(study: Plan, todo: Sequence[Condition], launcher: Any, number: int) -> None:
    """Train what is missing of a planned study. Raises ValueError if something failed."""
    root, total = study.root, count(len(study.conditions), "configuration")
    for condition in todo:
        for trace in (root / condition.path / record.ERROR, note_of(root, condition.path)):
            trace.unlink(missing_ok=True)
    try:
        unfinished = _rounds(root, todo, launcher, number)
    except KeyboardInterrupt:
        left = sum(bool(missing(c.config, root / c.path)) for c in todo)
        if left == 0:
            return
        raise KeyboardInterrupt(f"{len(study.conditions) - left} of {total} are finished") from None
    failed = 0
    for condition in todo:
        error = root / condition.path / record.ERROR
        if error.exists():
            failed += 1
            print(f"failed: {condition.path}: {error.read_text(encoding='utf-8').splitlines()[0]}")
    if failed or unfinished:
        did_not = f", {unfinished} did not finish" if unfinished else ""
        where = f"; the traceback of each stands in its {record.ERROR}" if failed else ""
        raise ValueError(f"{failed} of {total} failed{did_not}{where}. The same command tries them again")


def _rounds(root: Path, todo: Sequence[Condition], launcher: Any, number: int) -> int:
    """Launch configurations until each is finished or has failed; how many are left without either."""
    while todo:
        _launch(launcher, root, number, todo)
        left, elsewhere = [], False
        for condition in todo:
            if not missing(condition.config, root / condition.path):
                continue
            directory, note = root / condition.path, note_of(root, condition.path)
            try:
                with record.locked(directory):
                    if note.exists():  # and nobody is at work: a process died in it
                        note.unlink()
                        (directory / record.ERROR).write_text(KILLED, encoding="utf-8")
            except Timeout:
                elsewhere = True
                print(f"waiting for {condition.path}, in work in another process")
                with record.locked(directory, wait=True):  # and take over what it leaves
                    pass
            if not (directory / record.ERROR).exists():
                left.append(condition)
        if len(left) == len(todo) and not elsewhere:
            return len(left)
        todo = left
    return 0


def _launch(launcher: Any, root: Path, number: int, todo: Sequence[Condition]) -> None:
    """Train configurations: in this process, in processes of its own, or each as a job of Hydra's launcher. Raises what
    stopped a process.
    """
    paths = [condition.path for condition in todo]
    kind = type(launcher).__name__
    if kind == "Processes":
        _side_by_side(launcher.n_jobs, root, number, todo)
        return
    with display(root, todo):
        if kind == "BasicLauncher":
            from normdrop.study.job import train_these

            train_these(root.absolute(), number)
            return
        folder, *names = map(quoted, (str(root.absolute()), *paths))
        shared = [f"+sweep={number}", f"hydra.sweep.dir={folder}", "hydra.output_subdir=null"]
        try:
            for job in launcher.launch([[*shared, f"hydra.sweep.subdir={name}"] for name in names], initial_job_idx=0):
                _ = job.return_value  # raises what the job raised
        except OSError:  # a full disk, not a fault of the job's
            raise
        except Exception:
            if not any(note_of(root, path).exists() for path in paths):  # else a job was killed, which is told later
                raise


def _side_by_side(n_jobs: int | None, root: Path, number: int, todo: Sequence[Condition]) -> None:
    """Processes that take configurations until none is left: copies of this one, which has imported what they need; one
    for each core or, each started anew, for each GPU.
    """
    import joblib
    import torch

    from normdrop.study import job
    from normdrop.training import on_gpu

    gpus = torch.cuda.device_count() if on_gpu(todo[0].config["trainer"]["accelerator"]) else 0
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" and not gpus else "spawn")
    said, workers = context.SimpleQueue(), []
    signal.pthread_sigmask(signal.SIG_BLOCK, job.STOPPING)  # until a process has settled what they do to it
    try:
        for index in range(min(n_jobs or gpus or joblib.cpu_count(), len(todo))):
            arguments = (root.absolute(), number, index % gpus if gpus else None, said)
            worker = context.Process(target=job.beside_others, args=arguments)
            worker.start()
            workers.append(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, job.STOPPING)
        with display(root, todo):  # after the copies: it has a thread
            for worker in workers:
                while worker.is_alive():
                    worker.join(timeout=1)
                    stop.check()
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, job.STOPPING)
    if not said.empty():
        raise ValueError(said.get())
