"""One condition from config to record: the Hydra application."""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib.metadata
import itertools
import json
import logging
import multiprocessing
import os
import platform
import re
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import pandas as pd
import torch
from filelock import Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normdrop import config as configs
from normdrop import results, shift, tensorboard
from normdrop.arrangement import same_network
from normdrop.data import ReplicateData, check_memory, memory
from normdrop.mlp import initialise, mlp
from normdrop.module import SILENCED_FRACTIONS, ReplicatedClassifier
from normdrop.replicates import StackedNetwork, stream

CONF = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())

# Measured on two CPUs: fewer show each step's overhead (10 take 12 % longer), more gain nothing and take memory.
AT_A_TIME = {"cpu": 32, "cuda": 128}


def workers(accelerator: str) -> int:
    """How many conditions train side by side: one on a GPU, else one for each core that this process may use."""
    return 1 if accelerator != "cpu" and torch.cuda.is_available() else len(os.sched_getaffinity(0))


OmegaConf.register_new_resolver("workers", workers, replace=True)


def data_of(config: Mapping[str, Any], seeds: list[int]) -> ReplicateData:
    """The data module of a condition's replicates; its setup() raises ValueError for data that cannot be used."""
    data = config["data"]
    return ReplicateData(
        instantiate(data["source"]),
        seeds,
        config["batch_size"],
        **{key: data[key] for key in ("fresh", "train_size", "val_fraction", "test_fraction", "pca")},
        batch_norm="bn" in config["arrangement"],
        rerun=config["rerun"],
    )


def check_fit(config: Mapping[str, Any], seed: int) -> None:
    """Raise ValueError for what only the data or the machine can tell to be wrong with a condition."""
    accelerator, interval = config["trainer"]["accelerator"], config["trainer"]["val_check_interval"]
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu: no CUDA device is available here; allowed are auto and cpu")
    data = data_of(config, [seed])
    data.setup()
    steps, limit = len(data.train_dataloader()), config["trainer"].get("limit_train_batches", 1.0)
    steps = min(limit, steps) if type(limit) is int else int(steps * limit)  # as Lightning counts
    if steps == 0:
        raise ValueError(f"trainer.limit_train_batches={limit}: leaves no batch of an epoch to train on")
    first = interval if type(interval) is int else int(steps * interval)
    if not 1 <= first <= steps:
        raise ValueError(
            f"trainer.val_check_interval={interval}: must come to between 1 and the {steps} optimizer steps of an epoch"
        )
    if config["trainer"].get("max_steps", first) < first:
        raise ValueError(
            f"trainer.max_steps={config['trainer']['max_steps']}: must reach the first validation, after {first} steps"
        )
    together = min(config["replicates_at_a_time"] or AT_A_TIME["cpu"], len(configs.seeds(config)))
    width, depth = config["model"]["width"], config["model"]["depth"]
    widths = [width] * min(depth, 2) if isinstance(width, int) else width
    weights = [a * b for a, b in itertools.pairwise([data.features, *widths, data.classes])]
    if isinstance(width, int):
        weights += [max(depth - 2, 0) * width**2]
    needed = 16 * sum(weights) * together  # float32, and beside each weight its gradient and Adam's two moments
    if needed > memory():
        raise ValueError(
            f"model.width={width}, model.depth={depth}: the weights of {together} replicates take "
            f"{needed / 2**30:.1f} GiB in training and this machine has {memory() / 2**30:.1f} GiB"
        )
    rows = sum(part.y.shape[1] for part in data.parts.values())
    check_memory(rows, data.features, together, f"replicates_at_a_time={together}")


def network_of(config: Mapping[str, Any], features: int, classes: int, seeds: list[int]) -> StackedNetwork:
    """The stacked network of a condition, each replicate's weights drawn from its own stream."""
    model = {key: value for key, value in config["model"].items() if key != "init_gain"}
    placed = {key: config[key] for key in ("arrangement", "position", "rate", "noise")}
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights, soon overwritten, when they are made
        plain = mlp(features, classes, **placed, **model)
    gain, rerun = config["model"]["init_gain"], config["rerun"]
    networks = [initialise(copy.deepcopy(plain), stream(seed, "init", rerun=rerun), gain) for seed in seeds]
    return StackedNetwork(networks, seeds, config["batch_size"], rerun)


class _Hooks(pl.Callback):
    """Tells how far the fit is, and measures variance shift and activations after the epochs asked for."""

    def __init__(self, config: Mapping[str, Any], progress: Callable[[float], None]):
        self.config, self.progress = config, progress
        self.shift: list[dict[str, Any]] = []
        self.activations: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        self.progress(epoch / (trainer.max_epochs or epoch))
        assert isinstance(pl_module, ReplicatedClassifier)
        network, parts, measure = pl_module.network, pl_module.parts, self.config["measure"]
        batches = self.config["batch_size"], self.config["rerun"]
        if epoch in measure["shift_epochs"]:
            self.shift += shift.measure(network, parts, *batches, epoch)
        seed = configs.seeds(self.config)[0] if measure["activation_seed"] is None else measure["activation_seed"]
        if epoch in measure["activation_epochs"] and seed in network.seeds:
            seen = shift.activations(network, parts["train"], *batches, seed)
            when = {"seed": seed, "epoch": epoch, "step": pl_module.steps}
            self.activations += [when | entry for entry in shift.histograms(seen)]


def train(
    config: Mapping[str, Any], seeds: list[int], progress: Callable[[float], None] = lambda _: None
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Train one replicate for each seed: the tables of replicates and history, and what else goes on record."""
    device = "cuda" if config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"
    at_a_time = config["replicates_at_a_time"] or AT_A_TIME[device]
    todo, done = list(seeds), []
    while todo:
        group = todo[:at_a_time]
        before = (len(seeds) - len(todo)) / len(seeds)
        share = len(group) / len(seeds)
        try:
            done.append(_fit(config, group, lambda part: progress(before + share * part)))  # noqa: B023
            todo = todo[len(group) :]
            continue
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            at_a_time = len(group) // 2
            print(f"{config['arrangement']}: out of memory with {len(group)} replicates; going on with {at_a_time}")
        # Here and not above: an exception in hand holds the frames whose tensors are to be freed.
        gc.collect()
        torch.cuda.empty_cache()
    replicates, histories, facts = zip(*done, strict=True)
    merged = facts[0] | {key: [row for fact in facts for row in fact[key]] for key in ("shift", "activations")}
    return pd.concat(replicates, ignore_index=True), pd.concat(histories, ignore_index=True), merged


def _fit(
    config: Mapping[str, Any], seeds: list[int], progress: Callable[[float], None]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """One Lightning fit of the replicates that train together."""
    data = data_of(config, seeds)
    data.setup()
    network = network_of(config, data.features, data.classes, seeds)
    module = ReplicatedClassifier(network, data.parts, config["optimizer"], config["drift"])
    hooks = _Hooks(config, progress)
    trainer = pl.Trainer(
        **config["trainer"],
        devices=1,
        logger=False,
        callbacks=[hooks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as end:  # what Lightning makes of Ctrl-C; whoever started the sweep is to hear how far it came
        raise KeyboardInterrupt from end
    module.to(module.parts["train"].x.device)  # Lightning leaves it on the CPU
    history = _history(module, seeds)
    replicates = pd.DataFrame({"seed": seeds, **_metrics(config, module)})
    level = history[history["val_nll"] <= config["data"]["level"]].groupby("seed")["step"].min()
    diverged = module.diverged.cpu().numpy() | replicates[["train_nll", "val_nll", "test_nll"]].isna().any(axis=1)
    replicates.insert(1, "diverged", diverged)
    replicates.loc[diverged, replicates.columns[2:]] = float("nan")
    replicates["steps_to_level"] = replicates["seed"].map(level).astype("Int64").where(~replicates["diverged"])
    facts = {
        "rows": {name: part.y.shape[1] for name, part in data.parts.items()}
        | {"features": data.features, "classes": data.classes},
        "shift": hooks.shift
        + (
            shift.measure(network, module.parts, config["batch_size"], config["rerun"], "end")
            if _shifts(config)
            else []
        ),
        "activations": hooks.activations,
        "device": str(module.device),
    }
    return replicates, history, facts


def _shifts(config: Mapping[str, Any]) -> bool:
    return config["measure"]["shift"] and "bn" in config["arrangement"]


def _history(module: ReplicatedClassifier, seeds: list[int]) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"seed": seeds} | {k: getattr(v, "numpy", lambda v=v: v)() for k, v in entry.items()})
        for entry in module.history
    ]
    return pd.concat(frames, ignore_index=True).sort_values(["seed", "step"], kind="stable", ignore_index=True)


@torch.no_grad()
def _metrics(config: Mapping[str, Any], module: ReplicatedClassifier) -> dict[str, Any]:
    """The columns of a replicate's row that are measured at the end of training, in eval mode."""
    module.eval()
    columns = {f"{name}_{metric}": value for name in module.parts for metric, value in module.evaluate(name).items()}
    columns["gap"] = columns["train_acc"] - columns["test_acc"]
    columns["nll_gap"] = columns["test_nll"] - columns["train_nll"]
    if config["measure"]["silencing"]:
        lost = []
        for fraction in SILENCED_FRACTIONS:
            silenced = module.silenced_accuracy(fraction)
            columns[f"silenced_{round(100 * fraction)}"] = silenced
            lost.append(columns["test_acc"] - silenced)
        columns["reliance"] = torch.stack(lost).mean(dim=0)
    if _shifts(config):
        trained = module.network
        module.network = shift.recalibrated(trained, module.parts["train"].x)
        module.eval()
        again = module.evaluate("test")
        module.network = trained
        columns["recal_test_acc"], columns["recal_test_nll"] = again["acc"], again["nll"]
        columns["train_mode_acc"] = shift.train_mode_accuracy(
            trained, module.parts["train"], config["batch_size"], config["rerun"]
        )
    elif "bn" not in config["arrangement"]:  # nothing to recalibrate
        columns["recal_test_acc"], columns["recal_test_nll"] = columns["test_acc"], columns["test_nll"]
    return {name: value.cpu().numpy() for name, value in columns.items()}


# The first columns of replicates.csv, in this order; others follow.
COLUMNS = (
    *("dataset", "arrangement", "position", "rate", "setting", "depth", "width", "seed", "rerun"),
    *("train_acc", "train_nll", "val_acc", "val_nll", "test_acc", "test_nll", "test_ece", "gap", "nll_gap"),
    *("steps_to_level", "diverged", "recal_test_acc", "recal_test_nll"),
)


def missing(config: Mapping[str, Any], directory: Path) -> list[int]:
    """The seeds that a condition's folder lacks. Raises ValueError if its record is another config's or damaged."""
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
        elif before != after and f"{prefix}{key}" not in configs.NOT_HASHED:
            yield f"{prefix}{key} was {before}, now {after}"


def finish(
    config: Mapping[str, Any], directory: Path, study: Mapping[str, Any], progress: Callable[[float], None]
) -> None:
    """Train the replicates that a condition's folder lacks and write its record; the caller holds the folder's lock."""
    seeds = missing(config, directory)
    if not seeds:
        return
    record = results.read(directory)
    old = None if record is None else results.tables(directory)
    started = time.time()
    replicates, history, facts = train(config, seeds, progress)
    width = config["model"]["width"]
    named = {
        "dataset": config["data"]["name"],
        "arrangement": config["arrangement"],
        "position": config["position"],
        "rate": config["rate"],
        "setting": ",".join(f"{key}={value}" for key, value in study["setting"].items()),
        "depth": config["model"]["depth"],
        "width": width if isinstance(width, int) else "-".join(map(str, width)),
        "rerun": config["rerun"],
    }
    replicates = replicates.assign(**named)
    extra = [name for name in replicates if name not in COLUMNS]
    replicates = replicates.reindex(columns=[*COLUMNS, *extra])
    wall, shifts, activations = time.time() - started, facts["shift"], facts["activations"]
    if record is not None and old is not None:
        replicates = pd.concat([old[0], replicates]).sort_values("seed", kind="stable", ignore_index=True)
        history = pd.concat([old[1], history]).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        wall, shifts = wall + record["wall_seconds"], record["shift"] + shifts
        activations = activations or record.get("activations", [])  # one replicate's, so never of both
    merged = {
        "format": 1,
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
    results.write(directory, merged, replicates, history)


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
        with results.lock(directory).acquire(blocking=False):
            missing(config, directory)
            note.parent.mkdir(exist_ok=True)
            try:
                progress(0.0)
                finish(config, directory, study, progress)
            except Exception as error:
                reason = _line(error)
                (directory / results.ERROR).write_text(
                    f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}", encoding="utf-8"
                )
            finally:
                note.unlink(missing_ok=True)
    except Timeout:
        pass
    except (OSError, ValueError) as error:
        return _line(error)
    return None


def note_of(root: Path, path: str) -> Path:
    """Where a condition in work says how far it is; named by a hash, since a path can be longer than a name may be."""
    return root / ".progress" / hashlib.sha256(path.encode()).hexdigest()[:16]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def command() -> str:
    """The command line of this process, as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *(word for word in sys.argv[1:] if word != "--multirun")])


def quiet() -> None:
    """One thread for each process, no denormal numbers, and Lightning's remarks on how we use it left out."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers


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
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return configs.unknown_key(unknown.group(1), hydra.compose("config"))
    if absent := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, name = absent.group(1).rpartition("/")
        if name.startswith(("submitit_", "ray")):
            return f"{group}={name}: needs its plugin: pip install 'normdrop[{'ray' if name[0] == 'r' else 'slurm'}]'"
        names = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
        return f"{group}={name}: must be one of {', '.join(names)}"
    return text


if __name__ == "__main__":
    main()
