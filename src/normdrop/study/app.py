"""The Hydra application: a job trains one condition; the command line says in one line what is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import torch
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from normdrop import tensorboard
from normdrop.arrangement import same_network
from normdrop.study import config as configs
from normdrop.study import record
from normdrop.study.config import CONF
from normdrop.study.progress import note_of
from normdrop.study.sweep import command, missing
from normdrop.training.fit import fit, quiet


def finish(
    config: Mapping[str, Any], directory: Path, study: Mapping[str, Any], progress: Callable[[float], None]
) -> None:
    """Train the replicates that a condition's folder lacks and write its record; the caller holds the folder's lock."""
    seeds = missing(config, directory)
    if not seeds:
        return
    old = record.read(directory)
    started = time.time()
    fitted = fit(config, seeds, progress)
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
    wall, shifts, activations = time.time() - started, facts["shift"], facts["activations"]
    if old is not None:
        replicates = pd.concat([old.replicates, replicates]).sort_values("seed", kind="stable", ignore_index=True)
        history = pd.concat([old.history, history]).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        wall, shifts = wall + old.record["wall_seconds"], old.record["shift"] + shifts
        activations = activations or old.record["activations"]  # one replicate's, so never of both
    merged = {
        "condition": study["condition"],
        **{key: named[key] for key in ("dataset", "arrangement", "position", "rate")},
        "setting": study["setting"],
        "stands_for": same_network(config["arrangement"], config["position"], config["model"]["activation"]),
        "seeds": replicates["seed"].tolist(),
        "config": dict(config),
        "config_hash": configs.config_hash(config),
        "study": dict(config["study"] or {}) | {"grid": study["grid"]},
        "rows": facts["rows"],
        "fresh_rows": config["data"]["fresh"],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning", "normdrop")},
        "device": facts["device"],
        "hardware": hardware(facts["device"]),
        "wall_seconds": round(wall, 3),
        "finished": time.time(),
        "command": study["command"],
        "shift": shifts,
        "activations": activations,
    }
    tensorboard.write_condition(directory, merged, replicates, history, config["logging"])
    record.write(directory, merged, replicates, history)


def hardware(device: str) -> str:
    """What the device is, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{os.cpu_count()} × {model or platform.machine()}"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> str | None:
    """One condition of a sweep, in the folder that the sweeper gave it; what goes wrong is kept in its error.txt.

    Returns what cannot be kept there, in one line: a full disk, a folder that is another config's.
    """
    quiet()
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    runtime, config = HydraConfig.get(), configs.plain(cfg)
    if runtime.mode != RunMode.MULTIRUN:
        raise ValueError("hydra.mode=RUN: one condition is a sweep of one here; leave hydra.mode alone")
    directory = Path(runtime.runtime.output_dir)
    path = runtime.sweep.subdir
    root = directory.parents[path.count("/")]
    planned = json.loads((root / "plan.json").read_text(encoding="utf-8"))
    condition = planned["conditions"][path]
    study = planned["sweeps"][condition["sweep"]] | {"setting": condition["setting"], "condition": path}
    note = note_of(root, path)

    def progress(part: float) -> None:
        note.write_text(f"{part:.3f}")

    try:
        # A folder in other hands is left to them: the sweep waits for them at its end.
        with record.lock(directory).acquire(blocking=False):
            missing(config, directory)
            note.parent.mkdir(exist_ok=True)
            try:
                progress(0.0)
                finish(config, directory, study, progress)
            except Exception as error:
                reason = _line(error)
                (directory / record.ERROR).write_text(
                    f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}", encoding="utf-8"
                )
            finally:
                note.unlink(missing_ok=True)
    except Timeout:
        pass
    except (OSError, ValueError) as error:
        return _line(error)
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run the application; bad input gives one line on standard error and exit status 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here
    quiet()

    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    for sign in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(sign) is not signal.SIG_IGN:  # as nohup, and a shell in the background, ask
            signal.signal(sign, stop)
    try:
        for argument in sys.argv[1:]:
            if argument.startswith("="):
                raise ValueError(f"{argument}: a key is missing before the '='")
        if not any(argument.startswith("-") for argument in sys.argv[1:]):
            sys.argv.append("--multirun")  # Hydra takes any mistake beside a sweep for a sweep in the wrong mode
        job()
    except (Exception, KeyboardInterrupt) as error:
        if stopped:  # whatever became of the interrupt: a library that it hits may raise another error instead
            done = (
                f"{error}; they stay"
                if isinstance(error, KeyboardInterrupt) and error.args
                else "what is finished stays"
            )
            sys.exit(f"\nnormdrop: stopped: {done}. Go on with the same command: {command()}")
        if isinstance(error, OverrideParseException):
            sys.exit(f"normdrop: {error.override}: {_line(error)}")
        if isinstance(error, (HydraException, OmegaConfBaseException, ValueError, OSError)):
            sys.exit(f"normdrop: {_one_line(error)}")
        raise


def _one_line(error: BaseException) -> str:
    """What is wrong, in one line; Hydra's own messages with the names that come nearest."""
    text = _line(error)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return configs.unknown_key(unknown.group(1), configs.compose())
    if absent := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, name = absent.group(1).rpartition("/")
        if name.startswith(("submitit_", "ray")):
            return f"{group}={name}: needs its plugin: pip install 'normdrop[{'ray' if name[0] == 'r' else 'slurm'}]'"
        names = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
        return f"{group}={name}: must be one of {', '.join(names)}"
    return text
