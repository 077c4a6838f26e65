"""A condition in a process of its own or beside others: its replicates trained, its record written."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from normdrop import tensorboard
from normdrop.data.sources import standard_rows
from normdrop.study import config as configs
from normdrop.study import record
from normdrop.study.app import line
from normdrop.study.progress import note_of
from normdrop.study.sweep import missing
from normdrop.training.checkpoint import Checkpoints
from normdrop.training.fit import fit, quiet
from normdrop.training.kept import keep

LIVE = 10  # seconds at least between two writes of a condition's curves while it trains


def work(cfg: DictConfig) -> str | None:
    """What a Hydra job of a sweep does: the one condition whose folder it was given, or each that nobody else has.

    Returns what cannot be kept in a condition's error.txt, in one line: a full disk, a folder of another config.
    """
    quiet()
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    hydra = HydraConfig.get()
    if "sweep" not in cfg:
        raise ValueError("--run: one condition is a sweep of one here; leave the option out")
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(hydra.job.num % gpus)  # a process for each
    root, only = Path(hydra.sweep.dir).absolute(), hydra.sweep.subdir
    plan = json.loads((root / "plan.json").read_text(encoding="utf-8"))
    sweep = plan["sweeps"][cfg.sweep]
    shared = {"command": sweep["command"], "grid": sweep["grid"], "columns": record.swept(plan["sweeps"])}
    shared["hydra"] = OmegaConf.to_container(hydra, resolve=False, enum_to_str=True)
    for path in sweep["jobs"] if only == "." else [only]:
        try:
            _condition(root, sweep["jobs"][path] | shared | {"condition": path})
        except Timeout:  # a folder in other hands is left to them: the sweep waits for them at its end
            continue
        except (OSError, ValueError) as error:
            return line(error)
    return None


def _condition(root: Path, study: Mapping[str, Any]) -> None:
    """Train one condition in its folder; what goes wrong is kept in its error.txt."""
    config, directory, note = study["config"], root / study["condition"], note_of(root, study["condition"])
    if (directory / record.ERROR).exists():  # another process has tried it
        return
    directory.mkdir(parents=True, exist_ok=True)

    def progress(part: float, epoch: str = "") -> None:
        note.write_text(f"{part:.3f} {epoch}")

    with record.lock(directory).acquire(blocking=False):
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
    own = {"sweep": study["hydra"]["sweep"] | {"subdir": study["condition"]}}
    own["overrides"] = study["hydra"]["overrides"] | {"task": study["overrides"]}
    own["runtime"] = study["hydra"]["runtime"] | {"output_dir": str(folder.parent)}
    files = {"config": study["config"], "overrides": study["overrides"], "hydra": {"hydra": study["hydra"] | own}}
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def finish(
    config: Mapping[str, Any], directory: Path, study: Mapping[str, Any], progress: Callable[[float, str], None]
) -> None:
    """Train the replicates that a condition's folder lacks and write its record."""
    seeds, old = missing(config, directory), record.read(directory)
    started = time.time()
    data = standard_rows(config["data"]).facts()
    if data["fingerprint"] != config["data"]["fingerprint"]:
        raise ValueError(f"data={config['data']['name']}: its rows have changed since the sweep began")
    shown = started

    def tell(part: float, epoch: str, history: Callable[[], pd.DataFrame]) -> None:
        nonlocal shown
        progress(part, epoch)
        if old is None and time.time() - shown >= LIVE:  # what is recorded already stays in TensorBoard until it grows
            tensorboard.write_live(directory, history())
            shown = time.time()

    checkpoints = Checkpoints(directory, configs.config_hash(config), config["checkpoint_minutes"])
    fitted = fit(config, seeds, tell, checkpoints)
    facts, model = fitted.facts, config["model"]
    width = model.get("width", model.get("channels"))
    named = {
        "dataset": config["data"]["name"],
        "arrangement": config["arrangement"],
        "position": config["position"],
        "rate": config["rate"],
        "setting": ",".join(f"{key}={value}" for key, value in study["setting"].items()),
        "depth": model.get("depth", len(width) if isinstance(width, list) else None),
        "width": "-".join(map(str, width)) if isinstance(width, list) else width,
        "rerun": config["rerun"],
    }
    replicates, history = fitted.replicates.assign(**named), fitted.history
    extra = [name for name in replicates if name not in record.COLUMNS]
    replicates = replicates.reindex(columns=[*record.COLUMNS, *extra])
    wall, steps = time.time() - started + facts["earlier_seconds"], facts["steps"]
    shifts = facts["shift"]
    if old is not None:
        replicates = pd.concat([old.replicates, replicates]).sort_values("seed", kind="stable", ignore_index=True)
        history = pd.concat([old.history, history]).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        wall, shifts = wall + old.record["wall_seconds"], old.record["shift"] + shifts
        steps = max(steps, old.record["steps"])
    packages = {name: importlib.metadata.version(name) for name in ("torch", "lightning", "normdrop")}
    commit, clean = record.commit()
    merged = {
        "condition": study["condition"],
        **{key: named[key] for key in ("dataset", "arrangement", "position", "rate")},
        "setting": study["setting"],
        "choices": study["choices"],
        "stands_for": configs.stands_for(config),
        "seeds": replicates["seed"].tolist(),
        "config": dict(config),
        "config_hash": configs.config_hash(config),
        "study": dict(config["study"] or {}) | {"grid": study["grid"]},
        "data": data | {"parts": {part: facts["rows"][part] for part in ("train", "val", "test")}},
        # Re-splits hold no sampling of a test part that the data set itself gives.
        "rows": facts["rows"] | {"fixed_test": "test" in data["given"]},
        "steps": steps,
        "fresh_rows": config["data"]["fresh"],
        "versions": {"python": platform.python_version(), **packages},
        "commit": commit,
        "clean": clean,
        "engine": config["engine"],
        "device": facts["device"],
        "hardware": hardware(facts["device"]),
        "wall_seconds": round(wall, 3),
        "finished": time.time(),
        "command": study["command"],
        "shift": shifts,
    }
    tensorboard.write_condition(directory, merged, replicates, history, config["logging"], study["columns"])
    if config["save_networks"]:
        keep(directory, config, fitted, grows=old is not None)
    record.write(directory, merged, replicates, history)
    checkpoints.remove()


def hardware(device: str) -> str:
    """What the device is, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{os.cpu_count()} × {model[1].strip() if model else platform.processor() or platform.machine()}"
