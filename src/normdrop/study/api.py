"""The study from Python: the same checks and the same fit as the command line, without a folder."""

from __future__ import annotations

import torch

from normdrop.study import config as configs
from normdrop.training.check import check_fit
from normdrop.training.fit import Fitted, fit, quiet


def train(*overrides: str) -> Fitted:
    """Train one condition, given as on the command line: train("arrangement=bn_dropout", "rate=0.3").

    Returns `replicates` (one row per seed: accuracies in [0, 1], NLL in nats), `history` (one row per seed and
    validation) and `network(seed)`, a plain nn.Sequential (batch, features) → logits (batch, classes) with its running
    statistics. Trains in one thread, as a sweep does, so that the numbers are those of the sweep.
    Raises ValueError with one line for a key, a value or data that cannot be used.
    """
    config = configs.plain(configs.compose(*overrides))
    configs.check(config)
    config |= configs.canonical(config)
    seeds = configs.seeds(config)
    check_fit(config, seeds[0])
    threads = torch.get_num_threads()
    quiet()
    try:
        return fit(config, seeds)
    finally:
        torch.set_num_threads(threads)
