#!/usr/bin/env python3
"""Train the conditions that surprised again, without the stacked network. Run it with
.venv/bin/python scripts/cross_check.py outputs/claims outputs/cross_check
and then .venv/bin/normdrop-report outputs/cross_check --against outputs/claims.

normdrop trains all seeds of a condition as one stacked network. Is a surprising verdict a bug of that? Here each seed
is a network of its own: an nn.Sequential of PyTorch's layers with PyTorch's initial weights, a plain loop, metrics by
scikit-learn and scipy, all written from the protocol. Shared with normdrop are the rows and their split (so that
replicate k here pairs with replicate k there), the format of a record and the statistics of the comparison. Initial
weights, batch orders and masks are other draws: if both train the same thing, they differ by noise of mean 0.

TARGET gets what SOURCE has, condition by condition; after a stop the same command goes on. The table at the end: mean
test accuracy (%) here and in SOURCE, the mean paired difference in points with its 95 % t interval, and whether |t| is
beyond Holm's 5 % over all conditions. Exit status 1 only for errors.
"""

import argparse
import copy
import importlib.metadata
import itertools
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy import stats
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, recall_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.data.sources import arguments, bound, source_of
from normdrop.data.split import split
from normdrop.report.statistics import clustered, compare, holm
from normdrop.study import record as results
from normdrop.study.job import hardware
from normdrop.study.record import COLUMNS
from normdrop.training.fit import quiet

# Experiment → patterns of its conditions, each with why. `*_*` are the two orders; A/A runs are left out.
SELECTION = {
    "population": [  # the orders on two tables of two and of four classes, at a mild and at a high rate
        f"{table}/*_*/*/{rate}/optimizer.lr=0.003" for table in ("german", "vehicle") for rate in ("q0.10", "q0.50")
    ],
    "six": ["digits/*_*/*/q0.50/optimizer.lr=0.01", "synthetic/*_*/*/q0.30/optimizer.lr=0.003"],
    "blog": ["*/*_*/after/q*/optimizer.lr=0.003"],  # the post's own networks
    # Where the two orders are farthest apart, and the same beside it with layer normalization.
    "regime": ["mnist1d/*_*/before/q0.[57]0/optimizer.lr=0.01,trainer.max_epochs=50"],
    "robustness": ["digits/*_*/after/q0.30/*optimizer=sgd*0.03*"],
    "overfitting": ["synthetic/*/after/q0.[05]0/data.train_size=400,trainer.max_epochs=30"],
    "reliance": ["digits/*/after/q0.[02]*/optimizer.lr=0.003"],
    "speed": ["*/*/after/q*/optimizer.lr=0.003"],
    "initialisation": ["digits/*/after/q*/*3.0*optimizer.lr=0.003"],
    "drift": ["synthetic/*/after/q*/*0.8*optimizer.lr=0.003"],
    "complexity": ["synthetic/*/after/q0.[03]0/*=16,optimizer.lr=0.003"],
    "together": ["digits/*/after/q0.[03]*/optimizer.lr=0.003"],
    "mechanism": ["synthetic/*_*/after/q0.70/model.depth=4"],  # where the shift has most layers to build up
}

# What follows a block's Linear layer: A the activation, B BatchNorm1d, L LayerNorm, D Dropout.
BLOCKS = {
    "after": {"none": "A", "dropout": "AD", "bn": "AB", "bn_dropout": "ABD", "dropout_bn": "ADB"}
    | {"ln": "AL", "ln_dropout": "ALD", "dropout_ln": "ADL"},
    "before": {"none": "A", "dropout": "DA", "bn": "BA", "bn_dropout": "BDA", "dropout_bn": "DBA"}
    | {"ln": "LA", "ln_dropout": "LDA", "dropout_ln": "DLA"},
    "around": {"none": "A", "dropout": "AD", "bn": "BA", "bn_dropout": "BAD", "dropout_bn": "DAB"}
    | {"ln": "LA", "ln_dropout": "LAD", "dropout_ln": "DAL"},
}
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
OPTIMIZERS = {
    "torch.optim.Adam": torch.optim.Adam,
    "torch.optim.AdamW": torch.optim.AdamW,
    "torch.optim.SGD": torch.optim.SGD,
}
SILENCED, DRAWS = (10, 20, 30, 40, 50), 20  # percent of each hidden block's units

# A config that says anything else is refused, not trained as something else.
VALUES: dict[str, Collection] = {
    "arrangement": BLOCKS["after"],
    "position": BLOCKS,
    "noise": ["bernoulli"],
    "select_epoch": ["last", "best"],
    "data.standardise": ["feature"],
    "model.name": ["mlp"],
    "model.residual": [False],
    "optimizer.clip": [None],
    "model.activation": ACTIVATIONS,
    "model.output_activation": [None, *ACTIVATIONS],
    "model.dropout_layers": ["all", "last"],
    "optimizer._target_": OPTIMIZERS,
    "optimizer.schedule": ["constant", "cosine"],
}
KEYS = (
    *("rate", "batch_size", "patience", "drift.scale", "drift.offset", "drift.cycles", "model.width", "model.depth"),
    *(
        "model.init_gain",
        "model.bn_momentum",
        "model.bn_eps",
        "optimizer.lr",
        "optimizer.momentum",
        "optimizer.weight_decay",
        "trainer.max_epochs",
    ),
    *("trainer.val_check_interval", "measure.silencing", "data.level", "data.fresh", "data.test_fraction"),
    *("data.val_fraction", "data.train_size", "data.train_most", "data.pca"),
    # These change no column that is measured here.
    *results.NOT_HASHED,
    *("rerun", "engine", "data.name", "data.source", "data.shape", "data.fingerprint"),
    *("trainer.accelerator", "measure.shift", "measure.shift_epochs"),
)
COMMAND = "scripts/cross_check.py"

Part = tuple[Tensor, Tensor]


# --- which conditions ---


@dataclass(frozen=True)
class Condition:
    name: str
    source: Path
    target: Path
    record: dict[str, Any]
    seeds: list[int]

    def finished(self) -> bool:
        held = results.read(self.target)
        done = held.record if held else None
        if done and not done["command"].startswith(COMMAND):
            raise ValueError(f"{self.target}: its record is not of {COMMAND}; choose another TARGET")
        same = done and done["config_hash"] == self.record["config_hash"]
        return bool(same) and set(self.seeds) <= set(done["seeds"])


def chosen(
    source: Path, target: Path, experiments: Collection[str], seeds: int | None, first: int | None = None
) -> Iterator[Condition]:
    """The selected conditions. Raises ValueError for a pattern without any and for a config beyond this script."""
    for experiment, pattern in ((e, p) for e in experiments for p in SELECTION[e]):
        folders = [path.parent for path in sorted((source / experiment).glob(f"{pattern}/{results.RECORD}"))]
        records = {folder: held.record for folder in folders if (held := results.read(folder))}
        own = {folder: record for folder, record in records.items() if not record["config"]["rerun"]}
        if not own:
            raise ValueError(f"{source}: no finished condition matches {experiment}/{pattern}")
        for folder, record in own.items():
            name = f"{experiment}/{record['condition']}"
            check(name, record["config"])
            own_seeds = record["seeds"][:seeds]
            others = own_seeds if first is None else [*range(first, first + len(own_seeds))]
            yield Condition(name, folder, target / name, record, others)


def check(name: str, config: dict[str, Any]) -> None:
    passed_on = ("study.", *(f"data.{key}" for key in arguments(source_of(config["data"]["source"]))))
    for key, value in pd.json_normalize(config).iloc[0].items():
        if not (value in VALUES[key] if key in VALUES else key in KEYS or str(key).startswith(passed_on)):
            raise ValueError(f"{name}: {key}={value} is not implemented in {COMMAND}")


# --- rows and network ---


def parts_of(config: dict[str, Any], seed: int) -> tuple[dict[str, Part], int]:
    """Train, validation and test part, standardised, and the number of classes."""
    data = config["data"]
    rows = bound(data)(seed=seed) if data["fresh"] else bound(data)()
    sizes = ("val_fraction", "test_fraction", "train_size", "train_most")
    index = split(rows, seed, **{key: data[key] for key in sizes})
    x = standardised({name: rows.x[i].astype(np.float64) for name, i in index.items()})
    if data["pca"] is not None:
        pca = PCA(data["pca"], svd_solver="full").fit(x["train"])
        x = standardised({name: pca.transform(values) for name, values in x.items()})
    parts = {name: (torch.from_numpy(x[name]).float(), torch.from_numpy(rows.y[i])) for name, i in index.items()}
    # Not rows.classes: where a function also names torch, joblib's pickler takes that for the module torch.classes.
    return parts, len(np.unique(rows.y))


def standardised(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scaler = StandardScaler().fit(parts["train"])
    deviation, largest = np.sqrt(scaler.var_), np.nan_to_num(np.abs(parts["train"])).max(axis=0)
    # The protocol's rule: what is constant in training, as digits' pixels at the rim, is 0 in every part.
    scaler.scale_ = np.where(deviation > 1e-12 * largest, deviation, np.inf)
    return {name: np.nan_to_num(scaler.transform(x)) for name, x in parts.items()}  # missing: the training mean


def network_of(config: dict[str, Any], features: int, classes: int) -> nn.Sequential:
    """The MLP with PyTorch's initial weights; only Linear layers draw."""
    model = config["model"]
    widths = [model["width"]] * model["depth"] if isinstance(model["width"], int) else model["width"]
    layers: list[nn.Module] = []
    for number, (fan_in, width) in enumerate(itertools.pairwise([features, *widths]), start=1):
        layers.append(nn.Linear(fan_in, width))
        for letter in BLOCKS[config["position"]][config["arrangement"]]:
            if letter == "A":
                layers.append(ACTIVATIONS[model["activation"]]())
            elif letter == "B":
                layers.append(nn.BatchNorm1d(width, model["bn_eps"], model["bn_momentum"]))
            elif letter == "L":
                layers.append(nn.LayerNorm(width))
            elif model["dropout_layers"] == "all" or number == len(widths):
                layers.append(nn.Dropout(config["rate"]))
    layers.append(nn.Linear(widths[-1], classes))
    if model["output_activation"]:
        layers.append(ACTIVATIONS[model["output_activation"]]())
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.weight.data *= model["init_gain"]
    return nn.Sequential(*layers)


# --- training and measuring ---


def train(config: dict[str, Any], seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One replicate: its metrics, and its history with one entry per validation."""
    quiet()
    parts, classes = parts_of(config, seed)
    x, y = parts["train"]
    # Three streams per seed: batch orders; silenced units; initial weights, then masks. All arrangements start alike.
    order, units = (torch.Generator().manual_seed(3 * seed + k) for k in (0, 1))
    torch.manual_seed(3 * seed + 2)
    network = network_of(config, x.shape[1], classes)
    given, drift, interval = config["optimizer"], config["drift"], config["trainer"]["val_check_interval"]
    own = {key: value for key, value in given.items() if key not in ("_target_", "schedule", "clip")}
    optimizer = OPTIMIZERS[given["_target_"]](network.parameters(), **own)
    epochs, per_epoch = config["trainer"]["max_epochs"], len(batches(torch.arange(len(y)), config["batch_size"]))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * per_epoch)
    every = interval if isinstance(interval, int) else int(interval * per_epoch)  # in steps, or a share of the epoch
    step, losses, history = 0, [], list[dict[str, Any]]()
    best, searches, ended = (math.inf, 0, network.state_dict()), config["select_epoch"] == "best", False
    for epoch in range(epochs):
        for number, rows in enumerate(batches(torch.randperm(len(y), generator=order), config["batch_size"]), start=1):
            if ended:
                break
            g = math.sin(2 * math.pi * drift["cycles"] * step / (epochs * per_epoch))
            drifted = x[rows] * (1 + drift["scale"] * g) + drift["offset"] * g
            loss = F.cross_entropy(network.train()(drifted), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if given["schedule"] == "cosine":
                cosine.step()
            step += 1
            losses.append(loss.item())
            if number % every == 0:
                val = measured(network, parts["val"])
                entry = {"seed": seed, "epoch": epoch, "step": step, "train_loss": np.mean(losses)}
                history.append(entry | {"val_nll": val["nll"], "val_acc": val["acc"]})
                losses = []
                if searches and val["nll"] < best[0]:
                    best = val["nll"], step, copy.deepcopy(network.state_dict())
                ended = config["patience"] is not None and step - best[1] >= config["patience"] * per_epoch
    kept = best[1] if searches and best[1] else step  # without any finite validation NLL there is no result anyhow
    if kept != step:
        network.load_state_dict(best[2])
    place = {"epoch": (kept - 1) // per_epoch, "epochs_after": (step - 1) // per_epoch - (kept - 1) // per_epoch}
    return {"seed": seed} | place | metrics(config, network, parts, history, order, units), history


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """A last batch of one row, which batch normalization cannot train on, is left out whatever the arrangement."""
    return [batch for batch in rows.split(size) if len(batch) > 1 or size == 1]


def metrics(
    config: dict[str, Any],
    network: nn.Sequential,
    parts: dict[str, Part],
    history: list[dict[str, Any]],
    order: torch.Generator,
    units: torch.Generator,
) -> dict[str, Any]:
    """A replicate's columns at the end of training, all but `diverged` empty if a loss was not finite."""
    ended = {name: measured(network, part) for name, part in parts.items()}
    row: dict[str, Any] = {f"{name}_{key}": value for name, part in ended.items() for key, value in part.items()}
    row |= {"gap": row["train_acc"] - row["test_acc"], "nll_gap": row["test_nll"] - row["train_nll"]}
    if config["measure"]["silencing"]:
        silenced = {f"silenced_{share}": silenced_accuracy(network, parts["test"], share, units) for share in SILENCED}
        row |= silenced | {"reliance": row["test_acc"] - np.mean([*silenced.values()])}
        without = [most_used_silenced(network, parts, share) for share in SILENCED]
        row["reliance_most_used"] = row["test_acc"] - np.mean(without)
    again = measured(recalibrated(network, parts["train"][0]), parts["test"])  # without BN the same network
    row |= {"recal_test_acc": again["acc"], "recal_test_nll": again["nll"]}
    row["train_mode_acc"] = train_mode_accuracy(network, parts["train"], config["batch_size"], order)
    reached = [entry["step"] for entry in history if entry["val_nll"] <= config["data"]["level"]]
    row["steps_to_level"] = min(reached, default=math.nan)
    losses = [entry["train_loss"] for entry in history] + [part["nll"] for part in ended.values()]
    finite = bool(np.isfinite(losses).all())
    return (row if finite else dict.fromkeys(row, math.nan)) | {"diverged": not finite}


@torch.no_grad()
def measured(network: nn.Sequential, part: Part) -> dict[str, float]:
    """Accuracy, mean recall of the classes, NLL (nats) and calibration error (15 equal bins) of a part in eval mode."""
    logits, y = network.eval()(part[0]).double().numpy(), part[1].numpy()
    if not np.isfinite(logits).all():
        return dict.fromkeys(("acc", "balanced_acc", "nll", "ece"), math.nan)
    # scikit-learn's log_loss caps a row at 36 nats, which networks with large initial weights exceed.
    log_probability, guess = log_softmax(logits, axis=1), logits.argmax(axis=1)
    confidence = np.exp(log_probability.max(axis=1))
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    excess = np.bincount(bins, weights=(guess == y) - confidence)
    nll = -log_probability[np.arange(len(y)), y].mean()
    recall = recall_score(y, guess, labels=np.unique(y), average="macro")
    return {"acc": accuracy_score(y, guess), "balanced_acc": recall, "nll": nll, "ece": np.abs(excess).sum() / len(y)}


@torch.no_grad()
def silenced_accuracy(network: nn.Sequential, part: Part, percent: int, units: torch.Generator) -> float:
    """Accuracy with a random share of the units of each hidden block's output set to 0, mean over draws."""
    accuracies = []
    for _ in range(DRAWS):
        x = part[0]
        for position, layer in enumerate(network.eval()):
            if position and isinstance(layer, nn.Linear):  # x is the output of a hidden block
                lost = torch.randperm(layer.in_features, generator=units)[: round(percent / 100 * layer.in_features)]
                x = x.index_fill(1, lost, 0.0)
            x = layer(x)
        accuracies.append(accuracy_score(part[1], x.argmax(dim=1)))
    return float(np.mean(accuracies))


@torch.no_grad()
def most_used_silenced(network: nn.Sequential, parts: dict[str, Part], percent: int) -> float:
    """Accuracy without the units of the largest mean absolute value times absolute weights, on the training rows."""
    (seen, _), (x, y) = parts["train"], parts["test"]
    for position, layer in enumerate(network.eval()):
        if position and isinstance(layer, nn.Linear):
            uses = seen.abs().mean(dim=0) * layer.weight.abs().sum(dim=0)
            x = x.index_fill(1, uses.argsort(descending=True)[: round(percent / 100 * len(uses))], 0.0)
        x, seen = layer(x), layer(seen)
    return accuracy_score(y, x.argmax(dim=1))


@torch.no_grad()
def recalibrated(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """A copy with the running statistics of the whole training set x, from one batch of it with dropout off.

    So each BN layer counts inputs that those before it normalised with the statistics of this very batch.
    """
    network = copy.deepcopy(network).train()
    for layer in network:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0
    network(x)
    return network


@torch.no_grad()
def train_mode_accuracy(network: nn.Sequential, part: Part, batch_size: int, order: torch.Generator) -> float:
    """Accuracy with BN and dropout in train mode: one pass in random batches."""
    network = copy.deepcopy(network).train()
    seen = batches(torch.randperm(len(part[1]), generator=order), batch_size)
    guesses = [network(part[0][batch]).argmax(dim=1) for batch in seen]
    return accuracy_score(part[1][torch.cat(seen)], torch.cat(guesses))


# --- running and telling ---


def finish(condition: Condition, parallel: Parallel) -> None:
    """Train a condition's seeds and write it as the source has it: the same names, columns and config."""
    condition.target.mkdir(parents=True, exist_ok=True)
    with results.lock(condition.target):
        if condition.finished():  # by another process, while this one waited
            return
        started = time.time()
        trained = parallel(delayed(train)(condition.record["config"], seed) for seed in condition.seeds)
        rows, histories = zip(*trained, strict=True)
        theirs = results.read(condition.source).replicates
        # The columns that say which replicate it is.
        names = theirs[list(COLUMNS[: COLUMNS.index("epoch")])].drop(columns="seed").head(1)
        names = names.merge(pd.DataFrame({"seed": condition.seeds}), how="cross")
        whole = dict.fromkeys(("epoch", "epochs_after", "steps_to_level"), "Int64")
        replicates = names.merge(pd.DataFrame(rows).astype(whole), on="seed")[list(theirs)]
        packages = ("torch", "scikit-learn", "scipy", "normdrop")
        versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
        record = condition.record | {"seeds": condition.seeds, "versions": versions, "shift": []}
        record |= {"device": "cpu", "hardware": hardware("cpu"), "command": shlex.join([COMMAND, *sys.argv[1:]])}
        record |= {"wall_seconds": round(time.time() - started, 3), "finished": time.time()}
        results.write(condition.target, record, replicates, pd.DataFrame(itertools.chain(*histories)))


def comparison(conditions: list[Condition]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per condition: test accuracy (%) here and in the source, and the paired difference in points; and the
    differences themselves, (conditions, seeds)."""
    rows, differences = [], []
    for condition in conditions:
        here, source = (
            results.read(d).replicates.set_index("seed")["test_acc"] for d in (condition.target, condition.source)
        )
        if not here.index.isin(source.index).all():  # other seeds: pairs of no meaning, as good as any
            source = source.head(len(here)).set_axis(here.index[: len(source)])
        both = 100 * pd.DataFrame({"here": here, "source": source.reindex(here.index)})
        differences.append(both["here"] - both["source"])
        c = compare(both["here"], both["source"], rope=math.nan, test_train_ratio=math.nan)
        row = {"condition": condition.name, "n": c.n, **both.mean(), "difference": c.estimate}
        rows.append(row | {"low": c.ci_low, "high": c.ci_high, "t": c.d_z * math.sqrt(c.n)})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(2 * stats.t.sf(table["t"].abs(), table["n"] - 1))
    return table.assign(differs=table["p_holm"] < 0.05), pd.DataFrame(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("source", metavar="SOURCE", type=Path, help="the study that normdrop trained")
    parser.add_argument("target", metavar="TARGET", type=Path, help="where the conditions trained here go")
    parser.add_argument("--only", nargs="+", choices=SELECTION, default=list(SELECTION), metavar="EXPERIMENT")
    parser.add_argument("--seeds", type=int, help="the first so many of a condition (default: all of its record)")
    parser.add_argument("--first-seed", type=int, help="seeds from this one on, in place of the study's own")
    parser.add_argument("--processes", type=int, default=cores, help=f"of one thread (default: one per core, {cores})")
    given = parser.parse_args()
    for name in ("seeds", "processes"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name}={getattr(given, name)}: must be an integer ≥ 1")
    try:
        conditions = list(chosen(given.source, given.target, given.only, given.seeds, given.first_seed))
        todo = [condition for condition in conditions if not condition.finished()]
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{len(conditions)} conditions, {len(todo)} to train", flush=True)
    try:
        with Parallel(n_jobs=given.processes) as parallel:
            for number, condition in enumerate(todo, start=1):
                started = time.time()
                finish(condition, parallel)
                print(f"{number} of {len(todo)}: {condition.name}: {time.time() - started:.0f} s", flush=True)
    except KeyboardInterrupt:
        sys.exit("\nstopped: what is finished stays; the same command goes on")
    table, differences = comparison(conditions)
    print(f"\n{table.to_string(index=False, float_format='%.2f')}")
    print(f"{table['differs'].sum()} of {len(table)} conditions differ")
    if differences.notna().all().sum() > 1:  # seeds that every condition has
        c = clustered(differences.to_numpy())
        print(
            f"Mean difference over conditions, clustered by {c.seeds} seeds: {c.estimate:+.2f} points "
            f"({c.ci_low:+.2f} to {c.ci_high:+.2f}); shown equivalent within ± {c.margin:.2f} (TOST, 5 %)"
        )


if __name__ == "__main__":
    main()
