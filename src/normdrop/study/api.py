"""The study from Python: the same checks and the same fit as the command line, without a folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, UnsupportedValueType
from rich.progress import Progress
from torch import nn

from normdrop.asked import first_line, leaves
from normdrop.data.module import ReplicateData
from normdrop.data.rows import remarks
from normdrop.study import config as configs
from normdrop.study.app import one_line, options
from normdrop.study.facts import check_keys, facts_of, one_engine
from normdrop.training.check import check_fit
from normdrop.training.fit import Fitted, fit, quietly
from normdrop.training.kept import load
from normdrop.training.module import ReplicatedClassifier, data_of

__all__ = ["build", "load", "train"]

Given = str | Mapping[str, Any]
# A name of conf/model, its keys, or a function make(shape, classes).
Model = str | Mapping[str, Any] | Callable[..., nn.Module]


def train(*overrides: Given, model: Model | None = None, progress: bool = True, **settings: Any) -> Fitted:
    """Train one condition: train(arrangement="bn_dropout", rate=0.3).

    Keys are those of the command line, given as keyword arguments, as text ("model.width=64"), or as a dict
    ({"model.width": 64}). model: a name of conf/model, its keys as a dict, or a function make(shape, classes)
    that returns any nn.Module with BN layers, (batch, *shape) → logits (batch, classes). progress: whether a
    bar is shown.

    Returns `replicates` (one row per seed: accuracies in [0, 1], NLL in nats), `history` (one row per seed
    and validation) and `network(seed)`, a plain nn.Sequential (batch, features) → logits (batch, classes)
    with its running statistics. Trains in one thread, as a sweep does, so that the numbers are those of the
    sweep. Warns of what in the data could make a result false. Raises ValueError with one line for a key,
    a value or data that cannot be used.
    """
    with quietly():
        config = _checked(overrides, settings, model)
        seeds = configs.seeds(config)
        what = f"{config['arrangement']}, {len(seeds)} replicates"
        with Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task(what, total=1.0)

            def tell(part: float, epoch: str, _: Any) -> None:
                bar.update(task, completed=part, description=f"{what}, {epoch}")

            return fit(config, seeds, tell)


def build(*overrides: Given, model: Model | None = None, **settings: Any) -> tuple[ReplicatedClassifier, ReplicateData]:
    """A condition's LightningModule and LightningDataModule, for a lightning.Trainer of one's own.

    Takes what `train` takes. What is logged are means over the replicates; `module.history` has every one of
    them, and `module.network.replicate(0)` is the first one's plain network. Of the config's trainer nothing
    is taken. Raises ValueError as `train` does.
    """
    config = _checked(overrides, settings, model)
    data = data_of(config, configs.seeds(config))
    return ReplicatedClassifier(config, data.shape, data.classes, data.seeds), data


def _checked(overrides: tuple[Given, ...], settings: Mapping[str, Any], model: Model | None) -> dict[str, Any]:
    words = [given for given in overrides if isinstance(given, str)]
    values: dict[str, Any] = {}
    for given in (*overrides, settings):
        if isinstance(given, Mapping):
            values |= given
        elif not isinstance(given, str):
            raise ValueError(f"{given!r}: settings are keyword arguments, text such as 'rate=0.3', or a dict")
    for key in ("name", "logging", "checkpoint_minutes", "save_networks"):
        if key in values or any(word.partition("=")[0] == key for word in words):
            _warn(f"{key}: without effect in Python, which writes no folder")
    if model is not None:
        values["model"] = "own" if callable(model) else model
    for group in ("data", "model", "optimizer", "experiment"):
        if isinstance(values.get(group), str):  # the name of a file of conf/
            words.append(f"{group}={values.pop(group)}")
        elif isinstance(values.get(group), Mapping):
            given = values[group] = dict(values[group])
            if given.get("name") in options(group):
                words.append(f"{group}={given.pop('name')}")
            elif group == "model" and {"name", "file", "function"} & given.keys():
                words.append("model=own")
    try:
        config = configs.compose(*words)
        config.study = None  # a sweep answers its question
        for key, value in leaves(values).items():
            plain = value.tolist() if hasattr(value, "tolist") else value  # of NumPy or PyTorch
            plain = list(plain) if isinstance(plain, tuple) else plain
            OmegaConf.update(config, key, str(plain) if isinstance(plain, Path) else plain, force_add=True)
        known = configs.canonical(configs.plain(config))
    except UnsupportedValueType as error:
        allowed = "text, a number, true, false, null, or a list or a dict of these"
        raise ValueError(f"{key}: {first_line(error)}; must be {allowed}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(one_line(error, words)) from error
    if callable(model):
        known["model"]["function"] = model
    check_keys(known["data"])
    if known["engine"] == "auto":
        known["engine"] = one_engine([known])
    seed = configs.seeds(known)[0]
    facts = facts_of(known["data"], check_fit(known, seed), seed)
    known["data"]["fingerprint"] = facts["fingerprint"]
    for text in remarks(facts):
        _warn(f"{known['data']['name']}: {text}")
    return known


@cache
def _warn(text: str) -> None:
    """Once, and at the caller's line: Python's own memory of what it has said is lost with each fit."""
    warnings.warn(text, stacklevel=4)
