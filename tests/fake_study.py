"""Finished conditions with known effects, written as a sweep would leave them: for tests of whatever reads records."""

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normdrop.study import record as record_file

ARRANGEMENTS = ("none", "dropout", "bn", "bn_dropout", "dropout_bn")
RATES = (0.1, 0.2, 0.3, 0.5, 0.7)
STUDY: dict[str, Any] = {
    "claim": "ordering",
    "sentence": "In general batch normalization should come first, dropout after it.",
    "contrast": {"a": "bn_dropout", "b": "dropout_bn"},
    "metric": "test_acc",
    "secondary": ["test_nll", "test_ece"],
    "kind": "difference",
    "over": None,
    "tuned": ["rate"],
    "rope": {"test_acc": 0.005, "test_nll": 0.02, "test_ece": 0.005, "gap": 0.005},
    "alpha": 0.05,
    "family": "best_vs_best",
}


def default_accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
    """bn_dropout is one percentage point ahead of dropout_bn at every rate; 0.3 is every arrangement's best rate."""
    base = {"none": 0.90, "dropout": 0.91, "bn": 0.92, "bn_dropout": 0.94, "dropout_bn": 0.93}[arrangement]
    return base - 0.1 * (rate - 0.3) ** 2 if "dropout" in arrangement else base


def stands_for(arrangement: str, position: str) -> list[tuple[str, str]]:
    """Every (arrangement, position) for which this network, with a ReLU, is the answer."""
    if arrangement in ("none", "dropout"):
        return [(arrangement, p) for p in ("after", "before", "around")]
    also_around = {("bn_dropout", "before"), ("dropout_bn", "after"), ("bn", "before")}
    around = [(arrangement, "around")] if (arrangement, position) in also_around else []
    return [(arrangement, position), *around]


def write_condition(
    root: Path,
    replicates: pd.DataFrame,
    *,
    dataset: str,
    arrangement: str,
    position: str,
    rate: float,
    setting: dict[str, Any] | None = None,
    study: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    fresh_rows: bool = False,
    rows: tuple[int, int, int] = (1000, 300, 400),
    shift: list[dict[str, Any]] | None = None,
    epochs: int = 4,
) -> Path:
    """Write one finished condition; `config` is merged over the resolved config."""
    setting = setting or {}
    name = ",".join(f"{key}={value}" for key, value in setting.items())
    condition = "/".join(filter(None, [dataset, arrangement, position, f"q{rate:.2f}", name]))
    folder = root / condition
    folder.mkdir(parents=True, exist_ok=True)
    described = {"dataset": dataset, "arrangement": arrangement, "position": position, "rate": rate}
    table = replicates.assign(**described, setting=name, depth=3, width=128, rerun=setting.get("rerun", 0))
    table = table.reindex(columns=[*record_file.COLUMNS, *table.columns.difference(record_file.COLUMNS, sort=False)])
    table.to_csv(folder / "replicates.csv", index=False)
    curve = np.linspace(0.5, 1, epochs)
    history = pd.DataFrame(
        [
            (row.seed, epoch + 1, 10 * (epoch + 1), 1.5 - c, 1.6 - c, c * (row.val_acc if row.val_acc > 0 else 0.1))
            for row in table.itertuples()
            for epoch, c in enumerate(curve)
        ],
        columns=["seed", "epoch", "step", "train_loss", "val_nll", "val_acc"],
    )
    history.to_csv(folder / "history.csv", index=False)
    resolved: dict[str, Any] = {
        "arrangement": arrangement,
        "position": position,
        "rate": rate,
        "noise": "bernoulli",
        "replicates": len(table),
        "seeds": None,
        "rerun": setting.get("rerun", 0),
        "data": {"name": dataset, "train_size": None, "level": 0.95},
        "model": {"width": 128, "depth": 3, "init_gain": 1.0},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
        "batch_size": 64,
        "trainer": {"max_epochs": epochs},
        **(config or {}),
    }
    for key, value in setting.items():
        *parents, last = key.split(".")
        node = resolved
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = {**node[last], "name": value} if isinstance(node.get(last), dict) else value  # a config group
    record = {
        "format": record_file.FORMAT,
        "condition": condition,
        **described,
        "setting": setting,
        "stands_for": stands_for(arrangement, position),
        "choices": {"data": dataset, "model": "mlp", "optimizer": "adam"} | setting,
        "steps": 10 * epochs,
        "seeds": table["seed"].tolist(),
        "config": resolved,
        "config_hash": hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest(),
        "study": study or STUDY,
        "rows": {"train": rows[0], "val": rows[1], "test": rows[2], "features": 64, "classes": 10},
        "fresh_rows": fresh_rows,
        "versions": {"python": "3.11", "torch": "2.13.0", "lightning": "2.6.6", "normdrop": "0.1.0"},
        "device": "cpu",
        "hardware": "two test cores",
        "wall_seconds": 1.5,
        "command": "normdrop -m experiment=fake",
        "shift": shift or [],
        "tables": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("replicates.csv", "history.csv")
        },
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1))
    return folder


def fake_study(
    root: Path,
    *,
    datasets: Iterable[str] = ("digits",),
    arrangements: Iterable[str] = ARRANGEMENTS,
    positions: Iterable[str] = ("after",),
    rates: Iterable[float] = RATES,
    settings: Iterable[dict[str, Any]] = ({},),
    replicates: int = 30,
    accuracy: Callable[[str, str, float, dict[str, Any]], float] = default_accuracy,
    steps: Callable[[str, dict[str, Any]], float] = lambda arrangement, setting: 100.0,
    max_steps: float = np.inf,
    shared_sd: float = 0.01,
    own_sd: float = 0.005,
    rerun: str | None = "bn_dropout",
    study: dict[str, Any] | None = None,
    seed: int = 0,
    first_seed: int = 0,
    **condition: Any,
) -> Path:
    """Write a sweep of `arrangements` at `positions` and `rates`, each distinct network once, and return `root`.

    Accuracy is `accuracy(arrangement, position, rate, setting)` plus noise that replicate k of every condition shares
    (standard deviation `shared_sd`) plus noise of its own (`own_sd`, on validation and test each). Steps to the level
    are lognormal around `steps`, and empty (censored) above `max_steps`. `rerun` names the arrangement of the A/A run.
    Anything else goes to `write_condition`.
    """
    rng = np.random.default_rng(seed)
    datasets, positions, rates, settings = list(datasets), list(positions), list(rates), list(settings)
    grid: dict[str, list[Any]] = {"data": datasets, "arrangement": list(arrangements)}
    grid |= {"position": positions, "rate": rates}
    for key in dict.fromkeys(key for setting in settings for key in setting):
        grid[key] = [*{str(setting[key]): setting[key] for setting in settings if key in setting}.values()]
    study = {**STUDY, **(study or {}), "grid": grid}
    written: set[tuple[str, str, str, float, str]] = set()
    shared_by = {dataset: rng.normal(0, shared_sd, replicates) for dataset in datasets}
    for dataset, setting in product(datasets, settings):
        shared = shared_by[dataset]
        for arrangement, position, rate in product(grid["arrangement"], positions, rates):
            q = rate if "dropout" in arrangement else 0.0
            trained_at = canonical(arrangement, position)
            again = [{**setting, "rerun": 1}] if (arrangement == rerun and rate == rates[0]) else []
            for these in [setting, *again]:
                key = (dataset, arrangement, trained_at, q, json.dumps(these, sort_keys=True))
                if key in written:
                    continue
                written.add(key)
                mean = accuracy(arrangement, trained_at, q, these)
                table = fake_replicates(rng, mean, shared, own_sd, steps(arrangement, these), max_steps)
                table["seed"] += first_seed
                where = {"dataset": dataset, "arrangement": arrangement, "position": trained_at, "rate": q}
                write_condition(root, table, setting=these, study=study, **where, **condition)
    planned = {
        str(path.parent.relative_to(root)): {"setting": {}, "seeds": list(range(first_seed, first_seed + replicates))}
        for path in sorted(root.rglob("record.json"))
    }
    (root / "plan.json").write_text(json.dumps({"command": "normdrop", "grid": grid, "conditions": planned}))
    return root


def canonical(arrangement: str, position: str) -> str:
    """The position at which the distinct network behind (arrangement, position) is trained."""
    for candidate in ("after", "before"):
        if (arrangement, position) in stands_for(arrangement, candidate):
            return candidate
    raise ValueError(f"position={position!r} of {arrangement}: expected after, before or around")


def fake_replicates(
    rng: np.random.Generator, accuracy: float, shared: np.ndarray, own_sd: float, steps: float, max_steps: float
) -> pd.DataFrame:
    """One row per replicate; NLL follows accuracy."""
    n = len(shared)
    val, test, train, recal = (accuracy + shared + rng.normal(0, own_sd, n) for _ in range(4))
    took = np.round(steps * np.exp(rng.normal(0, 0.1, n)))
    return pd.DataFrame(
        {
            "seed": np.arange(n),
            "train_acc": train + 0.04,
            "train_nll": 0.9 - train,
            "val_acc": val,
            "val_nll": 1.2 - val,
            "test_acc": test,
            "test_nll": 1.2 - test,
            "test_ece": 0.02 + rng.normal(0, 0.002, n),
            "gap": train + 0.04 - test,
            "nll_gap": 0.3 + train - test,
            "steps_to_level": np.where(took > max_steps, np.nan, took),
            "diverged": False,
            "recal_test_acc": recal,
            "recal_test_nll": 1.2 - recal,
        }
    )
