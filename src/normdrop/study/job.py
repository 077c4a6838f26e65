"""Configurations trained in this process, one after another or beside others, and the record of each written."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import re
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from normdrop import tensorboard
from normdrop.data.sources import standard_rows
from normdrop.study import config as configs
from normdrop.study import record, stop
from normdrop.study.plan import missing
from normdrop.study.progress import note_of
from normdrop.study.told import line
from normdrop.training.checkpoint import Checkpoint
from normdrop.training.fit import Fitted, fit, quiet

STOPPING = (signal.SIGINT, signal.SIGTERM)
LIVE = 10  # seconds at least between two writes of a configuration's curves while it trains


def work(cfg: DictConfig) -> None:
    """What a Hydra job elsewhere does, a cluster's task: the one configuration whose folder it was given."""
    hydra = HydraConfig.get()
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(hydra.job.num % gpus)
    train_these(Path(hydra.sweep.dir).absolute(), cfg.sweep, [hydra.sweep.subdir])


def beside_others(root: Path, sweep: int, gpu: int | None, said: Any) -> None:
    """What a process of the sweep's own does: each configuration that nobody else has. said: takes what stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    try:
        train_these(root, sweep)
    except KeyboardInterrupt:  # SIGTERM to the whole group, as `timeout` sends it; the parent tells
        return
    except (OSError, ValueError) as error:
        said.put(line(error))


def train_these(root: Path, number: int, paths: Sequence[str] = ()) -> None:
    """Train what is missing of these configurations of a sweep, or of all.

    Raises what cannot be kept in an error.txt: OSError for a full disk, ValueError for a folder of another config.
    """
    quiet()
    sweep = record.read_plan(root)["sweeps"][number]
    shared = {"command": sweep["command"], "grid": sweep["grid"]}
    parent = multiprocessing.parent_process()
    for path in paths or sweep["jobs"]:
        if parent is not None and not parent.is_alive():
            return  # killed: the same command goes on
        with suppress(Timeout):  # a folder in other hands is left to them: the sweep waits for them at its end
            _condition(root, sweep["jobs"][path] | shared | {"condition": path})


def _condition(root: Path, study: Mapping[str, Any]) -> None:
    """Train one configuration in its folder; what goes wrong is kept in its error.txt."""
    config, directory, note = study["config"], root / study["condition"], note_of(root, study["condition"])
    if (directory / record.ERROR).exists():  # another process has tried it
        return
    directory.mkdir(parents=True, exist_ok=True)

    def progress(part: float, epoch: str = "") -> None:
        stop.check()
        note.write_text(f"{part:.3f} {epoch}")

    with record.locked(directory):
        if not missing(config, directory):
            return
        note.parent.mkdir(exist_ok=True)
        try:
            progress(0.0)
            _describe(directory / ".hydra", study)
            finish(config, directory, study, progress)
        except Exception as error:
            text = f"{type(error).__name__}: {line(error)}\n\n{traceback.format_exc()}"
            (directory / record.ERROR).write_text(text, encoding="utf-8")
        finally:
            note.unlink(missing_ok=True)


def _describe(folder: Path, study: Mapping[str, Any]) -> None:
    """The files that Hydra leaves of a job."""
    folder.mkdir(exist_ok=True)
    for name in ("config", "overrides"):
        text = yaml.dump(study[name], Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def finish(
    config: Mapping[str, Any], directory: Path, study: Mapping[str, Any], progress: Callable[[float, str], None]
) -> None:
    """Train the seeds that a configuration's folder lacks and write its record."""
    seeds, old = missing(config, directory), record.read(directory)
    began = shown = time.time()
    data = standard_rows(config["data"]).facts()
    if data["fingerprint"] != config["data"]["fingerprint"]:
        raise ValueError(f"data={config['data']['name']}: its rows have changed since the sweep began")

    def tell(part: float, epoch: str, history: Callable[[], pd.DataFrame]) -> None:
        nonlocal shown
        progress(part, epoch)
        if old is None and time.time() - shown >= LIVE:  # what is recorded already stays in TensorBoard until it grows
            tensorboard.write_live(directory, history())
            shown = time.time()

    checkpoint = Checkpoint(directory, configs.config_hash(config), config["checkpoint_minutes"])
    fitted = fit(config, seeds, tell, checkpoint)
    began -= fitted.facts["earlier_seconds"]
    named = _named(config, study)
    replicates, history = fitted.replicates.assign(**named), fitted.history
    extra = [name for name in replicates if name not in record.COLUMNS]
    replicates = replicates.reindex(columns=[*record.COLUMNS, *extra])
    if old is not None:
        replicates = pd.concat([old.replicates, replicates]).sort_values("seed", kind="stable", ignore_index=True)
        history = pd.concat([old.history, history]).sort_values(["seed", "step"], kind="stable", ignore_index=True)
    made = _record(config, study, fitted, seeds, began)
    made["data"] = data | {"parts": {part: made["rows"][part] for part in ("train", "val", "test")}}
    # Re-splits hold no sampling of a test part that the data set itself gives.
    made["rows"] |= {"fixed_test": "test" in data["given"]}
    if old is not None:
        made["batches"] = old.record["batches"] + made["batches"]
        made["shift"] = old.record["shift"] + made["shift"]
        made["steps"] = max(old.record["steps"], made["steps"])
        made["wall_seconds"] = round(old.record["wall_seconds"] + made["wall_seconds"], 3)
    made["seeds"] = replicates["seed"].tolist()
    tensorboard.write_condition(directory, made, replicates, history)
    if config["save_networks"]:
        fitted.networks.write(directory, grows=old is not None)
    record.write(directory, made, replicates, history)
    checkpoint.remove()


def _named(config: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of replicates.csv that name the configuration."""
    model = config["model"]
    width = model.get("width", model.get("channels"))
    depth = model.get("depth")
    if isinstance(width, list):
        depth = model.get("depth", len(width))
        width = "-".join(map(str, width))
    named = {key: config[key] for key in ("arrangement", "position", "rate", "rerun")}
    setting = ",".join(f"{key}={value}" for key, value in study["setting"].items())
    return named | {"dataset": config["data"]["name"], "setting": setting, "depth": depth, "width": width}


def _record(
    config: Mapping[str, Any], study: Mapping[str, Any], fitted: Fitted, seeds: list[int], began: float
) -> dict[str, Any]:
    """What stands in record.json of these seeds, but for the data."""
    facts, finished = fitted.facts, time.time()
    packages = {name: importlib.metadata.version(name) for name in ("torch", "lightning", "normdrop")}
    commit, clean = record.commit()
    trained = {
        "versions": {"python": platform.python_version(), **packages},
        "commit": commit,
        "clean": clean,
        "finished": finished,
    }
    batch = {"seeds": seeds, "began": began, "command": study["command"], "networks": config["save_networks"]}
    return {
        "condition": study["condition"],
        **{key: config[key] for key in ("arrangement", "position", "rate", "engine")},
        "dataset": config["data"]["name"],
        "setting": study["setting"],
        "choices": study["choices"],
        "stands_for": configs.stands_for(config),
        "config": dict(config),
        "config_hash": configs.config_hash(config),
        "study": dict(config["study"] or {}) | {"grid": study["grid"]},
        "rows": dict(facts["rows"]),
        "steps": facts["steps"],
        "fresh_rows": config["data"]["fresh"],
        **trained,
        "batches": [batch | trained],
        "device": facts["device"],
        "hardware": hardware(facts["device"]),
        "wall_seconds": round(finished - began, 3),
        "command": study["command"],
        "shift": facts["shift"],
    }


def hardware(device: str) -> str:
    """What the device is, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{os.cpu_count()} × {model[1].strip() if model else platform.processor() or platform.machine()}"
