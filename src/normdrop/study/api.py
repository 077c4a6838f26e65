"""The study from Python: the same checks and the same fit as the command line, without a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from normdrop.data.module import ReplicateData
from normdrop.study import config as configs
from normdrop.study.app import one_line
from normdrop.study.facts import engine_of
from normdrop.training.check import check_fit
from normdrop.training.fit import Fitted, data_of, fit, module_of, quiet
from normdrop.training.kept import load
from normdrop.training.module import ReplicatedClassifier

__all__ = ["build", "load", "train"]


def train(*overrides: str) -> Fitted:
    """Train one condition, given as on the command line: train("arrangement=bn_dropout", "rate=0.3").

    Returns `replicates` (one row per seed: accuracies in [0, 1], NLL in nats), `history` (one row per seed and
    validation) and `network(seed)`, a plain nn.Sequential (batch, features) → logits (batch, classes) with its running
    statistics. Trains in one thread, as a sweep does, so that the numbers are those of the sweep.
    Raises ValueError with one line for a key, a value or data that cannot be used.
    """
    config = _checked(overrides)
    threads = torch.get_num_threads()
    quiet()
    try:
        return fit(config, configs.seeds(config))
    finally:
        torch.set_num_threads(threads)


def build(*overrides: str) -> tuple[ReplicatedClassifier, ReplicateData]:
    """A condition's LightningModule and LightningDataModule, for a lightning.Trainer of one's own.

    What is logged are means over the replicates; `module.history` has every one of them. Of the config's trainer
    nothing is taken. Raises ValueError as `train` does.
    """
    config = _checked(overrides)
    data = data_of(config, configs.seeds(config))
    data.setup()
    return module_of(config, data), data


def _checked(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        config = configs.plain(configs.compose(*overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(one_line(error, overrides)) from error
    config = configs.canonical(config)
    config["engine"] = engine_of(config)
    check_fit(config, configs.seeds(config)[0])
    return config
