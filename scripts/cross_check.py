#!/usr/bin/env python3
"""Train the configurations that surprised again, without the stacked network. Run it with
.venv/bin/python scripts/cross_check.py outputs/reference outputs/cross_check

normdrop trains all seeds of a configuration as one stacked network. Is a surprising verdict a bug of that? Here each
seed is a network of its own: an nn.Sequential of PyTorch's layers with PyTorch's initial weights, a plain loop, metrics
by scikit-learn and scipy, all written from the protocol. Shared with normdrop are the rows and their split (so that
seed k here pairs with seed k there), the reader of SOURCE and the paired t test. Initial weights, batch orders and
masks are other draws: if both train the same thing, they differ by noise of mean 0.

TARGET gets a table for each configuration of SOURCE that is chosen below; after a stop the same command goes on. At the
end: per configuration the mean test accuracy (%) here and in SOURCE, their mean paired difference in points with its
95 % t interval, and whether it differs by Holm's 5 % over all; and the mean difference of each study. Exit status 1
only for errors.
"""

import argparse
import copy
import inspect
import itertools
import math
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.data.sources import bound
from normdrop.data.split import split
from normdrop.report.compare import compare, holm, mean_interval
from normdrop.report.study import load

# Experiment → patterns of its configurations. `*_*` are the two orders; A/A runs are left out.
SELECTION = {
    # The orders on a table of two and one of four classes, at a mild and at a high rate.
    "population": [f"{table}/*_*/*/{rate}" for table in ("german", "vehicle") for rate in ("q0.10", "q0.50")],
    "size": ["letter/*_*/*/q0.50/data.train_size=1000"],
    "blog": ["*/*_*/after/q*/optimizer.lr=0.003"],  # the post's own networks
    # Where the two orders are farthest apart, and the same beside it with layer normalization.
    "regime": ["mnist1d/*_*/before/q0.[57]0/optimizer.lr=0.01,trainer.max_epochs=50"],
    "mechanism": ["synthetic/*_*/after/q0.70/model.depth=4"],  # where the shift has most layers to build up
    "overfitting": ["synthetic/*/after/q0.[05]0/data.train_size=400,trainer.max_epochs=30"],
    "speed": ["*/*/after/q*/optimizer.lr=0.003"],
    "drift": ["synthetic/*/after/q*/*0.8*optimizer.lr=0.003"],
}

# What follows a block's Linear layer: A the activation, B BatchNorm1d, L LayerNorm, D Dropout.
BLOCKS = {
    "after": {"none": "A", "dropout": "AD", "bn": "AB", "bn_dropout": "ABD", "dropout_bn": "ADB"},
    "before": {"none": "A", "dropout": "DA", "bn": "BA", "bn_dropout": "BDA", "dropout_bn": "DBA"},
    "around": {"none": "A", "dropout": "AD", "bn": "BA", "bn_dropout": "BAD", "dropout_bn": "DAB"},
}
for block in BLOCKS.values():
    block |= {name.replace("bn", "ln"): letters.replace("B", "L") for name, letters in block.items()}
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
OPTIMIZERS = {f"torch.optim.{kind.__name__}": kind for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)}

# A config that says anything else is refused, not trained as something else.
VALUES: dict[str, Collection] = {
    "arrangement": BLOCKS["after"],
    "position": BLOCKS,
    "noise": ["bernoulli"],
    "model.name": ["mlp"],
    "model.residual": [False],
    "optimizer._target_": OPTIMIZERS,
    "optimizer.clip": [None],
}
# What the split is told.
SPLIT = [name for name, given in inspect.signature(split).parameters.items() if given.kind is given.KEYWORD_ONLY]

Part = tuple[Tensor, Tensor]


# --- which configurations ---


@dataclass(frozen=True)
class Configuration:
    name: str
    config: dict[str, Any]
    source: pd.DataFrame
    """its seeds and their test accuracy there"""
    table: Path
    """where those of this script go"""

    def finished(self) -> bool:
        return self.table.exists() and set(self.source["seed"]) <= set(pd.read_csv(self.table)["seed"])


def chosen(source: Path, target: Path, experiments: Collection[str], most: int | None) -> Iterator[Configuration]:
    """The selected ones. Raises ValueError for a pattern without any and for a config beyond this script."""
    for experiment in experiments:
        (study,) = load(source / experiment)
        configs = {record["condition"]: record["config"] for record in study.records}
        seeds = dict(iter(study.table[~study.table["stands_in"]].groupby("condition")))
        for pattern in SELECTION[experiment]:
            # Of a path the pattern's parts are the last ones; what was trained again for A/A has one more.
            found = [path for path in sorted(configs) if Path(path).match(pattern) and not configs[path]["rerun"]]
            if not found:
                raise ValueError(f"{source}: no finished configuration matches {experiment}/{pattern}")
            for path in found:
                name = f"{experiment}/{path}"
                check(name, configs[path])
                yield Configuration(name, configs[path], seeds[path].head(most), target / f"{name}.csv")


def check(name: str, config: dict[str, Any]) -> None:
    flat = pd.json_normalize(config).iloc[0]
    for key, allowed in VALUES.items():
        if key in flat and flat[key] not in allowed:
            raise ValueError(f"{name}: {key}={flat[key]} is not implemented in scripts/cross_check.py")


# --- rows and network ---


def parts_of(config: dict[str, Any], seed: int) -> tuple[dict[str, Part], int]:
    """Train, validation and test part, standardised, and the number of classes."""
    data = config["data"]
    rows = bound(data)(seed=seed) if data["fresh"] else bound(data)()
    index = split(rows, seed, **{key: data[key] for key in SPLIT if key in data})
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
    """One seed: its metrics, and its history with one entry per validation."""
    torch.set_num_threads(1)
    parts, classes = parts_of(config, seed)
    x, y = parts["train"]
    # Two streams per seed: batch orders; initial weights, then masks. All arrangements start alike.
    order = torch.Generator().manual_seed(2 * seed)
    torch.manual_seed(2 * seed + 1)
    network = network_of(config, x.shape[1], classes)
    given, drift, interval = config["optimizer"], config["drift"], config["trainer"]["val_check_interval"]
    settings = {key: value for key, value in given.items() if key not in ("_target_", "schedule", "clip")}
    optimizer = OPTIMIZERS[given["_target_"]](network.parameters(), **settings)
    epochs, per_epoch = config["trainer"]["max_epochs"], len(batches(torch.arange(len(y)), config["batch_size"]))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * per_epoch)
    every = interval if isinstance(interval, int) else int(interval * per_epoch)  # in steps, or a share of the epoch
    step, history = 0, list[dict[str, Any]]()
    best_nll, best_step, best = math.inf, 0, network.state_dict()
    searches, ended = config["select_epoch"] == "best", False
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
            if number % every == 0:
                accuracy, nll = measured(network, parts["val"])
                history.append({"epoch": epoch, "step": step, "val_acc": accuracy, "val_nll": nll})
                if searches and nll < best_nll:
                    best_nll, best_step, best = nll, step, copy.deepcopy(network.state_dict())
                patience = config["patience"]
                ended = patience is not None and step - best_step >= patience * per_epoch
    kept = best_step if searches and best_step else step  # without any finite validation NLL there is no result anyhow
    if kept != step:
        network.load_state_dict(best)
    return {"seed": seed, "epoch": (kept - 1) // per_epoch} | metrics(network, parts), history


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """A last batch of one row, which batch normalization cannot train on, is left out whatever the arrangement."""
    return [batch for batch in rows.split(size) if len(batch) > 1 or size == 1]


def metrics(network: nn.Sequential, parts: dict[str, Part]) -> dict[str, float]:
    """A seed's columns at the end of training, all of them NaN if a logit was not finite."""
    row = {}
    for name, part in parts.items():
        row[f"{name}_acc"], row[f"{name}_nll"] = measured(network, part)
    row["gap"] = row["train_acc"] - row["test_acc"]
    return row if np.isfinite([*row.values()]).all() else dict.fromkeys(row, math.nan)


@torch.no_grad()
def measured(network: nn.Sequential, part: Part) -> tuple[float, float]:
    """Accuracy and NLL (nats) of a part in eval mode; NaN where a logit is not finite."""
    logits, y = network.eval()(part[0]).double().numpy(), part[1].numpy()
    if not np.isfinite(logits).all():
        return math.nan, math.nan
    # scikit-learn's log_loss caps a row at 36 nats, which networks with large initial weights exceed.
    nll = -log_softmax(logits, axis=1)[np.arange(len(y)), y].mean()
    return float(accuracy_score(y, logits.argmax(axis=1))), float(nll)


# --- running and telling ---


def finish(configuration: Configuration, parallel: Parallel) -> None:
    """Train its seeds and write their table, whole or not at all."""
    trained = parallel(delayed(train)(configuration.config, seed) for seed in configuration.source["seed"])
    part = configuration.table.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row for row, _ in trained]).to_csv(part, index=False)
    part.replace(configuration.table)


def differences(configuration: Configuration) -> pd.DataFrame:
    """Test accuracy (%) here, in the source, and their difference, by seed."""
    here = pd.read_csv(configuration.table).set_index("seed")["test_acc"]
    both = 100 * pd.DataFrame({"here": here, "source": configuration.source.set_index("seed")["test_acc"]})
    return both.assign(difference=both["here"] - both["source"])


def comparison(configurations: list[Configuration]) -> pd.DataFrame:
    """One row per configuration: means here and in the source, the paired difference, its interval, Holm's p."""
    rows = []
    for each in configurations:
        both = differences(each)
        c = compare(both["here"], both["source"], rope=math.inf, test_train_ratio=math.nan)
        row = {"configuration": each.name, "n": c.n, "here": c.mean_a, "source": c.mean_b, "difference": c.estimate}
        rows.append(row | {"low": c.ci_low, "high": c.ci_high, "p_holm": c.p_value})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_holm"])
    return table.assign(differs=table["p_holm"] < 0.05)


def told(configurations: list[Configuration]) -> Iterator[str]:
    table = comparison(configurations)
    yield table.to_string(index=False, float_format="%.2f")
    yield f"{table['differs'].sum()} of {len(table)} configurations differ"
    # A seed's split is that of every configuration: a study's mean over configurations has one value for each seed.
    for study in dict.fromkeys(each.name.partition("/")[0] for each in configurations):
        own = [differences(each)["difference"] for each in configurations if each.name.startswith(f"{study}/")]
        by_seed = pd.DataFrame(own).dropna(axis=1)
        if by_seed.shape[1] > 1:
            mean, low, high = mean_interval(by_seed.mean())
            size = f"{len(own)} configurations, by {by_seed.shape[1]} seeds"
            yield f"Mean difference of {study}, {size}: {mean:+.2f} points ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="studies that normdrop trained, or published")
    parser.add_argument("target", metavar="TARGET", type=Path, help="where the tables of this script go")
    parser.add_argument("--only", nargs="+", choices=SELECTION, default=list(SELECTION), metavar="EXPERIMENT")
    parser.add_argument("--seeds", type=int, help="the first so many of a configuration (default: all of its record)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of one thread (default: one per core)")
    given = parser.parse_args()
    try:
        configurations = list(chosen(given.source, given.target, given.only, given.seeds))
    except ValueError as error:
        sys.exit(f"error: {error}")
    todo = [each for each in configurations if not each.finished()]
    print(f"{len(configurations)} configurations, {len(todo)} to train", flush=True)
    try:
        with Parallel(n_jobs=given.processes) as parallel:
            for number, each in enumerate(todo, start=1):
                finish(each, parallel)
                print(f"{number} of {len(todo)}: {each.name}", flush=True)
    except KeyboardInterrupt:
        sys.exit("\nstopped: what is finished stays; the same command goes on")
    print("", *told(configurations), sep="\n")


if __name__ == "__main__":
    main()
