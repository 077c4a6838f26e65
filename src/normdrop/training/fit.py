"""From a condition's config to its networks and tables: one Lightning fit for each group of replicates."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn

from normdrop.data.module import Part, ReplicateData
from normdrop.metrics import METRICS, SILENCED_FRACTIONS, silenced
from normdrop.networks import has_bn, plain
from normdrop.training import on_gpu, shift
from normdrop.training.checkpoint import Checkpoint
from normdrop.training.kept import Kept
from normdrop.training.module import MEASURES, ReplicatedClassifier, data_of, measured

# Measured on two CPUs: fewer show each step's overhead (10 take 12 % longer), more gain nothing and take memory.
AT_A_TIME = {"cpu": 32, "cuda": 128}
MOST_AT_ONCE = 2**28  # bytes of inputs that the compiled engine is given
WEIGHTS_MEMORY = 2**31  # bytes for those of a stack on a CPU, where conditions train side by side


def quiet() -> None:
    """One thread for each process, no denormal numbers, and Lightning's remarks on how we use it left out."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


@contextmanager
def quietly() -> Iterator[None]:
    """`quiet` for a while, in somebody else's process. Raises ValueError where PyTorch would train otherwise there."""
    usual = torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    usual = usual and torch.get_default_device().type == "cpu"
    if not usual or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        kinds = "torch.autocast, no_grad and inference_mode, with float32 and the CPU as PyTorch's defaults"
        raise ValueError(f"train: must be called outside of {kinds}")
    threads, logger = torch.get_num_threads(), logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)
            logger.setLevel(level)


# Told at each validation: the share that is done, the epoch in words, and how to have the history so far.
Tell = Callable[[float, str, Callable[[], pd.DataFrame]], None]


@dataclass(repr=False)
class Fitted:
    """What training leaves: a row per seed, one per seed and validation, what else goes on record, the networks."""

    replicates: pd.DataFrame
    history: pd.DataFrame
    facts: dict[str, Any]
    networks: Kept

    def __repr__(self) -> str:
        sound = self.replicates[~self.replicates["diverged"]]
        accuracy = f"test accuracy {sound['test_acc'].mean():.4f} (standard deviation {sound['test_acc'].std():.4f})"
        diverged = len(self.replicates) - len(sound)
        lost = f", {diverged} diverged" if diverged else ""
        return f"{len(self.replicates)} replicates{lost}: {accuracy}; .replicates, .history, .network(seed)"

    def network(self, seed: int) -> nn.Sequential:
        """The plain network of one seed in evaluation mode, with its weights and running statistics."""
        return self.networks.network(seed)


def fit(
    config: Mapping[str, Any],
    seeds: list[int],
    tell: Tell = lambda *_: None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Train one replicate for each seed, from where the checkpoint of each group stands."""
    device = "cuda" if on_gpu(config["trainer"]["accelerator"]) else "cpu"
    at_a_time = config["replicates_at_a_time"] or min(AT_A_TIME[device], _fitting(config, seeds[0], device))
    todo: list[int] = list(seeds)
    done: list[Fitted] = []

    def told(part: float, epoch: str, history: Callable[[], pd.DataFrame]) -> None:
        begun = len(seeds) - len(todo)
        share = (begun + part * min(at_a_time, len(todo))) / len(seeds)
        tell(share, epoch, lambda: pd.concat([*(group.history for group in done), history()]))

    while todo:
        group = todo[:at_a_time]
        saved = checkpoint.of(group, device, last=group == todo) if checkpoint else None
        try:
            done.append(_fit(config, group, told, checkpoint, saved))
            todo = todo[len(group) :]
            continue
        except (MemoryError, RuntimeError) as error:
            said = "can't allocate memory" in str(error)  # of a CPU's, in words alone
            if len(group) == 1 or not (said or isinstance(error, (torch.OutOfMemoryError, MemoryError))):
                raise
            at_a_time = len(group) // 2
            print(f"{config['arrangement']}: out of memory with {len(group)} replicates; going on with {at_a_time}")
        # Here and not above: an exception in hand holds the frames whose tensors are to be freed.
        gc.collect()
        torch.cuda.empty_cache()
    return _together(done)


def _together(groups: list[Fitted]) -> Fitted:
    first = groups[0]
    facts, states = dict(first.facts), dict(first.networks.states)
    for group in groups[1:]:
        facts["steps"] = max(facts["steps"], group.facts["steps"])
        facts["earlier_seconds"] += group.facts["earlier_seconds"]
        facts["shift"] = facts["shift"] + group.facts["shift"]
        states |= group.networks.states
    replicates = pd.concat([group.replicates for group in groups], ignore_index=True)
    history = pd.concat([group.history for group in groups], ignore_index=True)
    return Fitted(replicates, history, facts, replace(first.networks, states=states))


def _fitting(config: Mapping[str, Any], seed: int, device: str) -> int:
    """How many replicates' weights fit the memory that is for them; a GPU says itself when it is full."""
    if device == "cuda":
        return AT_A_TIME[device]
    data = data_of(config, [seed])
    weights = sum(parameter.numel() for parameter in plain(config, data.shape, data.classes).parameters())
    return max(1, WEIGHTS_MEMORY // (20 * weights))  # in float32 with gradient, two moments and the best ones


def _fit(
    config: Mapping[str, Any], seeds: list[int], tell: Tell, checkpoint: Checkpoint | None, saved: Path | None
) -> Fitted:
    """One Lightning fit of the replicates that train together."""
    data = data_of(config, seeds)
    module = ReplicatedClassifier(config, data.shape, data.classes, seeds)
    module.logs = False

    def validated(trainer: pl.Trainer, _: pl.LightningModule) -> None:
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        tell(module.steps / module.total_steps, epoch, lambda: _history(module))

    callbacks: list[pl.Callback] = [LambdaCallback(on_validation_end=validated)]
    if checkpoint:
        callbacks.append(checkpoint)
    trainer = _trainer(config, module, data, callbacks)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=saved, weights_only=True)
    except SystemExit as end:  # what Lightning makes of Ctrl-C; whoever started the sweep is to hear how far it came
        raise KeyboardInterrupt from end
    # Each weight's moments take as much memory as the metrics that follow, which need none of them.
    trainer.optimizers, trainer.strategy.lr_scheduler_configs = [], []
    module.to(data.parts["train"].rows.device)  # Lightning leaves it on the CPU
    history = _history(module)
    replicates = _replicates(config, module, data, history)
    if _shifts(config):
        module.shift += shift.measure(module.network, data.parts["train"], config["batch_size"], config["rerun"], "end")
    sizes = {name: part.rows.shape[1] for name, part in data.parts.items()}
    facts = {
        "rows": sizes | {"features": data.features, "classes": data.classes},
        "shift": module.shift,
        "steps": module.steps,
        "device": str(module.device),
        "earlier_seconds": checkpoint.earlier if checkpoint else 0.0,
    }
    states = {seed: module.network.replicate(number).state_dict() for number, seed in enumerate(seeds)}
    return Fitted(replicates, history, facts, Kept(dict(config), [*data.shape], data.classes, states))


def _trainer(
    config: Mapping[str, Any], module: ReplicatedClassifier, data: ReplicateData, callbacks: list[pl.Callback]
) -> pl.Trainer:
    # Not Lightning's auto, which may choose a device without double precision.
    gpu = on_gpu(config["trainer"]["accelerator"])
    own = config["trainer"] | {"accelerator": "gpu" if gpu else "cpu"}
    if config["engine"] == "compiled":
        from normdrop.engine.compiled import Compiled  # here: it imports numba

        module.engine = Compiled(module.network, config["batch_size"], config["optimizer"].get("clip"))
        module.stretch = data.order.stretch = _stretch(config, len(data.order), data.features * len(data.seeds))
        if module.stretch > 1:
            own["val_check_interval"] = 1
    return pl.Trainer(
        **own,
        devices=[torch.cuda.current_device()] if gpu else 1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=LightningEnvironment(),  # one process, whatever a cluster's variables say
    )


def _stretch(config: Mapping[str, Any], steps: int, floats: int) -> int:
    """How many of an epoch's steps the compiled engine takes at once: those between two validations, where
    they cut the epoch into equal parts and their inputs (`floats` for a row of every replicate) fit the
    memory at hand.
    """
    interval = config["trainer"]["val_check_interval"]
    between = interval if type(interval) is int else int(steps * interval)
    fits = 4 * floats * between * config["batch_size"] <= MOST_AT_ONCE
    return between if fits and steps % between == 0 else 1


def _replicates(
    config: Mapping[str, Any], module: ReplicatedClassifier, data: ReplicateData, history: pd.DataFrame
) -> pd.DataFrame:
    """One row per seed: the metrics, and when what they are of was reached; empty where training diverged."""
    replicates = pd.DataFrame({"seed": data.seeds, **_metrics(config, module, data.parts)})
    diverged = module.diverged.cpu().numpy() | replicates[["train_nll", "val_nll", "test_nll"]].isna().any(axis=1)
    replicates.insert(1, "diverged", diverged)
    replicates.loc[diverged, replicates.columns[2:]] = float("nan")
    step: Any = module.steps
    last: Any = module.steps
    if module.best is not None:
        step = module.best_step.cpu().numpy()
        last = history.groupby("seed")["step"].max()[data.seeds].to_numpy()
    replicates["epoch"] = (step - 1) // module.epoch_steps  # from 0, as in the history
    replicates["epochs_after"] = (last - 1) // module.epoch_steps - replicates["epoch"]
    level = history[history["val_nll"] <= config["data"]["level"]].groupby("seed")["step"].min()
    replicates["steps_to_level"] = replicates["seed"].map(level)
    for name in ("epoch", "epochs_after", "steps_to_level"):
        replicates[name] = replicates[name].astype("Int64").where(~replicates["diverged"])
    return replicates


def _shifts(config: Mapping[str, Any]) -> bool:
    return config["measure"]["shift"] and has_bn(config)


def _history(module: ReplicatedClassifier) -> pd.DataFrame:
    frames = []
    for entry in module.history:
        columns = {name: value.numpy() if torch.is_tensor(value) else value for name, value in entry.items()}
        frames.append(pd.DataFrame({"seed": module.network.seeds} | columns))
    history = pd.concat(frames, ignore_index=True).query("live").drop(columns="live")
    return history.sort_values(["seed", "step"], kind="stable", ignore_index=True)


@torch.no_grad()
def _metrics(config: Mapping[str, Any], module: ReplicatedClassifier, parts: Mapping[str, Part]) -> dict[str, Any]:
    """The columns of a replicate's row that are measured at the end of training, in eval mode."""
    network = module.eval().network
    columns: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        wanted = [measure for measure in MEASURES if f"{name}_{measure}" in METRICS]
        columns |= {f"{name}_{measure}": value for measure, value in module.evaluate(part, wanted).items()}
    columns["gap"] = columns["train_acc"] - columns["test_acc"]
    columns["nll_gap"] = columns["test_nll"] - columns["train_nll"]
    if config["measure"]["silencing"]:
        columns |= _silenced(module, parts, columns["test_acc"])
    if _shifts(config):
        recalibrated = shift.recalibrated(network, parts["train"])
        again = measured([(recalibrated(x), y) for x, y in parts["test"].batches()], ("acc", "nll"))
        columns["recal_test_acc"], columns["recal_test_nll"] = again["acc"], again["nll"]
    elif not has_bn(config):  # nothing to recalibrate
        columns["recal_test_acc"], columns["recal_test_nll"] = columns["test_acc"], columns["test_nll"]
    return {name: value.cpu().numpy() for name, value in columns.items()}


def _silenced(module: ReplicatedClassifier, parts: Mapping[str, Part], whole: torch.Tensor) -> dict[str, torch.Tensor]:
    """Test accuracy with fractions of the units silenced, and what is lost of the `whole` on average."""
    used = module.network.used(x for x, _ in parts["train"].batches())
    ranking = [uses.argsort(dim=1, descending=True, stable=True) for uses in used]
    columns: dict[str, torch.Tensor] = {}
    lost, lost_without = [], []
    for fraction in SILENCED_FRACTIONS:
        at_random = module.silenced_accuracy(parts["test"], fraction)
        columns[silenced(fraction)] = at_random
        lost.append(whole - at_random)
        lost_without.append(whole - module.accuracy_without(parts["test"], ranking, fraction))
    columns["reliance"] = sum(lost[1:], lost[0]) / len(lost)
    columns["reliance_most_used"] = sum(lost_without[1:], lost_without[0]) / len(lost_without)
    return columns
