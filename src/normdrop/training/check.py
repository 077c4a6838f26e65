"""What only the data or the machine can tell to be wrong with a condition, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from normdrop.data.module import ReplicateData
from normdrop.engine import reason
from normdrop.networks import MODELS, check, plain
from normdrop.networks.stacked import StackedNetwork
from normdrop.training import on_gpu
from normdrop.training.module import data_of, optimizer_of

# Whether the compiled engine knows a network's layers does not depend on its rows; a CNN must not run out of pixels.
ANY_SHAPE = (1, 1024, 1024)


def reason_for(config: Mapping[str, Any]) -> str | None:
    """Why the compiled engine cannot train what a config describes, in words, or None: without data and weights.

    A config that no network can be made of has no reason: what is wrong with it, its check tells.
    """
    if on_gpu(config["trainer"]["accelerator"]):
        return "it trains float32 on the CPU alone"
    if config["model"]["name"] not in MODELS:
        return f"it does not know the layers of model={config['model']['name']}"
    if config["model"].get("residual"):  # which blocks have one, depends on the rows
        return "it does not know residual blocks"
    try:
        optimizer = optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
        with torch.device("meta"):  # shapes without memory
            return reason(StackedNetwork([plain(config, ANY_SHAPE, 2)], [0], config["batch_size"]), optimizer)
    except (ValueError, TypeError, RuntimeError):
        return None


def check_fit(config: Mapping[str, Any], seed: int) -> ReplicateData:
    """The seed's data. Raises ValueError for what only the data or the machine can tell to be wrong."""
    accelerator, interval = config["trainer"]["accelerator"], config["trainer"]["val_check_interval"]
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu: no CUDA device is available here; allowed are auto and cpu")
    optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
    data = data_of(config, [seed])
    steps = len(data.train_dataloader())
    first = interval if type(interval) is int else int(steps * interval)
    if not 1 <= first <= steps:
        raise ValueError(f"trainer.val_check_interval={interval}: must come to between 1 and {steps} steps, an epoch's")
    check(config, data.shape, data.classes)
    if config["engine"] == "compiled" and (why := reason_for(config)):
        raise ValueError(f"engine=compiled: {why}; engine=torch trains everything")
    return data
